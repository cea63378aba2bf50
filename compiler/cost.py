"""What a run costs: FLOPs, bytes, device-hours. All from the layout table and the shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from compiler.accelerators import Device
from compiler.layout import Shape, modules
from compiler.plan import Memory, Noise, Parameters


class PositionFlops(NamedTuple):
    """Training FLOPs (forward and backward) at one position of a sequence; `head` is part of `total`."""

    total: int
    head: int


@lru_cache(maxsize=4096)
def count_parameters(shape: Shape) -> Parameters:
    """Parameters in all, and without input embedding, learned positions and head."""
    total = embedding = 0
    for module in modules(shape):
        size = module.size * (shape.depth if module.per_layer else 1)
        total += size
        embedding += size if module.embedding else 0
    return Parameters(total=total, non_embedding=total - embedding)


@lru_cache(maxsize=4096)
def position_flops(shape: Shape) -> PositionFlops:
    """6 FLOPs per weight of each matrix (2 forward, 4 backward), and 12 · L · width in each layer's attention (q·k and
    the weighted sum of v, every position seeing all L). Looking an embedding up costs nothing."""
    matrices = head = 0
    for module in modules(shape):
        if module.fan_in is not None:
            matrices += module.size * (shape.depth if module.per_layer else 1)
            head += module.size if module.group == "head" else 0
    return PositionFlops(6 * matrices + 12 * shape.positions * shape.width * shape.depth, 6 * head)


def masked_share(noise: Noise) -> float:
    """E_t[1 - α(t)]: the share of a sequence's tokens that are masked on average."""
    if noise.kind == "cosine":
        return 2 / math.pi
    return 1 / (1 + noise.power)


def scored_share(
    noises: Mapping[str, Noise], shares: Mapping[str, float], mean_tokens: Mapping[str, float], positions: int
) -> float:
    """Share of positions, padding included, at which the head is computed: the masked ones."""
    return sum(shares[name] * mean_tokens[name] / positions * masked_share(noises[name]) for name in noises)


def memory(shape: Shape, micro: int, shard: int, dtype: str) -> Memory:
    """Bytes on one rank: float32 parameters, gradients and two Adam moments, all divided by `shard`, and activations.

    Activations are an estimate of what autograd keeps with no recomputation. Per position and layer: 12 · width (inputs
    of the two norms and of the projections; q and k before and after norm and rotation; v; attention's output) and
    4 · ffn (both gates, the activation and the product), in `dtype`; per position 2 · vocabulary in float32 (logits and
    their gradient).
    """
    size = -(-4 * count_parameters(shape).total // shard)
    element = 2 if dtype == "bfloat16" else 4
    per_position = element * shape.depth * (12 * shape.width + 4 * shape.ffn) + 8 * shape.vocabulary
    activations = micro * shape.positions * per_position
    return Memory(
        per_rank=4 * size + activations, parameters=size, gradients=size, optimizer=2 * size, activations=activations
    )


def device_hours(flops: float, device: Device) -> float:
    """Hours of one device at its sustained rate."""
    return flops / device.sustained / 3600
