"""Central intervals of bootstrap samples."""

from __future__ import annotations

import math

import numpy as np

from studies.analysis.laws.base import Array, Interval

LEVEL = 0.9
"""Share of the bootstrap that an interval holds."""


def band(samples: Array) -> tuple[Array, Array]:
    """Ends of the interval that holds `LEVEL` of K `samples` (K, ...): order statistics
    (K + 1) (1 ± LEVEL) / 2, between which one more such sample lies so often (others are too narrow for a small K)."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="weibull")
    return low, high


def interval(samples: Array) -> Interval:
    """`band` of those of `samples` (K,) that are finite; NaN where none are."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return math.nan, math.nan
    low, high = band(samples)
    return float(low), float(high)


def central(samples: Array, level: float = LEVEL) -> Interval | None:
    """The central interval of `samples` (K,), which may be infinite; None where there are none.

    A NaN is a sample of which nothing is known. It counts as lying below the interval and above it, so that each of
    them widens it: with more than 1 - `level` of them in all it is without bounds.
    """
    if not len(samples):
        return None
    unknown = np.isnan(samples)
    # Infinite samples cannot be interpolated between.
    low = np.quantile(np.where(unknown, -np.inf, samples), (1 - level) / 2, method="nearest")
    high = np.quantile(np.where(unknown, np.inf, samples), (1 + level) / 2, method="nearest")
    return float(low), float(high)
