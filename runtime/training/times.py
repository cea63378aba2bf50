"""Times t of the sequences of a global batch: uniform numbers, spread evenly or not, through a density's distribution.

They are functions of (seed, step), the global batch and what was learned before the step: the same for any number of
ranks and micro-batches.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from compiler.plan import RunPlan
from runtime.training.draws import TIMES, uniforms
from runtime.training.importance import ByWeight, ByWeights, Learned
from runtime.training.noise import masked, weight

Numbers: TypeAlias = npt.NDArray[np.float64]

LEAST = 2.0**-53
"""The least number drawn: at 0, where nothing is masked, the loss weight has its pole."""


def levels(sampling: str, seed: int, step: int, modality: npt.NDArray[np.int64], modalities: int) -> Numbers:
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


def _scattered(points: int) -> Numbers:
    """The lattice 0, 1 / points, … in an order in which any stretch of it is spread over the whole: by steps near the
    golden ratio, so that micro-batches and ranks have about as much to score."""
    stride = next(
        (stride for stride in range(round(points * (math.sqrt(5) - 1) / 2), points) if math.gcd(stride, points) == 1),
        1,
    )
    return np.arange(points) * stride % max(points, 1) / max(points, 1)


class Drawn(NamedTuple):
    """What was drawn for B sequences.

    `time` (B,) in (0, 1] and its `level` (B,), which says where in the density of times it is. `share`, the masked
    share 1 - α(t), and `weight`, the loss weight of masked tokens divided by the density of times, are by vocabulary
    part (B, parts) where some segments have schedules of their own, else (B, 1).
    """

    time: Numbers
    level: Numbers
    share: Numbers
    weight: Numbers


class Times:
    """The times of a run's sequences, as its plan's `time` and noise schedules have them."""

    def __init__(self, run: RunPlan) -> None:
        """Raises ValueError for an unknown kind of importance."""
        if run.time.importance not in ("none", "weight", "learned"):
            raise ValueError(f"unknown importance of times {run.time.importance!r}")
        self.run = run
        noises = [modality.noise for modality in run.modalities.values()]
        self.by_part = any(noise.segments for noise in noises)
        parts = [part.name for part in run.vocabulary.parts] if self.by_part else [""]
        self.schedules = [[noise.segments.get(part, noise) for part in parts] for noise in noises]
        self.densities = [
            ByWeights([noise, *noise.segments.values()], modality.mean_tokens)
            if noise.segments
            else ByWeight(noise, modality.mean_tokens)
            for noise, modality in zip(noises, run.modalities.values(), strict=True)
        ]
        self.learned = Learned(len(noises)) if run.time.importance == "learned" else None

    def state_dict(self) -> dict[str, Any]:
        """What was learned."""
        return {} if self.learned is None else self.learned.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what was learned."""
        if self.learned is not None:
            self.learned.load_state_dict(state_dict)

    def levels(self, step: int, modality: npt.NDArray[np.int64]) -> Numbers:
        """The uniform numbers of the sequences of a whole step (B,)."""
        return levels(self.run.time.sampling, self.run.seed, step, modality, len(self.schedules))

    def draw(self, modality: npt.NDArray[np.int64], u: Numbers) -> Drawn:
        """Times of sequences of these modalities (B,), by uniform numbers in (0, 1] (B,)."""
        drawn = Drawn(*np.empty((2, len(u))), *np.empty((2, len(u), len(self.schedules[0]))))
        for m in range(len(self.schedules)):
            own = modality == m
            for whole, part in zip(drawn, self._draw(m, u[own]), strict=True):
                whole[own] = part
        return drawn

    def _draw(self, m: int, u: Numbers) -> Drawn:
        level, relative = (u, np.ones_like(u)) if self.learned is None else self.learned.draw(m, u)
        if self.run.time.importance == "none":
            time, density = u, relative
        else:
            time, density = self.densities[m].draw(level)
        t = torch.from_numpy(time)
        share = np.stack([masked(noise, t).numpy() for noise in self.schedules[m]], axis=1)
        weights = np.stack([weight(noise, t).numpy() for noise in self.schedules[m]], axis=1)
        return Drawn(time, level, share, weights / (density * relative)[:, None])
