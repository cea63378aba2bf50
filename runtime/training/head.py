"""The output head: the logits of scored positions, or their scores, a chunk of positions at a time.

Dimensions in names: S scored (masked) positions, D width, V vocabulary, C columns of a chunk's logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import distributed
from torch.distributed.tensor import DTensor, Replicate, Shard
from torchtitan.models.common import Linear

from compiler.cost import LOGITS, PLAIN
from compiler.plan import Vocabulary

ALIGNED = 8
"""Rows of a chunk's logits start at multiples of so many values: matrix products are faster on accelerators."""

Ids: TypeAlias = tuple[tuple[int, int], ...]
"""Ranges [first, last) of token ids."""


class Targets(NamedTuple):
    """What scored positions are scored against: the true tokens (S,) and the loss weight of each (S,); for a head of
    kind `modality` the vocabulary part (S,) of the segment that each stands in, too (`Segments`)."""

    labels: torch.Tensor
    weights: torch.Tensor
    parts: torch.Tensor | None = None


class Scores(NamedTuple):
    """Weighted -log p of each scored token, in nats (S,), without a gradient; and their sum, which has one."""

    terms: torch.Tensor
    total: torch.Tensor


class _Share(NamedTuple):
    """The rows of the weight that this process has, `size` from `first` on. Those of tensor parallelism, `group`, have
    at most `largest` each, and all the same hidden states."""

    first: int
    size: int
    largest: int
    group: distributed.ProcessGroup | None

    def reduce(self, tensor: torch.Tensor, op: distributed.ReduceOp.RedOpType) -> None:
        """Join in place what each process has found in its own rows."""
        if self.group is not None:
            distributed.all_reduce(tensor, op, self.group)


class _Piece(NamedTuple):
    """A range of token ids that this process has: its rows of the weight, and its columns of a chunk's logits."""

    first: int
    last: int
    rows: slice
    columns: slice


class _Chunk(NamedTuple):
    """Positions, as an index, that are scored together over the same `pieces`, `width` columns in all; the logits have
    `stride` columns, the same number on every process."""

    positions: slice | torch.Tensor
    size: int
    pieces: tuple[_Piece, ...]
    width: int
    stride: int


def _pieces(ids: Ids, share: _Share) -> Iterator[_Piece]:
    at = 0
    for first, last in ids:
        first, last = max(first, share.first), min(last, share.first + share.size)
        if first < last:
            columns = slice(at, at + last - first)
            yield _Piece(first, last, slice(first - share.first, last - share.first), columns)
            at = columns.stop


def _chunks(ids: Ids, share: _Share, start: int, stop: int, order: torch.Tensor | None) -> Iterator[_Chunk]:
    """Positions `start` to `stop` - 1 (of `order`, where given) in chunks of equal size, to one."""
    pieces = tuple(_pieces(ids, share))
    width = sum(piece.last - piece.first for piece in pieces)
    # One more column, at least, for labels that other processes have.
    most = min(share.largest, sum(last - first for first, last in ids)) + 1
    stride = -(-most // ALIGNED) * ALIGNED
    parts = -(-(stop - start) // max(1, LOGITS // stride))
    for k in range(parts):
        a, b = (start + (stop - start) * i // parts for i in (k, k + 1))
        yield _Chunk(slice(a, b) if order is None else order[a:b], b - a, pieces, width, stride)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum and the terms of weighted cross-entropies over logits h · Wᵀ, a chunk of positions at a time. A chunk's
    part of the gradients is taken while its logits are at hand: they are computed once, and never kept.

    PyTorch's own chunks, in `torch.nn.functional.linear_cross_entropy`, weigh positions only with `reduction="none"`,
    which computes all logits a second time in the backward pass. torchtitan's `ChunkedLossWrapper` wants lengths that
    are whole multiples of the number of chunks, and calls the head outside of the model's forward pass. Neither knows
    of a vocabulary for each position, nor of its being cut over processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h_SD: torch.Tensor,
        weight_VD: torch.Tensor,
        targets: Targets,
        share: _Share,
        chunks: Sequence[_Chunk],
        learn: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum, and the terms (S,). `weight_VD` has the rows of `share`. Gradients are made ready where `learn` is
        true."""
        exact = torch.promote_types(h_SD.dtype, torch.float32)
        terms_S = torch.zeros(h_SD.shape[0], dtype=exact, device=h_SD.device)
        if learn:
            dh_SD = torch.zeros_like(h_SD)
            dweight_VD = torch.zeros_like(weight_VD, dtype=exact)
        # All chunks write to the same memory: first logits, at last their gradient; between them in float32 at least.
        size = max((chunk.size * chunk.stride for chunk in chunks), default=0)
        products = h_SD.new_empty(size)
        work = products if exact == h_SD.dtype else h_SD.new_empty(size, dtype=exact)
        for chunk in chunks:
            h, labels = h_SD[chunk.positions], targets.labels[chunk.positions, None]
            weights = targets.weights[chunk.positions, None].to(exact)
            logits_SC, p_SC = (
                memory[: chunk.size * chunk.stride].view(chunk.size, chunk.stride) for memory in (products, work)
            )
            columns = torch.full_like(labels, chunk.width)
            for piece in chunk.pieces:
                torch.mm(h, weight_VD[piece.rows].T, out=logits_SC[:, piece.columns])
                here = (labels >= piece.first) & (labels < piece.last)
                columns = torch.where(here, labels - piece.first + piece.columns.start, columns)
            logits_SC[:, chunk.width :] = -torch.inf
            if work is not products:
                p_SC.copy_(logits_SC)
            # The largest logit, and that of the label: no other process has it, so that it is the largest there.
            extremes = torch.cat([p_SC.amax(1, keepdim=True), p_SC.gather(1, columns)], 1)
            share.reduce(extremes, distributed.ReduceOp.MAX)
            largest, target = extremes[:, :1], extremes[:, 1:]
            total = p_SC.sub_(largest).exp_().sum(1, keepdim=True)
            share.reduce(total, distributed.ReduceOp.SUM)
            terms_S[chunk.positions] = (weights * (total.log() + largest - target)).squeeze(1)
            if learn:
                p_SC.mul_(weights / total).scatter_add_(1, columns, -weights)
                if work is not products:
                    logits_SC.copy_(p_SC)
                dh = torch.zeros_like(h)
                for piece in chunk.pieces:
                    dlogits = logits_SC[:, piece.columns]
                    dh.addmm_(dlogits, weight_VD[piece.rows])
                    _add_product(dweight_VD[piece.rows], dlogits.T, h)
                dh_SD[chunk.positions] = dh
        del products, work  # or they would stand beside the gradients' last copies
        if learn:
            share.reduce(dh_SD, distributed.ReduceOp.SUM)
        ctx.gradients = (dh_SD, dweight_VD.to(weight_VD.dtype)) if learn else None
        ctx.mark_non_differentiable(terms_S)
        return terms_S.sum(), terms_S

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: torch.Tensor, _terms: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients that the forward pass made ready. Raises RuntimeError the second time: they are handed
        over, not copied."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of chunked scores are gone after one backward pass")
        (dh_SD, dweight_VD), ctx.gradients = ctx.gradients, None
        return dh_SD.mul_(scale), dweight_VD.mul_(scale), None, None, None, None


def _add_product(to_VD: torch.Tensor, left_VS: torch.Tensor, right_SD: torch.Tensor) -> None:
    """Add left · right in place. What is of higher precision is never added up in a lower one, other than within the
    product, of which some rows stand in memory at a time."""
    if to_VD.dtype == left_VS.dtype:
        to_VD.addmm_(left_VS, right_SD)
        return
    rows = max(1, LOGITS // 4 // right_SD.shape[1])
    for start in range(0, to_VD.shape[0], rows):
        to_VD[start : start + rows] += left_VS[start : start + rows] @ right_SD


def _share(weight_VD: torch.Tensor) -> _Share:
    """What of a weight this process has: all, or its part where tensor parallelism cuts the vocabulary."""
    vocabulary = weight_VD.shape[0]
    if not isinstance(weight_VD, DTensor):
        return _Share(0, vocabulary, vocabulary, None)
    mesh = weight_VD.device_mesh
    if tuple(weight_VD.placements) != (Shard(0),):
        raise ValueError(f"the head's weight is cut by {weight_VD.placements}, not over the vocabulary alone")
    sizes = [Shard.local_shard_size_and_offset(vocabulary, mesh.size(), rank) for rank in range(mesh.size())]
    count, first = sizes[mesh.get_local_rank()]
    return _Share(first, count, max(size for size, _ in sizes), mesh.get_group())


def chunked_scores(
    h_SD: torch.Tensor, weight_VD: torch.Tensor, targets: Targets, ids: Sequence[Ids] | None = None
) -> Scores:
    """Weighted cross-entropies of the logits h · Wᵀ, with at most `LOGITS` of them in memory at a time.

    With `ids`, the ranges of token ids of each part, a position's softmax is over those of its own part,
    `targets.parts`, alone; other rows of the weight have no gradient from it. A weight that tensor parallelism cuts
    (a DTensor) gives every process the same scores and the whole gradient of the same `h_SD`, and that of its own rows.

    Gradients reach `h_SD` and `weight_VD` through `total`, by one backward pass.
    """
    share = _share(weight_VD)
    local_VD = weight_VD.to_local() if isinstance(weight_VD, DTensor) else weight_VD
    if ids is None:
        chunks = [*_chunks(((0, weight_VD.shape[0]),), share, 0, h_SD.shape[0], None)]
    else:
        assert targets.parts is not None
        order = torch.argsort(targets.parts, stable=True)
        chunks, start = [], 0
        for own, count in zip(ids, torch.bincount(targets.parts, minlength=len(ids)).tolist(), strict=True):
            chunks += _chunks(own, share, start, start + count, order)
            start += count
    learn = torch.is_grad_enabled() and (h_SD.requires_grad or local_VD.requires_grad)
    total, terms_S = _ChunkedCrossEntropy.apply(h_SD, local_VD, targets, share, chunks, learn)
    return Scores(terms=terms_S, total=total)


class Head(Linear):
    """The output head: from the final hidden states to logits, or to scores where the logits would be too many, are cut
    over processes, or are not the same tokens' for every position."""

    @dataclass(kw_only=True, slots=True)
    class Config(Linear.Config):
        """`vocabulary` is given to a head of kind `modality`: it scores each position over its own segment's part of
        that, and over the special tokens."""

        vocabulary: Vocabulary | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.ids: tuple[Ids, ...] | None = None
        if config.vocabulary is not None:
            parts = config.vocabulary.parts
            specials = (max(part.offset + part.size for part in parts), config.vocabulary.size)
            self.ids = tuple(((part.offset, part.offset + part.size), specials) for part in parts)

    def forward(self, input: torch.Tensor, targets: Targets | None = None) -> torch.Tensor | Scores:
        """Logits (S, V) of hidden states (S, D); given targets, their scores instead where S · V is above `PLAIN`, and
        always from a head of kind `modality` or under tensor parallelism.

        A forward pass of its own, so that FSDP gathers the weight once, however many chunks there are.
        """
        cut = isinstance(self.weight, DTensor)
        many = input.shape[0] * self.out_features > min(PLAIN, LOGITS)
        if targets is not None and (many or cut or self.ids is not None):
            return chunked_scores(input, self.weight, targets, self.ids)
        if cut:
            whole = DTensor.from_local(input, self.weight.device_mesh, [Replicate()], run_check=False)
            return super().forward(whole).full_tensor()
        return super().forward(input)
