"""Attention without a direction: every position sees every position that its mask allows.

Dimensions in names: B sequences, L positions, N heads, H head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchtitan.protocols.module import Module


class BidirectionalAttention(Module):
    """Scaled dot-product attention in which every position sees every position that `attention_masks` allows.

    `attention_masks` is boolean, True where a key may be seen: (B, 1, 1, L) for all queries alike, or (B, 1, L, L).
    Each query must see a key. torchtitan's own SDPA module takes no mask.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        """`scale` multiplies q·k before the softmax."""

        scale: float

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.scale = config.scale

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: torch.Tensor | None = None,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Attend; returns (B, L, N, H). `scale` is the caller's default and gives way to the plan's."""
        out_BNLH = F.scaled_dot_product_attention(
            q_BLNH.transpose(1, 2),
            k_BLNH.transpose(1, 2),
            v_BLNH.transpose(1, 2),
            attn_mask=attention_masks,
            scale=self.scale,
            enable_gqa=enable_gqa,
        )
        return out_BNLH.transpose(1, 2)
