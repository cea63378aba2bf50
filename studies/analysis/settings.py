"""What of a study is held fixed while something else is varied: runs are compared where the rest is equal.

The plan drops a point whose run is another point's too (without transfer, say, the base shape is the run it is with
transfer), so a run stands for every arm of the study that its plan fits, not only for the one that named it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import NamedTuple

import msgspec

from compiler.plan import Group, RunPlan

Shape = tuple[int, int]
"""Width and depth."""
Setting = tuple[tuple[str, int | float | str | bool | None], ...]
"""Values of the axes that are held fixed, by path."""

TRANSFERRED, PLAIN = "with CompleteP", "without CompleteP"
"""The two rules by which runs of several shapes can be set up."""
BATCH_PATHS = ("batch", "transfer", "tokens", "model.width", "model.depth")
"""Paths that a study of the batch varies, or compares apart."""


PLACE_PATHS = ("tokens", "model.width", "model.depth")
"""Paths by which `by_place` keeps runs apart."""
Place = tuple[float, Shape, Setting]
"""Tokens, shape, and what else the axes hold fixed."""


class BatchGroup(NamedTuple):
    """Runs that differ in batch, tokens and seed alone; `setting` says in words what the axes hold fixed."""

    shape: Shape
    setting: str
    runs: list[RunPlan]


def shape_of(run: RunPlan) -> Shape:
    """Width and depth of a run."""
    return run.model.width, run.model.depth


def batch_place(run: RunPlan) -> tuple[float, int, float, Shape]:
    """Where a run stands in a study of the batch: logical and physical batch, tokens, and shape."""
    return run.batch.logical, run.batch.physical, run.tokens, shape_of(run)


def fixed_settings(
    runs: Sequence[RunPlan], studied: Collection[str], along: Callable[[RunPlan], Hashable]
) -> dict[str, Setting]:
    """For each run's id, what the study's axes set that is neither studied nor the seed.

    `studied` are paths, each with all below it. A path whose value follows from `along(run)` everywhere is left out too
    (heads that grow with the width), and so is one that never varies.
    """
    paths = dict.fromkeys(path for run in runs for path in run.point)
    kept = []
    for path in paths:
        if path == "seed" or any(path == one or path.startswith(f"{one}.") for one in studied):
            continue
        values: dict[Hashable, set[object]] = {}
        for run in runs:
            values.setdefault(along(run), set()).add(run.point.get(path))
        if any(len(found) > 1 for found in values.values()):
            kept.append(path)
    return {run.id: tuple((path, run.point.get(path)) for path in kept) for run in runs}


def by_setting(
    runs: Sequence[RunPlan], studied: Collection[str], along: Callable[[RunPlan], Hashable]
) -> dict[Setting, list[RunPlan]]:
    """`runs` by what the axes hold fixed: `fixed_settings`."""
    settings = fixed_settings(runs, studied, along)
    groups: dict[Setting, list[RunPlan]] = {}
    for run in runs:
        groups.setdefault(settings[run.id], []).append(run)
    return groups


def by_place(
    runs: Sequence[RunPlan], studied: Collection[str], along: Callable[[RunPlan], Hashable]
) -> dict[Place, list[RunPlan]]:
    """`runs` by tokens, shape, and what else the axes hold fixed; `studied` are paths beside those of the place."""
    settings = fixed_settings(runs, {*studied, *PLACE_PATHS}, along)
    groups: dict[Place, list[RunPlan]] = {}
    for run in runs:
        groups.setdefault((run.tokens, shape_of(run), settings[run.id]), []).append(run)
    return groups


def is_weight(path: str) -> bool:
    """Whether a path is that of a modality's weight in the mix."""
    return path.startswith("modalities.") and path.endswith(".weight")


def batch_groups(runs: Sequence[RunPlan]) -> list[BatchGroup]:
    """`runs` by shape, by what else the axes set, and by transfer in width and depth where that differs."""
    settings = fixed_settings(runs, BATCH_PATHS, batch_place)
    groups: dict[tuple[Shape, Setting], list[RunPlan]] = {}
    for run in runs:
        groups.setdefault((shape_of(run), settings[run.id]), []).append(run)
    return [
        BatchGroup(shape, in_words(label(setting), words), some)
        for (shape, setting), members in sorted(groups.items(), key=lambda entry: str(entry[0]))
        for words, some in transfer_arms(members).items()
    ]


def in_words(*parts: str) -> str:
    """The parts that are not empty, with commas between them."""
    return ", ".join(filter(None, parts))


def label(setting: Setting) -> str:
    """`setting` in words, such as `tokens=5M`; empty where nothing is set."""
    return ", ".join(
        f"{path}={value:g}" if isinstance(value, float) else f"{path}={'null' if value is None else value}"
        for path, value in setting
    )


def scaled(run: RunPlan) -> bool:
    """Whether CompleteP changes the run: its factors are 1 at the base shape, and without transfer."""
    return (run.multipliers.residual, run.multipliers.head) != (1.0, 1.0)


def shape_rules(runs: Sequence[RunPlan]) -> dict[str, tuple[str, ...]]:
    """For each run's id, the rules by which it is set up: `TRANSFERRED`, `PLAIN`, or at the base shape both.

    CompleteP shows in the multipliers of the residual branch and of the head, which are 1 at the base shape and without
    transfer. A run with factors of 1 stands for both rules where no run of its shape has other factors.
    """

    shapes = {shape_of(run) for run in runs if scaled(run)}
    if not shapes:
        return {run.id: (PLAIN,) for run in runs}
    unscaled = {shape_of(run) for run in runs if not scaled(run)}
    if not shapes & unscaled:
        return {run.id: (TRANSFERRED,) for run in runs}
    return {
        run.id: (TRANSFERRED,) if scaled(run) else (PLAIN,) if shape_of(run) in shapes else (TRANSFERRED, PLAIN)
        for run in runs
    }


def transfer_arms(runs: Sequence[RunPlan]) -> dict[str, list[RunPlan]]:
    """`runs` of one shape, by what transfer in width and depth makes of them, under words that tell them apart.

    That is the factors in the forward pass, and what each group's optimizer and initial values are to the run's own
    (so that batch, tokens and learning rate do not matter). The words are empty where all runs are alike.
    """
    arms: dict[Hashable, list[RunPlan]] = {}
    for run in runs:
        arms.setdefault(_parameterization(run), []).append(run)
    if len(arms) == 1:
        return {"": next(iter(arms.values()))}
    words = [TRANSFERRED if scaled(some[0]) else PLAIN for some in arms.values()]
    named = {}
    for k, (word, some) in enumerate(zip(words, arms.values(), strict=True)):
        alike = words.count(word) > 1
        named[f"{word} ({words[:k].count(word) + 1})" if alike else word] = some
    return named


def _parameterization(run: RunPlan) -> Hashable:
    own = run.optimizer

    def factors(group: Group) -> tuple[float, ...]:
        pairs = ((group.lr, own.lr), (group.eps, own.eps), (group.weight_decay, own.weight_decay))
        return tuple(float(f"{mine / whole if whole else mine:.6g}") for mine, whole in pairs)

    groups = tuple((group.name, group.init_std, factors(group)) for group in run.groups)
    return msgspec.structs.astuple(run.multipliers), groups


def smallest_shape(shapes: Collection[Shape]) -> Shape:
    """The one with the fewest hidden parameters, about width² · depth; of equals the narrowest."""
    return min(shapes, key=lambda shape: (shape[0] ** 2 * shape[1], shape))
