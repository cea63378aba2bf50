"""The training stream: an endless sequence of (modality, sequence) pairs that is a function of seed and mix alone.

Sequence k of the stream is the same whatever the number of ranks, the micro-batch or the step at which a run resumes,
so that any position is reached in O(1).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from compiler.plan import MixStage, ModalityPlan, Vocabulary
from runtime.data import Split

Indices: TypeAlias = npt.NDArray[np.int64]

NO_CODE = -1
"""`code_index` of a position that is no code: text, special tokens, padding."""

TASK, PADDING = -1, -2
"""In place of a document's number: the task token of packed documents, and padding."""


class Interleaving:
    """Assigns sequences to modalities so that each one's count is exact, to the number of modalities, in any window.

    The i-th sequence of modality m stands at time (i + 1/2) / share_m; the stream is all of them in order of time.
    A modality whose share is 0 has none.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = np.array(shares, dtype=np.float64)
        self.present = np.flatnonzero(self.shares)

    def window(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """For stream positions start to stop - 1: the modality's index, and which of that modality's sequences it
        is."""
        first, modality, index = self._around(start, stop)
        chosen = slice(start - first.sum(), stop - first.sum())
        return modality[chosen], index[chosen]

    def counts(self, position: int) -> Indices:
        """How many sequences of each modality stand before a stream position."""
        first, modality, _ = self._around(position, position)
        counts = np.bincount(modality[: position - first.sum()], minlength=len(self.shares))
        counts[self.present] += first
        return counts

    def _around(self, start: int, stop: int) -> tuple[Indices, Indices, Indices]:
        """A stretch of the stream that holds the window: for each modality present, the first of its sequences in it;
        then the modality and index of each sequence, in order. Before it stand all those with lower indices."""
        shares, margin = self.shares[self.present], len(self.present)
        first = np.maximum(0, np.floor((start - margin) * shares) - 1).astype(np.int64)
        last = np.ceil((stop + margin) * shares).astype(np.int64) + 2
        place = np.repeat(np.arange(margin), last - first)
        index = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
        order = np.lexsort((place, (index + 0.5) / shares[place]))
        return first, self.present[place[order]], index[order]


class Mix:
    """The stages of a mix, one after the other. A modality's own sequences count on from stage to stage."""

    def __init__(self, names: Sequence[str], stages: Sequence[MixStage]) -> None:
        self.starts = [stage.start for stage in stages]
        self.stages = [Interleaving([stage.shares[name] for name in names]) for stage in stages]
        self.before = [np.zeros(len(names), dtype=np.int64)]
        for stage, (start, stop) in zip(self.stages, itertools.pairwise(self.starts), strict=False):
            self.before.append(self.before[-1] + stage.counts(stop - start))

    def window(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """For stream positions start to stop - 1: the modality's index, and which of that modality's sequences it
        is. The cost depends on the window alone."""
        modalities, indices = [], []
        at = start
        while at < stop:
            stage = bisect.bisect_right(self.starts, at) - 1
            end = min([stop, *self.starts[stage + 1 : stage + 2]])
            modality, index = self.stages[stage].window(at - self.starts[stage], end - self.starts[stage])
            modalities.append(modality)
            indices.append(index + self.before[stage][modality])
            at = end
        empty = np.empty(0, dtype=np.int64)
        return np.concatenate([empty, *modalities]), np.concatenate([empty, *indices])


class Epoch(NamedTuple):
    """One pass over a source: its documents in the order of this pass; of packed sources also where each ends among the
    tokens of all, its `end` token included."""

    order: Indices
    ends: Indices


class Sequences:
    """One split of one source, as whole sequences of the unified vocabulary.

    Packed sources: `[task] document [end] document [end] …` cut to length. Others:
    `[task] segment [begin:P] segment of part P [end:P] …`. Each epoch has its own order, seeded by (seed, epoch).
    """

    def __init__(
        self, name: str, modality: ModalityPlan, data: Split, vocabulary: Vocabulary, length: int, seed: int | None
    ) -> None:
        offsets = {part.name: part.offset for part in vocabulary.parts}
        self.data, self.length, self.seed = data, length, seed
        self.packed = modality.packed
        self.task = vocabulary.specials[f"task:{name}"]
        self.part_offsets = [offsets[part] for part in modality.segments]
        self.brackets = [
            (vocabulary.specials[f"begin:{part}"], vocabulary.specials[f"end:{part}"]) for part in modality.segments[1:]
        ]
        self.end = vocabulary.specials["end"]
        if self.packed:
            self.count = int(data.tokens.shape[0] + data.lengths.shape[0]) // (length - 1)
        else:
            self.count = int(data.lengths.shape[0])
        if self.count == 0:
            raise ValueError(f"{modality.data} has too few tokens for one sequence of {length}")
        self._epochs: dict[int, Epoch] = {}

    def _epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            if len(self._epochs) == 2:  # a batch may go back and forth between two
                del self._epochs[next(iter(self._epochs))]
            order = np.arange(self.data.lengths.shape[0])
            if self.seed is not None:
                order = np.random.default_rng([self.seed, number]).permutation(order)
            ends = np.cumsum(self.data.lengths[order, 0].astype(np.int64) + 1) if self.packed else order[:0]
            self._epochs[number] = Epoch(order, ends)
        return self._epochs[number]

    def write(self, index: int, tokens: npt.NDArray[np.int64], code_index: npt.NDArray[np.int64]) -> int:
        """Write sequence `index` (counting on over epochs) into two rows of at least its length, and return how many
        tokens it has."""
        epoch, place = self._find(index)
        tokens[0] = self.task
        if self.packed:
            return self._write_packed(epoch, place, tokens)
        return self._write_pair(int(epoch.order[place]), tokens, code_index)

    def lengths(self, indices: Indices) -> Indices:
        """How many tokens each of these sequences has, without reading any."""
        if self.packed:
            return np.full(len(indices), self.length)
        epochs, places = np.divmod(indices, self.count)
        rows = np.empty_like(places)
        for number in np.unique(epochs):
            here = epochs == number
            rows[here] = self._epoch(int(number)).order[places[here]]
        codes = self.data.lengths[rows].astype(np.int64)
        return np.asarray(1 + codes.sum(axis=1) + 2 * (codes.shape[1] - 1))

    def target(self, index: int) -> int:
        """Where the last segment of sequence `index` starts, with its `begin` token: between the task token and it
        stands its condition. 0 for sources of one segment, which have none."""
        if not self.brackets:
            return 0
        epoch, place = self._find(index)
        condition = self.data.lengths[epoch.order[place], :-1]
        return 1 + int(condition.sum()) + 2 * (len(condition) - 1)

    def _find(self, index: int) -> tuple[Epoch, int]:
        """The epoch of a sequence, and its place there."""
        number, place = divmod(index, self.count)
        return self._epoch(number), place

    def _write_packed(self, epoch: Epoch, place: int, tokens: npt.NDArray[np.int64]) -> int:
        at, left = 1, place * (self.length - 1)
        document = int(np.searchsorted(epoch.ends, left, side="right"))
        inside = left - (int(epoch.ends[document - 1]) if document else 0)
        while at < self.length:
            which = epoch.order[document]
            start = int(self.data.offsets[which])
            size = int(self.data.lengths[which, 0])
            taken = min(size - inside, self.length - at)
            tokens[at : at + taken] = self.data.tokens[start + inside : start + inside + taken]
            tokens[at : at + taken] += self.part_offsets[0]
            at += taken
            if at < self.length:
                tokens[at] = self.end
                at += 1
            document, inside = document + 1, 0
        return self.length

    def _write_pair(self, which: int, tokens: npt.NDArray[np.int64], code_index: npt.NDArray[np.int64]) -> int:
        at, start = 1, int(self.data.offsets[which])
        for segment, size in enumerate(self.data.lengths[which]):
            if segment:
                tokens[at] = self.brackets[segment - 1][0]
                at += 1
                code_index[at : at + size] = np.arange(size)
            tokens[at : at + size] = self.data.tokens[start : start + size]
            tokens[at : at + size] += self.part_offsets[segment]
            at, start = at + int(size), start + int(size)
            if segment:
                tokens[at] = self.brackets[segment - 1][1]
                at += 1
        return at


def empty_rows(rows: int, length: int, vocabulary: Vocabulary) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token rows of padding, and their `code_index` rows."""
    tokens = np.full((rows, length), vocabulary.specials["pad"], dtype=np.int64)
    return tokens, np.full((rows, length), NO_CODE, dtype=np.int64)


def documents(
    tokens: Indices, real: npt.NDArray[np.bool_], packed: npt.NDArray[np.bool_], end: int
) -> npt.NDArray[np.int32]:
    """Which document each token is of, (B, L), for true `tokens` (B, L), `real` (B, L) False at padding, and `packed`
    (B,) rows: what decides who sees whom.

    The documents of a packed row count from 0, each with the `end` token that closes it, and its task token is `TASK`:
    all see it, and it sees itself only, for in what it gathered documents would meet. Any other row is one document,
    0, task token and all. Padding is `PADDING`.
    """
    ended = tokens == end
    document = np.where(packed[:, None], np.cumsum(ended, axis=1) - ended, 0).astype(np.int32)
    document[packed, 0] = TASK
    document[~real] = PADDING
    return document
