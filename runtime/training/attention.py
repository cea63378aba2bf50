"""Attention without a direction: every position sees every position that its mask allows.

Who sees whom is `sees` alone. On CUDA the mask is never written out: FlexAttention's kernels ask `sees`, and skip
blocks in which nobody sees anybody. Elsewhere PyTorch's own attention adds a mask that is made once for all layers.

Dimensions in names: B sequences, L positions, N heads, H head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torchtitan.models.common.attention import create_attention_mask
from torchtitan.protocols.module import Module

from runtime.training.stream import PADDING, TASK

LEAST_HEAD_DIM = 16
"""FlexAttention's kernels multiply no narrower matrices."""

# Not torchtitan's: that times several kernels and takes the fastest, so the same run may round in two ways.
_compiled_flex_attention = torch.compile(flex_attention)


def sees(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Whether the query of one token sees the key of another, given what `documents` says of the two; elementwise.

    A token sees its own document and a task token, and nothing sees padding. Padding sees all that is none, for a
    query must see something.
    """
    return (key != PADDING) & ((key == query) | (key == TASK) | (query == PADDING))


def attention_mask(document_BL: torch.Tensor, dtype: torch.dtype, head_dim: int) -> torch.Tensor | BlockMask:
    """The mask of a batch of `documents`, for all layers, heads of `head_dim` and queries of `dtype`.

    On CUDA what FlexAttention takes. Elsewhere, and for heads that it is too coarse for, what is added to the scores, 0
    or -inf: (B, 1, 1, L) for all queries alike where each sequence is one document, else (B, 1, L, L).
    """
    if document_BL.is_cuda and head_dim >= LEAST_HEAD_DIM:
        return block_mask(document_BL)
    return added_mask(document_BL, dtype)


def block_mask(document_BL: torch.Tensor) -> BlockMask:
    """`sees` as FlexAttention takes it: by blocks of 128 positions, from which its kernels ask for the rest."""

    def mask_mod(b: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return sees(document_BL[b, query], document_BL[b, key])

    size, length = document_BL.shape
    mask: BlockMask = create_attention_mask(mask_mod, size, None, length, length, device=document_BL.device)
    return mask


def added_mask(document_BL: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`sees` as 0 and -inf: (B, 1, 1, L) where each sequence is one document, else (B, 1, L, L)."""
    # Without values, as on the meta device, there may be several.
    one_each = not document_BL.is_meta and bool(((document_BL == 0) | (document_BL == PADDING)).all())
    queries = document_BL[:, :1] if one_each else document_BL
    seen = sees(queries[:, None, :, None], document_BL[:, None, None, :])
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


class BidirectionalAttention(Module):
    """Scaled dot-product attention in which every position sees every position that `attention_masks` allows, as
    `attention_mask` makes them. torchtitan's own SDPA module takes no mask."""

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
        attention_masks: torch.Tensor | BlockMask | None = None,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Attend; returns (B, L, N, H). `scale` is the caller's default and gives way to the plan's."""
        q_BNLH, k_BNLH, v_BNLH = q_BLNH.transpose(1, 2), k_BLNH.transpose(1, 2), v_BLNH.transpose(1, 2)
        out_BNLH: torch.Tensor
        if isinstance(attention_masks, BlockMask):
            out_BNLH = _compiled_flex_attention(
                q_BNLH, k_BNLH, v_BNLH, block_mask=attention_masks, scale=self.scale, enable_gqa=enable_gqa
            )
        else:
            out_BNLH = F.scaled_dot_product_attention(
                q_BNLH, k_BNLH, v_BNLH, attn_mask=attention_masks, scale=self.scale, enable_gqa=enable_gqa
            )
        return out_BNLH.transpose(1, 2)
