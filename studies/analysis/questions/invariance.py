"""Batch invariance: does the SDE reparameterization take the final loss's dependence on the physical batch away?

Asked where runs of one logical batch, at the same tokens, have at least three physical ones. Runs transferred in width
and depth in other ways are taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.laws.base import Array
from studies.analysis.laws.statistics import central
from studies.analysis.outcomes import Outcomes, outcomes
from studies.analysis.results import Study
from studies.analysis.settings import BatchGroup, batch_groups

FEWEST = 3
AIM = 1 / 3
"""The spread with the reparameterization over the spread without it that is aimed at."""
NOISE = 2.0
"""A loss this many times the seed noise above that of the base batch is told apart from it."""


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """Final nelbo of one modality over physical batches, with the reparameterization or without it.

    `losses` are means over `seeds` (counts) in nats per token, inf where a run failed; `lowest` and `highest` of the
    single runs. `spread` is the largest minus the smallest mean below the critical batch, `spread_interval` the central
    90 % of a bootstrap over seeds (None with one seed); `noise_spread` what seed noise alone would lead one to expect
    of so many means; `spread_all` counts batches above the critical one too. `seed_noise` is the standard deviation of
    a run, without what its seed does to all batches alike. `breaks` is the smallest batch above `base` whose loss is
    more than `NOISE` · `seed_noise` above that at `base`, an estimate of the critical batch from above; None where none
    is, or the noise is not known.
    """

    modality: str
    base: int
    batches: tuple[int, ...]
    losses: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    seeds: tuple[int, ...]
    spread: float
    spread_interval: tuple[float, float] | None
    noise_spread: float | None
    spread_all: float
    seed_noise: float | None
    breaks: int | None


class Invariance(msgspec.Struct, frozen=True, kw_only=True):
    """One logical batch at one token count: with the reparameterization, and, where it was run, without it.

    `critical` is the plan's critical batch (None where it names none: then spreads are over all batches). `plain` has
    runs whose logical batch is the physical one, κ = 1 at each. `ratio` is the spread with over the spread without, by
    modality, over the batches that both have; `ratio_interval` its central 90 % of a bootstrap over seeds, which draws
    for both sides the same seeds.
    """

    tokens: float
    width: int
    depth: int
    setting: str
    logical: float
    critical: float | None
    scaled: dict[str, Losses]
    plain: dict[str, Losses]
    ratio: dict[str, float]
    ratio_interval: dict[str, tuple[float, float]]


def batch_invariance(study: Study, bootstrap: int = 1000, seed: int = 0) -> tuple[Invariance, ...]:
    """The study's checks of batch invariance, one for each token count, shape, setting and logical batch.

    A run with κ = 1 at the logical batch belongs to both sides. The bootstrap draws seeds with replacement, the same
    for all batches, as the runs of one seed share their start.
    """
    ended: Outcomes | None = None
    found: list[Invariance] = []
    for group in batch_groups(study.plan.runs):
        by_place: dict[tuple[float, float], list[RunPlan]] = {}
        for run in group.runs:
            by_place.setdefault((run.tokens, run.batch.logical), []).append(run)
        for (tokens, logical), scaled in sorted(by_place.items()):
            if len({run.batch.physical for run in scaled}) < FEWEST:
                continue
            ended = outcomes(study) if ended is None else ended
            plain = [run for run in group.runs if run.tokens == tokens and math.isclose(run.batch.kappa, 1.0)]
            if len({run.batch.physical for run in plain}) < FEWEST:
                plain = []
            with_, without = (loss_tables(side, ended, study.modalities) for side in (scaled, plain))
            if with_:
                critical = next((run.batch.critical for run in scaled if run.batch.critical is not None), None)
                found.append(_invariance(group, tokens, logical, critical, with_, without, bootstrap, seed))
    return tuple(found)


def _invariance(
    group: BatchGroup,
    tokens: float,
    logical: float,
    critical: float | None,
    scaled: dict[str, LossTable],
    plain: dict[str, LossTable],
    bootstrap: int,
    seed: int,
) -> Invariance:
    ratio, intervals = _ratios(scaled, plain, critical, bootstrap, seed)
    return Invariance(
        tokens=tokens,
        width=group.shape[0],
        depth=group.shape[1],
        setting=group.setting,
        logical=logical,
        critical=critical,
        scaled={m: _losses(m, table, logical, critical, bootstrap, seed) for m, table in scaled.items()},
        plain={m: _losses(m, table, logical, critical, bootstrap, seed) for m, table in plain.items()},
        ratio=ratio,
        ratio_interval=intervals,
    )


class LossTable(msgspec.Struct, frozen=True):
    """Final losses of one modality: `losses` (seeds, batches) in nats, NaN where there is no run and inf where it
    failed; its `seeds` and its physical `batches`, each in ascending order."""

    losses: npt.NDArray[np.float64]
    seeds: tuple[int, ...]
    batches: tuple[int, ...]

    def only(self, batches: Sequence[int]) -> LossTable:
        """These batches alone."""
        return LossTable(self.losses[:, [self.batches.index(b) for b in batches]], self.seeds, tuple(batches))

    def below(self, critical: float | None) -> LossTable:
        """Batches up to the critical one; all where there is none."""
        return self if critical is None else self.only([b for b in self.batches if b <= critical])

    def of(self, seeds: Sequence[int]) -> LossTable:
        """The rows of `seeds`, those that it has no run of all NaN."""
        missing = np.full(len(self.batches), np.nan)
        rows = [self.losses[self.seeds.index(one)] if one in self.seeds else missing for one in seeds]
        return LossTable(np.array(rows), tuple(seeds), self.batches)


def loss_tables(runs: Sequence[RunPlan], ended: Outcomes, modalities: Sequence[str]) -> dict[str, LossTable]:
    """By modality, the runs that ended, `MIX` first; only modalities with at least three batches."""
    tables = {}
    for modality in (MIX, *modalities):
        known = [run for run in runs if modality in ended.get(run.id, {})]
        seeds, batches = sorted({run.seed for run in known}), sorted({run.batch.physical for run in known})
        if len(batches) < FEWEST:
            continue
        losses = np.full((len(seeds), len(batches)), np.nan)
        for run in known:
            losses[seeds.index(run.seed), batches.index(run.batch.physical)] = ended[run.id][modality]
        tables[modality] = LossTable(losses, tuple(seeds), tuple(batches))
    return tables


class Effects(NamedTuple):
    """The runs of a `LossTable` that did not fail (n), as the sum of a batch's and a seed's effect.

    `batches` are the effects of the batches (B,), of an arbitrary origin, NaN where none of a batch's runs is left;
    `smooth` and `residuals` (n,); `freedom` how many of the latter are free; `solve` (B, n) is what takes losses to
    `batches`.
    """

    batches: Array
    smooth: Array
    residuals: Array
    freedom: int
    solve: Array

    @property
    def noise(self) -> float | None:
        """The standard deviation of a run about the two effects; None where no run is left to tell."""
        return math.sqrt(float(self.residuals @ self.residuals) / self.freedom) if self.freedom > 0 else None


def effects(losses: Array) -> Effects:
    """The effects of batches and seeds in `losses` (seeds, batches), by least squares. What a seed does to all batches
    alike moves no difference between batches."""
    seeds, batches = losses.shape
    row, column = np.nonzero(np.isfinite(losses))
    design = np.concatenate([np.eye(batches)[column], np.eye(seeds)[row]], axis=1)
    rank = int(np.linalg.matrix_rank(design)) if len(row) else 0
    if rank < len(set(row)) + len(set(column)) - 1:
        # Some batches share no seed with others, not even through third ones: then seeds are noise.
        design, rank = design[:, :batches], len(set(column))
    inverse = np.linalg.pinv(design)
    known = losses[row, column]
    smooth = design @ (inverse @ known)
    there = np.isin(np.arange(batches), column)
    solve = np.where(there[:, None], inverse[:batches], np.nan)
    return Effects(solve @ known, smooth, known - smooth, len(row) - rank, solve)


def _losses(
    modality: str, table: LossTable, logical: float, critical: float | None, bootstrap: int, seed: int
) -> Losses:
    counts = (~np.isnan(table.losses)).sum(axis=0)
    means = np.nanmean(table.losses, axis=0)
    noise = effects(table.losses).noise
    base = min(table.batches, key=lambda batch: abs(math.log(batch / logical)))
    at_base = float(means[table.batches.index(base)])
    below = table.below(critical)
    breaks = None
    if noise is not None:
        worse = (b for b, loss in zip(table.batches, means, strict=True) if b > base and loss > at_base + NOISE * noise)
        breaks = next(worse, None)
    return Losses(
        modality=modality,
        base=base,
        batches=table.batches,
        losses=tuple(means.tolist()),
        lowest=tuple(np.nanmin(table.losses, axis=0).tolist()),
        highest=tuple(np.nanmax(table.losses, axis=0).tolist()),
        seeds=tuple(counts.tolist()),
        spread=float(_spreads(below.losses[None])[0]),
        spread_interval=_interval(_spreads(_resampled([below], bootstrap, seed)[0])),
        noise_spread=_noise_spread(noise, (~np.isnan(below.losses)).sum(axis=0)),
        spread_all=float(_spreads(table.losses[None])[0]),
        seed_noise=noise,
        breaks=breaks,
    )


def _ratios(
    scaled: dict[str, LossTable], plain: dict[str, LossTable], critical: float | None, bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    ratio: dict[str, float] = {}
    intervals = {}
    for modality in scaled.keys() & plain.keys():
        shared = sorted(set(scaled[modality].batches) & set(plain[modality].batches))
        sides = [side[modality].only(shared).below(critical) for side in (scaled, plain)]
        if len(sides[0].batches) < 2:
            continue
        above, under = (float(_spreads(side.losses[None])[0]) for side in sides)
        ratio[modality] = _ratio(above, under)
        # Both sides draw the same seeds, also where one of them lacks a run.
        seeds = sorted(set(sides[0].seeds) | set(sides[1].seeds))
        drawn = _resampled([side.of(seeds) for side in sides], bootstrap, seed)
        ratios = [_ratio(float(a), float(b)) for a, b in zip(*map(_spreads, drawn), strict=True)]
        interval = _interval(np.array(ratios))
        if interval is not None:
            intervals[modality] = interval
    order = [modality for modality in scaled if modality in ratio]
    return {m: ratio[m] for m in order}, {m: intervals[m] for m in order if m in intervals}


def _ratio(above: float, under: float) -> float:
    """above / under; a spread that is infinite on both sides tells nothing."""
    if math.isinf(under):
        return math.nan if math.isinf(above) else 0.0
    return above / under if under else math.inf


def _spreads(tables: Array) -> Array:
    """Largest minus smallest mean over seeds of tables (K, seeds, batches): (K,), inf where a run failed."""
    if not tables.shape[2]:
        return np.full(len(tables), np.nan)
    means = np.nanmean(tables, axis=1)
    highest, lowest = means.max(axis=1), means.min(axis=1)
    return np.where(np.isinf(highest), np.inf, highest - np.where(np.isinf(lowest), 0.0, lowest))


def _resampled(tables: Sequence[LossTable], bootstrap: int, seed: int) -> list[Array]:
    """Of tables of the same seeds, (K, seeds, batches) each: seeds drawn with replacement, the same for all of them.

    Only draws that have a run at every batch of every table; none of one seed.
    """
    seeds = len(tables[0].seeds)
    if seeds < 2 or not bootstrap:
        return [np.empty((0, *table.losses.shape)) for table in tables]
    places = np.random.default_rng(seed).integers(seeds, size=(bootstrap, seeds))
    drawn = [table.losses[places] for table in tables]
    whole = [np.all(np.any(~np.isnan(one), axis=1), axis=1) for one in drawn]
    kept = np.logical_and.reduce(whole)
    return [one[kept] for one in drawn]


def _interval(samples: Array) -> tuple[float, float] | None:
    """The central interval without samples that tell nothing."""
    return central(samples[~np.isnan(samples)])


def _noise_spread(noise: float | None, counts: npt.NDArray[np.int64]) -> float | None:
    """The expected range of as many means of normal noise as there are batches (Tippett's integral)."""
    if noise is None or len(counts) < 2:
        return None
    z = np.linspace(-8, 8, 2001)
    below = ndtr(z)
    expected = float(np.trapezoid(1 - below ** len(counts) - (1 - below) ** len(counts), z))
    return expected * noise * float(np.sqrt(np.mean(1 / counts)))
