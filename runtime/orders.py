"""Cancelling runs, and taking them up again."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from compiler.clusters import find_cluster
from compiler.files import write_atomically
from compiler.plan import RunPlan, StudyPlan
from compiler.records import (
    checkpoint_steps,
    is_cancelled,
    is_done,
    read_status,
    read_submission,
    store_folder,
)
from compiler.single import find_run
from compiler.source import Source
from runtime import attempts, scheduler
from runtime.lease import Lease
from runtime.seals import differing
from runtime.study import train_here
from runtime.submission import Submitted, submit
from runtime.worker import CANCELLED


class Cancelled(msgspec.Struct, frozen=True):
    """What `cancel` has done: runs by id, `asked` of which train and are to stop; and jobs that were taken out of the
    scheduler's queue."""

    cancelled: tuple[str, ...]
    asked: tuple[str, ...]
    done: tuple[str, ...]
    jobs: tuple[str, ...]


def chosen(plan: StudyPlan, names: Sequence[str]) -> list[RunPlan]:
    """Runs of a plan by name, id or number; all without any. Raises SpecError or RuleError for an unknown one."""
    return [find_run(plan, name) for name in names] if names else list(plan.runs)


def cancel(plan: StudyPlan, names: Sequence[str], out: Path) -> Cancelled:
    """Cancel runs that are not done: those that train save and stop, those that wait never begin. What they have so far
    stays. Raises SchedulerError where jobs cannot be taken out of the queue."""
    runs = chosen(plan, names)
    cancelled, asked, done = list[str](), list[str](), list[str]()
    for run in runs:
        folder = store_folder(out, run.id)
        if is_done(folder):
            done.append(run.id)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "cancel", msgspec.json.encode({"at": time.time()}))
        lease = Lease.take(folder)
        if lease is None:
            asked.append(run.id)  # its owner sees the file within a second
            continue
        with lease:
            attempts.end(read_status(folder), folder, "cancelled", CANCELLED)
        cancelled.append(run.id)
    return Cancelled(tuple(cancelled), tuple(asked), tuple(done), tuple(_idle_jobs(plan, runs, out, asked)))


def _has_ended(folder: Path) -> bool:
    return is_cancelled(folder) or is_done(folder)


def _is_whole(folder: Path) -> bool:
    steps = checkpoint_steps(folder)
    return bool(steps) and not differing(folder / "checkpoint" / f"step-{steps[0]}")


def _idle_jobs(plan: StudyPlan, runs: Iterable[RunPlan], out: Path, asked: Collection[str]) -> list[str]:
    """Cancel the jobs of `runs` that have nothing left to do, and return them. Those of runs that were asked to stop
    are left alone: Slurm would not give them the time to save that they need."""
    submissions = {run.id: read_submission(store_folder(out, run.id)) for run in plan.runs}
    concerned = {found.job for run in runs if (found := submissions[run.id]) is not None}
    if not concerned:
        return []
    busy = {
        found.job
        for run in plan.runs
        if (found := submissions[run.id]) is not None and (run.id in asked or not _has_ended(store_folder(out, run.id)))
    }
    idle = sorted((concerned - busy) & scheduler.queue().keys())
    scheduler.cancel(idle)
    return idle


def relaunch(source: Source, plan: StudyPlan, again: Collection[str], out: Path, console: Console) -> Submitted | int:
    """Train runs that were made pending, as the study was: on its cluster, what was submitted then; or here, then the
    exit code. Raises as `submit`."""
    data_root = Path(source.file).parent
    if source.launcher == "submit":
        # The profile as it is now, the user's own: not what a folder, perhaps a stranger's, says of Slurm.
        plan = msgspec.structs.replace(plan, cluster=find_cluster(plan.cluster.name))
        return submit(plan, data_root, out, console, only=again)
    return train_here(plan, data_root, out, only=again, console=console) if again else 0


def retry(plan: StudyPlan, names: Sequence[str], out: Path, *, failed_only: bool) -> list[RunPlan]:
    """Make runs pending again that failed or were cancelled, all of them or those named, and return them; what was
    saved of them is gone on from. With `failed_only` cancelled ones stay. A run that is done and named has its last
    checkpoint read, and is made pending where that is damaged."""
    again = []
    for run in chosen(plan, names):
        folder = store_folder(out, run.id)
        status = read_status(folder)
        cancelled = is_cancelled(folder) or status.state == "cancelled"
        if is_done(folder):
            wanted = bool(names) and not _is_whole(folder)
        else:
            wanted = status.state == "failed" or (cancelled and not failed_only)
        if not wanted:
            continue
        lease = Lease.take(folder)
        if lease is None:
            continue  # it trains
        with lease:
            (folder / "cancel").unlink(missing_ok=True)
            pending = msgspec.structs.replace(status, state="pending", reason="", diverged=False, updated=time.time())
            attempts.write_status(folder, pending)
        again.append(run)
    return again
