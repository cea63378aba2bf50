"""The model: one bidirectional transformer over one stream of discrete tokens, of torchtitan's parts.

Dimensions in names: B sequences, L positions, D width, N heads, H head_dim, S scored (masked) positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.attention.flex_attention import BlockMask
from torchtitan.components.checkpointer.utils import canonical_fqn
from torchtitan.models.common import CosSinRoPE, Embedding, FeedForward, TransformerBlock
from torchtitan.models.common.attention import GQAttention, QKVLinear
from torchtitan.models.common.decoder import Decoder
from torchtitan.protocols.module import Module

from compiler.layout import Row, table
from compiler.plan import RunPlan
from runtime.training.attention import BidirectionalAttention, attention_mask
from runtime.training.head import Head, Scores, Targets
from runtime.training.layers import Linear, RMSNorm


class Block(TransformerBlock):
    """Pre-norm block with CompleteP's residual multiplier: x + r · branch(norm(x)), twice."""

    @dataclass(kw_only=True, slots=True)
    class Config(TransformerBlock.Config):
        """`residual` is r = m_L^-a."""

        residual: float

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.feed_forward is not None
        self.attention = config.attention.build()
        self.feed_forward = config.feed_forward.build()
        self.attention_norm = config.attention_norm.build()
        self.ffn_norm = config.ffn_norm.build()
        self.residual = config.residual

    def forward(self, x_BLD: torch.Tensor, attention_masks: torch.Tensor | BlockMask) -> torch.Tensor:
        """One block; returns (B, L, D)."""
        h_BLD = torch.add(x_BLD, self.attention(self.attention_norm(x_BLD), attention_masks), alpha=self.residual)
        return torch.add(h_BLD, self.feed_forward(self.ffn_norm(h_BLD)), alpha=self.residual)


class MaskedDiffusionModel(Decoder):
    """p(x_i | x_t) for the masked positions of a batch."""

    @dataclass(kw_only=True, slots=True)
    class Config(Decoder.Config):
        """The architecture, and the plan that decides its multipliers, its layout and its initial values."""

        code_positions: Embedding.Config
        run: RunPlan

        def get_nparams_and_flops(self, model: nn.Module, seq_len: int) -> tuple[int, int]:
            """torchtitan's question, answered from the plan: parameters, and FLOPs per position."""
            positions = self.run.steps * self.run.batch.physical * seq_len
            return self.run.model.parameters.total, round(self.run.flops / positions)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.code_positions = config.code_positions.build()
        self.owners: list[nn.Module] = []
        self.multipliers = config.run.multipliers
        self.observe: Callable[[str, torch.Tensor], None] | None = None
        """Is shown activations by name as they pass, where it is set. Hooks of a compiled block would not be called."""
        self.layout = table(config.run)
        built = {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}
        planned = {row.name: tuple(row.shape) for row in self.layout}
        if built != planned:
            difference = sorted(set(built.items()) ^ set(planned.items()))
            raise AssertionError(f"the built model differs from the plan's layout table: {difference[:4]}")

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by the names of the layout table, which a checkpoint-wrapped block does not change."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield canonical_fqn(name), parameter

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Parameters without their names. Every step asks for them, and walking the tree of modules each time costs a
        small model some percent of its step; after `init_states` the tree stays."""
        if not recurse or not self.owners:
            return super().parameters(recurse)
        return (parameter for owner in self.owners for parameter in owner._parameters.values() if parameter is not None)

    def init_states(self, *, buffer_device: torch.device | None = None) -> None:
        """Fill parameters from the layout table, the same whatever the sharding: each is drawn whole, from a generator
        seeded by (seed, name), and then cut."""
        self.init_buffers(buffer_device)
        parameters = dict(self.named_parameters())
        for row in self.layout:
            fill(parameters[row.name], row, self.config.run.seed)
        self.owners = [module for module in self.modules() if module._parameters]

    def init_buffers(self, device: torch.device | None = None) -> None:
        """Fill what no checkpoint holds, such as rotary tables."""
        for module in self.modules():
            if module is not self and isinstance(module, Module):
                module._init_self_buffers(buffer_device=device)

    def forward(
        self,
        tokens_BL: torch.Tensor,
        document: torch.Tensor,
        code_index: torch.Tensor,
        scored: torch.Tensor,
        targets: Targets | None = None,
    ) -> torch.Tensor | Scores:
        """Logits (S, V) at the flat positions `scored` (S,) of the (B, L) batch; given their targets, their scores
        instead where the logits would be too many to stand in memory (`Head`). The rest as `hidden` has it."""
        return self.lm_head(self.hidden(tokens_BL, document, code_index, scored), targets)

    def hidden(
        self, tokens_BL: torch.Tensor, document: torch.Tensor, code_index: torch.Tensor, scored: torch.Tensor
    ) -> torch.Tensor:
        """What the head takes: final hidden states (S, D) at the flat positions `scored` (S,) of the (B, L) batch.

        `document` (B, L) says who sees whom (`stream.documents`). `code_index` (B, L) counts positions within a
        sequence's codes and is -1 elsewhere: RoPE alone learns where in an image a code lies only slowly.
        """
        h_BLD = self.tok_embeddings(tokens_BL)
        place_BLD = self.code_positions(code_index.clamp(min=0)) * (code_index >= 0).unsqueeze(-1)
        h_BLD = h_BLD * self.multipliers.embedding + place_BLD
        if self.observe is not None:
            self.observe("embedding", h_BLD)
        mask = attention_mask(document, h_BLD.dtype, self.config.run.model.head_dim)
        for name, layer in self.layers.items():
            h_BLD = layer(h_BLD, mask)
            if self.observe is not None:
                self.observe(f"block.{name}", h_BLD)
        h_SD = self.norm(h_BLD.flatten(0, 1)[scored])
        if self.observe is not None:
            self.observe("final", h_SD)
        return h_SD * self.multipliers.head


@torch.no_grad()
def fill(parameter: torch.Tensor, row: Row, seed: int) -> None:
    """Give `parameter` (whole or sharded) its initial values by its layout row: ones where the row has no `init_std`,
    else normal with that standard deviation, seeded by (seed, name)."""
    if row.init_std is None:
        parameter.fill_(1.0)
        return
    if row.init_std == 0.0 or parameter.is_meta:
        parameter.zero_()
        return
    digest = hashlib.sha256(f"{seed}:{row.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    whole = torch.empty(row.shape, dtype=torch.float32).normal_(0.0, row.init_std, generator=generator)
    if isinstance(parameter, DTensor):
        whole = whole.to(parameter.device)
        parameter.copy_(distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None))
    else:
        parameter.copy_(whole)


def model_config(run: RunPlan) -> MaskedDiffusionModel.Config:
    """The torchtitan model that a plan's shape and multipliers become."""
    shape, multipliers = run.model, run.multipliers
    width, head_dim = shape.width, shape.head_dim

    def linear(inputs: int, outputs: int) -> Linear.Config:
        return Linear.Config(in_features=inputs, out_features=outputs)

    def block() -> Block.Config:
        return Block.Config(
            attention=GQAttention.Config(
                n_heads=shape.heads,
                dim=width,
                qkv_linear=QKVLinear.Config(head_dim=head_dim, wq=linear(width, width), wkv=linear(width, width)),
                wo=linear(width, width),
                qk_norm=RMSNorm.Config(normalized_shape=head_dim),
                inner_attention=BidirectionalAttention.Config(scale=multipliers.attention),
                rope=CosSinRoPE.Config(dim=head_dim, max_seq_len=run.sequence_length),
            ),
            feed_forward=FeedForward.Config(
                w1=linear(width, shape.ffn), w2=linear(shape.ffn, width), w3=linear(width, shape.ffn)
            ),
            attention_norm=RMSNorm.Config(normalized_shape=width),
            ffn_norm=RMSNorm.Config(normalized_shape=width),
            residual=multipliers.residual,
        )

    return MaskedDiffusionModel.Config(
        dim=width,
        vocab_size=shape.vocabulary,
        tok_embeddings=Embedding.Config(num_embeddings=shape.vocabulary, embedding_dim=width),
        code_positions=Embedding.Config(num_embeddings=run.sequence_length, embedding_dim=width),
        layers=[block() for _ in range(shape.depth)],
        norm=RMSNorm.Config(normalized_shape=width),
        lm_head=Head.Config(
            in_features=width,
            out_features=shape.vocabulary,
            vocabulary=run.vocabulary if run.head == "modality" else None,
        ),
        run=run,
    )
