"""What is to be filled: sequences whose condition is given and whose target is masked.

Dimensions in names: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from compiler.manifest import Manifest
from compiler.plan import RunPlan
from runtime.data.store import pack
from runtime.training.loader import GRANULE
from runtime.training.stream import PADDING, Indices, Sequences, documents, empty_rows

Bools: TypeAlias = npt.NDArray[np.bool_]
Range: TypeAlias = tuple[int, int]
"""Token ids [first, last)."""

NO_GROUP = -1
"""`group` of a position that is not to be filled."""


@dataclass(frozen=True)
class Canvas:
    """Sequences to fill, padded to one length.

    `tokens` (B, L) have the mask token at `open` (B, L) positions. `document` and `code_index` (B, L) are what the
    model takes. `condition` (B, L) is what guidance hides. `group` (B, L) says for each open position which of the
    `ranges` of token ids it may hold; `NO_GROUP` elsewhere.
    """

    tokens: Indices
    open: Bools
    condition: Bools
    document: npt.NDArray[np.int32]
    code_index: Indices
    group: npt.NDArray[np.int64]
    ranges: tuple[Range, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, chosen: Indices) -> Canvas:
        """Some of the sequences, without the padding that they do not need."""
        length = padded(int(self.lengths()[chosen].max()), self.tokens.shape[1])
        return Canvas(
            tokens=self.tokens[chosen, :length],
            open=self.open[chosen, :length],
            condition=self.condition[chosen, :length],
            document=self.document[chosen, :length],
            code_index=self.code_index[chosen, :length],
            group=self.group[chosen, :length],
            ranges=self.ranges,
        )

    def hide_condition(self, mask: int) -> None:
        """Put `mask` in the condition's place."""
        self.tokens[self.condition] = mask

    def lengths(self) -> Indices:
        """How many positions of each sequence are no padding (B,)."""
        return np.asarray((self.document != PADDING).sum(axis=1))


def padded(length: int, most: int) -> int:
    """The length that sequences of at most `length` tokens are padded to, as in training."""
    return min(-(-length // GRANULE) * GRANULE, most)


class Painter:
    """Makes canvases of one modality of a run, as its training sequences are laid out."""

    def __init__(self, run: RunPlan, name: str, manifest: Manifest) -> None:
        self.run, self.name, self.modality = run, name, run.modalities[name]
        offsets = {part.name: (part.offset, part.offset + part.size) for part in run.vocabulary.parts}
        self.ranges: list[tuple[Range, ...]] = []
        """For each segment the ids that the places of its frames may hold."""
        for segment in manifest.segments:
            first, last = offsets[segment.vocabulary]
            within = [(first + a, first + b) for a, b in segment.places]
            self.ranges.append(tuple(within) or ((first, last),))

    def paint(self, segments: Sequence[Sequence[Indices]], hidden: Sequence[Sequence[Bools]], target: int) -> Canvas:
        """A canvas of sequences, each of `segments` (ids of their own vocabularies), that are masked where `hidden` is
        True. Guidance hides all but segment `target` and its brackets, as training does where conditions are dropped.

        Raises ValueError where a sequence is longer than the run's.
        """
        specials = self.run.vocabulary.specials
        tokens, code_index, real, segment = self._laid_out(segments)
        covered = np.zeros(tokens.shape, dtype=bool)
        group = np.full(tokens.shape, NO_GROUP, dtype=np.int64)
        starts = np.cumsum([0, *(len(places) for places in self.ranges)])
        for row, parts in enumerate(hidden):
            for number, part in enumerate(parts):
                where = np.flatnonzero(segment[row] == number)
                covered[row, where] = part
                group[row, where] = starts[number] + np.arange(len(where)) % len(self.ranges[number])
        own = segment == target
        if target:  # the first segment has no brackets
            own[:, :-1] |= own[:, 1:]
            own[:, 1:] |= own[:, :-1]
        condition = real & ~covered & ~own
        condition[:, 0] = False
        packed = np.full(len(tokens), self.modality.packed)
        return Canvas(
            tokens=np.where(covered, specials["mask"], tokens),
            open=covered,
            condition=condition,
            document=documents(tokens, real, packed, specials["end"]),
            code_index=code_index,
            group=np.where(covered, group, NO_GROUP),
            ranges=tuple(one for places in self.ranges for one in places),
        )

    def _laid_out(self, segments: Sequence[Sequence[Indices]]) -> tuple[Indices, Indices, Bools, Indices]:
        """Tokens and code indices as in training, which positions are no padding, and the segment of each position (-1:
        none). A packed source's sequence is one document, which goes on."""
        run, lengths = self.run, np.array([[len(part) for part in parts] for parts in segments])
        longest = 1 + int(lengths.sum(axis=1).max()) + 2 * (lengths.shape[1] - 1)
        if longest > run.sequence_length:
            raise ValueError(f"a sequence of {longest} tokens is longer than the run's {run.sequence_length}")
        alone = msgspec.structs.replace(self.modality, packed=False)
        source = Sequences(self.name, alone, pack(segments), run.vocabulary, run.sequence_length, seed=None)
        tokens, code_index = empty_rows(len(segments), padded(longest, run.sequence_length), run.vocabulary)
        real = np.zeros(tokens.shape, dtype=bool)
        segment = np.full(tokens.shape, -1, dtype=np.int64)
        for row, sizes in enumerate(lengths.tolist()):
            real[row, : source.write(row, tokens[row], code_index[row])] = True
            for number in range(len(sizes)):
                segment[row, place(sizes, number)] = number
        return tokens, code_index, real, segment


def place(sizes: Sequence[int], number: int) -> slice:
    """Where segment `number` stands in a sequence whose segments have these `sizes`: after the task token and the
    segments before it; all but the first have brackets."""
    start = 1 + sum(sizes[:number]) + max(0, 2 * number - 1)
    return slice(start, start + sizes[number])
