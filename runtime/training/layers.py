"""torchtitan's layers on what this process has of their parameters.

Under tensor parallelism a parameter is a DTensor: some of the rows or columns of a matrix, or all of a vector. These
layers compute with the plain tensor in it: PyTorch would work out anew, for each operation on each new shape, how it is
divided. Who adds up results and gradients is said where the model is divided (`parallelize.divide`). torchtitan's own
`Embedding` is such a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor, Placement
from torchtitan.models import common


class Linear(common.Linear):
    """torchtitan's, with this process's rows or columns of the matrix."""

    @dataclass(kw_only=True, slots=True)
    class Config(common.Linear.Config):
        """As torchtitan's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Inputs (..., I) to outputs (..., O), whichever of them this process has."""
        return F.linear(input, self.weight.to_local() if isinstance(self.weight, DTensor) else self.weight)


class RMSNorm(common.RMSNorm):
    """torchtitan's, whose weight each process has whole. `gradient` says what each finds of the weight's gradient: all
    of it (None), or a part of a sum."""

    @dataclass(kw_only=True, slots=True)
    class Config(common.RMSNorm.Config):
        """As torchtitan's."""

    gradient: Placement | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension; returns the shape of `x`."""
        weight = self.weight
        if isinstance(weight, DTensor):
            weight = weight.to_local(grad_placements=None if self.gradient is None else [self.gradient])
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)
