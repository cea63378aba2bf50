"""How often times are drawn: densities under which the estimate of the objective varies less.

A density q of times and a loss weight divided by q estimate the same objective. So does another schedule: with the
masked share p = 1 - α(t) for the time, the objective is the integral over p of Σ over masked i of -log p(x_i) / p, and
a schedule is one density of p among others. The densities of times here are therefore made from densities of p, which
they keep under any schedule: they take its place.

The least variance of independent draws has q² in proportion to the mean square of what is drawn (given p). It is taken
here for every way of sampling, though evenly spread times only need the part of it that is not the mean: gradients,
which matter more than the loss and have far more directions, vary at each p by about as much as they are large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.distributed import ProcessGroup, all_reduce

from compiler.plan import Noise
from runtime.training.noise import masked, slope, when

Numbers = npt.NDArray[np.float64]

LEAST, MOST = 1e-300, 1 - 2.0**-53
"""Of the times drawn by a density, which at 0 or 1 may be infinite or 0."""
BINS = 16
"""Parts of (0, 1) that the learned density is constant on; each is as probable as the others by the loss weight."""
MEMORY = 4096
"""Sequences of a modality that the learned density averages over: what was seen so long ago counts 1 / e. In sequences,
it is the same for any batch."""
PRIOR = 4.0
"""Sequences in each bin that are taken to be seen, as large as all others on average."""
FLOOR = 0.1
"""Share of the density by loss weight that is mixed into the learned one: no weight is above that density's / FLOOR."""


class ByWeight:
    """The density of times that is least-variance where all tokens have the same loss.

    With k of n tokens masked, k binomial, the estimate is in proportion to k / p, and its mean square to
    (n p)² + n p (1 - p) over p²: q ∝ √(1 + (1 - p) / (n p)) on (0, 1 - α(1)]. With c = n - 1 and p = sinh²(x) / c its
    distribution is in proportion to x + sinh(2 x) / 2.
    """

    def __init__(self, noise: Noise, tokens: float) -> None:
        """For sequences of `tokens` tokens."""
        self.noise, self.c, self.total = noise, max(tokens - 1, 1e-6), 1.0
        self.total = float(self.reached(np.ones(1))[0])

    def reached(self, t: Numbers) -> Numbers:
        """The probability of times up to t."""
        x = np.arcsinh(np.sqrt(self.c * self._masked(t)))
        return (x + np.sinh(2 * x) / 2) / self.total

    def density(self, t: Numbers) -> Numbers:
        """Of times t in (0, 1]."""
        share, steepness = self._masked(t), -slope(self.noise, torch.from_numpy(t)).numpy()
        return steepness * np.sqrt(self.c * (1 + self.c * share) / share) / self.total

    def draw(self, level: Numbers) -> tuple[Numbers, Numbers]:
        """The times up to which the probability is `level` in (0, 1], and the density there."""
        y = self.total * level
        x = np.arcsinh(2 * y) / 2  # above the root of a convex function: Newton's steps fall to it
        for _ in range(8):
            x -= (x + np.sinh(2 * x) / 2 - y) / (2 * np.cosh(x) ** 2)
        share = np.minimum(np.sinh(x) ** 2 / self.c, self._masked(np.ones(1)))
        t = np.clip(when(self.noise, torch.from_numpy(share)).numpy(), LEAST, MOST)
        return t, self.density(t)

    def _masked(self, t: Numbers) -> Numbers:
        return masked(self.noise, torch.from_numpy(t)).numpy()


class ByWeights:
    """The density of times for sequences whose segments have schedules of their own: the mean of the densities that
    each would have alone, so that none has a large weight where another has hardly any times."""

    def __init__(self, noises: Sequence[Noise], tokens: float) -> None:
        """For sequences of `tokens` tokens."""
        self.parts = [ByWeight(noise, tokens) for noise in noises]

    def draw(self, level: Numbers) -> tuple[Numbers, Numbers]:
        """As that of `ByWeight`."""
        # In log t: under a steep schedule a share of all times is too small for any other scale.
        low, high = np.full_like(level, math.log(LEAST)), np.zeros_like(level)
        for _ in range(64):
            middle = (low + high) / 2
            below = np.mean([part.reached(np.exp(middle)) for part in self.parts], axis=0) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        t = np.clip(np.exp(high), LEAST, MOST)
        return t, np.mean([part.density(t) for part in self.parts], axis=0)


class Learned:
    """Densities towards the least variance, relative to those by loss weight, one for each modality.

    Levels of the density by loss weight are drawn from a density that is constant on `BINS` bins. In each, the mean
    square of a sequence's estimate is averaged over the sequences seen; the density goes as its root.
    """

    def __init__(self, modalities: int) -> None:
        self.counts = np.zeros((modalities, BINS))
        self.squares = np.zeros((modalities, BINS))
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def densities(self) -> Numbers:
        """The density of levels in each bin (modalities, BINS), 1 on average; 1 throughout where nothing was seen."""
        counts, squares = self.counts.sum(axis=1, keepdims=True), self.squares.sum(axis=1, keepdims=True)
        mean = np.divide(squares, counts, out=np.ones_like(squares), where=squares > 0)
        roots = np.sqrt((self.squares + PRIOR * mean) / (self.counts + PRIOR))
        learned: Numbers = roots / roots.mean(axis=1, keepdims=True)
        return FLOOR + (1 - FLOOR) * learned

    def draw(self, modality: int, u: Numbers) -> tuple[Numbers, Numbers]:
        """Levels drawn by uniform numbers in (0, 1], and the density there."""
        density = self.densities()[modality]
        upto = np.concatenate([[0.0], np.cumsum(density) / BINS])
        level = np.interp(u, upto / upto[-1], np.linspace(0, 1, BINS + 1))
        return level, density[_bins(level)]

    def observe(
        self, terms: torch.Tensor, row_of_term: torch.Tensor, modality: torch.Tensor, level: torch.Tensor
    ) -> None:
        """A micro-batch's weighted losses and the sequence that each is of (S,), and of each sequence (B,) its modality
        and level. They stay where they are until `learn`."""
        self.seen.append((terms, row_of_term, modality, level))

    def learn(self, group: ProcessGroup | None) -> None:
        """Take in what was observed, here and on the other ranks of `group`; what is not finite is left out."""
        modalities = len(self.counts)
        densities = self.densities().ravel()
        sums = torch.zeros(2, modalities * BINS, dtype=torch.float64)
        device = torch.device("cpu")
        for terms, row_of_term, modality, level in self.seen:
            device = terms.device
            # On the host: CUDA has no deterministic bincount of weights.
            rows = torch.bincount(row_of_term.cpu(), terms.double().cpu(), len(modality))
            bins = modality.cpu() * BINS + torch.from_numpy(_bins(level.cpu().numpy()))
            estimates = rows * torch.from_numpy(densities)[bins]
            sums[0] += torch.bincount(bins, minlength=modalities * BINS)
            sums[1] += torch.bincount(bins, estimates**2, modalities * BINS)
        self.seen = []
        if group is not None:
            sums = sums.to(device)
            all_reduce(sums, group=group)
        counts, squares = sums.cpu().view(2, modalities, BINS).numpy()
        if np.isfinite(squares).all():
            kept = np.exp(-counts.sum(axis=1, keepdims=True) / MEMORY)
            self.counts = kept * self.counts + counts
            self.squares = kept * self.squares + squares

    def state_dict(self) -> dict[str, Any]:
        """The running sums: the same on every rank."""
        return {"counts": torch.from_numpy(self.counts), "squares": torch.from_numpy(self.squares)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from saved sums."""
        self.counts, self.squares = (state_dict[name].numpy().copy() for name in ("counts", "squares"))


def _bins(level: Numbers) -> npt.NDArray[np.int64]:
    """Which bin each level in (0, 1] is in."""
    return np.ceil(level * BINS).astype(np.int64) - 1
