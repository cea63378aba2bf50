"""An estimate of the gradient noise scale from one step's sequences (arXiv 1812.06162, appendix A).

Training's own micro-batches will not do: their times are spread evenly over the whole batch, so that no part of it is
independent of the rest. The probe passes over the step's sequences once more, before the step, with independent times
and with masks of its own, in two halves. Of each modality, with h sequences a half, g_a and g_b their mean gradients
per expected non-padding token,

    signal = g_a · g_b                 is |G|² in the mean, since the halves are independent;
    noise  = h · |g_a - g_b|² / 2      is tr Σ in the mean, since each half has variance Σ / h.

Of the mix, whose gradient is Σ w_m G_m with w_m modality m's share of the step's tokens, and T = Σ w_m (g_a + g_b) / 2,

    signal = |T|² - Σ w_m² · |g_a - g_b|² / 4
    noise  = B · Σ w_m² · noise_m / n_m

for n_m of the step's B sequences: B times the variance of the step's gradient, were its times independent. The stream
has a fixed number of each modality, so how far the G_m are apart adds no noise.

A probe costs one forward and backward pass over the step's sequences, and memory for two more gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from compiler.plan import ModalityPlan, RunPlan
from compiler.records import MIX, GradientNoise
from runtime.training.draws import PROBES, TIMES, uniform_rows
from runtime.training.loader import NoisedLoader
from runtime.training.stream import Indices, Sequences

Batch: TypeAlias = tuple[dict[str, torch.Tensor], torch.Tensor]
"""A micro-batch, as `NoisedLoader` yields it."""


class GradientProbe:
    """Estimates the gradient noise of a run in training."""

    def __init__(self, run: RunPlan, loader: NoisedLoader) -> None:
        self.run, self.loader = run, loader

    @cached_property
    def tokens(self) -> list[float]:
        """Expected number of tokens that can be scored of a sequence, by modality."""
        pairs = zip(self.run.modalities.values(), self.loader.sources, strict=True)
        return [expected_tokens(modality, source) for modality, source in pairs]

    def due(self, step: int) -> bool:
        """Whether the plan asks for an estimate before the update of `step`, the first of which is 1."""
        every = self.run.monitor.gradient_noise
        return every > 0 and step % every == 0

    def estimate(
        self, step: int, parameters: Sequence[nn.Parameter], add_gradient: Callable[[Batch, float], None]
    ) -> dict[str, GradientNoise]:
        """Estimates from the sequences of `step`, by modality and for the mix. A modality with fewer than two sequences
        in it is left out, and with it the mix.

        `add_gradient` adds to the parameters' gradients that of a micro-batch's loss, summed over tokens and ranks and
        divided by a number. Every rank must ask. Gradients are None afterwards.
        """
        physical = self.run.batch.physical
        modality, index = self.loader.mix.window((step - 1) * physical, step * physical)
        counts = np.bincount(modality, minlength=len(self.tokens)).tolist()
        expected = sum(count * tokens for count, tokens in zip(counts, self.tokens, strict=True))
        shares = [count * tokens / expected for count, tokens in zip(counts, self.tokens, strict=True)]
        mean = [torch.zeros_like(_local(parameter)) for parameter in parameters]
        estimates: dict[str, GradientNoise] = {}
        excess = noise = 0.0
        for parameter in parameters:
            parameter.grad = None
        for m, name in enumerate(self.run.modalities):
            size = counts[m] // 2
            if size == 0:
                continue
            halves = []
            for half in range(2):
                seed = np.random.SeedSequence([self.run.seed, PROBES, step, m, half]).generate_state(1, np.uint64)
                for batch in self._passes(m, index[modality == m][half : 2 * size : 2], int(seed[0])):
                    add_gradient(batch, size * self.tokens[m])
                halves.append(_take(parameters))
                torch._foreach_add_(mean, halves[half], alpha=shares[m] / 2)
            first, second = halves
            signal = _dot(first, second, parameters)
            torch._foreach_sub_(first, second)
            distance = _dot(first, first, parameters)
            estimates[name] = GradientNoise(signal=signal, noise=size * distance / 2)
            excess += shares[m] ** 2 * distance / 4
            noise += shares[m] ** 2 * estimates[name].noise * physical / counts[m]
            del halves, first, second
        if 1 not in counts:
            estimates[MIX] = GradientNoise(signal=_dot(mean, mean, parameters) - excess, noise=noise)
        return estimates

    def _passes(self, m: int, index: Indices, seed: int) -> Iterator[Batch]:
        """This rank's micro-batches of sequences `index` of modality `m`, as many on every rank."""
        ranks, rank = self.loader.ranks, self.loader.rank
        size = min(self.run.batch.micro, -(-len(index) // ranks))
        for start in range(rank * size, rank * size + len(index), size * ranks):
            mine = index[start : start + size]
            # A rank that has none left still takes part, with a sequence that weighs nothing.
            chosen = mine if len(mine) else index[:1]
            rows = np.arange(start, start + len(chosen))
            u = 1.0 - uniform_rows(seed, TIMES, rows, 1)[:, 0]
            inputs, labels = self.loader.noised(np.full(len(chosen), m), chosen, u, seed, rows)
            if not len(mine):
                inputs["weights"].zero_()
            yield inputs, labels


def expected_tokens(modality: ModalityPlan, source: Sequences) -> float:
    """Expected number of tokens of a sequence that can be scored: those of a dropped condition cannot."""
    dropped = modality.drop_condition
    if dropped == 0.0 or not source.brackets:
        return modality.mean_tokens
    target = float(source.data.lengths[:, -1].mean()) + len(source.brackets[-1])
    return (1.0 - dropped) * modality.mean_tokens + dropped * target


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _take(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """What this rank has of the gradients, which are then the caller's."""
    taken = []
    for parameter in parameters:
        assert parameter.grad is not None
        taken.append(_local(parameter.grad))
        parameter.grad = None
    return taken


def _dot(first: list[torch.Tensor], second: list[torch.Tensor], parameters: Sequence[nn.Parameter]) -> float:
    """The inner product of two gradients of which each rank has its part; every rank must ask."""
    world = torch.distributed.get_world_size()
    total = torch.zeros((), dtype=torch.float64, device=first[0].device)
    for a, b, parameter in zip(first, second, parameters, strict=True):
        pieces = 1
        if isinstance(parameter, DTensor):
            for size, placement in zip(parameter.device_mesh.shape, parameter.placements, strict=True):
                pieces *= 1 if placement.is_replicate() else size
        # The ranks hold each piece world / pieces times.
        total += torch.dot(a.flatten(), b.flatten()) * (pieces / world)
    if world > 1:
        torch.distributed.all_reduce(total)
    return float(total)
