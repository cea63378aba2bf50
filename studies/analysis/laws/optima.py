"""Step Law (arXiv 2503.04715): power laws of the best learning rate and batch, lr* = c N^a D^b and B* = d N^f D^e.

Runs are grouped by N and D (equal within 2 %). In each group a quadratic surface in log lr, and in log batch where it
is swept, goes through the losses near the lowest; its lowest point is the group's optimum, with the uncertainty of a
residual bootstrap. A group whose optimum lies at the edge of its grid is shown, and left out of the laws.

The power laws are weighted least squares on logarithms, each optimum with the variance of its surface plus one common
to all, by which optima scatter about the law beyond that (the moment estimate of DerSimonian and Laird, 1986). Only
what varies is fitted. Nothing here reads files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Interval, UnidentifiedError
from studies.analysis.laws.optimum_surface import Optimum, Surface, exponential, surface_of
from studies.analysis.laws.statistics import band, interval

SAME = 0.02
"""Groups hold runs whose N and D differ by no more, in logarithm."""
_LEAST = 1e-6
"""Least standard deviation of an optimum's logarithm, so that noiseless data have weights."""


class OptimumLaw(msgspec.Struct, frozen=True, kw_only=True):
    """`coefficient` · Π variable^exponent, through `n` optima.

    `parameters` holds the coefficient and the exponent of each of N and D that varies, `intervals` the central 90 % of
    the bootstrap, `samples` (K, p) log coefficient and exponents. `residual` is the root mean square of log residuals,
    `r2` what the law explains of the variance of the log optimum, `held_out` the root mean square log error of each
    optimum by the law of the others (NaN where those are too few), `scatter` the standard deviation of log optima about
    the law beyond their surfaces' own.
    """

    parameters: dict[str, float]
    intervals: dict[str, Interval]
    residual: float
    r2: float
    held_out: float
    scatter: float
    n: int
    samples: Array
    warnings: tuple[str, ...]

    def predict(self, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        """The best value at `N` parameters and `D` tokens (one shape, or they broadcast)."""
        row = [math.log(self.parameters["coefficient"]), *(self.parameters[v] for v in self._variables)]
        found: Array = np.exp(self._logs(np.array([row]), N, D)[0])
        return found

    def band(self, N: npt.ArrayLike, D: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of that."""
        low, high = band(self._logs(self.samples, N, D))
        return np.exp(low), np.exp(high)

    @property
    def _variables(self) -> tuple[str, ...]:
        return tuple(name for name in self.parameters if name != "coefficient")

    def _logs(self, rows: Array, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        points = dict(zip("ND", np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float)), strict=True))
        columns = np.stack([np.ones_like(points["N"]), *(np.log(points[v]) for v in self._variables)])
        found: Array = np.tensordot(rows, columns, axes=1)
        return found


class StepLaw(msgspec.Struct, frozen=True, kw_only=True):
    """The optima of all groups and the laws through them; `batch` is None where the batch was not swept."""

    optima: tuple[Optimum, ...]
    lr: OptimumLaw
    batch: OptimumLaw | None
    warnings: tuple[str, ...]


def fit(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    lr: npt.ArrayLike,
    loss: npt.ArrayLike,
    batch: npt.ArrayLike | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> StepLaw:
    """Fit the laws to runs of `N` parameters, `D` tokens, learning rate `lr`, final `loss` and `batch`: arrays (n,).

    `batch` may be in any unit; without it only the law of lr is fitted.
    Runs whose loss is not finite count as failed, and are left out. Raises `UnidentifiedError` where fewer than two
    groups have an optimum inside their grid, or neither N nor D varies among those.
    """
    given = [np.asarray(v, float).ravel() for v in (N, D, lr, np.ones(np.size(lr)) if batch is None else batch)]
    losses = np.asarray(loss, float).ravel()
    if {len(v) for v in given} != {len(losses)}:
        raise ValueError("N, D, lr, loss and batch must be of one length")
    if not all(np.all(np.isfinite(v) & (v > 0)) for v in given):
        raise ValueError("N, D, lr and batch must be positive and finite")
    logs = np.log(np.stack(given, axis=1))
    rng = np.random.default_rng(seed)
    surfaces = []
    for rows in _groups(logs[:, :2]):
        rows = rows[np.isfinite(losses[rows])]
        if len(rows):
            surfaces.append(surface_of(logs[rows], losses[rows], bootstrap, rng))
    optima = tuple(surface.optimum for surface in surfaces)
    used = [surface for surface in surfaces if not surface.optimum.left_out]
    said = [f"N = {o.N:.3g}, D = {o.D:.3g} is left out: {o.left_out}" for o in optima if o.left_out]
    swept = [surface for surface in used if surface.optimum.batch is not None]
    batches = {round(surface.log_batch, 3) for surface in used if surface.optimum.batch is None}
    if len(batches) > 1 or (batches and swept):
        said.append("the batch differs between groups without being swept in each: the law of lr holds along its path")
    return StepLaw(
        optima=optima,
        lr=_power_law(used, 0, rng),
        batch=_power_law(swept, 1, rng) if len(swept) > 1 else None,
        warnings=tuple(said),
    )


def _groups(logs: Array) -> list[npt.NDArray[np.intp]]:
    """Rows of the runs of each N and D."""
    labels = []
    for column in logs.T:
        order = np.argsort(column, kind="stable")
        steps = np.diff(column[order], prepend=column[order[:1]]) > SAME
        label = np.empty(len(column), int)
        label[order] = np.cumsum(steps)
        labels.append(label)
    pairs = np.stack(labels, axis=1)
    return [np.flatnonzero((pairs == pair).all(axis=1)) for pair in np.unique(pairs, axis=0)]


def _power_law(surfaces: Sequence[Surface], which: int, rng: np.random.Generator) -> OptimumLaw:
    """The law of lr (`which` 0) or the batch (1) through the optima of `surfaces`."""
    if len(surfaces) < 2:
        raise UnidentifiedError(f"a law needs two optima inside their grids at least, and there are {len(surfaces)}")
    logs = np.log([[surface.optimum.N, surface.optimum.D] for surface in surfaces])
    names, said = _varying(logs)
    chosen = logs[:, ["ND".index(name) for name in names]]
    middle = chosen.mean(axis=0)
    X = np.column_stack([np.ones(len(chosen)), chosen - middle])
    y = np.array([surface.place[which] for surface in surfaces])
    count = min(len(surface.resampled) for surface in surfaces)
    apart = np.stack([_filled(s.resampled[:count, which]) - s.place[which] for s in surfaces], axis=1)
    own = np.maximum(apart.std(axis=0) if count else np.ones(len(y)), _LEAST) ** 2
    common = _common(X, y, own)
    weights = 1 / (own + common)
    line = _solve(X, y[None], weights)[0]
    draws = y + apart + math.sqrt(common) * rng.standard_normal((count, len(y)))
    rows = np.vstack([line, _solve(X, draws, weights)])
    rows[:, 0] -= rows[:, 1:] @ middle
    if len(y) <= len(line):
        said.append(f"{len(y)} optima for {len(line)} parameters: the intervals hold the noise of the surfaces alone")
    parameters = {"coefficient": math.exp(rows[0, 0]), **dict(zip(names, rows[0, 1:].tolist(), strict=True))}
    intervals = {}
    if count:
        intervals = {name: interval(rows[1:, k + 1]) for k, name in enumerate(names)}
        intervals["coefficient"] = exponential(interval(rows[1:, 0]))
    for name in names:
        low, high = intervals.get(name, (parameters[name],) * 2)
        if low < 0 < high:
            said.append(f"the exponent of {name} cannot be told from zero ({low:.2g} to {high:.2g})")
    left = y - X @ line
    spread = y - y.mean()
    return OptimumLaw(
        parameters=parameters,
        intervals=intervals,
        residual=float(np.sqrt(np.mean(left**2))),
        r2=float(1 - left @ left / (spread @ spread)) if spread.any() else math.nan,
        held_out=_left_one_out(X, y, weights),
        scatter=math.sqrt(common),
        n=len(y),
        samples=rows[1:],
        warnings=tuple(said),
    )


def _varying(logs: Array) -> tuple[list[str], list[str]]:
    """Which of N and D the optima can tell the exponent of, and what is lacking for the other."""
    spread = np.ptp(logs, axis=0) > SAME
    if not spread.any():
        raise UnidentifiedError("all optima are of one N and one D: a law needs several of one at least")
    if spread.all():
        centred = logs - logs.mean(axis=0)
        if np.linalg.matrix_rank(centred, tol=SAME) == 2:
            return ["N", "D"], []
        return ["D"], ["N and D vary together: the exponent of D is along their path, and says nothing of either alone"]
    kept, lost = ("N", "D") if spread[0] else ("D", "N")
    return [kept], [f"all optima are of one {lost}: runs at others are needed for its exponent"]


def _filled(samples: Array) -> Array:
    """`samples` with those that have no optimum replaced by others' in turn."""
    finite = samples[np.isfinite(samples)]
    return np.where(np.isfinite(samples), samples, np.resize(finite, len(samples)) if len(finite) else 0.0)


def _solve(X: Array, y: Array, weights: Array) -> Array:
    """Weighted least squares of each row of `y` (K, n) on X (n, p): (K, p)."""
    root = np.sqrt(weights)
    found: Array = (y * root) @ np.linalg.pinv(X * root[:, None]).T
    return found


def _common(X: Array, y: Array, own: Array) -> float:
    """The variance that all optima share beyond their `own`, by moments."""
    free = len(y) - X.shape[1]
    if free <= 0:
        return 0.0
    w = 1 / own
    left = y - X @ _solve(X, y[None], w)[0]
    inner = np.linalg.pinv(X.T @ (w[:, None] * X))
    expected = w.sum() - np.trace(inner @ (X.T @ (w[:, None] ** 2 * X)))
    return max(0.0, float((w @ left**2 - free) / expected))


def _left_one_out(X: Array, y: Array, weights: Array) -> float:
    errors = []
    for k in range(len(y)):
        rest = np.arange(len(y)) != k
        if np.linalg.matrix_rank(X[rest]) < X.shape[1]:
            return math.nan
        errors.append(y[k] - X[k] @ _solve(X[rest], y[rest][None], weights[rest])[0])
    return float(np.sqrt(np.mean(np.square(errors))))
