"""The output head: the logits of scored positions, or their scores, a chunk of positions at a time.

Dimensions in names: S scored (masked) positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torchtitan.models.common import Linear

LOGITS = 2**26
"""The most logits that are computed at a time while training: 256 MiB of them in float32."""


class Targets(NamedTuple):
    """What scored positions are scored against: the true tokens (S,), and the loss weight of each (S,)."""

    labels: torch.Tensor
    weights: torch.Tensor


class Scores(NamedTuple):
    """Weighted -log p of each scored token, in nats (S,), without a gradient; and their sum, which has one."""

    terms: torch.Tensor
    total: torch.Tensor


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum and the terms of `weighted_cross_entropy` over logits h · Wᵀ, a chunk of positions at a time. A chunk's
    part of the gradients is taken while its logits are at hand: they are computed once, and never kept.

    PyTorch's own chunks, in `torch.nn.functional.linear_cross_entropy`, weigh positions only with `reduction="none"`,
    which computes all logits a second time in the backward pass. torchtitan's `ChunkedLossWrapper` wants lengths that
    are whole multiples of the number of chunks, and calls the head outside of the model's forward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, h_SD: torch.Tensor, weight_VD: torch.Tensor, targets: Targets, rows: int, learn: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum, and the terms (S,). Gradients are made ready where `learn` is true."""
        exact = torch.promote_types(h_SD.dtype, torch.float32)
        terms_S = torch.zeros(h_SD.shape[0], dtype=exact, device=h_SD.device)
        if learn:
            dh_SD = torch.zeros_like(h_SD)
            dweight_VD = torch.zeros_like(weight_VD, dtype=exact)
        for start in range(0, h_SD.shape[0], rows):
            chunk = slice(start, start + rows)
            h, labels = h_SD[chunk], targets.labels[chunk, None]
            weights = targets.weights[chunk, None].to(exact)
            # In place from here on: log-probabilities, probabilities, then the gradient of the logits.
            p = torch.log_softmax(F.linear(h, weight_VD), 1, dtype=exact)
            log_p = p.gather(1, labels)
            terms_S[chunk] = (-weights * log_p).squeeze(1)
            if learn:
                p.exp_().scatter_(1, labels, log_p.exp() - 1).mul_(weights)
                dlogits = p.to(h.dtype)
                torch.mm(dlogits, weight_VD, out=dh_SD[chunk])
                if exact == h.dtype:
                    dweight_VD.addmm_(dlogits.T, h)
                else:
                    dweight_VD += dlogits.T @ h  # low precision within a chunk, never across them
                del dlogits
            del p  # or it would stand beside the next chunk's
        ctx.gradients = (dh_SD, dweight_VD.to(weight_VD.dtype)) if learn else None
        ctx.mark_non_differentiable(terms_S)
        return terms_S.sum(), terms_S

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, scale: torch.Tensor, _terms: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        """Scale the gradients that the forward pass made ready. Raises RuntimeError the second time: they are handed
        over, not copied."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of chunked scores are gone after one backward pass")
        (dh_SD, dweight_VD), ctx.gradients = ctx.gradients, None
        return dh_SD.mul_(scale), dweight_VD.mul_(scale), None, None, None


def chunked_scores(h_SD: torch.Tensor, weight_VD: torch.Tensor, targets: Targets, rows: int) -> Scores:
    """`weighted_cross_entropy` of the logits h · Wᵀ, with at most `rows` · V of them in memory at a time.

    Gradients reach `h_SD` and `weight_VD` through `total`, by one backward pass.
    """
    learn = torch.is_grad_enabled() and (h_SD.requires_grad or weight_VD.requires_grad)
    total, terms_S = _ChunkedCrossEntropy.apply(h_SD, weight_VD, targets, rows, learn)
    return Scores(terms=terms_S, total=total)


class Head(Linear):
    """The output head: from the final hidden states to logits, or to scores where the logits would be too many."""

    @dataclass(kw_only=True, slots=True)
    class Config(Linear.Config):
        """As that of the matrix."""

    def forward(self, input: torch.Tensor, targets: Targets | None = None) -> torch.Tensor | Scores:
        """Logits (S, V) of hidden states (S, D); given targets, their scores instead where S · V is above
        `LOGITS`.

        A forward pass of its own, so that FSDP gathers the weight once, however many chunks there are.
        """
        if targets is None or input.shape[0] * self.out_features <= LOGITS:
            return super().forward(input)
        rows = max(1, LOGITS // self.out_features)
        return chunked_scores(input, self.weight, targets, rows)
