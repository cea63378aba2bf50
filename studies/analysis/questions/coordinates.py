"""The coordinate check: does the size of activations stay as width or depth grow (arXiv 2203.03466, section 7)?

Asked where runs log activations (`monitor.activations`) and differ in width or depth with the rest equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import polars as pl

from compiler.plan import RunPlan
from studies.analysis.laws.base import Array
from studies.analysis.results import Study
from studies.analysis.settings import TRANSFERRED, Setting, fixed_settings, label, shape_of, shape_rules

FLAT = 0.1
"""A log-log slope within ± this is flat: below 32 % over a factor of 16."""
FIRST = 12
"""So many of the first logged steps are looked at."""
FEWEST = 2
PREFIX = "activation:"
"""Of the columns of `Study.metrics` that hold activations."""

Along = Literal["width", "depth"]


class Slope(msgspec.Struct, frozen=True, kw_only=True):
    """d log rms / d log size over all runs of a sweep at one logged step.

    `slope` is None where some activation is not finite; `standard_error` is that of the regression, None where no
    degree of freedom is left. `factor` is the largest over the smallest geometric mean of a size.
    """

    kind: str
    step: int
    slope: float | None
    standard_error: float | None
    factor: float | None


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that differ in width or in depth alone (and in their seed).

    `sizes` are the widths or depths, `other` the depth or width they share, `steps` the logged steps; `slopes` has one
    entry for each kind and step at which every activation is above zero; `rms` the geometric mean over seeds by kind,
    step and size, in the order kinds × `steps` × `sizes`, None where it is not finite or zero. `flat` is the verdict:
    whether a kind's slope at the last step that has one lies within ± `FLAT`. `runs` counts those compared, `silent`
    those that were trained but logged no activations (as before these were monitored), and so are left out; where
    fewer than two sizes are left to compare, there are no `steps`, slopes and verdicts.
    """

    rule: str
    setting: str
    along: Along
    other: int
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    runs: int
    silent: int
    slopes: tuple[Slope, ...]
    rms: dict[str, tuple[tuple[float | None, ...], ...]]
    flat: dict[str, bool]

    def of(self, kind: str) -> tuple[Slope, ...]:
        """The slopes of one kind, by step."""
        return tuple(slope for slope in self.slopes if slope.kind == kind)


def coordinate_check(study: Study) -> tuple[Sweep, ...]:
    """Every sweep of width or depth whose activations were logged; none where the study has no such sweep.

    Runs are compared where their rule of transfer (`shape_rules`) and all else that the axes set are equal. A sweep
    takes the first `FIRST` steps that all of its runs logged; runs that logged none are left out, and counted where
    they have been trained. Its verdict for a kind of activation is that of the last of these steps: flat where the
    slope is within ± `FLAT`.
    """
    runs = [run for run in study.plan.runs if run.monitor.activations]
    if len({shape_of(run) for run in runs}) < FEWEST:
        return ()
    logged = _logged(study, runs)
    trained = set(study.utilisation()["id"]) | set(study.runs.filter(pl.col("state") == "done")["id"])
    runs = [run for run in runs if run.id in logged or run.id in trained]
    settings = fixed_settings(runs, ("model.width", "model.depth", "transfer"), shape_of)
    rules = shape_rules(runs)
    groups: dict[tuple[str, Setting, Along, int], list[RunPlan]] = {}
    for run in runs:
        width, depth = shape_of(run)
        for rule in rules[run.id]:
            groups.setdefault((rule, settings[run.id], "width", depth), []).append(run)
            groups.setdefault((rule, settings[run.id], "depth", width), []).append(run)
    return tuple(
        made
        for (rule, setting, along, other), members in sorted(groups.items(), key=_order)
        if (made := _sweep(rule, setting, along, other, members, logged)) is not None
    )


def _order(entry: tuple[tuple[str, Setting, Along, int], list[RunPlan]]) -> tuple[bool, bool, str, int]:
    (rule, setting, along, other), _ = entry
    return along == "depth", rule != TRANSFERRED, repr(setting), other


Logged = dict[int, dict[str, float]]


def _logged(study: Study, runs: Sequence[RunPlan]) -> dict[str, Logged]:
    """The first logged activations of each run that has any, by its id, step and name; inf where one is not finite."""
    metrics = study.scan_metrics()
    columns = [column for column in metrics.collect_schema().names() if column.startswith(PREFIX)]
    if not columns:
        return {}
    depths = {run.id: run.model.depth for run in runs}
    logged = pl.col("id").is_in(list(depths)) & pl.any_horizontal(pl.col(columns).is_not_null())
    rows = metrics.select("id", "step", *columns).filter(logged).collect()
    first = rows.sort("step").group_by("id", maintain_order=True).head(4 * FIRST)
    found: dict[str, Logged] = {}
    for row in first.iter_rows(named=True):
        values = {column.removeprefix(PREFIX): row[column] for column in columns}
        # The columns are those of the deepest run; in one of its own, a value that is not finite was written as null.
        found.setdefault(row["id"], {})[row["step"]] = {
            name: math.inf if value is None else value
            for name, value in values.items()
            if _block(name) is None or (_block(name) or 0) < depths[row["id"]]
        }
    return found


def _sweep(
    rule: str, setting: Setting, along: Along, other: int, runs: list[RunPlan], logged: Mapping[str, Logged]
) -> Sweep | None:
    place = 0 if along == "width" else 1
    planned = {shape_of(run)[place] for run in runs}
    silent = sum(run.id not in logged for run in runs)
    runs = [run for run in runs if run.id in logged]
    sizes = sorted({shape_of(run)[place] for run in runs})
    common = set.intersection(*(set(logged[run.id]) for run in runs)) if runs else set()
    steps = sorted(common)[:FIRST]
    if len(sizes) < FEWEST or not steps:
        if not silent or len(planned) < FEWEST:
            return None
        steps = []
    kinds = {run.id: [_kinds(logged[run.id][step]) for step in steps] for run in runs}
    first = kinds[runs[0].id][0] if steps else {}
    names = [kind for kind in first if all(kind in row for rows in kinds.values() for row in rows)]
    slopes, means = [], {}
    size_of_run = np.array([shape_of(run)[place] for run in runs], float)
    for kind in names:
        rows = []
        for k, step in enumerate(steps):
            rms = np.array([kinds[run.id][k][kind] for run in runs])
            with np.errstate(divide="ignore"):
                log = np.log(rms)
            mean = np.array([log[size_of_run == size].mean() for size in sizes])
            rows.append(tuple(float(np.exp(m)) if np.isfinite(m) else None for m in mean))
            if (rms > 0).all():
                slopes.append(_slope(kind, step, np.log(size_of_run), log, mean))
        means[kind] = tuple(rows)
    return Sweep(
        rule=rule,
        setting=label(setting),
        along=along,
        other=other,
        sizes=tuple(sizes),
        steps=tuple(steps),
        runs=len(runs),
        silent=silent,
        slopes=tuple(slopes),
        rms=means,
        # The last step of each kind is what stays.
        flat={one.kind: one.slope is not None and abs(one.slope) <= FLAT for one in slopes},
    )


def _slope(kind: str, step: int, x: Array, y: Array, mean: Array) -> Slope:
    if not np.isfinite(y).all():
        return Slope(kind=kind, step=step, slope=None, standard_error=None, factor=None)
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    residual = y - y.mean() - slope * centred
    error = math.sqrt(float(residual @ residual) / (len(x) - 2) / spread) if len(x) > 2 else None
    return Slope(kind=kind, step=step, slope=slope, standard_error=error, factor=float(np.exp(np.ptp(mean))))


def _kinds(activations: Mapping[str, float]) -> dict[str, float]:
    """Activations by kind: of the blocks, what the first half of them hands on, and what all do. A block by its number
    is another share of a deeper model, and grows less by then."""
    kinds = {name: value for name, value in activations.items() if _block(name) is None}
    blocks = [value for name, value in activations.items() if _block(name) is not None]
    if not blocks:
        return kinds
    first, *rest = kinds
    inner = {"half of the blocks": blocks[(len(blocks) - 1) // 2], "all blocks": blocks[-1]}
    return {first: kinds[first], **inner, **{name: kinds[name] for name in rest}}


def _block(name: str) -> int | None:
    """The number of the block whose output is called `name`; None where it is none."""
    kind, _, number = name.partition(".")
    return int(number) if kind == "block" and number.isdigit() else None
