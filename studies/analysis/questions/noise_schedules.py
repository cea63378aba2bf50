"""Noise schedules: which one trains best in each modality, and where in t the loss lies?

Asked where runs of one shape, token count and setting have at least two schedules in some modality.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence

import msgspec
import numpy as np
import polars as pl

from compiler.plan import Noise, RunPlan
from compiler.records import MIX
from studies.analysis.laws.base import Interval
from studies.analysis.laws.comparisons import Comparison, compare, mean_interval
from studies.analysis.laws.schedules import masked_at, schedule_name
from studies.analysis.noise import seed_noise
from studies.analysis.outcomes import Outcomes, outcomes
from studies.analysis.questions.base import base_modalities
from studies.analysis.results import Study
from studies.analysis.settings import by_place, label, shape_of

_NOISE = re.compile(r"modalities\..*\.noise(\.|$)")


class Schedules(msgspec.Struct, frozen=True, kw_only=True):
    """Final nelbo of one modality by its noise schedule, in nats per token, paired by seed.

    `names` are its schedules, the best first; those of which no run has ended well come last. `comparison` is of them
    in this order. `nelbos` are the runs' by schedule. `failed` counts runs that diverged, `base` is the study's own
    schedule where that is known and among them. `together` says that other modalities' schedules changed along with
    it, so that their effects are in the differences too. `seed_noise` is the standard deviation between runs that
    differ in seed alone, None with one seed.
    """

    modality: str
    names: tuple[str, ...]
    comparison: Comparison
    nelbos: tuple[tuple[float, ...], ...]
    failed: tuple[int, ...]
    base: str | None
    together: bool
    seed_noise: float | None


class Bands(msgspec.Struct, frozen=True, kw_only=True):
    """The training loss of the whole mix by band of t under one schedule, over the second half of training.

    `edges` cut (0, 1] of t. `losses` are what the bands add to the loss, in nats per token: means over `runs` runs.
    Where all modalities have this one schedule and no segment one of its own, `shares` are the masked shares at the
    edges, and `per_token` the mean loss of a masked token between them: the weight -α' / (1 - α) of the loss takes it
    over the masked share evenly, so that it does not depend on the schedule but by what training made of it.
    `intervals` are 90 % t intervals of `per_token`, or of `losses` (None with one run).
    """

    schedule: str
    edges: tuple[float, ...]
    losses: tuple[float, ...]
    shares: tuple[float, ...] | None
    per_token: tuple[float, ...] | None
    intervals: tuple[Interval | None, ...]
    runs: int


class NoiseSchedules(msgspec.Struct, frozen=True, kw_only=True):
    """The schedules that were compared at one shape, token count and setting: by modality (`MIX` where all modalities
    of a run share one), and by band of t. `missing` runs have not ended."""

    tokens: float
    width: int
    depth: int
    setting: str
    modalities: tuple[Schedules, ...]
    bands: tuple[Bands, ...]
    missing: int


def noise_schedules(study: Study, permutations: int = 2000, seed: int = 0) -> tuple[NoiseSchedules, ...]:
    """The comparisons of noise schedules in a study, for each token count, shape and setting."""
    runs = study.plan.runs
    paths = {path for run in runs for path in run.point if _NOISE.match(path)}
    groups = by_place(runs, paths, _place)
    asked = {key: members for key, members in groups.items() if _varied(members)}
    if not asked:
        return ()
    ended, results, base = outcomes(study), study.results(), _base(study)
    found = []
    for (tokens, (width, depth), setting), members in sorted(asked.items(), key=lambda entry: str(entry[0])):
        known = [run for run in members if run.id in ended]
        noise = seed_noise(results.filter(pl.col("id").is_in([run.id for run in known])))
        apart = dict(noise.select("modality", "deviation").iter_rows())
        compared = [
            _schedules(name, known, ended, base.get(name), apart.get(name), permutations, seed)
            for name in (MIX, *_varied(members))
        ]
        if known:
            found.append(
                NoiseSchedules(
                    tokens=tokens,
                    width=width,
                    depth=depth,
                    setting=label(setting),
                    modalities=tuple(one for one in compared if one is not None),
                    bands=_bands(study, [run for run in known if math.inf not in ended[run.id].values()]),
                    missing=len(members) - len(known),
                )
            )
    return tuple(found)


def last_bands(study: Study, ids: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """By run, what each band of t adds to the training loss in nats per token, a mean over the second half of its
    tokens; runs that logged none are left out."""
    rows = study.bands().filter(pl.col("id").is_in(ids)).sort("id", "band")
    return {run: tuple(losses) for run, losses in rows.group_by("id").agg("loss").iter_rows()}


def _place(run: RunPlan) -> tuple[Hashable, ...]:
    return (*_all_schedules(run), run.tokens, shape_of(run))


def _all_schedules(run: RunPlan) -> tuple[tuple[str, str], ...]:
    return tuple((name, schedule_name(one.noise)) for name, one in run.modalities.items())


def _schedule(run: RunPlan, modality: str) -> str | None:
    """The name of a modality's schedule; for the mix, of the one that all modalities which are trained share."""
    if modality != MIX:
        return schedule_name(run.modalities[modality].noise) if modality in run.modalities else None
    names = {schedule_name(one.noise) for one in run.modalities.values() if one.weight > 0}
    return names.pop() if len(names) == 1 else None


def _varied(runs: Sequence[RunPlan]) -> list[str]:
    """Modalities with two schedules or more."""
    names = dict.fromkeys(name for run in runs for name in run.modalities)
    return [name for name in names if len({_schedule(run, name) for run in runs} - {None}) > 1]


def _base(study: Study) -> dict[str, str]:
    """The name of the schedule of each of the base's modalities; of the mix where they share one."""
    names = {}
    for name, one in base_modalities(study).items():
        plain = msgspec.convert(one.noise.model_dump(), Noise)
        names[name] = schedule_name(plain)
    shared = set(names.values())
    return {**names, MIX: shared.pop()} if len(shared) == 1 else names


def _blocks(runs: Sequence[RunPlan], modality: str) -> tuple[list[tuple[RunPlan, Hashable]], bool]:
    """The runs to compare with the block that each is in, and whether other modalities' schedules vary within blocks.

    Where a modality's schedules were crossed with the others', a block is a seed with one choice of the others; where
    they all changed in step, a seed. The mix has the one schedule that all share.
    """
    others: dict[Hashable, list[RunPlan]] = {}
    for run in runs:
        rest = () if modality == MIX else tuple(one for one in _all_schedules(run) if one[0] != modality)
        others.setdefault(rest, []).append(run)
    crossed = {rest: members for rest, members in others.items() if len({_schedule(r, modality) for r in members}) > 1}
    if crossed:
        return [(run, (rest, run.seed)) for rest, members in crossed.items() for run in members], False
    return [(run, run.seed) for run in runs], True


def _schedules(
    modality: str,
    runs: Sequence[RunPlan],
    ended: Outcomes,
    base: str | None,
    noise: float | None,
    permutations: int,
    seed: int,
) -> Schedules | None:
    blocked, together = _blocks([r for r in runs if _schedule(r, modality) and modality in ended[r.id]], modality)
    planned = list(dict.fromkeys(_schedule(run, modality) or "" for run, _ in blocked))
    if len(planned) < 2:
        return None
    blocks = list(dict.fromkeys(block for _, block in blocked))
    table = np.full((len(blocks), len(planned)), np.nan)
    for run, block in blocked:
        table[blocks.index(block), planned.index(_schedule(run, modality) or "")] = ended[run.id][modality]
    means = [
        float(np.mean(column[np.isfinite(column)])) if np.isfinite(column).any() else math.inf for column in table.T
    ]
    order = sorted(range(len(planned)), key=lambda k: means[k])
    table, names = table[:, order], tuple(planned[k] for k in order)
    return Schedules(
        modality=modality,
        names=names,
        comparison=compare(table, permutations, seed),
        nelbos=tuple(tuple(column[np.isfinite(column)].tolist()) for column in table.T),
        failed=tuple(np.isinf(table).sum(axis=0).tolist()),
        base=base if base in names else None,
        together=together,
        seed_noise=noise,
    )


def _bands(study: Study, runs: Sequence[RunPlan]) -> tuple[Bands, ...]:
    logged = last_bands(study, [run.id for run in runs])
    groups: dict[tuple[tuple[str, str], ...], list[RunPlan]] = {}
    for run in runs:
        if run.id in logged:
            groups.setdefault(_all_schedules(run), []).append(run)
    found = []
    for schedules, members in groups.items():
        losses = np.array([logged[run.id] for run in members])
        edges = np.linspace(0, 1, losses.shape[1] + 1)
        shared, shares, per_token = _schedule(members[0], MIX), None, None
        noise = next(one.noise for one in members[0].modalities.values() if one.weight > 0)
        if shared is not None and not noise.segments:
            shares = masked_at(noise, edges)
            per_token = losses / np.diff(shares)
        shown = losses if per_token is None else per_token
        found.append(
            Bands(
                schedule=shared or ", ".join(f"{name}: {own}" for name, own in schedules),
                edges=tuple(edges.tolist()),
                losses=tuple(losses.mean(axis=0).tolist()),
                shares=None if shares is None else tuple(shares.tolist()),
                per_token=None if per_token is None else tuple(per_token.mean(axis=0).tolist()),
                intervals=tuple(mean_interval(column) for column in shown.T),
                runs=len(members),
            )
        )
    return tuple(found)
