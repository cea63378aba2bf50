"""Random numbers of a run: functions of (seed, stream, row) alone, whatever the number of ranks."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import numpy.typing as npt

MASKS, TIMES, DROPS, PROBES, ORDER, TOKENS, LENGTHS = 1, 2, 3, 4, 5, 6, 7
"""Streams of random numbers of one seed."""


def uniforms(seed: int, stream: int, start: int, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Rows `start` to `start + rows - 1` of an endless table of uniform numbers in [0, 1), reached without the rows
    before."""
    return uniform_rows(seed, stream, np.arange(start, start + rows), columns)


@lru_cache(maxsize=64)
def _key(seed: int, stream: int) -> npt.NDArray[np.uint64]:
    return np.asarray(np.random.SeedSequence([seed, stream]).generate_state(2, np.uint64), dtype=np.uint64)


def uniform_rows(seed: int, stream: int, rows: npt.NDArray[np.int64], columns: int) -> npt.NDArray[np.float64]:
    """Any `rows` of the table that `uniforms` reads, in any order."""
    blocks = -(-columns // 4)  # one counter value of Philox gives four numbers
    generator = np.random.Philox(key=_key(seed, stream))
    numbers = np.random.Generator(generator)
    drawn = np.empty((len(rows), 4 * blocks))
    # Neighbouring rows at once: each jump costs as much as some hundred numbers.
    starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1).tolist()
    at = 0
    for first, stop in itertools.pairwise([*starts, len(rows)]):
        generator.advance((int(rows[first]) - at) * blocks % 2**256)  # its counter has 256 bits: back is far ahead
        numbers.random(out=drawn[first:stop])
        at = int(rows[first]) + stop - first
    return drawn[:, :columns]
