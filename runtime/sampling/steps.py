"""When positions are settled: how many are still masked after each step."""

from __future__ import annotations

import math

import numpy as np
import torch

from compiler.plan import Noise
from compiler.sampling import Sampler
from runtime.training.noise import masked
from runtime.training.stream import Indices


def remaining(sampler: Sampler, n: int, noise: Noise) -> Indices:
    """Masked positions of n after each of the steps, (steps + 1,), from n down to 0.

    With as many steps as positions, or more, every schedule settles one a step. Only where some are masked again can
    there be more steps than positions. `noise` is the training schedule of the target, for the schedule `training`.
    Raises ValueError for an unknown schedule.
    """
    steps = n if sampler.steps is None else sampler.steps
    if not sampler.remask:
        steps = min(steps, n)
    after = [n]
    for step in range(1, steps + 1):
        wanted = round(n * share(sampler.schedule, step / steps, noise))
        if steps <= n:  # one a step at least
            wanted = max(steps - step, min(after[-1] - 1, wanted))
        after.append(min(after[-1], wanted))
    after[-1] = 0
    return np.array(after)


def share(schedule: str, progress: float, noise: Noise) -> float:
    """The share of positions that are masked at `progress` in [0, 1]: 1 at 0, and 0 at 1.

    `linear`; `cosine`, cos(π/2 · progress) (MaskGIT, arXiv 2202.04200); `training`, 1 - α at time 1 - progress.
    """
    match schedule:
        case "linear":
            return 1 - progress
        case "cosine":
            return math.cos(math.pi / 2 * progress)
        case "training":
            return float(masked(noise, torch.tensor(1 - progress, dtype=torch.float64)))
        case _:
            raise ValueError(f"unknown schedule of steps {schedule!r}")
