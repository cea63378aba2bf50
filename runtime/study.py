"""`triptych run`: a compiled study, trained on this machine, with its progress shown."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from compiler.compile import Compiled
from compiler.plan import RunPlan, StudyPlan
from compiler.records import read_status, store_folder, study_folder
from runtime.data import build
from runtime.local import prepare, train_all
from runtime.status import last_metrics, study_states, summary
from runtime.worker import Answer

REFRESH = 0.5
"""Seconds between looks at the runs' metrics."""


def run_study(
    compiled: Compiled,
    study_file: Path,
    overrides: Sequence[str],
    out: Path,
    *,
    workers: int | None = None,
    console: Console,
) -> int:
    """Train the runs of a compiled study that are not done, several at once, under `out`; resume those half done.

    Data names are relative to the study file's folder. Returns 0 where all runs are done, else 1. Raises
    `runtime.data.DataError` where a source cannot be built.
    """
    plan = compiled.plan
    data_root = study_file.resolve().parent
    sources = sorted({modality.data for run in plan.runs for modality in run.modalities.values()})
    for source in sources:
        build(source, data_root)
    prepare(compiled, study_file, overrides, out)
    unfinished = [run for run in plan.runs if read_status(store_folder(out, run.id)).state != "done"]
    skipped = len(plan.runs) - len(unfinished)
    if skipped:
        console.print(f"{skipped} of {len(plan.runs)} runs are done already")
    with RunProgress(plan, skipped, out, console) as progress:
        train_all(unfinished, out, data_root, workers=workers, started=progress.started, ended=progress.ended)
    _, states = study_states(study_folder(out, plan.study))
    console.print(summary(states))
    return 0 if all(state.state == "done" for state in states) else 1


class RunProgress:
    """A bar over runs, and one over the steps of each run that trains."""

    def __init__(self, plan: StudyPlan, done: int, out: Path, console: Console) -> None:
        self.out = out
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.all = self.progress.add_task(escape(plan.study), total=len(plan.runs), completed=done, note="runs")
        self.active: dict[str, TaskID] = {}
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> RunProgress:
        self.progress.start()
        self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.watcher.join()
        self.progress.stop()

    def started(self, run: RunPlan) -> None:
        """A run begins."""
        with self.lock:
            self.active[run.id] = self.progress.add_task(f"  {escape(run.name)}", total=run.steps, note="")

    def ended(self, run: RunPlan, answer: Answer) -> None:
        """A run has ended: its bar gives way to a line."""
        with self.lock:
            self.progress.remove_task(self.active.pop(run.id))
        self.progress.advance(self.all)
        newest = last_metrics(store_folder(self.out, run.id))
        loss = f"loss {newest.loss:.3f}, {newest.seconds:.0f} s" if newest else ""
        if answer.state == "done":
            self.progress.console.print(f"[green]done[/]    {escape(run.name)}  {loss}")
        else:
            self.progress.console.print(f"[red]{answer.state}[/]  {escape(run.name)}  {escape(answer.reason)}")

    def _watch(self) -> None:
        while not self.closing.wait(REFRESH):
            with self.lock:
                for run_id, task in self.active.items():
                    newest = last_metrics(store_folder(self.out, run_id))
                    if newest is not None:
                        note = f"loss {newest.loss:.3f}, {newest.tokens_per_second:,.0f} tokens/s"
                        self.progress.update(task, completed=newest.step, note=note)
