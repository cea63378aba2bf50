"""`triptych run`: a compiled study, trained on this machine, with its progress shown."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
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
from rich.text import Text

from compiler.compile import Compiled
from compiler.plan import RunPlan, StudyPlan
from compiler.records import is_cancelled, is_done, store_folder, study_folder
from runtime.folders import build_sources, prepare
from runtime.lease import Owner
from runtime.local import Pool
from runtime.status import last_metrics, study_states, summary
from runtime.worker import Answer
from specs.errors import printable

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
    build_sources(plan, data_root)
    prepare(compiled, study_file, overrides, out)
    return train_here(plan, data_root, out, workers=workers, console=console)


def train_here(
    plan: StudyPlan,
    data_root: Path,
    out: Path,
    *,
    only: Collection[str] | None = None,
    workers: int | None = None,
    console: Console,
) -> int:
    """Train the runs of a plan whose folders are there, that are neither done nor cancelled; of ids `only` if given.
    Returns as `run_study`."""
    folders = {run.id: store_folder(out, run.id) for run in plan.runs}
    done = {run_id for run_id, folder in folders.items() if is_done(folder)}
    cancelled = {run_id for run_id, folder in folders.items() if run_id not in done and is_cancelled(folder)}
    if done:
        console.print(f"{len(done)} of {len(plan.runs)} runs are done already")
    if cancelled:
        console.print(f"{len(cancelled)} of {len(plan.runs)} runs are cancelled; `triptych retry` takes them up again")
    unfinished = [run for run in plan.runs if run.id not in done | cancelled and (only is None or run.id in only)]
    with RunProgress(plan, len(plan.runs) - len(unfinished), out, console) as progress:
        pool = Pool(
            unfinished,
            out,
            data_root,
            workers=workers,
            patience=plan.cluster.patience,
            started=progress.started,
            ended=progress.ended,
            busy=progress.busy,
        )
        with stopping(pool, progress.progress.console):
            pool.train()
    states = study_states(study_folder(out, plan.study)).runs
    console.print(summary(states))
    return 0 if all(state.state == "done" for state in states) else 1


@contextmanager
def stopping(pool: Pool, console: Console) -> Iterator[None]:
    """Meanwhile Ctrl-C, or SIGTERM, lets runs be saved and ends; a second one ends at once."""

    def stop(number: int, _: object) -> None:
        if pool.stopping:
            pool.kill()
        else:
            console.print(f"{signal.Signals(number).name}: saving runs; once more to end at once")
            pool.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
            if run.id in self.active:
                return
            self.active[run.id] = self.progress.add_task(f"  {escape(run.name)}", total=run.steps, note="")

    def busy(self, run: RunPlan, owner: Owner) -> None:
        """A run is waited for, since another process trains it."""
        said = f"waiting for {run.name}, which process {owner.pid} on {owner.host} trains"
        self.progress.console.print(Text(printable(said)))

    def ended(self, run: RunPlan, answer: Answer) -> None:
        """A run has ended: its bar gives way to a line."""
        with self.lock:
            if run.id in self.active:  # not where another process has trained it
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
