"""Resamples of runs for bootstrap intervals, by run or by seed; arrays in, arrays out.

"By run" every run is a unit of its own. "By seed" the runs of one configuration, which differ in their seed only, are
drawn together: it holds where they share an error, such as a learning rate that does not suit them, which by run would
count as so many independent ones. Where every configuration has one run the two are the same.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Rows

By = Literal["run", "seed"]

_TELLING = 12
"""Units from which on they tell whether their noise changes."""
_UNEVEN = 1.8
"""Standard errors of a rank correlation from which on it is taken for one: low, because to draw runs where residuals
would do costs little, and the other way about costs much."""


class Units:
    """Which of `count` units each of n runs belongs to (`members`, counted from 0), and runs in the order of these."""

    def __init__(self, members: Rows) -> None:
        self.members = members
        self.sizes = np.bincount(members)
        self.count = len(self.sizes)
        self._order = np.argsort(members, kind="stable")
        self._first = np.cumsum(self.sizes) - self.sizes
        self._place = np.empty(len(members), np.intp)
        self._place[self._order] = np.arange(len(members)) - self._first[members[self._order]]

    def means(self, values: Array) -> Array:
        """Means over each unit of `values` (K, n): (K, count)."""
        found: Array = np.add.reduceat(values[:, self._order], self._first, axis=1) / self.sizes
        return found

    def exchanged(self, rng: np.random.Generator, rows: int) -> Rows:
        """The run that each run takes something over from, (rows, n): every unit draws one, with replacement, and goes
        through its runs from the first, over again where it has more itself."""
        chosen = rng.integers(self.count, size=(rows, self.count))[:, self.members]
        found: Rows = self._order[self._first[chosen] + self._place % self.sizes[chosen]]
        return found

    def counts(self, rng: np.random.Generator, rows: int) -> Array:
        """How often each run is held by each of so many resamples of whole units, (rows, n)."""
        drawn = rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=rows)
        found: Array = drawn[:, self.members].astype(float)
        return found


def units(by: By, N: Array, D: Array, groups: npt.ArrayLike | None = None) -> Units:
    """The units of runs of `N` and `D`, (n,) each: the runs, or by seed their configurations, which `groups` (n,) names
    by labels of any kind, or else equal N and D. Raises ValueError where `groups` has another length."""
    members = configurations(N, D, groups)
    alone = by == "run" or int(members.max()) + 1 == len(N)
    return Units(np.arange(len(N)) if alone else members)


def configurations(N: Array, D: Array, groups: npt.ArrayLike | None = None) -> Rows:
    """Which configuration each run belongs to, counted from 0, (n,); as for `units`."""
    if groups is None:
        return np.unique(np.stack([N, D], axis=1), axis=0, return_inverse=True)[1].ravel()
    labels = np.asarray(groups).ravel()
    if len(labels) != len(N):
        raise ValueError("groups must have one label for each run")
    return np.unique(labels, return_inverse=True)[1].ravel()


def without_smallest(residuals: Array, parameters: int) -> Array:
    """The `residuals` (n,) that a run's noise is drawn from: all but as many of the smallest as the law has parameters.

    A fit this near to least absolute errors passes through about as many runs. Their residuals of none would make runs
    seem more concentrated than they are; and without them the others' mean square is that over n - p.
    """
    return residuals[np.argsort(np.abs(residuals), kind="stable")[parameters:]]


def is_uneven(size: Array, *against: Array) -> bool:
    """Whether `size` (n,), of residuals without their sign, goes up or down with one of `against`, (n,) each."""
    if len(size) < _TELLING or np.ptp(size) == 0:
        return False
    rank = _ranks(size)
    correlations = [np.corrcoef(_ranks(values), rank)[0, 1] for values in against if np.ptp(values) > 0]
    return any(abs(np.arctanh(one)) * np.sqrt(len(size) - 3) > _UNEVEN for one in correlations if abs(one) < 1)


def _ranks(values: Array) -> Array:
    """Ranks of `values`, equal ones sharing theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: Array = (ends - (counts - 1) / 2)[where.ravel()]
    return found
