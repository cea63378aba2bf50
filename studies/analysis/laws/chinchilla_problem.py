"""The search for the Chinchilla law of least Huber loss: Newton's method from many starts, all of them as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from studies.analysis.laws.base import Array, Rows
from studies.analysis.laws.chinchilla_law import Law
from studies.analysis.laws.descent import DELTA, LARGEST_EXPONENT, LOG_SMALLEST, descend, huber, minima

_GRID = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 2.0)
_COARSE = (0.15, 0.4, 0.8)
_SHORT = 15
"""Steps after which the starts that are worth following show."""
_KEPT = 12
_BATCH = 60_000
"""Resamples times runs worked on at once."""
_PRECISION, _GAIN = 1e-12, 1e-8
_UPPER = np.triu_indices(5, 1)


class Targets(NamedTuple):
    """What K fits are made to: log losses (K, n), and how often each run counts (None: once)."""

    logs: Array
    weights: Array | None = None

    def take(self, rows: Rows) -> Targets:
        """Those of `rows`."""
        return Targets(self.logs[rows], None if self.weights is None else self.weights[rows])


class Problem:
    """The objective over θ = (log E, a, b, α, β), for K sets of the n runs' log losses at once.

    With x = log N and y = log D, both centred, the terms are exp(log E), exp(a - α x), exp(b - β y); their sum is the
    loss in units of its geometric mean. Centring keeps a and α (b and β) from being nearly collinear.
    """

    def __init__(self, N: Array, D: Array, loss: Array) -> None:
        self.n = len(loss)
        self.sizes, self.tokens = (np.unique(values, return_inverse=True)[1].ravel() for values in (N, D))
        self.x0, self.y0 = np.log(N).mean(), np.log(D).mean()
        self.x, self.y = np.log(N) - self.x0, np.log(D) - self.y0
        self.unit = np.log(loss).mean()
        self.target = np.log(loss) - self.unit
        one = np.ones_like(self.x)
        x, y = self.x, self.y
        self.by_x, self.by_y = np.stack([one, x], 1), np.stack([one, y], 1)
        self.by_xx, self.by_yy = np.stack([one, x, x * x], 1), np.stack([one, y, y * y], 1)
        self.by_xy = np.stack([one, x, y, x * y], 1)
        spread = LARGEST_EXPONENT * max(np.abs(x).max(), np.abs(y).max())
        top = self.target.max()
        self.low = np.array([top + LOG_SMALLEST, *[top + LOG_SMALLEST - spread] * 2, 0.0, 0.0])
        self.high = np.array([top + 1.0, *[top + 1.0 + spread] * 2, LARGEST_EXPONENT, LARGEST_EXPONENT])

    def natural(self, theta: Array) -> Array:
        """θ (K, 5) as E, A, B, α, β."""
        e, a, b, alpha, beta = theta.T
        logs = [e + self.unit, a + alpha * self.x0 + self.unit, b + beta * self.y0 + self.unit]
        return np.stack([*np.exp(logs), alpha, beta], axis=1)

    def standardised(self, law: Law) -> Array:
        """θ (5,) of a law, the inverse of `natural`, within the bounds."""
        logs = np.log(np.maximum([law.E, law.A, law.B], np.finfo(float).tiny)) - self.unit
        theta = [logs[0], logs[1] - law.alpha * self.x0, logs[2] - law.beta * self.y0, law.alpha, law.beta]
        found: Array = np.clip(np.array(theta), self.low, self.high)
        return found

    def starts(self, grid: Sequence[float]) -> Array:
        """One θ for each (α, β) of `grid`²: the coefficients by non-negative least squares on relative errors."""
        inverse = np.exp(-self.target)
        thetas = []
        for alpha in grid:
            for beta in grid:
                terms = np.stack([np.ones(self.n), np.exp(-alpha * self.x), np.exp(-beta * self.y)], 1)
                coefficients, _ = nnls(terms * inverse[:, None], np.ones(self.n))
                # A term at zero has no gradient in its logarithm: it starts at a hundredth, free to vanish again.
                thetas.append([*np.log(np.maximum(coefficients, 0.01)), alpha, beta])
        return np.clip(np.array(thetas), self.low, self.high)

    def lowest(self, near: Law | None = None) -> tuple[Array, float]:
        """The minimum (5,) from all starts, and its objective; with `near`, from that law and fewer starts."""
        starts = self.starts(_GRID if near is None else _COARSE)
        if near is not None:
            starts = np.concatenate([self.standardised(near)[None], starts])
        targets = Targets(np.broadcast_to(self.target, (len(starts), self.n)))
        # Most starts lead to the same few valleys: a short way tells which are worth going down.
        found, values = descend(self, starts, targets, _SHORT, _PRECISION)
        kept = np.argsort(values)[:_KEPT]
        found, values = self.minimise(found[kept], targets.take(kept))
        best = int(np.argmin(values))
        return found[best], float(values[best])

    def minimise(self, theta: Array, targets: Targets) -> tuple[Array, Array]:
        """Minima (K, 5) from starts `theta` (K, 5), and their objectives (K,)."""
        # In chunks that fit the processor's cache.
        chunk = max(16, _BATCH // self.n)
        return minima(self, theta, targets, chunk=chunk, precision=_PRECISION, gain=_GAIN)

    def _terms(self, theta: Array) -> tuple[Array, Array, Array]:
        """The three terms at every run: shapes (K, 1), (K, n), (K, n)."""
        e, a, b, alpha, beta = (c[:, None] for c in theta.T)
        return np.exp(e), np.exp(a - alpha * self.x), np.exp(b - beta * self.y)

    def model(self, theta: Array) -> Array:
        """Log losses of K θ at every run, shape (K, n), in the units of the targets."""
        first, second, third = self._terms(theta)
        log: Array = np.log(first + second + third)
        return log

    def objective(self, theta: Array, targets: Targets) -> Array:
        """Sums of Huber's losses for θ (K, 5): (K,)."""
        value: Array = _weighted(huber(self.model(theta) - targets.logs), targets.weights).sum(axis=1)
        return value

    def steps(self, gradient: Array, hessian: Array, scale: Array) -> Callable[[Array], Array]:
        """Newton's steps by damping, in units of the scale."""
        root = 1 / np.sqrt(scale)
        curvature, axes = np.linalg.eigh(hessian * root[:, :, None] * root[:, None, :])
        # Absolute curvature: a direction of negative curvature is left downhill, not climbed.
        curvature = np.abs(curvature)
        slope = np.einsum("kij,ki->kj", axes, gradient * root)

        def step(damping: Array) -> Array:
            found: Array = np.einsum("kij,kj->ki", axes, slope / (curvature + damping[:, None])) * root
            return found

        return step

    def derivatives(self, theta: Array, targets: Targets) -> tuple[Array, Array, Array]:
        """Gradient (K, 5), exact Hessian (K, 5, 5), and the diagonal (K, 5) of Huber's quadratic majoriser.

        With p the terms' shares of the loss and z = (e, a - α x, b - β y), ∂r/∂z = p and ∂²r/∂z² = diag(p) - p pᵀ; all
        sums over runs are then products with fixed columns in x and y. The majoriser, which weighs a run by
        min(1, δ/|r|), has a size for every parameter even where no run lies within δ.
        """
        first, second, third = self._terms(theta)
        total = first + second + third
        residual = np.log(total) - targets.logs
        weights = targets.weights
        p, q = second / total, third / total
        o = 1 - p - q
        pull = _weighted(np.clip(residual, -DELTA, DELTA), weights)
        mix = _weighted((np.abs(residual) <= DELTA).astype(float), weights) - pull

        gradient = np.empty((len(theta), 5))
        gradient[:, 0] = (pull * o).sum(axis=1)
        gradient[:, [1, 3]] = (pull * p) @ self.by_x * [1, -1]
        gradient[:, [2, 4]] = (pull * q) @ self.by_y * [1, -1]

        H = np.empty((len(theta), 5, 5))
        mo, mp = mix * o, mix * p
        H[:, 0, 0] = (mo * o + pull * o).sum(axis=1)
        H[:, 0, [1, 3]] = (mo * p) @ self.by_x * [1, -1]
        H[:, 0, [2, 4]] = (mo * q) @ self.by_y * [1, -1]
        pp = (mp * p + pull * p) @ self.by_xx
        H[:, 1, 1], H[:, 1, 3], H[:, 3, 3] = pp[:, 0], -pp[:, 1], pp[:, 2]
        qq = (mix * q * q + pull * q) @ self.by_yy
        H[:, 2, 2], H[:, 2, 4], H[:, 4, 4] = qq[:, 0], -qq[:, 1], qq[:, 2]
        pq = (mp * q) @ self.by_xy
        H[:, 1, 2], H[:, 2, 3], H[:, 1, 4], H[:, 3, 4] = pq[:, 0], -pq[:, 1], -pq[:, 2], pq[:, 3]
        H[:, _UPPER[1], _UPPER[0]] = H[:, _UPPER[0], _UPPER[1]]

        soft = _weighted(np.minimum(1.0, DELTA / np.maximum(np.abs(residual), 1e-300)), weights)
        scale = np.empty((len(theta), 5))
        scale[:, 0] = (soft * o * o).sum(axis=1)
        scale[:, [1, 3]] = (soft * p * p) @ self.by_xx[:, [0, 2]]
        scale[:, [2, 4]] = (soft * q * q) @ self.by_yy[:, [0, 2]]
        return gradient, H, np.maximum(scale, 1e-12 * scale.max(axis=1, keepdims=True) + 1e-300)


def _weighted(values: Array, weights: Array | None) -> Array:
    return values if weights is None else values * weights
