"""A plan for people: warnings and outliers first, then the runs by axis, then the totals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import asdict
from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compiler.columns import SHOWN, Column, Value, axis_paths, find_column, format_value, match, plain, sorted_runs
from compiler.outliers import outliers
from compiler.plan import RunPlan, StudyPlan
from compiler.sampling import Sampler, SamplingPlan
from specs.errors import RuleError
from specs.quantities import format_quantity as short
from specs.suggest import suggestion

LAST_WANTED = (
    "κ",
    "memory",
    "lr",
    "hours",
    "id",
    "logical",
    "non-emb.",
    "steps",
    "FLOPs",
    "shape",
    "batch",
    "parameters",
    "tokens",
)
"""Columns that a narrow terminal goes without, in this order."""

LONGEST_NAME, SHORTEST_NAME = 60, 16
"""A terminal breaks longer names into lines, and loses columns before it breaks shorter ones."""

MANY = 6
"""Runs up to which one table is easier to read than groups."""

HEADINGS = 20
"""Groups named after the last row shown."""


class Part(NamedTuple):
    """Runs that an axis' path gives one value; `title` is None where there is one table."""

    title: str | None
    runs: Sequence[RunPlan]


def show(
    plan: StudyPlan,
    console: Console,
    *,
    sort: str | None = None,
    descending: bool = False,
    group: str | None = None,
    limit: int | None = 60,
) -> None:
    """Print `plan`, at most `limit` of its runs (None: all), in the plan's order or by the column `sort`.

    `group` is an axis' path or its last words, `none` for one table; without it and without `sort`, studies with
    several varying axes are grouped by the first. Where the output is not a terminal, lines are as wide as they need
    to be. Raises RuleError for a column or path that the plan does not have.
    """
    column = None if sort is None else find_column(plan, sort)
    if sort is not None and group is None:
        group = "none"
    parts = [Part(title, _sorted(runs, column, descending)) for title, runs in _parts(plan.runs, group)]
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    for run, reason in outliers(plan):
        console.print(Text(f"look at {run.name}: it {reason}", style="yellow"), soft_wrap=True)
    console.print(Text(f"{plan.study} ({plan.digest})", style="bold"), soft_wrap=True)
    _show_parts(parts, console, limit)
    for line in _closing(plan):
        console.print(Text(line), soft_wrap=True)


def show_sampling(plan: SamplingPlan, console: Console) -> None:
    """Print the points of a sampling study, after its warnings."""
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    console.print(Text(f"{plan.study} ({plan.digest})", style="bold"), soft_wrap=True)
    table = Table("point", "task", "samples", "sampler", box=None)
    usual = Sampler()
    for point in plan.points:
        own = {name: value for name, value in asdict(point.sampler).items() if value != getattr(usual, name)}
        told = ", ".join(f"{name}={'one a token' if value is None else value}" for name, value in own.items())
        table.add_row(*map(Text, (point.name, point.task, str(point.n), told or "as the model has it")))
    print_table(table, console)
    runs = f"{len(plan.names)} runs" if len(plan.names) > 3 else ", ".join(plan.names.values())
    console.print(Text(f"{len(plan.points)} points on {runs}; nothing is trained"), soft_wrap=True)


def print_table(table: Table, console: Console) -> None:
    """Print `table`. Where the output is not a terminal, lines are as wide as they need to be."""
    if not console.is_terminal:
        unbounded = console.options.update(width=10_000)
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)


def duration(hours: float) -> str:
    """`hours` in the units that people use, two at most: 3 d 4 h, 5 h 12 min, 40 s."""
    for whole, unit, part, fine in ((24.0, "d", 1.0, "h"), (1.0, "h", 1 / 60, "min")):
        if hours >= whole - part / 2:
            count, rest = divmod(round(hours / part), round(whole / part))
            return f"{count:,} {unit}" + (f" {rest} {fine}" if rest else "")
    return f"{hours * 60:.2g} min" if hours * 3600 >= 59.5 else f"{hours * 3600:.2g} s"


def _sorted(runs: Sequence[RunPlan], column: Column | None, descending: bool) -> Sequence[RunPlan]:
    return runs if column is None else sorted_runs(runs, column, descending)


def _parts(runs: Sequence[RunPlan], group: str | None) -> list[Part]:
    """`runs` by the path that `group` names, in the order in which its values come. Raises RuleError."""
    path = _default_path(runs) if group is None else _named_path(runs, group)
    if path is None:
        return [Part(None, runs)]
    found: dict[tuple[type, Value], list[RunPlan]] = {}
    for run in runs:
        value = run.point.get(path)
        found.setdefault((type(value), value), []).append(run)
    return [
        Part(f"{path} = {format_value(value)}" if path in some[0].point else f"without {path}", some)
        for (_, value), some in found.items()
    ]


def _default_path(runs: Sequence[RunPlan]) -> str | None:
    """The first axis that varies, if another does too. One whose values do not repeat makes no groups."""
    if len(runs) <= MANY:
        return None
    counts = {path: len({plain(run.point.get(path)) for run in runs}) for path in axis_paths(runs)}
    varying = [path for path, count in counts.items() if count > 1]
    return next((path for path in varying if 2 * counts[path] <= len(runs)), None) if len(varying) > 1 else None


def _named_path(runs: Sequence[RunPlan], group: str) -> str | None:
    if group == "none":
        return None
    paths = axis_paths(runs)
    path = match(group, paths)
    if path is None:
        raise RuleError("--group", f"no axis sets '{group}', or several do", suggestion(group, [*paths, "none"]))
    return path


def _show_parts(parts: Sequence[Part], console: Console, limit: int | None) -> None:
    total = sum(len(part.runs) for part in parts)
    left = total if limit is None else limit
    shown: list[Part] = []
    for part in parts:
        shown.append(Part(part.title, part.runs[:left]))
        left -= len(shown[-1].runs)
    rows = [[one.printed(run) for one in SHOWN] for part in shown for run in part.runs]
    widths = [max([cell_len(one.heading), *(cell_len(row[index]) for row in rows)]) for index, one in enumerate(SHOWN)]
    chosen = _columns(widths, console)
    cells = iter(rows)
    unnamed = 0
    for index, (part, some) in enumerate(zip(parts, shown, strict=True)):
        if not some.runs and index >= HEADINGS:
            unnamed += 1
            continue
        if part.title is not None:
            console.print(Text(f"{part.title}: {_subtotal(part.runs)}", style="cyan"), soft_wrap=True)
        if some.runs:
            _show_rows([next(cells) for _ in some.runs], chosen, console, headed=index == 0)
    if unnamed:
        console.print(Text(f"and {unnamed:,} more groups"), soft_wrap=True)
    hidden = total - len(rows)
    if hidden:
        console.print(
            Text(f"{hidden:,} more runs: --rows 0 shows all, --csv and --json write all", style="bold"), soft_wrap=True
        )


def _columns(widths: Sequence[int], console: Console) -> dict[int, int]:
    """The columns to show, by number, with their widths; the first is the name."""
    chosen = dict(enumerate(widths))
    if not console.is_terminal:
        return chosen
    least = min(widths[0], LONGEST_NAME)
    for heading in LAST_WANTED:
        if least + _beside(chosen) <= console.width:
            break
        del chosen[next(index for index, one in enumerate(SHOWN) if one.heading == heading)]
    chosen[0] = min(widths[0], max(console.width - _beside(chosen), SHORTEST_NAME))
    return chosen


def _beside(chosen: dict[int, int]) -> int:
    """Width of the columns beside the name, each after two spaces."""
    return sum(width + 2 for index, width in chosen.items() if index)


def _show_rows(rows: Sequence[Sequence[str]], chosen: dict[int, int], console: Console, *, headed: bool) -> None:
    """Rows with fixed widths, so that the groups' columns stand below one another, as lines: a rich Table of 10,000
    rows takes 17 s."""
    if headed:
        console.print(Text(_line([one.heading for one in SHOWN], chosen), style="bold"), soft_wrap=True)
    console.print(Text("\n".join(_line(row, chosen) for row in rows)), soft_wrap=True)


def _line(row: Sequence[str], chosen: dict[int, int]) -> str:
    """One row; what of the name is longer than its column goes on below."""
    first, *rest = chop_cells(row[0], chosen[0]) or [""]
    beside = "".join(
        "  " + " " * (width - cell_len(row[index])) + row[index] for index, width in chosen.items() if index
    )
    return "\n".join([set_cell_size(first, chosen[0]) + beside, *rest])


def _subtotal(runs: Sequence[RunPlan]) -> str:
    flops = math.fsum(run.flops for run in runs)
    hours = math.fsum(run.device_hours for run in runs)
    return f"{_runs(len(runs))}, {flops:.3g} FLOPs, {hours:.3g} device-hours"


def _closing(plan: StudyPlan) -> Iterable[str]:
    totals, cluster = plan.totals, plan.cluster
    yield _epochs(plan.runs)
    fitted: dict[str, int] = {}
    for run in plan.runs:
        if run.batch.profile is not None:
            fitted[run.batch.profile] = fitted.get(run.batch.profile, 0) + 1
    for profile, count in fitted.items():
        yield f"batch: fitted to the memory of {profile} in {_runs(count)} (batch.profile)"
    if plan.excluded:
        yield f"excluded: {plan.excluded:,} point{'s' if plan.excluded != 1 else ''}, by conditions"
    yield (
        f"{_runs(totals.runs)}, {short(totals.tokens)} tokens, {totals.flops:.3g} FLOPs, "
        f"{totals.device_hours:.3g} device-hours"
    )
    nodes = f"{cluster.nodes} node{'s' if cluster.nodes != 1 else ''} x {cluster.gpus_per_node}"
    yield (
        f"on {cluster.name}: {nodes} {cluster.accelerator.name} at MFU {cluster.mfu:.2f}, "
        f"about {duration(plan.hours)}, {cluster.devices:,} device{'s' if cluster.devices != 1 else ''}"
    )


def _runs(count: int) -> str:
    return f"{count:,} run{'s' if count != 1 else ''}"


def _epochs(runs: Iterable[RunPlan]) -> str:
    ranges: dict[str, tuple[float, float]] = {}
    for run in runs:
        for source, epochs in run.epochs.items():
            low, high = ranges.get(source, (epochs, epochs))
            ranges[source] = (min(low, epochs), max(high, epochs))
    spans = (
        f"{source} {low:.2f}" + (f" to {high:.2f}" if high > low else "")
        for source, (low, high) in sorted(ranges.items())
    )
    return "epochs: " + ", ".join(spans)
