"""What judges are given, and rates with their intervals."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from compiler.sampling import Score
from runtime.data import DataError, Decoded

Z = 1.6448536269514722
"""Standard normal deviate of a two-sided interval of 90 %."""


@dataclass(frozen=True)
class Sample:
    """One sample: what was `asked` for (a caption or transcript, or the true text), what was `made`, decoded, and its
    `tokens` (1-D ids of its own vocabulary)."""

    asked: str
    made: Decoded
    tokens: NDArray[Any]


def need(package: str, judged: str, project: str = "") -> None:
    """Raises DataError where `package`, of the project of that name, is not installed, which judging so needs."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise DataError(f"judging {judged} needs {project or package}; pip install 'triptych[judges]'") from error


def rate(name: str, right: Sequence[bool], real: float | None = None, better: str = "higher") -> Score:
    """The share of `right`, with Wilson's 90 % interval (Wilson 1927). Raises ValueError where there are none."""
    n = len(right)
    if not n:
        raise ValueError(f"{name} of no samples")
    p = sum(right) / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Score(name=name, value=p, n=n, better=better, low=low, high=high, real=real)
