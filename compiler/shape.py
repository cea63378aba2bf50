"""The model's shape where a study leaves it open."""

from __future__ import annotations

import math
from functools import lru_cache

from specs.errors import RuleError
from specs.study import ModelSpec

WIDTH_PER_DEPTH = 128
HEAD_DIM = 64
FFN_MULTIPLE = 16


def default_width(depth: int) -> int:
    """128 · depth (arXiv 2602.21472)."""
    return WIDTH_PER_DEPTH * depth


@lru_cache(maxsize=4096)
def default_heads(width: int) -> int:
    """Heads of dimension 64 where that divides `width`, else of the even divisor nearest to 64 by ratio."""
    divisors = [d for small in range(1, math.isqrt(width) + 1) if width % small == 0 for d in (small, width // small)]
    even = sorted(d for d in divisors if d % 2 == 0)
    return width // min(even, key=lambda d: abs(math.log(d / HEAD_DIM))) if even else 1


def default_ffn(width: int) -> int:
    """SwiGLU's 8/3 · width, rounded up to a multiple of 16."""
    return FFN_MULTIPLE * math.ceil(8 * width / (3 * FFN_MULTIPLE))


def resolve_shape(model: ModelSpec) -> tuple[int, int, int, int]:
    """(width, depth, heads, ffn). Raises RuleError where heads do not divide width into even parts (which rotary
    positions need)."""
    width = model.width or default_width(model.depth)
    if width % 2:
        raise RuleError("model.width", f"{width} is odd", "give an even width")
    heads = model.heads or default_heads(width)
    if width % heads or (width // heads) % 2:
        what = f"{heads} heads do not divide width {width} into equal heads of even dimension"
        raise RuleError(
            "model.heads", what, f"use {default_heads(width)}, or another width", also=("model.width", "model.depth")
        )
    return width, model.depth, heads, model.ffn or default_ffn(width)
