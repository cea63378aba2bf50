"""The envelope of training curves, approach 1 of Hoffmann et al. (arXiv 2203.15556).

Each size has a curve of its lowest loss over compute: from checkpoints of its runs, from runs of several token counts,
or both. Between points log loss is linear in log FLOPs. At log-spaced FLOPs the size of lowest loss is taken, and power
laws N_opt = c C^a and D_opt = c' C^b go through these by least squares. FLOPs at which the best size has no smaller or
no larger one beside it with a loss of its own there show no optimum, and are left out.

What is found are the sizes that were run, so that N_opt goes up in stairs, and points that were not trained to their
end (the learning rate still high) lie above what their compute could reach: approaches 2 and 3 are the sharper ones.

Intervals come from a bootstrap that adds to each run's losses an error drawn from those of all runs, which are their
mean residuals about the law of approach 3; by seed those of a configuration's runs are drawn together. Where that law
cannot be fitted there are none. Nothing here reads files.

    >>> import numpy as np
    >>> N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 13), np.geomspace(1e7, 1e11, 25)))
    >>> found = fit(N, D, 1.8 + 400 / N**0.35 + 400 * 20**0.35 / D**0.35, bootstrap=0)
    >>> print(f"{found.N_law.exponent:.2f} {found.D_law.exponent:.2f}")
    0.50 0.50
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Rows, UnidentifiedError, positive
from studies.analysis.laws.chinchilla import fit as fit_law
from studies.analysis.laws.chinchilla_law import NAMES
from studies.analysis.laws.isoflop import FEWEST_SIZES, PowerLaw, power_law, together, with_samples
from studies.analysis.laws.resampling import By, Units, configurations, units

TOLERANCE = 0.02
"""Sizes are one where they differ by no more in log N."""
STEPS = 200
"""Values of C at which the envelope is looked at."""
FEWEST_OPTIMAL = 4
EDGE = 0.5
"""Share of FLOPs without an optimum between sizes from which on that is said."""
_SAME = 1e-6
"""Points of one size are one, their losses averaged, where log FLOPs differ by no more: seeds, at one step."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The lowest `loss` at each of `flops`, and the size `N` and tokens `D` that reach it: arrays (m,), lowest compute
    first. `inside` says where a smaller and a larger size show that it is an optimum.

    `N_law` and `D_law` are the power laws through the points inside, None where fewer than two sizes are optimal there;
    `optimal` are those sizes, of `sizes` in all. `warnings` says where the data are too weak.
    """

    flops: Array
    loss: Array
    N: Array
    D: Array
    inside: npt.NDArray[np.bool_]
    N_law: PowerLaw | None
    D_law: PowerLaw | None
    sizes: int
    optimal: tuple[float, ...]
    by: By
    warnings: tuple[str, ...]


def fit(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    loss: npt.ArrayLike,
    flops: npt.ArrayLike | None = None,
    *,
    runs: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
    bootstrap: int = 1000,
    seed: int = 0,
    by: By = "run",
) -> Envelope:
    """The envelope of points of `N` parameters, `loss` after `D` tokens and `flops` (6 N D without them): (n,) arrays.

    `runs` (n,) are labels of any kind of the run that each point is of, without which each is a run of its own;
    `groups` (n,) those of its configuration, without which that is the run's N and last D. Raises `UnidentifiedError`
    where fewer than three sizes have a loss at two different FLOPs, ValueError where a number is not positive and
    finite.
    """
    n, d, y = positive(N=N, D=D, loss=loss)
    c = 6 * n * d if flops is None else positive(N=n, flops=flops)[1]
    points = _Points(n, d, c, tolerance)
    grid = points.grid(steps)
    log_loss = np.log(y)
    found = points.lowest(grid, log_loss)
    laws = points.laws(grid, found)
    said: list[str] = []
    if laws is not None and bootstrap:
        try:
            drawn = _errors(n, d, y, runs, groups, by, bootstrap, seed)
        except UnidentifiedError as error:
            said.append(f"no intervals, for lack of a law that tells the noise: {error}")
        else:
            again = [points.laws(grid, points.lowest(grid, log_loss + errors)) for errors in drawn]
            samples = np.array([_samples(laws, one) for one in again])
            laws = with_samples(laws[0], samples[:, 0]), with_samples(laws[1], samples[:, 1])
    optimal = np.unique(found.N[found.inside])
    return Envelope(
        flops=np.exp(grid),
        loss=found.loss,
        N=found.N,
        D=found.D,
        inside=found.inside,
        N_law=laws and laws[0],
        D_law=laws and laws[1],
        sizes=len(points.sizes),
        optimal=tuple(optimal.tolist()),
        by=by,
        warnings=(*_warnings(found, optimal, len(points.sizes)), *said),
    )


class _Lowest(NamedTuple):
    """The envelope at each C: see `Envelope`. NaN where no size has a loss."""

    loss: Array
    N: Array
    D: Array
    inside: npt.NDArray[np.bool_]


class _Points:
    """The points of each size with a curve, as rows of all points in the order of compute."""

    def __init__(self, N: Array, D: Array, flops: Array, tolerance: float) -> None:
        self.log_flops, self.log_D = np.log(flops), np.log(D)
        self.rows: list[Rows] = []
        for rows in together(np.log(N), tolerance):
            rows = rows[np.argsort(self.log_flops[rows], kind="stable")]
            if self.log_flops[rows[-1]] - self.log_flops[rows[0]] > _SAME:
                self.rows.append(rows)
        self.sizes = np.array([np.exp(np.log(N[rows]).mean()) for rows in self.rows])
        if len(self.sizes) < FEWEST_SIZES:
            raise UnidentifiedError(
                f"the envelope needs {FEWEST_SIZES} sizes that have a loss at two different FLOPs each, "
                f"and there are {len(self.sizes)}"
            )
        # Points at one C, which seeds have in common, are averaged; each has the number of its C.
        self.same = [np.cumsum(np.diff(self.log_flops[rows], prepend=-np.inf) > _SAME) - 1 for rows in self.rows]

    def grid(self, steps: int) -> Array:
        """log C from the least at which two sizes have a loss to the most, (steps,)."""
        starts = sorted(self.log_flops[rows[0]] for rows in self.rows)
        ends = sorted(self.log_flops[rows[-1]] for rows in self.rows)
        return np.linspace(starts[1], max(ends[-2], starts[1]), steps)

    def lowest(self, grid: Array, log_loss: Array) -> _Lowest:
        """The envelope of points of so much `log_loss` (n,)."""
        losses, tokens = np.full((2, len(self.rows), len(grid)), np.nan)
        for k, (rows, same) in enumerate(zip(self.rows, self.same, strict=True)):
            count = np.bincount(same)
            x, y, z = (np.bincount(same, values[rows]) / count for values in (self.log_flops, log_loss, self.log_D))
            # Points that more compute made no better are not what this size can reach.
            least = np.minimum.accumulate(y)
            kept = np.concatenate([[True], least[1:] < least[:-1]])
            there = (grid >= x[0]) & (grid <= x[-1])
            losses[k, there] = np.interp(grid[there], x[kept], y[kept])
            tokens[k, there] = np.interp(grid[there], x, z)
        known = ~np.isnan(losses)
        best = np.where(known, losses, np.inf).argmin(axis=0)
        at = np.arange(len(grid))
        found = known[best, at]
        below, above = (np.clip(best + step, 0, len(self.rows) - 1) for step in (-1, 1))
        inside = found & (below < best) & (above > best) & known[below, at] & known[above, at]
        N = np.where(found, self.sizes[best], np.nan)
        return _Lowest(np.exp(losses[best, at]), N, np.exp(tokens[best, at]), inside)

    def laws(self, grid: Array, found: _Lowest) -> tuple[PowerLaw, PowerLaw] | None:
        """The power laws of N and D through the points inside; None for fewer than two sizes."""
        if len(np.unique(found.N[found.inside])) < 2:
            return None
        C = np.exp(grid[found.inside])
        return power_law(C, found.N[found.inside]), power_law(C, found.D[found.inside])


def _errors(
    N: Array,
    D: Array,
    loss: Array,
    runs: npt.ArrayLike | None,
    groups: npt.ArrayLike | None,
    by: By,
    bootstrap: int,
    seed: int,
) -> Array:
    """Errors of log loss (K, n), one for all points of a run. Raises `UnidentifiedError` where no law can be fitted."""
    run = np.arange(len(N)) if runs is None else configurations(N, D, runs)
    last = np.zeros(run.max() + 1, np.intp)
    order = np.argsort(D, kind="stable")
    last[run[order]] = order
    residuals = Units(run).means(fit_law(N, D, loss, bootstrap=0).residuals[None])[0]
    labels = None if groups is None else np.asarray(groups).ravel()[last]
    drawn_by = units(by, N[last], D[last], labels)
    spare = max(drawn_by.count - len(NAMES), 1)
    residuals = (residuals - residuals.mean()) * math.sqrt(drawn_by.count / spare)
    errors: Array = residuals[drawn_by.exchanged(np.random.default_rng(seed), bootstrap)][:, run]
    return errors


def _samples(laws: tuple[PowerLaw, PowerLaw], again: tuple[PowerLaw, PowerLaw] | None) -> list[list[float]]:
    """A resample of both laws: log y at C = `center`, and the exponent; NaN where it has none."""
    if again is None:
        return [[math.nan] * 2] * 2
    return [[math.log(new.at(law.center)), new.exponent] for law, new in zip(laws, again, strict=True)]


def _warnings(found: _Lowest, optimal: Array, sizes: int) -> tuple[str, ...]:
    said = []
    if len(optimal) < 2:
        said.append(f"a power law needs two sizes that are optimal between others, and there are {len(optimal)}")
    elif len(optimal) < FEWEST_OPTIMAL:
        said.append(f"only {len(optimal)} of {sizes} sizes are ever optimal between others: the power laws are rough")
    edge = 1 - float(found.inside.mean())
    if edge > EDGE:
        said.append(f"at {100 * edge:.0f} % of FLOPs the best size has no smaller and larger one beside it: left out")
    return tuple(said)
