"""Batch invariance: does the SDE reparameterization take the final loss's dependence on the physical batch away?

Asked where runs of one logical batch, at the same tokens, have at least three physical ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.laws.chinchilla import LEVEL, Array
from studies.analysis.outcomes import Outcomes, outcomes
from studies.analysis.results import Study
from studies.analysis.settings import BATCH_PATHS, Setting, Shape, batch_place, fixed_settings, label, shape_of

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
    modality, over the batches that both have; `ratio_interval` its central 90 % of a bootstrap over seeds.
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
    runs = study.plan.runs
    settings = fixed_settings(runs, BATCH_PATHS, batch_place)
    groups: dict[tuple[float, Shape, Setting], list[RunPlan]] = {}
    for run in runs:
        groups.setdefault((run.tokens, shape_of(run), settings[run.id]), []).append(run)
    ended: Outcomes | None = None
    found = []
    for (tokens, (width, depth), setting), members in sorted(groups.items(), key=lambda entry: str(entry[0])):
        by_logical: dict[float, list[RunPlan]] = {}
        for run in members:
            by_logical.setdefault(run.batch.logical, []).append(run)
        for logical, scaled in sorted(by_logical.items()):
            if len({run.batch.physical for run in scaled}) < FEWEST:
                continue
            ended = outcomes(study) if ended is None else ended
            plain = [run for run in members if math.isclose(run.batch.kappa, 1.0)]
            if len({run.batch.physical for run in plain}) < FEWEST:
                plain = []
            critical = next((run.batch.critical for run in scaled if run.batch.critical is not None), None)
            with_, without = (_tables(side, ended, study.modalities) for side in (scaled, plain))
            ratio, intervals = _ratios(with_, without, critical, bootstrap, seed)
            if with_:
                found.append(
                    Invariance(
                        tokens=tokens,
                        width=width,
                        depth=depth,
                        setting=label(setting),
                        logical=logical,
                        critical=critical,
                        scaled={m: _losses(m, t, logical, critical, bootstrap, seed) for m, t in with_.items()},
                        plain={m: _losses(m, t, logical, critical, bootstrap, seed) for m, t in without.items()},
                        ratio=ratio,
                        ratio_interval=intervals,
                    )
                )
    return tuple(found)


class _Table(msgspec.Struct, frozen=True):
    """Final losses of one modality: (seeds, batches), NaN where there is no run, and the batches."""

    losses: npt.NDArray[np.float64]
    batches: tuple[int, ...]

    def only(self, batches: Sequence[int]) -> _Table:
        return _Table(self.losses[:, [self.batches.index(b) for b in batches]], tuple(batches))

    def below(self, critical: float | None) -> _Table:
        return self if critical is None else self.only([b for b in self.batches if b <= critical])


def _tables(runs: list[RunPlan], ended: Outcomes, modalities: Sequence[str]) -> dict[str, _Table]:
    """By modality, the runs that ended; only modalities with at least three batches."""
    seeds = sorted({run.seed for run in runs})
    tables = {}
    for modality in (MIX, *modalities):
        known = [run for run in runs if modality in ended.get(run.id, {})]
        batches = sorted({run.batch.physical for run in known})
        if len(batches) < FEWEST:
            continue
        losses = np.full((len(seeds), len(batches)), np.nan)
        for run in known:
            losses[seeds.index(run.seed), batches.index(run.batch.physical)] = ended[run.id][modality]
        tables[modality] = _Table(losses, tuple(batches))
    return tables


def _losses(modality: str, table: _Table, logical: float, critical: float | None, bootstrap: int, seed: int) -> Losses:
    counts = (~np.isnan(table.losses)).sum(axis=0)
    means = np.nanmean(table.losses, axis=0)
    noise = _seed_noise(table.losses)
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
        spread_interval=_interval(_spreads(_resampled(below, bootstrap, seed))),
        noise_spread=_noise_spread(noise, (~np.isnan(below.losses)).sum(axis=0)),
        spread_all=float(_spreads(table.losses[None])[0]),
        seed_noise=noise,
        breaks=breaks,
    )


def _ratios(
    scaled: dict[str, _Table], plain: dict[str, _Table], critical: float | None, bootstrap: int, seed: int
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
        # One generator each, begun alike: both sides draw the same seeds where they have as many.
        drawn = [_spreads(_resampled(side, bootstrap, seed)) for side in sides]
        if all(map(len, drawn)):
            least = min(map(len, drawn))
            ratios = [_ratio(a, b) for a, b in zip(drawn[0][:least], drawn[1][:least], strict=True)]
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


def _resampled(table: _Table, bootstrap: int, seed: int) -> Array:
    """Tables of seeds drawn with replacement (K, seeds, batches), each with a run at every batch; none of one seed."""
    seeds = len(table.losses)
    if seeds < 2 or not bootstrap:
        return np.empty((0, *table.losses.shape))
    rng = np.random.default_rng(seed)
    drawn: Array = table.losses[rng.integers(seeds, size=(bootstrap, seeds))]
    return drawn[np.all(np.any(~np.isnan(drawn), axis=1), axis=1)]


def _interval(samples: Array) -> tuple[float, float] | None:
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return None
    # Infinite samples cannot be interpolated between.
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return float(low), float(high)


def _seed_noise(losses: Array) -> float | None:
    """Standard deviation of a run about the sum of a batch's and a seed's effect; failed runs are left out.

    What a seed does to all batches alike moves no difference between batches. None where no run is left to tell.
    """
    seeds, batches = losses.shape
    row, column = np.nonzero(np.isfinite(losses))
    if not len(row):
        return None
    effects = np.concatenate([np.eye(seeds)[row], np.eye(batches)[column]], axis=1)
    found, _, rank, _ = np.linalg.lstsq(effects, losses[row, column], rcond=None)
    if len(row) == rank:
        return None
    residual = losses[row, column] - effects @ found
    return math.sqrt(float(residual @ residual) / float(len(row) - rank))


def _noise_spread(noise: float | None, counts: npt.NDArray[np.int64]) -> float | None:
    """The expected range of as many means of normal noise as there are batches (Tippett's integral)."""
    if noise is None or len(counts) < 2:
        return None
    z = np.linspace(-8, 8, 2001)
    below = ndtr(z)
    expected = float(np.trapezoid(1 - below ** len(counts) - (1 - below) ** len(counts), z))
    return expected * noise * float(np.sqrt(np.mean(1 / counts)))
