"""Hyperparameter transfer: from the point where the optimizer was tuned to the run at hand.

Two steps, each with its own formulas: the SDE reparameterization in batch and tokens (`reparameterize`; square-root
rule of Malladi et al., arXiv 2205.10287, with the linear one for 1 - β), then CompleteP in width and depth (`groups`
and `multipliers`; arXiv 2505.01618, completed by arXiv 2512.22382).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from compiler.layout import GROUPS, Shape
from compiler.plan import Group, Multipliers, OptimizerPlan
from compiler.shape import default_ffn, default_heads, default_width
from specs.errors import RuleError
from specs.study import ModelSpec, OptimizerSpec, TransferSpec

DEPTH_EXPONENT = 1
"""CompleteP's a."""


class Scale(NamedTuple):
    """A run's shape against the base shape: m_N = width / base width, m_L = depth / base depth, and the head dimension
    and feed-forward width of the base."""

    width: float
    depth: float
    base_head_dim: float
    base_ffn: float


def logical_batch(transfer: TransferSpec, tokens: float) -> float:
    """B̃ = B_base · (D / D_base)^γ, in sequences: the batch whose gradient noise the tuned optimizer is for."""
    return transfer.base.batch * math.pow(tokens / transfer.base.tokens, transfer.gamma)


def critical_batch(transfer: TransferSpec | None, tokens: float, sequence_length: int) -> float | None:
    """B_crit = D / (L · S_crit), or the batch that the study names; None where it names neither."""
    critical = transfer.critical if transfer else None
    if critical is None:
        return None
    return critical.batch if critical.steps is None else tokens / (sequence_length * critical.steps)


def reparameterize(optimizer: OptimizerSpec, kappa: float) -> tuple[OptimizerPlan, float | None]:
    """AdamW and the clipping norm at κ = B / B̃.

    η ← η √κ, 1 - β ← κ (1 - β), ε ← ε / √κ, λ ← λ √κ, clip ← clip / √κ (the norm of a gradient that is mostly
    noise goes as 1 / √B). At κ = 1 nothing changes. Raises RuleError where κ (1 - β) ≥ 1.
    """
    root = math.sqrt(kappa)
    for beta in optimizer.betas:
        if kappa * (1 - beta) >= 1:
            what = f"κ = {kappa:.4g} takes beta {beta} to {1 - kappa * (1 - beta):.3g}, outside (0, 1)"
            todo = f"use a physical batch below {1 / (1 - beta):.4g} logical ones"
            raise RuleError("batch.physical", what, todo, also=("tokens", "optimizer.betas", "batch.logical"))
    first, second = (1 - kappa * (1 - beta) if kappa != 1 else beta for beta in optimizer.betas)
    resolved = OptimizerPlan(
        lr=optimizer.lr * root,
        betas=(first, second),
        eps=optimizer.eps / root,
        weight_decay=optimizer.weight_decay * root,
    )
    return resolved, None if optimizer.clip is None else optimizer.clip / root


def scale(transfer: TransferSpec | None, model: ModelSpec, shape: Shape) -> Scale:
    """The run's shape against the base shape, all ones without transfer.

    Where the base does not say: its heads are the run's where the study sets those (so head_dim grows with width), else
    the default of its width; its feed-forward width likewise is in the run's proportion, or the default.
    Raises RuleError where the base's heads do not divide its width.
    """
    if transfer is None:
        return Scale(1.0, 1.0, shape.head_dim, shape.ffn)
    base = transfer.base
    width = base.width or default_width(base.depth)
    heads = base.heads or model.heads or default_heads(width)
    if base.heads is not None and width % base.heads:
        raise RuleError(
            "transfer.base.heads", f"{base.heads} does not divide base width {width}", "use a divisor of it"
        )
    ffn = base.ffn or (model.ffn * width / shape.width if model.ffn else default_ffn(width))
    return Scale(shape.width / width, shape.depth / base.depth, width / heads, ffn)


def multipliers(scale: Scale, shape: Shape) -> Multipliers:
    """Factors of the forward pass: residual branch m_L^-a, logits 1 / m_N, embedding 1.

    q·k is scaled by √(base head_dim) / head_dim: the usual 1 / √head_dim at the base, and 1 / head_dim as head_dim
    grows from there. With head_dim held fixed it stays as at the base.
    """
    return Multipliers(
        residual=scale.depth**-DEPTH_EXPONENT,
        head=1 / scale.width,
        embedding=1.0,
        attention=math.sqrt(scale.base_head_dim) / shape.head_dim,
    )


def groups(optimizer: OptimizerPlan, scale: Scale, shape: Shape) -> tuple[Group, ...]:
    """The optimizer groups, in the layout's order, by CompleteP's table with a = 1.

    Initial deviations: embedding and learned positions 1; hidden matrices σ / √m_N with σ² = 1 / (fan-in at the base);
    norms start at one; the head at zero (so its first updates, not its initial values, set its size).

    Adam's ε must keep its size against the gradient's. With logits × 1 / m_N the gradient of the residual stream, and
    of each entry of embedding, final norm and head, goes as 1 / m_N; inside a branch as 1 / (m_N · m_L^a). The QK-norm
    weights sum over heads, whose number grows with width, which cancels m_N (arXiv 2512.22382).
    """
    width, depth = scale.width, scale.depth**DEPTH_EXPONENT
    base_width = shape.width / width
    hidden_lr = optimizer.lr * scale.depth ** (DEPTH_EXPONENT - 1)
    lr, decay, eps = optimizer.lr, optimizer.weight_decay, optimizer.eps
    rules: dict[str, tuple[float, float, float, float | None]] = {
        # group: lr, weight decay, eps, initial deviation
        "embedding": (lr, decay, eps / width, 1.0),
        "positions": (lr, decay, eps / width, 1.0),
        "hidden": (hidden_lr / width, decay * width, eps / (width * depth), (base_width * width) ** -0.5),
        "hidden_down": (hidden_lr / width, decay * width, eps / (width * depth), (scale.base_ffn * width) ** -0.5),
        "hidden_norm": (hidden_lr, 0.0, eps / (width * depth), None),
        "qk_norm": (hidden_lr, 0.0, eps / depth, None),
        "final_norm": (lr, 0.0, eps / width, None),
        "head": (lr, decay, eps / width, 0.0),
    }
    return tuple(
        Group(name=name, pattern=pattern, lr=lr, betas=optimizer.betas, eps=eps, weight_decay=decay, init_std=std)
        for name, pattern in GROUPS.items()
        for lr, decay, eps, std in (rules[name],)
    )
