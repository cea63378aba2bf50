"""Noise schedules α(t): the share of tokens left unmasked at time t in [0, 1], from α(0) = 1 down to α(1).

α(1) is 0 but for `log-linear`, which leaves a share eps. The loss weight of a masked token is -α'(t) / (1 - α(t))
(MDLM, arXiv 2406.07524; MD4, arXiv 2406.04329). It has a pole at t = 0, where nothing is masked; times are therefore
drawn from (0, 1].
"""

from __future__ import annotations

import math

import torch

from compiler.plan import Noise


def alpha(noise: Noise, t: torch.Tensor) -> torch.Tensor:
    """α(t), elementwise. Raises ValueError for an unknown kind."""
    match noise.kind:
        case "linear":
            return 1 - t
        case "polynomial":
            return 1 - t**noise.power
        case "cosine":
            return 1 - torch.cos(math.pi / 2 * (1 - t))
        case "log-linear":
            return 1 - (1 - noise.eps) * t
        case "table":
            start, masked, slope = _piece(noise, t)
            return 1 - (masked + slope * (t - start))
        case _:
            raise ValueError(f"unknown noise schedule {noise.kind!r}")


def weight(noise: Noise, t: torch.Tensor) -> torch.Tensor:
    """-α'(t) / (1 - α(t)), elementwise, for t in (0, 1]. Raises ValueError for an unknown kind.

    Where a table has a corner, the slope is that of the line before it.
    """
    match noise.kind:
        case "linear" | "log-linear":
            return 1 / t
        case "polynomial":
            return noise.power / t
        case "cosine":
            return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))
        case "table":
            start, masked, slope = _piece(noise, t)
            return slope / (masked + slope * (t - start))
        case _:
            raise ValueError(f"unknown noise schedule {noise.kind!r}")


def _piece(noise: Noise, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The line of a table that each time lies on: where it starts, and there 1 - α, and its slope of 1 - α.

    In terms of 1 - α, small times lose no digits.
    """
    times = t.new_tensor(noise.t)
    masked = 1 - t.new_tensor(noise.alpha)
    slopes = masked.diff() / times.diff()
    line = torch.bucketize(t.detach(), times[1:-1])
    return times[line], masked[line], slopes[line]
