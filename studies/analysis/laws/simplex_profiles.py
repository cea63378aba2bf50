"""What regressions over the simplex and their resamples say of one mix, of the best mixes, and of each weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.mixes import NEAR, Mix, Search, central, inside
from studies.analysis.laws.simplex_regression import Regression, weighted_loss
from studies.analysis.laws.simplex_resamples import CHUNK, Resampled, interval_or_none
from studies.analysis.laws.statistics import band

_LEVELS = 41
_BROUGHT = 100
_BANDED = 200
"""Resamples that the band of a profile is of."""


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """A mix that is best in `count` resamples; `inside` the central 90 % of them."""

    mix: Mix
    count: int
    inside: bool


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The least weighted loss that can be had at each weight of one modality; `low` and `high` hold 90 % of resamples
    (empty without a bootstrap)."""

    weights: tuple[float, ...]
    losses: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What the regressions say at one mix: the weighted loss, and that of each modality (NaN where nothing is
    predicted), with 90 % intervals (None without a bootstrap)."""

    mix: Mix
    loss: float
    interval: Interval | None
    losses: tuple[float, ...]
    intervals: tuple[Interval | None, ...]


def place_at(mix: Array, regressions: tuple[Regression | None, ...], value: Array, resampled: Resampled) -> Place:
    """What is predicted at `mix` (k,)."""
    at = mix[None]
    losses = [math.nan if one is None else float(one(at)[0]) for one in regressions]
    return Place(
        mix=tuple(mix.tolist()),
        loss=float(weighted_loss(regressions, value, at)[0]),
        interval=interval_or_none(resampled.weighted(at, value)[:, 0]),
        losses=tuple(losses),
        intervals=tuple(
            None if math.isnan(loss) else interval_or_none(resampled.predicted(own, at)[:, 0])
            for own, loss in enumerate(losses)
        ),
    )


def base_place(
    base: Sequence[float],
    search: Search,
    regressions: tuple[Regression | None, ...],
    value: Array,
    resampled: Resampled,
) -> Place | None:
    """What is predicted at `base`, None where it lies outside the hull."""
    mix = np.asarray(base, float)
    if not inside(mix, search.corners):
        return None
    return place_at(mix, regressions, value, resampled)


def spots_of(points: Array, samples: npt.NDArray[np.intp]) -> tuple[Spot, ...]:
    """The best of `points` (S, k) by how often `samples` (K,) names them, the most frequent first."""
    if not len(samples):
        return ()
    inside = central(points[samples])
    place, first, count = np.unique(samples, return_index=True, return_counts=True)
    order = np.argsort(-count, kind="stable")
    return tuple(
        Spot(mix=tuple(points[place[k]].tolist()), count=int(count[k]), inside=bool(inside[first[k]])) for k in order
    )


def profile_of(
    own: int,
    search: Search,
    estimate: Array,
    regressions: tuple[Regression | None, ...],
    resampled: Resampled,
    value: Array,
) -> Profile:
    """The profile of modality `own`: good points, and points from all over, are brought to each of its weights by
    moving them towards the corners that have the most of it, or the least."""
    weights = search.corners[:, own]
    low, high = (search.corners[np.abs(weights - end) < NEAR].mean(axis=0) for end in (weights.min(), weights.max()))
    level = np.linspace(low[own], high[own], _LEVELS if high[own] - low[own] > NEAR else 1)[:, None]
    spread = np.linspace(0, len(estimate) - 1, min(len(estimate), _BROUGHT)).astype(int)
    brought = search.points[np.unique([*np.argsort(estimate)[:_BROUGHT], *spread])]
    rising = brought[:, own] < level
    gap = np.where(rising, high[own], low[own]) - brought[:, own]
    share = np.where(gap != 0, (level - brought[:, own]) / np.where(gap != 0, gap, 1.0), 0.0)[..., None]
    points = (1 - share) * brought + share * np.where(rising[..., None], high, low)
    flat, starts = points.reshape(-1, points.shape[2]), np.arange(len(level)) * len(brought)
    least = np.minimum.reduceat(weighted_loss(regressions, value, flat), starts)
    drawn = [
        np.minimum.reduceat(resampled.weighted(flat, value, slice(k, k + CHUNK)), starts, axis=1)
        for k in range(0, min(resampled.count, _BANDED), CHUNK)
    ]
    below, above = _bands(np.concatenate([np.empty((0, len(level))), *drawn]))
    return Profile(weights=tuple(level[:, 0].tolist()), losses=tuple(least.tolist()), low=below, high=above)


def _bands(samples: Array) -> tuple[Mix, Mix]:
    if not len(samples):
        return (), ()
    low, high = band(samples)
    return tuple(low.tolist()), tuple(high.tolist())
