"""A plan for people: warnings first, then the runs, then the totals."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compiler.plan import RunPlan, StudyPlan
from specs.quantities import format_quantity as short

COLUMNS = (
    "run", "shape", "parameters", "non-emb.", "tokens", "logical", "batch", "steps", "FLOPs", "hours", "memory", "κ",
    "lr", "id",
)  # fmt: skip
"""Shape is width x depth x heads. `batch` is physical, with accumulation x micro-batch where it takes several."""

LAST_WANTED = ("κ", "memory", "lr", "hours", "id", "logical")
"""Columns that a narrow terminal goes without, in this order."""


def show(plan: StudyPlan, console: Console) -> None:
    """Print `plan`. Where the output is not a terminal, lines are as wide as they need to be."""
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    rows = [_cells(run) for run in plan.runs]
    columns = list(COLUMNS)
    table = _table(plan, columns, rows)
    unbounded = console.options.update(width=10_000)
    if console.is_terminal:
        for column in LAST_WANTED:
            if console.measure(table, options=unbounded).maximum <= console.width:
                break
            columns.remove(column)
            table = _table(plan, columns, rows)
    else:
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)
    console.print(_epochs(plan.runs), highlight=False, soft_wrap=True)
    totals = plan.totals
    console.print(
        f"{totals.runs} run{'s' if totals.runs != 1 else ''}, {short(totals.tokens)} tokens, {totals.flops:.3g} FLOPs, "
        f"{totals.device_hours:.3g} device-hours"
    )


def _table(plan: StudyPlan, columns: list[str], rows: list[dict[str, str]]) -> Table:
    title = Text(f"{plan.study} ({plan.digest})", style="bold")
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        name = column == "run"
        table.add_column(column, justify="left" if name else "right", overflow="fold", no_wrap=not name)
    for row in rows:
        table.add_row(*(Text(row[column]) for column in columns))
    return table


def _cells(run: RunPlan) -> dict[str, str]:
    model, batch = run.model, run.batch
    several = f" = {batch.accumulation}x{batch.micro}" if batch.accumulation > 1 else ""
    return {
        "run": run.name,
        "shape": f"{model.width}x{model.depth}x{model.heads}",
        "parameters": short(model.parameters.total),
        "non-emb.": short(model.parameters.non_embedding),
        "tokens": short(run.tokens),
        "logical": f"{batch.logical:.4g}",
        "batch": f"{batch.physical}{several}",
        "steps": f"{run.steps:,}",
        "FLOPs": f"{run.flops:.3g}",
        "hours": f"{run.device_hours:.3g}",
        "memory": f"{short(run.memory.per_rank)}B",
        "κ": f"{batch.kappa:.3g}",
        "lr": f"{run.optimizer.lr:.3g}",
        "id": run.id,
    }


def _epochs(runs: Iterable[RunPlan]) -> str:
    ranges: dict[str, list[float]] = {}
    for run in runs:
        for source, epochs in run.epochs.items():
            ranges.setdefault(source, []).append(epochs)
    spans = (f"{source} {min(seen):.2f} to {max(seen):.2f}" for source, seen in sorted(ranges.items()))
    return "epochs: " + ", ".join(spans)
