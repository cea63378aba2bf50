"""The size of activations, for coordinate checks: root mean squares over real positions, of all ranks together.

Dimensions in names: B sequences, L positions, D width, S scored (masked) positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from runtime.training.model import MaskedDiffusionModel

SCORED = 256
"""Scored positions of each forward pass whose logits are measured: all of them may be too many to stand in memory."""


class Activations:
    """Root mean squares over the forward passes made while `watching`, until `take`.

    `embedding` is what enters the first block, `block.I` what block I hands on, `final` the final norm's output and
    `logits` those over the whole vocabulary at the first `SCORED` scored positions of each pass.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    @contextmanager
    def watching(self, model: MaskedDiffusionModel, real_BL: torch.Tensor) -> Iterator[None]:
        """Measure the forward passes of `model` in this context, whose non-padding positions are `real_BL`."""

        @torch.no_grad()
        def observe(name: str, values: torch.Tensor) -> None:
            if name == "final":
                self._add(name, values)
                weight_VD = model.lm_head.weight
                if isinstance(weight_VD, DTensor):
                    weight_VD = weight_VD.full_tensor()
                h_SD = values[:SCORED] * model.multipliers.head
                self._add("logits", F.linear(h_SD, weight_VD.to(h_SD.dtype)))
            else:
                self._add(name, values, real_BL)

        model.observe = observe
        try:
            yield
        finally:
            model.observe = None

    def take(self, group: ProcessGroup | None) -> dict[str, float] | None:
        """The root mean squares of all ranks of `group`, by name, and begin anew; None where nothing was watched. Every
        rank must ask."""
        sums, self._sums = self._sums, {}
        if not sums:
            return None
        total = torch.stack(list(sums.values()))
        if group is not None:
            torch.distributed.all_reduce(total, group=group)
        squares, count = total.unbind(dim=1)
        return dict(zip(sums, (squares / count.clamp(min=1)).sqrt().tolist(), strict=True))

    def _add(self, name: str, values: torch.Tensor, keep: torch.Tensor | None = None) -> None:
        """Add the squares of `values` (..., D), only where `keep` (...) where it is given."""
        squares = values.float().square().sum(dim=-1, dtype=torch.float64)
        if keep is not None:
            squares = squares * keep
        rows = values.new_tensor(squares.numel(), dtype=torch.float64) if keep is None else keep.sum()
        sums = torch.stack([squares.sum(), rows.double() * values.shape[-1]])
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums
