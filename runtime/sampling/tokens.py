"""From logits to tokens: temperature, the likeliest few, and one uniform number a position.

Dimensions in names: S positions, V tokens that a position may hold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from compiler.sampling import Sampler


class Drawn(NamedTuple):
    """Tokens (S,), counted from the first that each position may hold; their log-probabilities (S,) and the entropy
    (S,) of what they were drawn from, in nats, both before temperature and truncation."""

    tokens: torch.Tensor
    log_p: torch.Tensor
    entropy: torch.Tensor


def draw(logits_SV: torch.Tensor, sampler: Sampler, u_S: torch.Tensor) -> Drawn:
    """A token for each position by its uniform number in [0, 1)."""
    log_p_SV = torch.log_softmax(logits_SV, dim=-1)
    p_SV = log_p_SV.exp()
    entropy = -(p_SV * log_p_SV.clamp(min=-1e9)).sum(-1)
    if sampler.temperature == 0:
        tokens = logits_SV.argmax(-1)
    else:
        if sampler.temperature != 1:
            p_SV = torch.softmax(logits_SV / sampler.temperature, dim=-1)
        p_SV = truncated(p_SV, sampler.top_k, sampler.top_p)
        cumulative_SV = p_SV.double().cumsum(-1)
        wanted_S1 = u_S[:, None].double() * cumulative_SV[:, -1:]
        # The first token whose cumulated probability is above u: never one of probability 0.
        tokens = (cumulative_SV <= wanted_S1).sum(-1).clamp(max=logits_SV.shape[1] - 1)
    return Drawn(tokens, log_p_SV.gather(-1, tokens[:, None]).squeeze(-1), entropy)


def truncated(p_SV: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Probabilities without all but the `top_k` likeliest (0: all stay), and without those that the fewest which sum to
    `top_p` can do without; not normalised again."""
    if 0 < top_k < p_SV.shape[1]:
        least = p_SV.topk(top_k, dim=-1).values[:, -1:]
        p_SV = torch.where(p_SV < least, 0.0, p_SV)
    if top_p < 1:
        falling, order = p_SV.sort(dim=-1, descending=True)
        before = falling.cumsum(-1) - falling
        kept = before < top_p * falling.sum(-1, keepdim=True)
        p_SV = torch.where(torch.zeros_like(kept).scatter(-1, order, kept), p_SV, 0.0)
    return p_SV
