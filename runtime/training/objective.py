"""The training objective: the negative ELBO of masked diffusion, per non-padding token.

E_t [ -α'(t) / (1 - α(t)) · Σ over masked i of -log p(x_i | x_t) ], divided by all non-padding tokens of the global
batch, masked or not. Dividing by masked tokens only would be biased: their number is correlated with the weight.

A head of kind `modality` gives p(x_i | x_t, the part of i's segment): a distribution over that part and the special
tokens alone. Its loss is the negative ELBO of tokens whose segments' places are known, which is the smaller one: it
lacks what telling the parts apart costs. Numbers of the two kinds of heads are not to be compared.

Dimensions in names: S scored (masked) positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torchtitan.components.loss import BaseLoss
from torchtitan.config import CompileConfig

from runtime.training.head import Scores, Targets


def weighted_cross_entropy(logits_SV: torch.Tensor, labels_S: torch.Tensor, weights_S: torch.Tensor) -> torch.Tensor:
    """Weighted -log p of each scored token, in nats (S,)."""
    return weights_S * F.cross_entropy(logits_SV.float(), labels_S, reduction="none")


def scored_nats(pred: torch.Tensor | Scores, targets: Targets) -> torch.Tensor:
    """Weighted -log p of each scored token, in nats (S,), of what the head made: logits (S, V), or scores."""
    return pred.terms if isinstance(pred, Scores) else weighted_cross_entropy(pred, targets.labels, targets.weights)


class MaskedDiffusionLoss(BaseLoss):
    """Sum of weighted cross-entropies over this micro-batch's masked tokens / non-padding tokens of the global
    batch."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        """Has no settings: the weights come with the batch."""

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None) -> None:
        self.fn = weighted_cross_entropy
        self._maybe_compile(compile_config)

    def __call__(
        self,
        pred: torch.Tensor | Scores,
        labels: torch.Tensor,
        global_valid_tokens: torch.Tensor | None = None,
        *,
        weights: torch.Tensor | None = None,
        **_unused: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and each scored token's share of it before division, (S,) detached. `pred` is the logits (S, V), or
        what the head made of them where they are too many."""
        assert weights is not None
        assert global_valid_tokens is not None
        if isinstance(pred, Scores):
            return pred.total / global_valid_tokens, {"terms": pred.terms}
        terms_S = self.fn(pred, labels, weights)
        return terms_S.sum() / global_valid_tokens, {"terms": terms_S.detach()}
