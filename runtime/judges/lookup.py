"""The baseline that memorises: real training data copied, no model. It reads and sounds well, and nothing is new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.data import DataError, Source, decode
from runtime.judges.base import Sample
from runtime.judges.captions import captions, vocabulary


def lookup(asked: Sequence[str], source: Source, seed: int) -> list[Sample]:
    """A sample for each caption of `asked`: the codes (the last segment) of a random training sequence that has the
    caption; where none has, those of its words one after the other, each a training sequence of that word alone.

    Raises DataError where `source` has no captions, or a word that is missing does not stand alone in training.
    """
    where = _where(source)
    rng = np.random.default_rng(seed)
    train = source.split("train")

    def codes(caption: str) -> NDArray[Any]:
        if caption not in where:
            raise DataError(f"{source.manifest.name}: no training sequence says just {caption!r}; ask for other words")
        return train.segments(int(rng.choice(where[caption])))[-1]

    samples = []
    for caption in asked:
        parts = [caption] if caption in where else caption.split()
        tokens = np.concatenate([codes(part) for part in parts])
        samples.append(Sample(asked=caption, made=decode(vocabulary(source, -1), tokens), tokens=tokens))
    return samples


@cache
def _where(source: Source) -> dict[str, list[int]]:
    """The training sequences of each caption."""
    found: dict[str, list[int]] = defaultdict(list)
    for sequence, caption in enumerate(captions(source, "train")):
        found[caption].append(sequence)
    return dict(found)
