"""The Chinchilla law, L(N, D) = E + A / N^α + B / D^β, fitted as in approach 3 of Hoffmann et al. (arXiv 2203.15556).

The fit minimises the sum over runs of Huber(log L̂ - log L) with δ = 1e-3. It does not depend on a start chosen by hand:
for each (α, β) of a grid the linear coefficients are solved by non-negative least squares, and from each of these
points a damped Newton method with the exact Hessian goes down, all of them as one batch. The bootstrap is the same
method batched over resamples, each from the full data's minimum. Nothing here reads files: arrays in, `Fit` out.

    >>> import numpy as np
    >>> N, D = (v.ravel() for v in np.meshgrid([1e6, 4e6, 16e6, 64e6], [1e8, 4e8, 16e8]))
    >>> law = fit(N, D, 1.8 + 480 / N**0.35 + 2100 / D**0.37, bootstrap=0).law
    >>> print(f"{law.E:.3f} {law.alpha:.3f} {law.beta:.3f}")
    1.800 0.350 0.370
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Array = npt.NDArray[np.float64]

DELTA = 1e-3
"""Where Huber's loss turns from quadratic to linear, in nats of log loss."""
LEVEL = 0.9
"""Share of the bootstrap that an interval holds."""
NAMES = ("E", "A", "B", "alpha", "beta")
LARGEST_EXPONENT = 10.0
"""α and β stay in [0, 10]: beyond it the term is a step that only the smallest runs feel."""

_GRID = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 2.0)
_FEWEST = 6
_DAMPINGS = (0.05, 3.0)
_UPPER = np.triu_indices(5, 1)
_LOG_SMALLEST = -40.0
"""Log of the smallest value of a term, relative to the largest loss: as good as zero, and still finite."""


class UnidentifiedError(ValueError):
    """The data cannot determine the law; the message says what is lacking."""


class Law(msgspec.Struct, frozen=True, kw_only=True):
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats per token; N in parameters, D in tokens."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        """Loss at `N` parameters and `D` tokens (arrays of one shape, or that broadcast)."""
        loss: Array = predict(np.array([[self.E, self.A, self.B, self.alpha, self.beta]]), N, D)[0]
        return loss


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted law.

    `objective` is the sum of Huber losses; `residual` the root mean square of log-loss residuals; `intervals` the
    central 90 % of the bootstrap by run, a pair for each of `NAMES` (empty without a bootstrap); `samples` the law's
    parameters in each resample, shape (K, 5), in the order of `NAMES`; `warnings` says where the data are too weak.
    """

    law: Law
    objective: float
    residual: float
    n: int
    intervals: dict[str, tuple[float, float]]
    warnings: tuple[str, ...]
    samples: Array

    def band(self, N: npt.ArrayLike, D: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of the law's loss at `N`, `D` (without a run's own noise)."""
        low, high = np.quantile(predict(self.samples, N, D), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high

    def summary(self) -> dict[str, Any]:
        """The fit as plain values, ready for JSON."""
        return {
            "law": "chinchilla",
            **msgspec.structs.asdict(self.law),
            "objective": self.objective,
            "n": self.n,
            "residual": self.residual,
            "bootstrap": len(self.samples),
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "warnings": list(self.warnings),
        }


def predict(parameters: Array, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
    """Losses of K laws, `parameters` (K, 5) in the order of `NAMES`, at points `N`, `D` of shape S: shape (K, *S)."""
    points = np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float))
    x, y = (np.log(p)[None] for p in points)
    E, A, B, alpha, beta = (c.reshape(-1, *[1] * points[0].ndim) for c in parameters.T)
    loss: Array = E + A * np.exp(-alpha * x) + B * np.exp(-beta * y)
    return loss


def fit(N: npt.ArrayLike, D: npt.ArrayLike, loss: npt.ArrayLike, bootstrap: int = 1000, seed: int = 0) -> Fit:
    """Fit the law to runs of `N` parameters, `D` tokens and final `loss` (nats per token), three arrays of shape (n,).

    `bootstrap` refits to runs drawn with replacement give the intervals; a draw that holds fewer than three sizes or
    token counts cannot determine the law and is drawn again. Raises `UnidentifiedError` where the runs are too few or
    lie on too few sizes or token counts, ValueError where a number is not positive and finite.
    """
    data = [np.asarray(v, float).ravel() for v in (N, D, loss)]
    if len({len(v) for v in data}) != 1:
        raise ValueError("N, D and loss must be of one length")
    if not all(np.all(np.isfinite(v) & (v > 0)) for v in data):
        raise ValueError("N, D and loss must be positive and finite")
    sizes, tokens = (np.unique(v, return_inverse=True)[1] for v in data[:2])
    _require_identified(len(data[0]), int(sizes.max(initial=-1)) + 1, int(tokens.max(initial=-1)) + 1)

    problem = _Problem(*data)
    starts = problem.starts()
    everything = np.ones((1, problem.n))
    found, objectives = problem.minimise(starts, np.repeat(everything, len(starts), axis=0))
    best = found[np.argmin(objectives)]
    law = Law(**dict(zip(NAMES, problem.natural(best[None])[0].tolist(), strict=True)))
    residuals = np.log(law(data[0], data[1])) - np.log(data[2])

    samples = np.empty((0, 5))
    if bootstrap:
        weights = _resample(sizes, tokens, bootstrap, np.random.default_rng(seed))
        refits, _ = problem.minimise(np.repeat(best[None], bootstrap, axis=0), weights)
        samples = problem.natural(refits)
    intervals = _intervals(samples)
    return Fit(
        law=law,
        objective=float(objectives.min()),
        residual=float(np.sqrt(np.mean(residuals**2))),
        n=problem.n,
        intervals=intervals,
        warnings=_warnings(law, intervals, float(data[2].min())),
        samples=samples,
    )


def _require_identified(runs: int, sizes: int, tokens: int) -> None:
    if runs < _FEWEST:
        raise UnidentifiedError(f"the law needs at least {_FEWEST} runs (it has 5 parameters), and there are {runs}")
    for count, what in ((sizes, "sizes (N)"), (tokens, "token counts (D)")):
        if count < 3:
            raise UnidentifiedError(f"the law needs at least 3 different {what}, and there are {count}")


def _resample(sizes: npt.NDArray[np.intp], tokens: npt.NDArray[np.intp], K: int, rng: np.random.Generator) -> Array:
    """How often each resample holds each run: shape (K, n). Every row holds at least 3 sizes and 3 token counts."""
    n = len(sizes)
    weights = np.empty((K, n))
    member = [np.eye(group.max() + 1)[group] for group in (sizes, tokens)]
    left = np.arange(K)
    while len(left):
        weights[left] = rng.multinomial(n, np.full(n, 1 / n), size=len(left))
        enough = [(weights[left] @ m > 0).sum(axis=1) >= 3 for m in member]
        left = left[~(enough[0] & enough[1])]
    return weights


def _intervals(samples: Array) -> dict[str, tuple[float, float]]:
    if not len(samples):
        return {}
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {name: (float(low[k]), float(high[k])) for k, name in enumerate(NAMES)}


def _warnings(law: Law, intervals: dict[str, tuple[float, float]], smallest: float) -> tuple[str, ...]:
    """What the data leave open. An exponent is open where its interval touches a bound or is wider than itself."""
    said = []
    for name, what in (("alpha", "parameters"), ("beta", "tokens")):
        value = getattr(law, name)
        low, high = intervals.get(name, (value, value))
        if value < 1e-3 or value > 0.99 * LARGEST_EXPONENT:
            said.append(f"{name} = {value:.2g} lies at its bound: the runs do not show how loss falls with {what}")
        elif high - low > value or low < 1e-3:
            said.append(f"{name} is hardly determined ({low:.2g} to {high:.2g}): more spread in {what} would help")
    low, high = intervals.get("E", (law.E, law.E))
    if min(law.E, low) < 1e-3 * smallest:
        said.append("E cannot be told from zero: no run comes near the irreducible loss")
    return tuple(said)


class _Problem:
    """The objective over θ = (log E, a, b, α, β), for K weightings of the n runs at once.

    With x = log N and y = log D, both centred, the terms are exp(log E), exp(a - α x), exp(b - β y); their sum is the
    loss in units of its geometric mean. Centring keeps a and α (b and β) from being nearly collinear.
    """

    def __init__(self, N: Array, D: Array, loss: Array) -> None:
        self.n = len(loss)
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
        self.low = np.array([top + _LOG_SMALLEST, *[top + _LOG_SMALLEST - spread] * 2, 0.0, 0.0])
        self.high = np.array([top + 1.0, *[top + 1.0 + spread] * 2, LARGEST_EXPONENT, LARGEST_EXPONENT])

    def natural(self, theta: Array) -> Array:
        """θ (K, 5) as E, A, B, α, β."""
        e, a, b, alpha, beta = theta.T
        logs = [e + self.unit, a + alpha * self.x0 + self.unit, b + beta * self.y0 + self.unit]
        return np.stack([*np.exp(logs), alpha, beta], axis=1)

    def starts(self) -> Array:
        """One θ for each (α, β) of the grid: the coefficients by non-negative least squares on relative errors."""
        inverse = np.exp(-self.target)
        thetas = []
        for alpha in _GRID:
            for beta in _GRID:
                terms = np.stack([np.ones(self.n), np.exp(-alpha * self.x), np.exp(-beta * self.y)], 1)
                coefficients, _ = nnls(terms * inverse[:, None], np.ones(self.n))
                # A term at zero has no gradient in its logarithm: it starts at a hundredth, free to vanish again.
                thetas.append([*np.log(np.maximum(coefficients, 0.01)), alpha, beta])
        return np.clip(np.array(thetas), self.low, self.high)

    def minimise(self, theta: Array, weights: Array) -> tuple[Array, Array]:
        """Minima (K, 5) from starts `theta` (K, 5) for run weights (K, n), and their objectives (K,).

        Worked through in chunks that fit the processor's cache. Newton's method is begun anew where it stopped until
        that gains nothing: with a small δ the objective is nearly kinked, and at the bottom of a kink the damping grows
        until steps vanish, though along the kink it goes on down.
        """
        theta, value = theta.copy(), np.full(len(theta), np.inf)
        chunk = max(16, 60_000 // self.n)
        for k in range(0, len(theta), chunk):
            active = np.arange(k, min(k + chunk, len(theta)))
            for _ in range(20):
                theta[active], lower = self._newton(theta[active], weights[active], iterations=60)
                gained = lower < value[active] * (1 - 1e-8)
                value[active] = lower
                active = active[gained]
                if not len(active):
                    break
        return theta, value

    def _newton(self, theta: Array, weights: Array, iterations: int) -> tuple[Array, Array]:
        """Damped Newton steps on the exact Hessian, scaled by its majoriser's diagonal; downhill always."""
        theta = theta.copy()
        value = self._objective(theta, weights)
        damping, chosen = np.full(len(theta), 1.0), np.ones(len(theta))
        active = np.arange(len(theta))
        for _ in range(iterations):
            here, w = theta[active], weights[active]
            gradient, hessian, scale = self._derivatives(here, w)
            # A parameter at its bound that would leave it stays.
            stuck = ((here <= self.low) & (gradient > 0)) | ((here >= self.high) & (gradient < 0))
            gradient[stuck] = 0.0
            hessian[stuck[:, :, None] | stuck[:, None, :]] = 0.0
            root = 1 / np.sqrt(scale)
            curvature, axes = np.linalg.eigh(hessian * root[:, :, None] * root[:, None, :])
            # Absolute curvature: a direction of negative curvature is left downhill, not climbed.
            curvature = np.abs(curvature)
            slope = np.einsum("kij,ki->kj", axes, gradient * root)
            # One decomposition serves several dampings; the next step's are around the best of them.
            best = value[active]
            for factor in _DAMPINGS:
                step = np.einsum("kij,kj->ki", axes, slope / (curvature + factor * damping[active, None])) * root
                there = np.clip(here - np.clip(step, -2.0, 2.0), self.low, self.high)
                new = self._objective(there, w)
                better = new < best
                best[better], theta[active[better]] = new[better], there[better]
                chosen[active[better]] = factor
            gain = value[active] - best
            value[active] = best
            damping[active] = np.maximum(damping[active] * np.where(gain > 0, chosen[active], 30.0), 1e-12)
            done = np.where(gain > 0, gain <= 1e-12 * best, damping[active] > 1e4)
            active = active[~done]
            if not len(active):
                break
        return theta, value

    def _terms(self, theta: Array) -> tuple[Array, Array, Array]:
        """The three terms at every run: shapes (K, 1), (K, n), (K, n)."""
        e, a, b, alpha, beta = (c[:, None] for c in theta.T)
        return np.exp(e), np.exp(a - alpha * self.x), np.exp(b - beta * self.y)

    def _objective(self, theta: Array, weights: Array) -> Array:
        first, second, third = self._terms(theta)
        distance = np.abs(np.log(first + second + third) - self.target)
        # Huber is r²/2 within δ and δ |r| - δ²/2 beyond: with m = min(|r|, δ) both are m (|r| - m/2).
        near = np.minimum(distance, DELTA)
        value: Array = np.einsum("kn,kn->k", weights, near * (distance - near / 2))
        return value

    def _derivatives(self, theta: Array, weights: Array) -> tuple[Array, Array, Array]:
        """Gradient (K, 5), exact Hessian (K, 5, 5), and the diagonal (K, 5) of Huber's quadratic majoriser.

        With p the terms' shares of the loss and z = (e, a - α x, b - β y), ∂r/∂z = p and ∂²r/∂z² = diag(p) - p pᵀ; all
        sums over runs are then products with fixed columns in x and y. The majoriser, which weighs a run by
        min(1, δ/|r|), has a size for every parameter even where no run lies within δ.
        """
        first, second, third = self._terms(theta)
        total = first + second + third
        residual = np.log(total) - self.target
        p, q = second / total, third / total
        o = 1 - p - q
        pull = weights * np.clip(residual, -DELTA, DELTA)
        inside = weights * (np.abs(residual) <= DELTA)
        mix = inside - pull

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

        soft = weights * np.minimum(1.0, DELTA / np.maximum(np.abs(residual), 1e-300))
        scale = np.empty((len(theta), 5))
        scale[:, 0] = (soft * o * o).sum(axis=1)
        scale[:, [1, 3]] = (soft * p * p) @ self.by_xx[:, [0, 2]]
        scale[:, [2, 4]] = (soft * q * q) @ self.by_yy[:, [0, 2]]
        return gradient, H, np.maximum(scale, 1e-12 * scale.max(axis=1, keepdims=True) + 1e-300)
