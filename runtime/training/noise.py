"""Noise schedules α(t): the share of tokens left unmasked at time t in [0, 1], from α(0) = 1 down to α(1).

α(1) is 0 but for `log-linear`, which leaves a share eps. The loss weight of a masked token is -α'(t) / (1 - α(t))
(MDLM, arXiv 2406.07524; MD4, arXiv 2406.04329). It has a pole at t = 0, where nothing is masked; times are therefore
drawn from (0, 1].

Each function is elementwise, keeps the shape and dtype of its times, and raises ValueError for an unknown kind. α is
exact at both ends, in every dtype; what is small at small times (`masked`) or large there (`weight`) keeps all its
digits, and so does what vanishes at t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from compiler.plan import Noise


def alpha(noise: Noise, t: torch.Tensor) -> torch.Tensor:
    """α(t)."""
    match noise.kind:
        case "linear":
            return 1 - t
        case "polynomial":
            return 1 - t**noise.power
        case "cosine":
            return 1 - torch.sin(math.pi / 2 * t)
        case "log-linear":
            return (1 - t) + noise.eps * t  # 1 - (1 - eps) · t would not end at eps, but for rounding
        case "table":
            return _through(noise.t, noise.alpha, t)
        case _:
            raise _unknown(noise)


def slope(noise: Noise, t: torch.Tensor) -> torch.Tensor:
    """α'(t); where a table has a corner, the slope of the line before it."""
    match noise.kind:
        case "linear":
            return -torch.ones_like(t)
        case "polynomial":
            return -noise.power * t ** (noise.power - 1)
        case "cosine":
            return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))
        case "log-linear":
            return (noise.eps - 1) * torch.ones_like(t)
        case "table":
            line = torch.bucketize(t.detach().double(), _knots(noise.t, t)[1:-1])
            return (_knots(noise.alpha, t).diff() / _knots(noise.t, t).diff())[line].to(t.dtype)
        case _:
            raise _unknown(noise)


def masked(noise: Noise, t: torch.Tensor) -> torch.Tensor:
    """1 - α(t), the share of tokens that are masked."""
    match noise.kind:
        case "linear":
            return t.clone()
        case "polynomial":
            return t**noise.power
        case "cosine":
            return torch.sin(math.pi / 2 * t)
        case "log-linear":
            return (1 - noise.eps) * t
        case "table":
            return _through(noise.t, [1 - kept for kept in noise.alpha], t)
        case _:
            raise _unknown(noise)


def weight(noise: Noise, t: torch.Tensor) -> torch.Tensor:
    """-α'(t) / (1 - α(t)), for t in (0, 1]; at a table's corners as `slope`."""
    match noise.kind:
        case "linear" | "log-linear":
            return 1 / t
        case "polynomial":
            return noise.power / t
        case "cosine" | "table":
            return -slope(noise, t) / masked(noise, t)
        case _:
            raise _unknown(noise)


def when(noise: Noise, share: torch.Tensor) -> torch.Tensor:
    """The time at which a `share` of tokens is masked, in [0, 1 - α(1)]: the inverse of `masked`."""
    match noise.kind:
        case "linear":
            return share.clone()
        case "polynomial":
            return share ** (1 / noise.power)
        case "cosine":
            return torch.asin(share) / (math.pi / 2)
        case "log-linear":
            return share / (1 - noise.eps)
        case "table":
            return _through([1 - kept for kept in noise.alpha], noise.t, share)
        case _:
            raise _unknown(noise)


def _through(xs: Sequence[float], ys: Sequence[float], x: torch.Tensor) -> torch.Tensor:
    """Straight lines through the points (xs, ys), `xs` rising, at `x`: exact at each point, and near a y of 0."""
    knots, values = _knots(xs, x), _knots(ys, x)
    line = torch.bucketize(x.detach().double(), knots[1:-1])
    passed = (x.double() - knots[line]) / knots.diff()[line]
    return (values[line] * (1 - passed) + values[line + 1] * passed).to(x.dtype)


def _knots(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """In double precision: close values of a table must stay apart."""
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def _unknown(noise: Noise) -> ValueError:
    return ValueError(f"unknown noise schedule {noise.kind!r}")
