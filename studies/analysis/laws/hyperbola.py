"""The hyperbola of steps and examples (McCandlish et al., arXiv 1812.06162, equations 2.11 and 5.1).

To reach one loss, training at a batch of B takes S steps and E = B · S examples with

    (S / S_min - 1) (E / E_min - 1) = 1,   B_crit = E_min / S_min,

which says the same as S = S_min (1 + B_crit / B): below B_crit twice the batch takes half the steps, above it hardly
fewer. It is fitted to log S by least squares. Nothing here reads files: arrays in, `Hyperbola` out.

    >>> found = fit([4, 8, 16, 32, 64], [100 * (1 + 20 / B) for B in (4, 8, 16, 32, 64)], bootstrap=0)
    >>> print(f"{found.critical:.3f} {found.steps_min:.3f} {found.examples_min:.1f}")
    20.000 100.000 2000.0
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Interval, UnidentifiedError
from studies.analysis.laws.statistics import central

FEWEST = 3
"""Batches from which on there is something to judge two parameters by."""
REACH = 1e4
"""B_crit is sought up to so many times beyond the batches seen: there S is at its limit, to a ten-thousandth."""
NAMES = ("critical", "steps_min", "examples_min")

_SPACING = 0.1
_GOLDEN = (math.sqrt(5) - 1) / 2
_NARROWINGS = 40


class Hyperbola(msgspec.Struct, frozen=True, kw_only=True):
    """S = `steps_min` (1 + `critical` / B): `critical` is B_crit in sequences, `steps_min` in steps, `examples_min`
    (E_min) in sequences.

    Where steps fall as 1 / B throughout, B_crit is without bound: `critical` is inf and `steps_min` 0. Where they do
    not fall at all, `critical` and `examples_min` are 0. `intervals` are the central 90 % of the bootstrap for each of
    `NAMES` (empty without one, or without runs to judge by). `residual` is the standard deviation of a run's log steps
    about the curve (None where no run is left to tell), `r2` the share of the variance of log steps that the curve
    accounts for, `held_out` the root mean square error of a batch's mean log steps by the curve through the others
    (None below four batches). `n` counts runs, `batches` distinct ones. `warnings` says where the data are too weak.
    """

    critical: float
    steps_min: float
    examples_min: float
    intervals: dict[str, Interval]
    residual: float | None
    r2: float
    held_out: float | None
    n: int
    batches: int
    warnings: tuple[str, ...]

    def steps(self, batch: float) -> float:
        """Steps to the target at a batch of so many sequences."""
        if math.isinf(self.critical):
            return self.examples_min / batch
        return self.steps_min * (1 + self.critical / batch)


def fit(batch: npt.ArrayLike, steps: npt.ArrayLike, bootstrap: int = 1000, seed: int = 0) -> Hyperbola:
    """Fit the hyperbola to runs of `batch` (sequences) that reach one target loss after `steps`, arrays of shape (n,).

    Several runs may share a batch. The bootstrap adds to the curve residuals drawn with replacement from its own,
    widened by √(n / (n - 2)) for the fitted parameters, and by √((n - 2) / χ²) of one draw each for how little so few
    runs tell of their noise (as Student's t does). Raises `UnidentifiedError` below three batches, ValueError where a
    number is not positive and finite.
    """
    x, y = (np.asarray(v, float).ravel() for v in (batch, steps))
    if len(x) != len(y):
        raise ValueError("batch and steps must be of one length")
    if not all(np.all(np.isfinite(v) & (v > 0)) for v in (x, y)):
        raise ValueError("batch and steps must be positive and finite")
    distinct = np.unique(x)
    if len(distinct) < FEWEST:
        raise UnidentifiedError(f"the hyperbola needs at least {FEWEST} batches, and there are {len(distinct)}")
    log_batch, log_steps = np.log(x), np.log(y)
    all_runs = np.ones((1, len(x)))
    best = _solve(log_batch, log_steps[None], all_runs)
    smooth = best[:, :1] + np.logaddexp(0.0, best[:, 1:] - log_batch)
    residuals = (log_steps - smooth)[0]
    freedom = len(x) - 2
    drawn = _resamples(smooth[0], residuals, bootstrap, seed)
    samples = _named(log_batch, _solve(log_batch, drawn, np.ones_like(drawn)))
    intervals = {name: found for name in NAMES if (found := central(samples[name])) is not None}
    critical, steps_min, examples_min = (float(_named(log_batch, best)[name][0]) for name in NAMES)
    spread = float(np.sum((log_steps - log_steps.mean()) ** 2))
    return Hyperbola(
        critical=critical,
        steps_min=steps_min,
        examples_min=examples_min,
        intervals=intervals,
        residual=math.sqrt(float(residuals @ residuals) / freedom) if freedom else None,
        r2=1 - float(residuals @ residuals) / spread if spread > 0 else 0.0,
        held_out=_held_out(log_batch, log_steps) if len(distinct) > FEWEST else None,
        n=len(x),
        batches=len(distinct),
        warnings=_warnings(distinct, critical, intervals.get("critical")),
    )


def _resamples(smooth: Array, residuals: Array, bootstrap: int, seed: int) -> Array:
    """Log steps of shape (K, n): the curve and residuals drawn anew."""
    n = len(smooth)
    freedom = n - 2
    rng = np.random.default_rng(seed)
    drawn: Array = residuals[rng.integers(n, size=(bootstrap, n))]
    scale = np.sqrt(n / freedom) * np.sqrt(freedom / rng.chisquare(freedom, size=(bootstrap, 1)))
    made: Array = smooth + scale * drawn
    return made


def _solve(log_batch: Array, log_steps: Array, weights: Array) -> Array:
    """log S_min and log B_crit of each of K weighted least-squares fits, `log_steps` and `weights` (K, n): (K, 2).

    For one B_crit the best log S_min is a mean; what is left is a function of log B_crit, looked through on a grid and
    then narrowed down by golden sections.
    """
    total = weights.sum(axis=1, keepdims=True)

    def bent(u: Array) -> Array:
        """log(1 + B_crit / B) at K values of log B_crit: (K, n)."""
        value: Array = np.logaddexp(0.0, u[:, None] - log_batch)
        return value

    def objective(u: Array) -> Array:
        left = log_steps - bent(u)
        left = left - (weights * left).sum(axis=1, keepdims=True) / total
        value: Array = (weights * left * left).sum(axis=1)
        return value

    low, high = log_batch.min() - math.log(REACH), log_batch.max() + math.log(REACH)
    grid = np.linspace(low, high, max(round((high - low) / _SPACING), 2))
    table = np.logaddexp(0.0, grid[:, None] - log_batch)
    # Σ w (y - h - mean)² for all resamples and all of the grid, without its part in y alone.
    mean = (weights * log_steps).sum(axis=1, keepdims=True) / total
    means = weights @ table.T / total
    values = weights @ (table * table).T - 2 * (weights * (log_steps - mean)) @ table.T - total * means * means
    place = values.argmin(axis=1)
    left = grid[np.maximum(place - 1, 0)]
    right = grid[np.minimum(place + 1, len(grid) - 1)]
    for _ in range(_NARROWINGS):
        first, second = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        lower = objective(first) < objective(second)
        left, right = np.where(lower, left, first), np.where(lower, second, right)
    u = (left + right) / 2
    intercept = (weights * (log_steps - bent(u))).sum(axis=1) / total[:, 0]
    return np.stack([intercept, u], axis=1)


def _named(log_batch: Array, solved: Array) -> dict[str, Array]:
    """B_crit, S_min and E_min of K solutions, each (K,); those at an end of what was searched are without bound."""
    steps, critical = solved.T
    tiny = critical < log_batch.min() - math.log(REACH) + _SPACING / 2
    huge = critical > log_batch.max() + math.log(REACH) - _SPACING / 2
    return {
        "critical": np.where(huge, np.inf, np.where(tiny, 0.0, np.exp(critical))),
        "steps_min": np.where(huge, 0.0, np.exp(steps)),
        "examples_min": np.where(tiny, 0.0, np.exp(steps + critical)),
    }


def _held_out(log_batch: Array, log_steps: Array) -> float:
    """Root mean square over batches of the error of their mean log steps, each by the curve through the others."""
    distinct = np.unique(log_batch)
    kept = (log_batch != distinct[:, None]).astype(float)
    found = _solve(log_batch, np.broadcast_to(log_steps, kept.shape), kept)
    seen = np.array([log_steps[log_batch == one].mean() for one in distinct])
    error = found[:, 0] + np.logaddexp(0.0, found[:, 1] - distinct) - seen
    return math.sqrt(float(np.mean(error * error)))


def _warnings(batches: Array, critical: float, interval: Interval | None) -> tuple[str, ...]:
    said = []
    low, high = float(batches[0]), float(batches[-1])
    if critical <= low:
        said.append("all batches lie above B_crit: steps hardly fall, and it is only known to be small")
    elif critical >= high:
        said.append("all batches lie below B_crit: steps fall nearly as 1 / B, and it is only known to be large")
    if interval is not None and interval[0] <= low and interval[1] >= high:
        said.append("the interval of B_crit holds all batches that were run: they do not tell where it is")
    elif interval is not None and math.isinf(interval[1]):
        said.append("the interval of B_crit has no upper end: larger batches would give it one")
    if len(batches) == FEWEST:
        said.append(f"B_crit rests on {FEWEST} batches alone")
    return tuple(said)
