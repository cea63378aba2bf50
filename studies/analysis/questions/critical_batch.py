"""The critical batch, by all that tells of it: the hyperbola of steps and examples to a loss (arXiv 1812.06162), the
batch at which the SDE reparameterization breaks (B_crit and S_crit of arXiv 2602.21472), and the simple noise scale.

Asked where runs have at least four physical batches with the rest fixed: at one logical batch, with the optimizer
following along the SDE reparameterization, or with logical batch = physical batch, without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.hyperbola import Hyperbola, fit
from studies.analysis.outcomes import Outcomes, outcomes
from studies.analysis.questions.breaking import NOISE, TOLERANCE, Break, breaking_point
from studies.analysis.questions.invariance import loss_tables
from studies.analysis.questions.noise_scale import NoiseScale, noise_scale
from studies.analysis.questions.reaching import Curves, Source, falling_curves
from studies.analysis.results import Study
from studies.analysis.settings import BatchGroup, batch_groups

FEWEST = 4
"""Physical batches; also below which no target is taken."""
SHARES = (0.1, 0.3, 0.5, 0.7)
"""Where targets lie between the lowest loss that all batches reach and the highest that all start above. Ends of curves
are their noisiest places: no target is quite there."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Steps to one loss. `loss` is in nats per token, `batches` are those of which all runs reach it and `steps` what
    that takes, a geometric mean over seeds; `missed` are the others: a run of theirs does not reach the loss, or is
    below it where its curve begins. `fit` is the hyperbola through all runs, None where there are too few; `why` then
    says so."""

    loss: float
    batches: tuple[int, ...]
    steps: tuple[float, ...]
    missed: tuple[int, ...]
    fit: Hyperbola | None
    why: str


class CriticalBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One shape and setting, with the SDE reparameterization (`logical` is the batch that all runs share) or without it
    (None: the logical batch is the physical one).

    `tokens` are the horizons with enough batches. `source` says of what steps to a loss were read: final losses of
    runs of several `horizons`, `evaluations` over training, or `training` losses; of the last two those of the longest
    horizon. `targets` have the highest loss first. `breaks` has a `Break` for each horizon, none without the
    reparameterization. `sequence_tokens` are the non-padding tokens of a sequence, to take E_min to tokens.
    `decaying` says that the runs' learning rate decays, so that losses on the way are above those of runs that end
    there. `warnings` says what is lacking.
    """

    width: int
    depth: int
    setting: str
    logical: float | None
    tokens: tuple[float, ...]
    batches: tuple[int, ...]
    runs: int
    source: Source
    sequence_tokens: float
    decaying: bool
    targets: tuple[Target, ...]
    breaks: tuple[Break, ...]
    noise_scale: NoiseScale | None
    warnings: tuple[str, ...]


def critical_batches(study: Study, bootstrap: int = 1000, seed: int = 0) -> tuple[CriticalBatch, ...]:
    """The critical batches of a study, with the reparameterization first; none where it does not ask, or where fewer
    than four batches of a sweep have ended."""
    ended: Outcomes | None = None
    found = []
    for group in batch_groups(study.plan.runs):
        for logical, runs in _arms(group.runs):
            ended = outcomes(study) if ended is None else ended
            known = [run for run in runs if MIX in ended.get(run.id, {})]
            horizons = _horizons(known)
            if horizons:
                found.append(_critical_batch(study, group, logical, horizons, ended, bootstrap, seed))
    return tuple(found)


def _arms(runs: Sequence[RunPlan]) -> Iterator[tuple[float | None, list[RunPlan]]]:
    """Runs of one logical batch, for each that has enough physical ones; then those with logical batch = physical
    batch. A run may be of both."""
    by_logical: dict[float, list[RunPlan]] = {}
    for run in runs:
        by_logical.setdefault(run.batch.logical, []).append(run)
    for logical, some in sorted(by_logical.items()):
        if _horizons(some):
            yield logical, some
    plain = [run for run in runs if math.isclose(run.batch.kappa, 1.0)]
    if _horizons(plain):
        yield None, plain


def _horizons(runs: Sequence[RunPlan]) -> dict[float, list[RunPlan]]:
    """The token counts at which `runs` have enough physical batches."""
    by_tokens: dict[float, list[RunPlan]] = {}
    for run in runs:
        by_tokens.setdefault(run.tokens, []).append(run)
    return {
        tokens: some
        for tokens, some in sorted(by_tokens.items())
        if len({run.batch.physical for run in some}) >= FEWEST
    }


def _critical_batch(
    study: Study,
    group: BatchGroup,
    logical: float | None,
    horizons: Mapping[float, list[RunPlan]],
    ended: Outcomes,
    bootstrap: int,
    seed: int,
) -> CriticalBatch:
    runs = [run for some in horizons.values() for run in some]
    good = [run for run in runs if math.isfinite(ended[run.id][MIX])]
    source, curves = falling_curves(study, horizons, good, ended)
    targets = _targets(curves, bootstrap, seed)
    breaks = []
    if logical is not None:
        for tokens, some in horizons.items():
            table = loss_tables(some, ended, ())[MIX]
            broken = breaking_point(table, logical, tokens, some[0].sequence_length, bootstrap, seed)
            breaks += [] if broken is None else [broken]
    return CriticalBatch(
        width=group.shape[0],
        depth=group.shape[1],
        setting=group.setting,
        logical=logical,
        tokens=tuple(horizons),
        batches=tuple(sorted({run.batch.physical for run in runs})),
        runs=len(runs),
        source=source,
        sequence_tokens=float(np.mean([run.tokens / (run.steps * run.batch.physical) for run in runs])),
        decaying=any(run.schedule.kind != "constant" for run in runs),
        targets=targets,
        breaks=tuple(breaks),
        noise_scale=noise_scale(study, good, bootstrap, seed),
        warnings=_warnings(runs, good, targets, logical, breaks),
    )


def _targets(curves: Curves, bootstrap: int, seed: int) -> tuple[Target, ...]:
    """Losses that all batches come down to (without the worst, as long as there are none), and one more that all but
    the worst do."""
    ends = {batch: max(curve.losses[-1] for curve in some) for batch, some in curves.items()}
    starts = {batch: min(curve.losses[0] for curve in some) for batch, some in curves.items()}
    kept = sorted(curves, key=lambda batch: ends[batch])
    while len(kept) >= FEWEST and ends[kept[-1]] >= min(starts[batch] for batch in kept):
        kept.pop()
    if len(kept) < FEWEST:
        return ()
    low, high = ends[kept[-1]], min(starts[batch] for batch in kept)
    losses = [low + share * (high - low) for share in SHARES]
    lower = ends[kept[-2]] + SHARES[0] * (high - ends[kept[-2]])
    if len(kept) > FEWEST and lower < low:
        losses.append(lower)
    return tuple(_target(loss, curves, bootstrap, seed) for loss in sorted(losses, reverse=True))


def _target(loss: float, curves: Curves, bootstrap: int, seed: int) -> Target:
    taken = {batch: [one.reaches(loss) for one in some] for batch, some in sorted(curves.items())}
    logs = {batch: [one for one in some if one is not None] for batch, some in taken.items() if None not in some}
    why, hyperbola = "", None
    try:
        each = [batch for batch, some in logs.items() for _ in some]
        steps = [math.exp(one) for some in logs.values() for one in some]
        hyperbola = fit(each, steps, bootstrap, seed)
    except UnidentifiedError as error:
        why = str(error)
    return Target(
        loss=float(loss),
        batches=tuple(logs),
        steps=tuple(math.exp(float(np.mean(some))) for some in logs.values()),
        missed=tuple(batch for batch in taken if batch not in logs),
        fit=hyperbola,
        why=why,
    )


def _warnings(
    runs: Sequence[RunPlan],
    good: Sequence[RunPlan],
    targets: Sequence[Target],
    logical: float | None,
    breaks: Sequence[Break],
) -> tuple[str, ...]:
    said = []
    if len(good) < len(runs):
        said.append(f"{len(runs) - len(good)} of {len(runs)} runs failed: steps to a loss are those of the others")
    if not targets:
        said.append(f"no loss is come down to from above by {FEWEST} batches: there is no hyperbola to fit")
    if logical is not None and not breaks:
        said.append("the batch nearest to the logical one is the largest, or a run of it failed: no break can be seen")
    for one in breaks:
        if one.seed_noise is None:
            said.append("one seed: how far the break is certain cannot be told")
        elif NOISE * one.seed_noise > TOLERANCE * one.loss:
            said.append(
                f"seeds differ by more than {100 * TOLERANCE:g} % of the loss: a smaller break than "
                f"{one.tolerance:.3g} nats is not seen, and the critical batch may be smaller"
            )
    return tuple(dict.fromkeys(said))
