"""How well the Chinchilla law predicts runs that it was not fitted to: configurations left out, and larger compute.

Errors are of log loss, predicted minus actual, so that 0.01 is a loss predicted 1 % too high. A run's interval holds
what the bootstrap says of the law and the run's own noise. Nothing here reads files: arrays in, frozen structs out.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Rows, UnidentifiedError, positive
from studies.analysis.laws.chinchilla import Fit, fit
from studies.analysis.laws.chinchilla_law import Law
from studies.analysis.laws.isoflop import TOLERANCE, together
from studies.analysis.laws.resampling import By, configurations

FOLDS = 10
SHARE = 0.1
"""Least share of the runs that `extrapolation` leaves out."""
_SCARCE = 5
"""Predicted runs below which their errors and coverage are hardly known."""


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of `n` runs that took no part in their fit, whose places among all runs are `rows` (n,).

    `predicted` and `actual` are losses, `low` and `high` the ends of a run's 90 % interval (NaN without a bootstrap),
    (n,) each. `rms` is the root mean square and `bias` the mean of the errors of log loss, `coverage` the share of runs
    inside their interval; NaN where there are none. `warnings` says where too few remain.
    """

    n: int
    rows: Rows
    predicted: Array
    actual: Array
    low: Array
    high: Array
    rms: float
    bias: float
    coverage: float
    warnings: tuple[str, ...]

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Which runs lie inside their interval, (n,)."""
        found: npt.NDArray[np.bool_] = (self.low <= self.actual) & (self.actual <= self.high)
        return found


class Extrapolated(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of largest compute, predicted by the law of the `kept` others.

    `fit` is that law's, None where they cannot determine it; `reach` how many times the largest compute that it has
    seen the largest predicted one is.
    """

    predicted: Predicted
    kept: int
    reach: float
    fit: Fit | None


def cross_validate(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    folds: int = FOLDS,
    bootstrap: int = 200,
    seed: int = 0,
    by: By = "run",
) -> Predicted:
    """Predict each of `folds` parts of the configurations by the law of the others; arguments as for `chinchilla.fit`.

    Runs of one configuration are left out together. Parts without which the others cannot determine the law are not
    predicted, and said. Raises `UnidentifiedError` where all runs together cannot determine it either, ValueError for
    fewer than two parts.
    """
    n, d, y = positive(N=N, D=D, loss=loss)
    members = configurations(n, d, groups)
    count = int(members.max()) + 1
    folds = min(folds, count)
    if folds < 2:
        raise ValueError("at least two parts of the runs are needed to leave one out")
    everything = fit(n, d, y, bootstrap=0).law
    part = np.random.default_rng(seed).permutation(count) % folds
    labels = members if groups is None else np.asarray(groups).ravel()
    found, missing = [], 0
    for k in range(folds):
        out = part[members] == k
        try:
            kept = fit(n[~out], d[~out], y[~out], bootstrap, seed, by=by, groups=labels[~out], near=everything)
        except UnidentifiedError:
            missing += int(out.sum())
            continue
        found.append((np.flatnonzero(out), *_predict(kept, n[out], d[out], seed + k)))
    said = [f"{missing} of {len(n)} runs cannot be left out: the others would not determine the law"] if missing else []
    return _predicted(y, found, said)


def extrapolate(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    loss: npt.ArrayLike,
    flops: npt.ArrayLike | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    share: float = SHARE,
    bootstrap: int = 1000,
    seed: int = 0,
    by: By = "run",
) -> Extrapolated:
    """Predict the runs of largest `flops` (6 N D without them) by the law of the others; other arguments as for
    `chinchilla.fit`.

    Whole budgets are left out (FLOPs equal within 10 %), from the largest down, until they hold `share` of the runs.
    Where the others cannot determine the law nothing is predicted, and that is said.
    """
    n, d, y = positive(N=N, D=D, loss=loss)
    c = 6 * n * d if flops is None else positive(N=n, flops=flops)[1]
    labels = configurations(n, d, groups)
    out = np.zeros(len(n), bool)
    for rows in reversed(together(np.log(c), TOLERANCE)):
        if out.sum() >= max(share * len(n), 1):
            break
        out[rows] = True
    kept = int((~out).sum())
    reach = float(c.max() / c[~out].max()) if kept else math.inf
    try:
        fitted = fit(n[~out], d[~out], y[~out], bootstrap, seed, by=by, groups=labels[~out])
    except UnidentifiedError as error:
        nothing = _predicted(y, [], [f"without the {int(out.sum())} runs of largest compute {error}"])
        return Extrapolated(predicted=nothing, kept=kept, reach=reach, fit=None)
    found = _predicted(y, [(np.flatnonzero(out), *_predict(fitted, n[out], d[out], seed))], list(fitted.warnings))
    return Extrapolated(predicted=found, kept=kept, reach=reach, fit=fitted)


def _predict(fitted: Fit, N: Array, D: Array, seed: int) -> tuple[Array, Array, Array]:
    """Losses of runs, and the ends of their intervals, (n,) each."""
    law: Law = fitted.law
    if not len(fitted.samples):
        return law(N, D), np.full(len(N), np.nan), np.full(len(N), np.nan)
    return law(N, D), *fitted.run_band(N, D, seed)


def _predicted(loss: Array, found: list[tuple[Rows, Array, Array, Array]], said: list[str]) -> Predicted:
    if not found:
        found = [(np.empty(0, np.intp), *(np.empty(0),) * 3)]
    rows, predicted, low, high = (np.concatenate(parts) for parts in zip(*found, strict=True))
    actual = loss[rows]
    errors = np.log(predicted / actual)
    known = len(rows) > 0
    banded = known and not np.isnan(low).any()
    if known and len(rows) < _SCARCE:
        said = [*said, f"only {len(rows)} runs are predicted: their errors and coverage are hardly known"]
    return Predicted(
        n=len(rows),
        rows=rows,
        predicted=predicted,
        actual=actual,
        low=low,
        high=high,
        rms=math.sqrt(float(np.mean(errors**2))) if known else math.nan,
        bias=float(errors.mean()) if known else math.nan,
        coverage=float(np.mean((low <= actual) & (actual <= high))) if banded else math.nan,
        warnings=tuple(said),
    )
