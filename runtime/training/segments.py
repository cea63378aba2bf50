"""Which segment a token stands in, by the vocabulary part of that segment: what a head of kind `modality` is told."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compiler.plan import RunPlan

_ANY = -1
"""Marks a token that all modalities have: the row's modality decides."""


class Segments:
    """Looks up the part of a token's segment, an index into the plan's `vocabulary.parts`.

    A token of a part is in a segment of that part. `begin:P` and `end:P` count to the segment that they enclose, and
    `task:M` to the first one of modality M. What is left is `end`, which closes a document of a packed modality, whose
    one segment it is in.
    """

    def __init__(self, run: RunPlan) -> None:
        index = {part.name: i for i, part in enumerate(run.vocabulary.parts)}
        self.first = np.array([index[modality.segments[0]] for modality in run.modalities.values()])
        self.of_token = np.full(run.vocabulary.size, _ANY)
        for part in run.vocabulary.parts:
            self.of_token[part.offset : part.offset + part.size] = index[part.name]
        for special, token in run.vocabulary.specials.items():
            kind, _, name = special.partition(":")
            if kind == "task":
                self.of_token[token] = index[run.modalities[name].segments[0]]
            elif name:
                self.of_token[token] = index[name]

    def parts(self, tokens: npt.NDArray[np.int64], modality: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """For true tokens and, of the same shape, the index of the modality whose sequence each is from."""
        parts = self.of_token[tokens]
        return np.where(parts == _ANY, self.first[modality], parts)
