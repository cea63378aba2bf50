"""Noise schedules as plans name them: how much they mask at a time, and what people call them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from compiler.plan import Noise
from studies.analysis.laws.base import Array


def masked_at(noise: Noise, t: npt.ArrayLike) -> Array:
    """1 - α(t), the share of tokens that are masked at times `t` in [0, 1] (`compiler.plan.Noise` has the formulas).

    Raises ValueError for an unknown kind. Segments with schedules of their own are not regarded.
    """
    at = np.asarray(t, float)
    match noise.kind:
        case "linear":
            return at
        case "polynomial":
            return np.asarray(at**noise.power)
        case "cosine":
            return np.asarray(np.sin(math.pi / 2 * at))
        case "log-linear":
            return np.asarray((1 - noise.eps) * at)
        case "table":
            return np.asarray(1 - np.interp(at, noise.t, noise.alpha))
        case _:
            raise ValueError(f"unknown noise schedule {noise.kind!r}")


def schedule_name(noise: Noise) -> str:
    """Such as `cosine`, `polynomial 2`, `table 1, 0.6, 0`; schedules that differ have different names."""
    match noise.kind:
        case "polynomial":
            name = f"polynomial {noise.power:g}"
        case "log-linear":
            name = f"log-linear {noise.eps:g}"
        case "table":
            name = "table " + ", ".join(f"{alpha:g}" for alpha in noise.alpha)
            if not np.allclose(noise.t, np.linspace(0, 1, len(noise.t))):
                name += " at " + ", ".join(f"{t:g}" for t in noise.t)
        case _:
            name = noise.kind
    apart = ", ".join(f"{part}: {schedule_name(own)}" for part, own in noise.segments.items())
    return f"{name} ({apart})" if apart else name
