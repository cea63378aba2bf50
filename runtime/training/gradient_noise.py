"""An estimate of the gradient noise scale from one step's sequences (arXiv 1812.06162, appendix A).

Training's own micro-batches will not do: their times are a lattice over the whole batch, so no part of it is independent
of the rest. The probe passes over the step's sequences once more, before the step, with masks and times of their own, in
two halves. Of each modality, with h sequences a half and g_a, g_b their mean gradients,

    signal = g_a · g_b                 is |G|² in the mean, since the halves are independent;
    noise  = h · |g_a - g_b|² / 2      is tr Σ in the mean, since each has variance Σ / h.

Of the mix, whose gradient is Σ w_m G_m with w_m modality m's share of the step's tokens, and T = Σ w_m (g_a + g_b) / 2,

    signal = |T|² - Σ w_m² · |g_a - g_b|² / 4
    noise  = B · Σ w_m² · noise_m / n_m

for n_m of the step's B sequences: B times the variance of the step's gradient, were its times independent. The stream
has a fixed number of each modality, so how far G_m are apart adds no noise.

It costs one forward and backward pass over the step's sequences, and memory for two more gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from compiler.plan import RunPlan
from compiler.records import GradientNoise
from runtime.training.draws import PROBES, TIMES, uniforms
from runtime.training.loader import NoisedLoader

MIX = "all"
"""The name of the mix, beside those of the modalities."""

Indices: TypeAlias = npt.NDArray[np.int64]
Pass: TypeAlias = Callable[[dict[str, torch.Tensor], torch.Tensor, torch.Tensor], None]
"""Adds to the gradients those of the loss of (inputs, labels), divided by a number of tokens."""


class GradientProbe:
    """Estimates `GradientNoise` of a model in training, every `monitor.gradient_noise` steps."""

    def __init__(self, run: RunPlan, loader: NoisedLoader) -> None:
        self.run, self.loader = run, loader
        self.tokens = [loader.expected_tokens(m) for m in range(len(run.modalities))]

    def estimate(self, step: int, parameters: list[nn.Parameter], add_gradient: Pass) -> dict[str, GradientNoise]:
        """Estimates by modality, from the sequences of `step` (the first is 0), and for the mix. Modalities with fewer
        than two sequences in it are left out, and with them the mix. Every rank must ask; gradients are left None.
        """
        physical = self.run.batch.physical
        modality, index = self.loader.mix.window(step * physical, (step + 1) * physical)
        counts = np.bincount(modality, minlength=len(self.tokens))
        shares = counts * self.tokens / (counts @ self.tokens)
        seed = int(np.random.SeedSequence([self.run.seed, PROBES, step]).generate_state(1, np.uint64)[0])
        copies = torch.tensor([_copies(parameter) for parameter in parameters], dtype=torch.float64)
        mean = [torch.zeros_like(_local(parameter)) for parameter in parameters]
        products: dict[int, torch.Tensor] = {}
        for m in np.flatnonzero(counts >= 2):
            size = counts[m] // 2
            divisor = torch.tensor(size * self.tokens[m])
            gradients = []
            for half in range(2):
                sequences = index[modality == m][half : 2 * size : 2]
                for inputs, labels in self._passes(int(m), sequences, seed + half):
                    add_gradient(inputs, labels, divisor)
                gradients.append(_take_gradients(parameters))
            first, second = gradients
            signal = _dot(first, second, copies)
            for gradient in gradients:
                torch._foreach_add_(mean, gradient, alpha=float(shares[m]) / 2)
            torch._foreach_sub_(first, second)
            products[m] = torch.stack([signal, _dot(first, first, copies)])
            del first, second, gradients
        return self._estimates(counts, shares, products, _dot(mean, mean, copies))

    def _estimates(
        self,
        counts: Indices,
        shares: npt.NDArray[np.float64],
        products: dict[int, torch.Tensor],
        squared_mean: torch.Tensor,
    ) -> dict[str, GradientNoise]:
        names = list(self.run.modalities)
        numbers = torch.cat([squared_mean[None], *products.values()])
        if torch.distributed.get_world_size() > 1:
            device = self.device
            numbers = numbers.to(device)
            torch.distributed.all_reduce(numbers)
        return {}

    def _passes(self, m: int, sequences: Indices, seed: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        yield from ()
