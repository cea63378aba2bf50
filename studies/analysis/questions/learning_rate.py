"""Learning-rate transfer: is the best learning rate of one shape the best of the others?

Asked where the axes set `optimizer.lr` to at least three values for each of at least two shapes.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.outcomes import Outcomes, outcomes
from studies.analysis.results import Study
from studies.analysis.settings import (
    TRANSFERRED,
    Setting,
    Shape,
    fixed_settings,
    label,
    scaled,
    shape_of,
    shape_rules,
    smallest_shape,
)

PATH = "optimizer.lr"
FEWEST = 3
WITHIN = 1
"""Grid steps that the best learning rate of a shape may lie from that of the base shape."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """The mix's final nelbo of one shape over learning rates (as the study writes them, before any transfer).

    `losses` are means over seeds in nats per token: inf where a run of them failed, None where one has not finished;
    `failed` counts runs that failed. `best` is the learning rate of the least loss, None while none is finite; `vertex`
    that of the parabola in log lr through it and its two neighbours, None at the grid's edge (`edge`) or beside a
    failure. `steps` is how many grid steps `best` lies from that of the base shape, `octaves` log2 of the ratio of the
    vertices, `regret` the loss at the base shape's best minus the least, in nats (None where it was not run).
    `within`: at most one grid step from the base shape's best; None where that is not known, as where either of the two
    lies at its grid's edge, beyond which the best may be anywhere (`open`).
    """

    width: int
    depth: int
    is_base: bool
    lrs: tuple[float, ...]
    losses: tuple[float | None, ...]
    runs: int
    failed: tuple[int, ...]
    best: float | None
    vertex: float | None
    edge: bool
    steps: int | None = None
    octaves: float | None = None
    regret: float | None = None
    within: bool | None = None
    open: bool = False


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """The curves of all shapes under one rule of transfer and one setting of the other axes, the base shape first."""

    rule: str
    setting: str
    curves: tuple[Curve, ...]


def learning_rate_transfer(study: Study) -> tuple[Transfer, ...]:
    """The learning-rate sweeps of a study by rule and setting; none where it has no such sweep, or
    nothing of it has ended.

    The base shape is the one at which CompleteP's factors are 1, or else the smallest of the study.
    """
    runs = [run for run in study.plan.runs if PATH in run.point]
    if len({run.point[PATH] for run in runs}) < FEWEST or len({shape_of(run) for run in runs}) < 2:
        return ()
    settings = fixed_settings(runs, (PATH, "model.width", "model.depth", "transfer"), shape_of)
    rules = shape_rules(runs)
    groups: dict[tuple[str, Setting], dict[Shape, list[RunPlan]]] = {}
    for run in runs:
        for rule in rules[run.id]:
            groups.setdefault((rule, settings[run.id]), {}).setdefault(shape_of(run), []).append(run)
    ended = outcomes(study)
    found = []
    for (rule, setting), shapes in sorted(
        groups.items(), key=lambda entry: (entry[0][0] != TRANSFERRED, str(entry[0]))
    ):
        swept = {shape: some for shape, some in shapes.items() if len({_lr(run) for run in some}) >= FEWEST}
        if len(swept) >= 2:
            found.append(Transfer(rule=rule, setting=label(setting), curves=_curves(swept, ended)))
    return tuple(one for one in found if any(curve.runs for curve in one.curves))


def _lr(run: RunPlan) -> float:
    return float(run.point[PATH] or 0.0)


def _curves(shapes: dict[Shape, list[RunPlan]], ended: Outcomes) -> tuple[Curve, ...]:
    unscaled = [shape for shape, runs in shapes.items() if not scaled(runs[0])]
    base_shape = smallest_shape(unscaled or list(shapes))
    base = _curve(base_shape, shapes[base_shape], ended, is_base=True)
    others = (_curve(shape, shapes[shape], ended) for shape in sorted(shapes) if shape != base_shape)
    return base, *(_against(curve, base) for curve in others)


def _curve(shape: Shape, runs: list[RunPlan], ended: Outcomes, is_base: bool = False) -> Curve:
    lrs = sorted({_lr(run) for run in runs})
    members = [[ended.get(run.id, {}).get(MIX) for run in runs if _lr(run) == lr] for lr in lrs]
    losses = [None if None in some else float(np.mean([x for x in some if x is not None])) for some in members]
    failed = tuple(sum(x == math.inf for x in some) for some in members)
    finite = [math.inf if loss is None else loss for loss in losses]
    place = int(np.argmin(finite))
    known = math.isfinite(finite[place])
    edge = known and place in (0, len(lrs) - 1)
    return Curve(
        width=shape[0],
        depth=shape[1],
        is_base=is_base,
        lrs=tuple(lrs),
        losses=tuple(losses),
        runs=sum(x is not None for some in members for x in some),
        failed=failed,
        best=lrs[place] if known else None,
        vertex=_vertex(lrs, finite, place),
        edge=edge,
        steps=0 if is_base and known else None,
        octaves=0.0 if is_base and known else None,
        regret=0.0 if is_base and known else None,
        within=True if is_base and known and not edge else None,
        open=edge,
    )


def _vertex(lrs: list[float], losses: list[float], place: int) -> float | None:
    """Where the parabola in log lr through the minimum and its neighbours is lowest."""
    if not 0 < place < len(lrs) - 1 or not np.isfinite(losses[place - 1 : place + 2]).all():
        return None
    x, y = np.log(lrs[place - 1 : place + 2]), np.array(losses[place - 1 : place + 2])
    curvature, slope, _ = np.polyfit(x - x[1], y - y[1], 2)
    return float(np.exp(x[1] - slope / (2 * curvature))) if curvature > 0 else None


def _against(curve: Curve, base: Curve) -> Curve:
    if curve.best is None or base.best is None:
        return curve
    spacing = float(np.median(np.diff(np.log(base.lrs))))
    there = dict(zip(curve.lrs, curve.losses, strict=True))
    at_base, least = there.get(base.best), there[curve.best]
    both = curve.vertex is not None and base.vertex is not None
    steps = round(math.log(curve.best / base.best) / spacing)
    return msgspec.structs.replace(
        curve,
        steps=steps,
        within=None if curve.edge or base.edge else abs(steps) <= WITHIN,
        open=curve.edge or base.edge,
        octaves=math.log2(curve.vertex / base.vertex) if both else None,  # type: ignore[operator]
        regret=None if at_base is None or least is None else at_base - least,
    )
