"""How questions are answered: the choices that a user has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from specs.errors import Problem, SpecError
from studies.analysis.fits import Count
from studies.analysis.laws.resampling import By


@dataclass(frozen=True)
class How:
    """Which parameters are N, resamples for intervals (0: none), the bootstrap's seed and units (runs, or
    configurations whose runs differ in seed alone), and what a nat of each modality counts for where losses are weighed
    (empty: all alike)."""

    count: Count = "non_embedding"
    bootstrap: int = 1000
    seed: int = 0
    by: By = "run"
    values: dict[str, float] = field(default_factory=dict)


def values_of(given: Iterable[str]) -> dict[str, float]:
    """Values by modality, of words such as `text=2`. Raises `SpecError` for what is no such word."""
    values: dict[str, float] = {}
    for one in given:
        name, equals, text = one.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not equals or not name or not 0 <= value < math.inf:
            what = f"{one!r} does not say what a nat of a modality counts for"
            raise SpecError([Problem("command line", 1, "--value", what, "write it as text=2, with no less than 0")])
        if name in values:
            what = f"{name!r} is given twice"
            raise SpecError([Problem("command line", 1, "--value", what, "give each modality once")])
        values[name] = value
    return values
