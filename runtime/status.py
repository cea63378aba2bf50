"""Where the runs of a study stand: read from their folders first, and from the scheduler where a run waits in it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from compiler.files import open_plain, read_plan
from compiler.plan import FolderName, Id
from compiler.records import Metrics, State, Status, is_cancelled, read_status, read_submission
from compiler.show import duration, print_table
from runtime import scheduler
from runtime.lease import is_held
from runtime.scheduler import QueuedJob, SchedulerError
from specs.errors import printable

TAIL = 16384
"""Bytes at the end of `metrics.jsonl` that surely hold a whole row."""

COLOURS: dict[State, str] = {
    "running": "cyan",
    "failed": "red",
    "preempted": "yellow",
    "pending": "dim",
    "cancelled": "magenta",
    "done": "green",
}
"""Of states, in the order in which runs are shown where not all are."""


class RunState(msgspec.Struct, frozen=True):
    """One run as `triptych status` shows it. `tokens_per_second` and `loss` are of its last logged step; `seconds_left`
    is how long the rest takes at that pace, of runs that train; `job` is the scheduler's that has it now."""

    id: str
    name: str
    state: State
    reason: str
    attempts: int
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None
    tokens: int = 0
    seconds_left: float | None = None
    job: str = ""
    hosts: tuple[str, ...] = ()


class StudyState(msgspec.Struct, frozen=True):
    """A study's runs. `scheduler` says what is wrong with it, where it was asked and did not answer."""

    study: str
    runs: list[RunState]
    scheduler: str = ""


def last_metrics(folder: Path) -> Metrics | None:
    """The newest whole row of a run's `metrics.jsonl`, None where there is none."""
    try:
        with open_plain(folder / "metrics.jsonl") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return _METRICS.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return None


class _Run(msgspec.Struct, frozen=True):
    """What is needed here of a `RunPlan`: a plan of 10,000 runs is read whole at each look."""

    id: Id
    name: str
    steps: int
    tokens: float


class _Plan(msgspec.Struct, frozen=True):
    """What is needed here of a `StudyPlan`."""

    study: FolderName
    runs: tuple[_Run, ...]


_PLANS = msgspec.json.Decoder(_Plan)
_METRICS = msgspec.json.Decoder(Metrics)


def _run_state(folder: Path, run: _Run, status: Status, job: str, queue: dict[str, QueuedJob] | None) -> RunState:
    """Where a run stands. `job` is that which it was last submitted as, empty without one; `queue` holds the
    scheduler's jobs, None where it was not or could not be asked."""
    status, held = _settled(folder, status)
    newest = last_metrics(folder)
    state, reason = status.state, status.reason
    if state in ("done", "failed"):
        job = ""
    elif held:
        job = status.history[-1].job if status.history else ""
    else:
        state, reason, job = _interrupted(folder, status, job, queue)
    left = None
    if state == "running" and newest is not None and newest.tokens_per_second > 0:
        left = max(0.0, run.tokens - newest.tokens) / newest.tokens_per_second
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
        tokens=newest.tokens if newest else 0,
        seconds_left=left,
        job=job,
        hosts=status.history[-1].hosts if status.history else (),
    )


def _settled(folder: Path, status: Status) -> tuple[Status, bool]:
    """A run's status, and whether it is running under an owner that lives. An owner writes how a run ended before it
    lets go: a status that says running is read again where the owner is found gone."""
    while status.state == "running":
        if is_held(folder):
            return status, True
        again = read_status(folder)
        if again == status:
            break
        status = again
    return status, False


def _interrupted(folder: Path, status: Status, job: str, queue: dict[str, QueuedJob] | None) -> tuple[State, str, str]:
    """State, reason and the job that has it now, of a run that has not ended by itself and that nobody trains."""
    if is_cancelled(folder):
        return "cancelled", "`triptych retry` takes it up again", ""
    queued = queue.get(job) if queue is not None else None
    if queued is not None:
        waits = f"its job {job} waits ({queued.reason})"
        reason = waits if queued.state == "PENDING" else f"its job {job} is {queued.state.lower()} on {queued.nodes}"
        return "preempted" if status.attempts else "pending", reason, job
    again = "run or submit the study again to go on"
    if job and queue is None:
        again = f"the scheduler was not asked about its job {job}"
    elif job:
        again = f"its job {job} is no longer queued; submit the study again"
    if status.state == "running":
        return "preempted", f"its process is gone; {again}", ""
    if status.state == "preempted":
        return "preempted", f"{status.reason}; {again}", ""
    return status.state, again if job else status.reason, ""


def study_states(folder: Path) -> StudyState:
    """Where the runs of the study in `folder` stand. Raises SpecError where that holds no plan."""
    plan = read_plan(
        folder / "plan.json",
        _PLANS,
        absent="give the folder of a study that `triptych run` or `submit` has made, such as runs/demo",
        broken="run or submit the study again",
    )
    homes = [folder / "runs" / run.id for run in plan.runs]
    statuses = [read_status(home) for home in homes]
    jobs = ["" if status.state == "done" else _job(home) for home, status in zip(homes, statuses, strict=True)]
    queue, trouble = None, ""
    if any(jobs):
        try:
            queue = scheduler.queue()
        except SchedulerError as error:
            trouble = str(error)
    states = [
        _run_state(home, run, status, job, queue)
        for home, run, status, job in zip(homes, plan.runs, statuses, jobs, strict=True)
    ]
    return StudyState(study=plan.study, runs=states, scheduler=trouble)


def _job(folder: Path) -> str:
    submission = read_submission(folder)
    return submission.job if submission is not None else ""


def show(state: StudyState, console: Console, rows: int | None) -> None:
    """Print a table of runs, at most `rows` of them, and how many are in which state."""
    table, notes = _drawn(state, rows)
    print_table(table, console)
    for note in notes:
        console.print(note, soft_wrap=True)


def watch(folder: Path, console: Console, rows: int | None, every: float) -> None:
    """Show a live table, read anew `every` so many seconds, until no run is pending or running, or Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                state = study_states(folder)
                table, notes = _drawn(state, rows)
                live.update(Group(table, *notes), refresh=True)
                if not any(run.state in ("running", "pending") or run.job for run in state.runs):
                    return
                time.sleep(every)
        except KeyboardInterrupt:
            return


def _drawn(state: StudyState, rows: int | None) -> tuple[Table, list[Text]]:
    """The table, and lines below it."""
    table = Table(title=f"study {escape(state.study)}", title_justify="left")
    for heading in ("run", "id", "state", "job", "steps", "loss", "tokens/s", "left", "attempts"):
        justify: Literal["left", "right"] = "left" if heading in ("run", "id", "state", "job") else "right"
        table.add_column(heading, justify=justify, no_wrap=heading != "run", overflow="fold")
    shown = state.runs
    if rows is not None and len(shown) > rows:
        order = list(COLOURS)
        shown = sorted(state.runs, key=lambda run: order.index(run.state))[:rows]
    for run in shown:
        table.add_row(
            Text(printable(run.name)),
            run.id[:8],
            f"[{COLOURS[run.state]}]{run.state}[/]",
            printable(run.job),
            f"{run.step:,}/{run.steps:,}",
            "" if run.loss is None else f"{run.loss:.3f}",
            "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
            "" if run.seconds_left is None else duration(run.seconds_left / 3600),
            str(run.attempts),
        )
    reasons = [run for run in shown if run.reason and run.state in ("failed", "preempted")]
    notes = [
        Text.assemble((run.state, COLOURS[run.state]), f" {printable(run.name)}: {printable(run.reason)}")
        for run in reasons
    ]
    notes.append(Text(summary(state.runs)))
    if len(shown) < len(state.runs):
        notes.append(Text(f"{len(shown):,} of {len(state.runs):,} runs shown; --rows 0 shows all"))
    if state.scheduler:
        notes.append(Text(f"the scheduler was asked in vain: {printable(state.scheduler)}", style="yellow"))
    return table, notes


def summary(states: Iterable[RunState]) -> str:
    """`12 runs: 10 done, 2 failed`, and how long the rest of those that train takes."""
    counts: dict[str, int] = {}
    left = 0.0
    for state in states:
        counts[state.state] = counts.get(state.state, 0) + 1
        left = max(left, state.seconds_left or 0.0)
    rest = f"; those that train end in {duration(left / 3600)}" if left else ""
    by_state = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    return f"{sum(counts.values()):,} runs: {by_state}{rest}"
