"""Resamples of the regressions over the simplex, and which mixes are best in them.

Each resample draws the mixes whose errors decide on the form, and the residuals of the form that they decide on: how
uncertain the form is, is in the intervals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.mixes import Search
from studies.analysis.laws.simplex_regression import Choice, Regression, weighted_loss
from studies.analysis.laws.statistics import interval

CHUNK = 100
"""Resamples worked on at once."""
_LEADERS = 15


class Resampled:
    """Losses in K resamples, by the coefficients that each modality's choice has in them."""

    def __init__(self, at: Array, table: Array, choices: tuple[Choice | None, ...], bootstrap: int, seed: int) -> None:
        self.choices, self.count = choices, bootstrap
        rng = np.random.default_rng(seed)
        drawn = rng.integers(len(at), size=(bootstrap, len(at)))
        self.coefficients = [
            None if one is None else one.resampled(drawn, np.flatnonzero(~np.isnan(table[:, one.own])), rng)
            for one in choices
        ]

    def predicted(self, own: int, points: Array, part: slice = slice(None)) -> Array:
        """Losses of modality `own` at `points` (S, k), all of them where it is predicted, in resamples `part`."""
        choice, coefficients = self.choices[own], self.coefficients[own]
        assert choice is not None
        assert coefficients is not None
        found: Array = coefficients[part] @ choice.side.basis.columns(points, own).T
        return found

    def weighted(self, points: Array, value: Array, part: slice = slice(None)) -> Array:
        """The weighted loss at `points` (S, k), all of them within the hull, in resamples `part`: (K, S)."""
        total: Array = np.sum(
            [value[own] * self.predicted(own, points, part) for own in range(len(value)) if value[own]], axis=0
        )
        return total


def leading(
    points: Array, regressions: tuple[Regression | None, ...], value: Array, resampled: Resampled
) -> npt.NDArray[np.intp]:
    """Which of `points` are best by the estimate, or in one of the first resamples."""
    samples = resampled.weighted(points, value, slice(0, _LEADERS)).argmin(axis=1)
    return np.unique([int(np.argmin(weighted_loss(regressions, value, points))), *samples])


def best_points(search: Search, resampled: Resampled, value: Array) -> npt.NDArray[np.intp]:
    """Which point is best in each resample: (K,)."""
    parts = [
        resampled.weighted(search.points, value, slice(k, k + CHUNK)).argmin(axis=1)
        for k in range(0, resampled.count, CHUNK)
    ]
    return np.concatenate([np.empty(0, np.intp), *parts])


def interval_or_none(samples: Array) -> Interval | None:
    """The central 90 % of `samples` (K,); None without a bootstrap, and where one of them is not known."""
    return None if not len(samples) or np.isnan(samples).any() else interval(samples)
