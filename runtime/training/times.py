"""Times t of the sequences of a global batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runtime.training.draws import TIMES, uniforms


def times(seed: int, step: int, modality: npt.NDArray[np.int64], modalities: int) -> npt.NDArray[np.float64]:
    """Times t in (0, 1] of a global batch's sequences: within each modality a lattice of equal gaps, shifted by one
    uniform number (low-discrepancy sampling), whatever the number of ranks."""
    t = np.empty(len(modality))
    shifts = uniforms(seed, TIMES, step, 1, modalities)[0]
    for m in range(modalities):
        where = np.flatnonzero(modality == m)
        t[where] = 1.0 - (shifts[m] + np.arange(len(where)) / max(len(where), 1)) % 1.0
    return t
