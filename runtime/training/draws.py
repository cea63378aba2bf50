"""Random numbers of a run: functions of (seed, stream, row) alone, whatever the number of ranks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MASKS, TIMES, DROPS = 1, 2, 3
"""Streams of random numbers of one seed."""


def uniforms(seed: int, stream: int, start: int, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Rows `start` to `start + rows - 1` of an endless table of uniform numbers in [0, 1), reached without the rows
    before."""
    blocks = -(-columns // 4)  # one counter value of Philox gives four numbers
    key = np.random.SeedSequence([seed, stream]).generate_state(2, np.uint64)
    generator = np.random.Philox(key=key)
    generator.advance(start * blocks)
    return np.random.Generator(generator).random((rows, 4 * blocks))[:, :columns]
