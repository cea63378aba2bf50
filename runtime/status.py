"""Where the runs of a study stand, read from their folders."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compiler.plan import RunPlan, StudyPlan
from compiler.records import Metrics, Status, read_status
from runtime.local import is_held

TAIL = 16384
"""Bytes at the end of `metrics.jsonl` that surely hold a whole row."""

COLOURS = {"done": "green", "failed": "red", "running": "cyan", "preempted": "yellow", "pending": "dim"}


class RunState(msgspec.Struct, frozen=True):
    """One run as `triptych status` shows it. `tokens_per_second` and `loss` are of its last logged step."""

    id: str
    name: str
    state: str
    reason: str
    attempts: int
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None


def last_metrics(folder: Path) -> Metrics | None:
    """The newest whole row of a run's `metrics.jsonl`, None where there is none."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return msgspec.json.decode(line, type=Metrics)
        except msgspec.MsgspecError:
            continue
    return None


def run_state(folder: Path, run: RunPlan) -> RunState:
    """Where a run stands. One that is `running` with no live process was interrupted: it is shown as preempted."""
    status: Status = read_status(folder)
    state, reason = status.state, status.reason
    if state == "running" and not is_held(folder):
        state, reason = "preempted", "its process is gone; run the study again to go on"
    newest = last_metrics(folder)
    return RunState(
        id=run.id,
        name=run.name,
        state=state,
        reason=reason,
        attempts=status.attempts,
        step=newest.step if newest else 0,
        steps=run.steps,
        loss=newest.loss if newest else None,
        tokens_per_second=newest.tokens_per_second if newest else None,
    )


def study_states(folder: Path) -> tuple[StudyPlan, list[RunState]]:
    """The plan in a study's folder and where its runs stand.

    Raises FileNotFoundError where the folder holds no plan, msgspec.MsgspecError where the plan cannot be read.
    """
    plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=StudyPlan)
    return plan, [run_state(folder / "runs" / run.id, run) for run in plan.runs]


def show(plan: StudyPlan, states: list[RunState], console: Console) -> None:
    """Print a table of runs, and how many are in which state."""
    table = Table(title=f"study {escape(plan.study)}", title_justify="left")
    for heading in ("run", "id", "state", "steps", "loss", "tokens/s", "attempts", "reason"):
        table.add_column(heading, justify="left" if heading in ("run", "id", "state", "reason") else "right")
    for state in states:
        table.add_row(
            escape(state.name),
            state.id,
            f"[{COLOURS.get(state.state, 'default')}]{state.state}[/]",
            f"{state.step:,}/{state.steps:,}",
            "" if state.loss is None else f"{state.loss:.3f}",
            "" if state.tokens_per_second is None else f"{state.tokens_per_second:,.0f}",
            str(state.attempts),
            escape(state.reason),
        )
    console.print(table)
    console.print(summary(states))


def summary(states: list[RunState]) -> str:
    """`12 runs: 10 done, 2 failed`."""
    counts: dict[str, int] = {}
    for state in states:
        counts[state.state] = counts.get(state.state, 0) + 1
    return f"{len(states)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items())
