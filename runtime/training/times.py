"""Times t of the sequences of a global batch: uniform numbers, spread evenly or not, through a density's distribution.

They are functions of (seed, step), the global batch and what was learned before the step: the same for any number of
ranks and micro-batches.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from compiler.plan import Noise, RunPlan
from runtime.training.draws import TIMES, uniforms
from runtime.training.importance import ByWeight, Learned
from runtime.training.noise import masked, weight, when

LEAST = 2.0**-53
"""The least number drawn: at 0, where nothing is masked, the loss weight has its pole."""


def levels(
    sampling: str, seed: int, step: int, modality: npt.NDArray[np.int64], modalities: int
) -> npt.NDArray[np.float64]:
    """Numbers in (0, 1] for a global batch's sequences, of these modalities (B,), each of them uniform by itself.

    Within each modality, `lattice` has them at equal gaps, all shifted by one uniform number; `antithetic` has pairs
    u and 1 - u, and a lone u where their number is odd; `independent` has nothing in common. Raises ValueError for
    another sampling.
    """
    batch = len(modality)
    u = np.empty(batch)
    match sampling:
        case "lattice":
            shifts = uniforms(seed, TIMES, step, 1, modalities)[0]
            for m in range(modalities):
                where = np.flatnonzero(modality == m)
                u[where] = 1.0 - (shifts[m] + _scattered(len(where))) % 1.0
        case "antithetic":
            own = uniforms(seed, TIMES, step * batch, batch, 1)[:, 0]
            for m in range(modalities):
                where = np.flatnonzero(modality == m)
                u[where] = own[where]
                u[where[1::2]] = 1.0 - own[where[: len(where) // 2 * 2 : 2]]
        case "independent":
            u = 1.0 - uniforms(seed, TIMES, step * batch, batch, 1)[:, 0]
        case _:
            raise ValueError(f"unknown sampling of times {sampling!r}")
    return np.maximum(u, LEAST)


def _scattered(points: int) -> npt.NDArray[np.float64]:
    """The lattice 0, 1 / points, … in an order in which any stretch of it is spread over the whole: by steps near the
    golden ratio, so that micro-batches and ranks have about as much to score."""
    stride = next(
        (stride for stride in range(round(points * (math.sqrt(5) - 1) / 2), points) if math.gcd(stride, points) == 1),
        1,
    )
    return np.arange(points) * stride % max(points, 1) / max(points, 1)


class Drawn(NamedTuple):
    """What was drawn for each sequence (B,): its time t in (0, 1], its masked share 1 - α(t) and the loss weight of its
    masked tokens, divided by the density of times; and its `level`, which says where in that density it is."""

    time: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]
    level: npt.NDArray[np.float64]


class Times:
    """The times of a run's sequences, as its plan's `time` and noise schedules have them."""

    def __init__(self, run: RunPlan) -> None:
        """Raises ValueError for an unknown kind of importance."""
        if run.time.importance not in ("none", "weight", "learned"):
            raise ValueError(f"unknown importance of times {run.time.importance!r}")
        self.run = run
        self.noises = [modality.noise for modality in run.modalities.values()]
        self.densities = [
            ByWeight(modality.mean_tokens, float(masked(modality.noise, torch.ones((), dtype=torch.float64))))
            for modality in run.modalities.values()
        ]
        self.learned = Learned(len(self.noises)) if run.time.importance == "learned" else None

    def state_dict(self) -> dict[str, Any]:
        """What was learned."""
        return {} if self.learned is None else self.learned.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what was learned."""
        if self.learned is not None:
            self.learned.load_state_dict(state_dict)

    def levels(self, step: int, modality: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The uniform numbers of the sequences of a whole step (B,)."""
        return levels(self.run.time.sampling, self.run.seed, step, modality, len(self.noises))

    def draw(self, modality: npt.NDArray[np.int64], u: npt.NDArray[np.float64]) -> Drawn:
        """Times of sequences of these modalities (B,), by uniform numbers in (0, 1] (B,)."""
        drawn = Drawn(*np.empty((4, len(u))))
        for m, noise in enumerate(self.noises):
            own = modality == m
            for whole, part in zip(drawn, self._draw(m, noise, u[own]), strict=True):
                whole[own] = part
        return drawn

    def _draw(self, m: int, noise: Noise, u: npt.NDArray[np.float64]) -> Drawn:
        if self.run.time.importance == "none":
            t = torch.from_numpy(u)
            return Drawn(u, masked(noise, t).numpy(), weight(noise, t).numpy(), u)
        level, density = (u, 1.0) if self.learned is None else self.learned.draw(m, u)
        share, weights = self.densities[m].draw(level)
        return Drawn(when(noise, torch.from_numpy(share)).numpy(), share, weights / density, level)
