"""Treatments compared within blocks, such as noise schedules within seeds: differences, tests, and a ranking.

Two tests: whether any treatment matters at all, by permuting the treatments within each block (exact but for the number
of permutations drawn), and for each pair the paired t test, with p-values by Holm's step-down correction over all pairs
(Scand. J. Stat. 6, 65, 1979). Those that cannot be told apart share a letter (Piepho's compact letter display, J.
Comput. Graph. Stat. 13, 456, 2004).

    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(0, 0.01, (6, 3))
    >>> compare(np.array([1.0, 1.0, 2.0]) + noise).letters
    ('a', 'a', 'b')
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.statistics import LEVEL

FEWEST_BLOCKS = 3
"""Blocks that a pair needs to be tested."""
ALPHA = 0.05
"""Corrected p-values below it tell treatments apart."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Treatment `first` minus `second` (their places), over the `blocks` that have both: the mean difference, its 90 %
    interval, the p-value of a paired t test, and Holm's. None where there are too few blocks."""

    first: int
    second: int
    blocks: int
    difference: float
    interval: Interval | None
    p: float | None
    corrected: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Treatments in blocks; lower is better.

    `means` are over a treatment's finite values (NaN without one), `intervals` 90 % t intervals of them (None of one),
    `counts` how many. `pairs` are all of them. `letters` by treatment, `a` for the best: those that share one cannot be
    told apart (empty where nothing could be tested). `p` is the permutation test's, over `blocks` blocks that have all
    treatments; None where these are too few.
    """

    means: tuple[float, ...]
    intervals: tuple[Interval | None, ...]
    counts: tuple[int, ...]
    pairs: tuple[Pair, ...]
    letters: tuple[str, ...]
    p: float | None
    blocks: int

    def pair(self, first: int, second: int) -> Pair:
        """`first` minus `second`."""
        for one in self.pairs:
            if (one.first, one.second) == (first, second):
                return one
            if (one.first, one.second) == (second, first):
                ends = None if one.interval is None else (-one.interval[1], -one.interval[0])
                return msgspec.structs.replace(
                    one, first=first, second=second, difference=-one.difference, interval=ends
                )
        raise KeyError((first, second))

    def against(self, reference: int) -> dict[int, Pair]:
        """Each other treatment minus `reference`, by its place. Holm's correction is over these alone: a question asked
        beforehand needs none for the pairs that it does not ask about."""
        pairs = {k: self.pair(k, reference) for k in range(len(self.means)) if k != reference}
        return dict(zip(pairs, _corrected(list(pairs.values())), strict=True))


def compare(table: npt.ArrayLike, permutations: int = 2000, seed: int = 0) -> Comparison:
    """Compare the treatments of `table`, shape (blocks, treatments); what is not finite is left out, with its pairs."""
    values = np.asarray(table, float)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError("the table must have the shape (blocks, treatments), with 2 treatments or more")
    finite = np.isfinite(values)
    values = np.where(finite, values, np.nan)
    columns = [values[known, k] for k, known in enumerate(finite.T)]
    pairs = _corrected([_pair(values, i, j) for i, j in itertools.combinations(range(values.shape[1]), 2)])
    means = tuple(float(column.mean()) if len(column) else math.nan for column in columns)
    whole = values[finite.all(axis=1)]
    return Comparison(
        means=means,
        intervals=tuple(mean_interval(column) for column in columns),
        counts=tuple(len(column) for column in columns),
        pairs=pairs,
        letters=_letters(means, pairs),
        p=permutation_test(whole, permutations, seed) if len(whole) >= FEWEST_BLOCKS and permutations else None,
        blocks=len(whole),
    )


def permutation_test(table: npt.ArrayLike, permutations: int = 2000, seed: int = 0) -> float:
    """The p-value of no treatment having an effect, for a `table` (blocks, treatments) of finite values.

    The variance of the treatments' means against those of treatments dealt anew within each block; the table itself
    counts as one of them, so that p is at least 1 / (permutations + 1).
    """
    values = np.asarray(table, float)
    centred = values - values.mean(axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    dealt = rng.permuted(np.broadcast_to(centred, (permutations, *centred.shape)), axis=2)
    seen = float(np.var(centred.mean(axis=0)))
    drawn = np.var(dealt.mean(axis=1), axis=1)
    # Equal deals differ by rounding.
    return float((1 + np.sum(drawn >= seen * (1 - 1e-9))) / (1 + permutations))


def mean_interval(values: npt.ArrayLike) -> Interval | None:
    """The 90 % t interval of the mean of independent `values` (n,); None of fewer than two."""
    known = np.asarray(values, float)
    if len(known) < 2:
        return None
    half = float(stdtrit(len(known) - 1, (1 + LEVEL) / 2) * known.std(ddof=1) / math.sqrt(len(known)))
    return float(known.mean()) - half, float(known.mean()) + half


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order of `p`."""
    corrected, largest = [0.0] * len(p), 0.0
    for place, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        largest = max(largest, min(1.0, (len(p) - place) * p[k]))
        corrected[k] = largest
    return corrected


def letters(order: Sequence[int], apart: Collection[frozenset[int]]) -> dict[int, str]:
    """Letters for things in `order`, the best first: two share one exactly where they are not in `apart`."""
    groups = [set(order)]
    for pair in apart:
        split = [group for group in groups if pair <= group]
        groups = [group for group in groups if group not in split]
        groups += [group - {one} for group in split for one in pair]
        # A group within another says nothing more.
        groups = [g for k, g in enumerate(groups) if not any(g < h or (g == h and j < k) for j, h in enumerate(groups))]
    rank = {one: place for place, one in enumerate(order)}
    groups.sort(key=lambda group: sorted(rank[one] for one in group))
    return {one: "".join(_letter(k) for k, group in enumerate(groups) if one in group) for one in order}


def _letter(k: int) -> str:
    return chr(ord("a") + k) if k < 26 else f"({k + 1})"


def _pair(values: Array, first: int, second: int) -> Pair:
    difference = values[:, first] - values[:, second]
    difference = difference[np.isfinite(difference)]
    interval, p = None, None
    if len(difference) >= FEWEST_BLOCKS:
        interval = mean_interval(difference)
        mean, error = float(difference.mean()), float(difference.std(ddof=1)) / math.sqrt(len(difference))
        distance = math.inf if mean and not error else abs(mean) / (error or 1.0)
        p = float(2 * stdtr(len(difference) - 1, -distance))
    return Pair(
        first=first,
        second=second,
        blocks=len(difference),
        difference=float(difference.mean()) if len(difference) else math.nan,
        interval=interval,
        p=p,
        corrected=None,
    )


def _corrected(pairs: list[Pair]) -> tuple[Pair, ...]:
    tested = [pair for pair in pairs if pair.p is not None]
    corrected = iter(holm([pair.p for pair in tested if pair.p is not None]))
    return tuple(pair if pair.p is None else msgspec.structs.replace(pair, corrected=next(corrected)) for pair in pairs)


def _letters(means: Sequence[float], pairs: Sequence[Pair]) -> tuple[str, ...]:
    if all(pair.corrected is None for pair in pairs):
        return ()
    known = [k for k, mean in enumerate(means) if not math.isnan(mean)]
    apart = {
        frozenset((pair.first, pair.second)) for pair in pairs if pair.corrected is not None and pair.corrected < ALPHA
    }
    found = letters(sorted(known, key=lambda k: means[k]), apart)
    return tuple(found.get(k, "") for k in range(len(means)))
