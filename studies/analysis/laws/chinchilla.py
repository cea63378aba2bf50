"""The Chinchilla law, L(N, D) = E + A / N^α + B / D^β, fitted as in approach 3 of Hoffmann et al. (arXiv 2203.15556).

The fit minimises the sum over runs of Huber(log L̂ - log L) with δ = 1e-3. It does not depend on a start chosen by hand:
for each (α, β) of a grid the linear coefficients are solved by non-negative least squares, and from each of these
points a damped Newton method with the exact Hessian goes down, all of them as one batch. Nothing here reads files:
arrays in, `Fit` out.

Intervals are the central 90 % of a bootstrap, all of whose refits go down as one batch from the minimum. It adds to the
fitted log losses residuals drawn with replacement; because the fit passes through about five runs, as many as it has
parameters, the five smallest are none of them (`drawn` "residuals"). Where the size of residuals goes up or down with
N, D or loss, by a rank correlation, they are not alike, and the runs themselves are drawn ("runs"). "By run" each run
draws its own; "by seed" the runs that share N and D, or a group, are drawn together: that is right where they share an
error as well, by which the law misses their N and D. Of 300 studies of a known law, the share of intervals, in %, that
hold the truth (E, A, B, α, β; standard deviation 1.7):

    runs                    noise                             by      E    A    B    α    β
    4 × 3                   0.3 %                             run    93   91   90   92   90
    5 × 4                   0.3 %                             run    89   88   90   88   89
    6 × 5                   0.3 %                             run    91   93   91   93   91
    6 × 5                   0.05 %                            run    87   87   87   89   87
    6 × 5                   0.3 %, Student's t of 3           run    94   94   94   94   94
    6 × 5                   0.9 % to 0.09 % as N goes up      run    95   90   95   92   95
    6 budgets × 7 sizes     0.3 %                             run    92   92   91   91   90
    6 budgets × 7 sizes     0.9 % to 0.09 % as N goes up      run    91   89   90   89   91
    200 scattered           0.75 %                            run    93   92   89   92   89
    5 × 4 × 3 seeds         0.3 %                             seed   90   90   90   90   91
    5 × 4 × 3 seeds         0.3 %, half of it shared          seed   90   90   92   90   92
    4 × 3 × 3 seeds         0.3 %, half of it shared          seed   90   87   88   88   88
    4 × 3 × 3 seeds         0.3 %, half of it shared          run    79   75   75   75   76

    >>> import numpy as np
    >>> N, D = (v.ravel() for v in np.meshgrid([1e6, 4e6, 16e6, 64e6], [1e8, 4e8, 16e8]))
    >>> law = fit(N, D, 1.8 + 480 / N**0.35 + 2100 / D**0.37, bootstrap=0).law
    >>> print(f"{law.E:.3f} {law.alpha:.3f} {law.beta:.3f}")
    1.800 0.350 0.370
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from studies.analysis.laws.resampling import Array as Array
from studies.analysis.laws.resampling import By, Units, is_uneven, units

Interval = tuple[float, float]

DELTA = 1e-3
"""Where Huber's loss turns from quadratic to linear, in nats of log loss."""
LEVEL = 0.9
"""Share of the bootstrap that an interval holds."""
NAMES = ("E", "A", "B", "alpha", "beta")
LARGEST_EXPONENT = 10.0
"""α and β stay in [0, 10]: beyond it the term is a step that only the smallest runs feel."""

_GRID = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 2.0)
_COARSE = (0.15, 0.4, 0.8)
_SHORT = 15
"""Steps after which the starts that are worth following show."""
_KEPT = 12
_BLOCK = 2_000_000
"""Resamples times runs drawn at once: 16 MB an array."""
_FEWEST = 6
_SCARCE = 10
_COLLINEAR = 0.98
_TINY = 1e-12
"""An exponent or coefficient as good as zero, which still has a logarithm."""
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

    `objective` is the sum of Huber losses; `residual` the root mean square of log-loss residuals, and `r2` the share of
    the variance of log loss that the law accounts for; `intervals` the central 90 % of the bootstrap `by` run or by
    seed, a pair for each of `NAMES` (empty without a bootstrap), which has `drawn` residuals or the runs themselves
    (see the module); `samples` the law's parameters in each resample, shape (K, 5), in the order of `NAMES`;
    `residuals` (n,) the runs' log loss minus the law's; `warnings` says where the data are too weak.
    """

    law: Law
    objective: float
    residual: float
    r2: float
    n: int
    by: By
    drawn: Literal["residuals", "runs"]
    intervals: dict[str, Interval]
    warnings: tuple[str, ...]
    samples: Array
    residuals: Array

    def band(self, N: npt.ArrayLike, D: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of the law's loss at `N`, `D` (without a run's own noise)."""
        return central(predict(self.samples, N, D))

    def run_band(self, N: npt.ArrayLike, D: npt.ArrayLike, seed: int = 0) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of the loss of one more run at each of `N`, `D`: the law's interval
        widened by a run's own noise, drawn from the residuals. Needs a bootstrap."""
        losses = predict(self.samples, N, D)
        pool = _noise(self.residuals)
        drawn = np.random.default_rng(seed).integers(len(pool), size=losses.shape)
        return central(losses * np.exp(pool[drawn]))

    def allocation(self, flops_per_token: float = 6.0) -> Allocation:
        """The compute-optimal allocation of this law, where a run costs `flops_per_token` · N · D FLOPs."""
        return _allocation(self, flops_per_token)

    def summary(self) -> dict[str, Any]:
        """The fit as plain values, ready for JSON."""
        return {
            "law": "chinchilla",
            **msgspec.structs.asdict(self.law),
            "objective": self.objective,
            "n": self.n,
            "residual": self.residual,
            "r2": self.r2,
            "bootstrap": len(self.samples),
            "by": self.by,
            "drawn": self.drawn,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "warnings": list(self.warnings),
        }


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """The compute-optimal shape of a law, in closed form (Hoffmann et al., equation 4): where C = k N D,

        N = G (C/k)^a,  D = (C/k)^b / G,  a = β/(α + β),  b = α/(α + β),  G = (αA / βB)^(1/(α + β)),

    with k the `flops_per_token` of one parameter. `intervals` holds the central 90 % of the bootstrap of "a", "b" and
    "G" (empty without one), `law` and `samples` (K, 5) the law and its resamples.
    """

    a: float
    b: float
    G: float
    flops_per_token: float
    intervals: dict[str, Interval]
    law: Law
    samples: Array

    def at(self, flops: float) -> Optimum:
        """The optimum of a budget of so many FLOPs. Raises ValueError where it is not positive and finite."""
        if not 0 < flops < np.inf:
            raise ValueError("a budget must be positive and finite")
        own = np.array([[getattr(self.law, name) for name in NAMES]])
        N, D, loss = (float(values[0]) for values in _optima(own, flops / self.flops_per_token))
        intervals = {}
        if len(self.samples):
            drawn = zip(("N", "D", "loss"), _optima(self.samples, flops / self.flops_per_token), strict=True)
            intervals = {name: _pair(values) for name, values in drawn}
        return Optimum(flops=flops, N=N, D=D, loss=loss, intervals=intervals)


class Optimum(msgspec.Struct, frozen=True, kw_only=True):
    """The best use of `flops`: `N` parameters and `D` tokens, the law's `loss` there, and the central 90 % of the
    bootstrap of "N", "D" and "loss" (empty without one)."""

    flops: float
    N: float
    D: float
    loss: float
    intervals: dict[str, Interval]


def _allocation(fitted: Fit, flops_per_token: float) -> Allocation:
    if not 0 < flops_per_token < np.inf:
        raise ValueError("flops_per_token must be positive and finite")
    own = np.array([[getattr(fitted.law, name) for name in NAMES]])
    share, log_G = _split(own)
    a, G = float(share[0]), float(_finite_exp(log_G)[0])
    intervals = {}
    if len(fitted.samples):
        shares, logs = _split(fitted.samples)
        intervals = {"a": _pair(shares), "b": _pair(1 - shares), "G": _pair(_finite_exp(logs))}
    return Allocation(
        a=a,
        b=1 - a,
        G=G,
        flops_per_token=flops_per_token,
        intervals=intervals,
        law=fitted.law,
        samples=fitted.samples,
    )


def _split(parameters: Array) -> tuple[Array, Array]:
    """a and log G of K laws. Where an exponent is 0 its term costs nothing to leave small: a is then 0 or 1."""
    A, B, alpha, beta = np.maximum(parameters[:, 1:], _TINY).T
    log_ratio = np.log(alpha) + np.log(A) - np.log(beta) - np.log(B)
    return beta / (alpha + beta), log_ratio / (alpha + beta)


def _finite_exp(logs: Array) -> Array:
    """exp, of a law that hardly depends on N or D, whose optimum lies beyond all numbers, the last of them."""
    found: Array = np.exp(np.clip(logs, -700, 700))
    return found


def _optima(parameters: Array, product: float) -> tuple[Array, Array, Array]:
    """N, D and loss of K laws, each (K,), where N D = `product`."""
    share, log_G = _split(parameters)
    log_N = log_G + share * np.log(product)
    N, D = _finite_exp(log_N), _finite_exp(np.log(product) - log_N)
    E, A, B, alpha, beta = parameters.T
    return N, D, E + A * N**-alpha + B * D**-beta


def central(samples: Array) -> tuple[Array, Array]:
    """Ends of the interval that holds `LEVEL` of K `samples` (K, ...): order statistics
    (K + 1) (1 ± LEVEL) / 2, between which one more such sample lies so often (others are too narrow for a small K)."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="weibull")
    return low, high


def _pair(samples: Array) -> Interval:
    low, high = central(samples)
    return float(low), float(high)


def predict(parameters: Array, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
    """Losses of K laws, `parameters` (K, 5) in the order of `NAMES`, at points `N`, `D` of shape S: shape (K, *S)."""
    points = np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float))
    x, y = (np.log(p)[None] for p in points)
    E, A, B, alpha, beta = (c.reshape(-1, *[1] * points[0].ndim) for c in parameters.T)
    loss: Array = E + A * np.exp(-alpha * x) + B * np.exp(-beta * y)
    return loss


def fit(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    loss: npt.ArrayLike,
    bootstrap: int = 1000,
    seed: int = 0,
    *,
    by: By = "run",
    groups: npt.ArrayLike | None = None,
    near: Law | None = None,
) -> Fit:
    """Fit the law to runs of `N` parameters, `D` tokens and final `loss` (any one unit), three arrays of shape (n,).

    `bootstrap` refits give the intervals, drawn `by` run or by seed (see the module). `groups` (n,) are labels of any
    kind that say which runs differ in their seed only; without them these are the runs of one N and D. `near` is a law
    that is known to fit nearly, such as that of almost the same runs: fewer starts are then tried.

    Raises `UnidentifiedError` where the runs are too few or lie on too few sizes or token counts, ValueError where a
    number is not positive and finite.
    """
    data = positive(N=N, D=D, loss=loss)
    _require_identified(data[0], data[1])
    drawn_by = units(by, data[0], data[1], groups)

    problem = _Problem(*data)
    best, objective = problem.lowest(near)
    law = Law(**dict(zip(NAMES, problem.natural(best[None])[0].tolist(), strict=True)))
    smooth = problem.model(best[None])[0]
    residuals = problem.target - smooth

    rng = np.random.default_rng(seed)
    draw = _Resamples(problem, smooth, drawn_by)
    samples = np.empty((bootstrap, len(NAMES)))
    # In blocks, so that memory stays bounded however many runs and resamples there are.
    block = max(1, _BLOCK // problem.n)
    for k in range(0, bootstrap, block):
        rows = min(block, bootstrap - k)
        refits, _ = problem.minimise(np.repeat(best[None], rows, axis=0), *draw(rng, rows))
        samples[k : k + rows] = problem.natural(refits)
    intervals = _intervals(samples)
    total = float(np.sum((problem.target - problem.target.mean()) ** 2))
    return Fit(
        law=law,
        objective=objective,
        residual=float(np.sqrt(np.mean(residuals**2))),
        r2=1 - float(residuals @ residuals) / total if total > 0 else 0.0,
        n=problem.n,
        by=by,
        intervals=intervals,
        drawn="runs" if draw.uneven else "residuals",
        warnings=_warnings(law, intervals, *data),
        samples=samples,
        residuals=residuals,
    )


def positive(**columns: npt.ArrayLike) -> list[Array]:
    """The columns as float arrays (n,). Raises ValueError where they differ in length or hold a number that is not
    positive and finite."""
    found = [np.asarray(values, float).ravel() for values in columns.values()]
    *most, last = columns
    names = f"{', '.join(most)} and {last}"
    if len({len(values) for values in found}) != 1:
        raise ValueError(f"{names} must be of one length")
    if not all(np.all(np.isfinite(values) & (values > 0)) for values in found):
        raise ValueError(f"{names} must be positive and finite")
    return found


def _require_identified(N: Array, D: Array) -> None:
    if len(N) < _FEWEST:
        raise UnidentifiedError(f"the law needs at least {_FEWEST} runs (it has 5 parameters), and there are {len(N)}")
    for values, what in ((N, "sizes (N)"), (D, "token counts (D)")):
        count = len(np.unique(values))
        if count < 3:
            raise UnidentifiedError(f"the law needs at least 3 different {what}, and there are {count}")


def _noise(residuals: Array) -> Array:
    """The residuals that a run's noise is drawn from: all but the five smallest, for the fit passes through about as
    many runs as it has parameters. Where few are left, with either sign."""
    left = residuals[np.argsort(np.abs(residuals), kind="stable")[len(NAMES) :]]
    return left if len(residuals) >= _SCARCE else np.concatenate([left, -left])


class _Resamples:
    """Resamples of a fit whose log losses are `smooth` (n,), drawn by `units`."""

    def __init__(self, problem: _Problem, smooth: Array, units: Units) -> None:
        self.problem, self.smooth, self.units = problem, smooth, units
        self.residuals = problem.target - smooth
        self.pool = _noise(self.residuals)
        self.smallest = np.argsort(np.abs(self.residuals), kind="stable")[: len(NAMES)]
        size = np.abs(units.means(self.residuals[None])[0])
        self.uneven = is_uneven(size, *units.means(np.stack([problem.x, problem.y, smooth])))

    def __call__(self, rng: np.random.Generator, rows: int) -> tuple[Array, Array | None]:
        """Log losses (rows, n) of so many resamples, and how often each holds each run (None: once)."""
        if self.uneven:
            return np.broadcast_to(self.problem.target, (rows, self.problem.n)), self._runs(rng, rows)
        return self.smooth + self._errors(rng, rows), None

    def _errors(self, rng: np.random.Generator, rows: int) -> Array:
        n, units = len(self.residuals), self.units
        if units.count == n:
            drawn: Array = self.pool[rng.integers(len(self.pool), size=(rows, n))]
            return drawn
        noise = np.repeat(self.residuals[None], rows, axis=0)
        noise[:, self.smallest] = self.pool[rng.integers(len(self.pool), size=(rows, len(self.smallest)))]
        # What a unit's runs have in common is less than it was, for the fitted parameters.
        spare = max(units.count - len(NAMES), 1)
        noise += (np.sqrt(units.count / spare) - 1) * units.means(noise)[:, units.members]
        return np.take_along_axis(noise, units.exchanged(rng, rows), axis=1)

    def _runs(self, rng: np.random.Generator, rows: int) -> Array:
        """Counts of runs (rows, n); every resample holds at least 3 sizes and 3 token counts."""
        weights = np.empty((rows, self.problem.n))
        left = np.arange(rows)
        while len(left):
            weights[left] = self.units.counts(rng, len(left))
            enough = [_distinct(weights[left], group) >= 3 for group in (self.problem.sizes, self.problem.tokens)]
            left = left[~(enough[0] & enough[1])]
        return weights


def _distinct(weights: Array, group: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """How many groups each row of `weights` (K, n) holds a run of."""
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], np.arange(group.max() + 1))
    found: npt.NDArray[np.intp] = (np.maximum.reduceat(weights[:, order], first, axis=1) > 0).sum(axis=1)
    return found


def _intervals(samples: Array) -> dict[str, Interval]:
    if not len(samples):
        return {}
    low, high = central(samples)
    return {name: (float(low[k]), float(high[k])) for k, name in enumerate(NAMES)}


def _warnings(law: Law, intervals: dict[str, Interval], N: Array, D: Array, loss: Array) -> tuple[str, ...]:
    """What the data leave open. An exponent is open where its interval touches a bound or is wider than itself."""
    said = []
    for values, what in ((N, "sizes (N)"), (D, "token counts (D)")):
        if len(np.unique(values)) == 3:
            said.append(f"only 3 different {what}: the fit bends through them as it likes, and nothing tests its form")
    if len(N) < _SCARCE:
        said.append(f"{len(N)} runs for 5 parameters: too few residuals to tell the noise, so intervals are rough")
    together = np.corrcoef(np.log(N), np.log(D))[0, 1]
    if abs(together) > _COLLINEAR:
        said.append(
            f"N and D lie nearly on one line (correlation of their logs {together:.3f}): "
            "their effects cannot be told apart"
        )
    for name, what in (("alpha", "parameters"), ("beta", "tokens")):
        value = getattr(law, name)
        low, high = intervals.get(name, (value, value))
        if value < 1e-3 or value > 0.99 * LARGEST_EXPONENT:
            said.append(f"{name} = {value:.2g} lies at its bound: the runs do not show how loss falls with {what}")
        elif high - low > value or low < 1e-3:
            said.append(f"{name} is hardly determined ({low:.2g} to {high:.2g}): more spread in {what} would help")
    low, high = intervals.get("E", (law.E, law.E))
    if min(law.E, low) < 1e-3 * float(loss.min()):
        said.append("E cannot be told from zero: no run comes near the irreducible loss")
    return tuple(said)


def _rows(weights: Array | None, rows: npt.NDArray[np.intp]) -> Array | None:
    return None if weights is None else weights[rows]


def _weighted(values: Array, weights: Array | None) -> Array:
    return values if weights is None else values * weights


class _Problem:
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
        self.low = np.array([top + _LOG_SMALLEST, *[top + _LOG_SMALLEST - spread] * 2, 0.0, 0.0])
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
        targets = np.broadcast_to(self.target, (len(starts), self.n))
        # Most starts lead to the same few valleys: a short way tells which are worth going down.
        found, values = self._newton(starts, targets, None, iterations=_SHORT)
        kept = np.argsort(values)[:_KEPT]
        found, values = self.minimise(found[kept], targets[kept])
        best = int(np.argmin(values))
        return found[best], float(values[best])

    def minimise(self, theta: Array, targets: Array, weights: Array | None = None) -> tuple[Array, Array]:
        """Minima (K, 5) from starts `theta` (K, 5) for log losses `targets` (K, n), and their objectives (K,);
        `weights` (K, n) say how often each run counts.

        Worked through in chunks that fit the processor's cache. Newton's method is begun anew where it stopped until
        that gains nothing: with a small δ the objective is nearly kinked, and at the bottom of a kink the damping grows
        until steps vanish, though along the kink it goes on down.
        """
        theta, value = theta.copy(), np.full(len(theta), np.inf)
        chunk = max(16, 60_000 // self.n)
        for k in range(0, len(theta), chunk):
            active = np.arange(k, min(k + chunk, len(theta)))
            for _ in range(20):
                theta[active], lower = self._newton(
                    theta[active], targets[active], _rows(weights, active), iterations=60
                )
                gained = lower < value[active] * (1 - 1e-8)
                value[active] = lower
                active = active[gained]
                if not len(active):
                    break
        return theta, value

    def _newton(self, theta: Array, targets: Array, weights: Array | None, iterations: int) -> tuple[Array, Array]:
        """Damped Newton steps on the exact Hessian, scaled by its majoriser's diagonal; downhill always."""
        theta = theta.copy()
        value = self._objective(theta, targets, weights)
        damping, chosen = np.full(len(theta), 1.0), np.ones(len(theta))
        active = np.arange(len(theta))
        for _ in range(iterations):
            here, aim, w = theta[active], targets[active], _rows(weights, active)
            gradient, hessian, scale = self._derivatives(here, aim, w)
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
                new = self._objective(there, aim, w)
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

    def model(self, theta: Array) -> Array:
        """Log losses of K θ at every run, shape (K, n), in the units of the targets."""
        first, second, third = self._terms(theta)
        log: Array = np.log(first + second + third)
        return log

    def _objective(self, theta: Array, targets: Array, weights: Array | None) -> Array:
        distance = np.abs(self.model(theta) - targets)
        # Huber is r²/2 within δ and δ |r| - δ²/2 beyond: with m = min(|r|, δ) both are m (|r| - m/2).
        near = np.minimum(distance, DELTA)
        each = near * (distance - near / 2)
        value: Array = _weighted(each, weights).sum(axis=1)
        return value

    def _derivatives(self, theta: Array, targets: Array, weights: Array | None) -> tuple[Array, Array, Array]:
        """Gradient (K, 5), exact Hessian (K, 5, 5), and the diagonal (K, 5) of Huber's quadratic majoriser.

        With p the terms' shares of the loss and z = (e, a - α x, b - β y), ∂r/∂z = p and ∂²r/∂z² = diag(p) - p pᵀ; all
        sums over runs are then products with fixed columns in x and y. The majoriser, which weighs a run by
        min(1, δ/|r|), has a size for every parameter even where no run lies within δ.
        """
        first, second, third = self._terms(theta)
        total = first + second + third
        residual = np.log(total) - targets
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
