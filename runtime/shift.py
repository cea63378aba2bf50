"""What one Slurm job does on each of its tasks: it trains runs one after another, and comes back where it is cut short.

submitit starts `Shift` on every task, one a rank. Asked to end by a signal (a time limit, a preemption, one that
reached a single rank), all ranks stop at one step and save; then the first requeues the job, by submitit's own handler.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import submitit
from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

from compiler.records import read_status
from runtime import attempts, scheduler
from runtime.control import Asked
from runtime.lease import BEAT, Watch
from runtime.worker import Answer, Job, obey_signals, serve

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

TRIES = 6
"""Times that Slurm is asked to requeue a job."""

HEAD_START = 15.0
"""Seconds that the first rank has to requeue a job before another does it."""


@dataclass(frozen=True)
class Shift:
    """The runs of one job, by their folders. `patience` as in `Job`."""

    folders: tuple[str, ...]
    data_root: str
    patience: float

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts when the job comes back: the same, since a run's folder says where it stands."""
        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Train the runs. Raises RuntimeError where one failed, so that the job is seen to have failed."""
        environment = submitit.JobEnvironment()
        requeue = cast("Callable[[int, Any], None]", signal.getsignal(environment._usr_sig()))
        asked = Asked()
        obey_signals(asked)
        rank, ranks = environment.global_rank, environment.num_tasks
        _set_up(rank, ranks, environment.local_rank)
        store = _meet(environment, self.patience)
        failed = []
        for number, folder in enumerate(self.folders):
            answer = self._turn(Path(folder), environment.job_id, rank, ranks, asked, _part(store, number))
            logging.info("%s: %s %s", folder, answer.state, answer.reason)
            if answer.state == "preempted":
                if self._may_go_on(Path(folder), environment.job_id, rank):
                    _come_back(environment, requeue, rank)
                return
            if answer.state == "failed":
                failed.append(f"{folder}: {answer.reason}")
            if asked.why and folder != self.folders[-1]:  # between two runs
                _come_back(environment, requeue, rank)
                return
        if failed and rank == 0:
            raise RuntimeError("; ".join(failed))

    def _turn(self, folder: Path, job: str, rank: int, ranks: int, asked: Asked, store: Store) -> Answer:
        evict = _await_owner(folder, asked) if rank == 0 else -1
        task = Job(str(folder), self.data_root, evict=evict, scheduled=job, patience=self.patience)
        try:
            return serve(task, rank, ranks, asked, store)
        except RuntimeError as error:  # the ranks did not meet
            return Answer("preempted", f"lost contact with another rank: {error}".splitlines()[0])

    def _may_go_on(self, folder: Path, job: str, rank: int) -> bool:
        """Whether an interrupted run is worth another go of this job; if not, it has failed, and the others go on."""
        status = read_status(folder)
        if attempts.fruitless(status, job) < attempts.FRUITLESS_LINKS:
            return True
        if rank == 0:
            gave_up = f"{attempts.FRUITLESS_LINKS} {attempts.GAVE_UP}; the last: {status.reason}"
            attempts.end(status, folder, "failed", gave_up)
        return folder != Path(self.folders[-1])


def _set_up(rank: int, ranks: int, local_rank: int) -> None:
    """What torch and torchtitan read in the environment; before torch is imported."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    bound = devices != [""] and len(devices) == 1  # Slurm shows each task its own device only
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0" if bound else str(local_rank)}
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)


def _meet(environment: JobEnvironment, patience: float) -> Store:
    """The store that all tasks of the job share, at the address that Slurm has for its first node."""
    from torch._C._distributed_c10d import HashStore, TCPStore

    if environment.num_tasks == 1:
        return HashStore()
    place = TorchDistributedEnvironment()
    return TCPStore(
        scheduler.address(environment.hostnames[0]),
        place.master_port,
        environment.num_tasks,
        is_master=environment.global_rank == 0,
        timeout=timedelta(seconds=patience),
        wait_for_workers=False,
    )


def _part(store: Store, number: int) -> Store:
    """The part of a store that is one run's."""
    from torch._C._distributed_c10d import PrefixStore

    return PrefixStore(str(number), store)


def _await_owner(folder: Path, asked: Asked) -> int:
    """Wait for a run's owner while it may be dead, such as this job's on a node that went down; returns what may be
    evicted, -1 where the owner lives."""
    watch = Watch(folder)
    deadline = time.monotonic() + watch.patience + BEAT
    while time.monotonic() < deadline and not asked.why:
        evict = watch.evictable()
        if evict is not None:
            return evict
        time.sleep(1.0)
    return -1


def _come_back(environment: JobEnvironment, requeue: Callable[[int, Any], None], rank: int) -> None:
    """Requeue the job, unless it is being cancelled. Slurm then ends all of its tasks; the first rank never returns."""
    if rank > 0:
        time.sleep(HEAD_START)  # it is needed where the first rank is dead only: Slurm ends this one otherwise
    for tries_left in reversed(range(TRIES)):
        try:
            if not scheduler.is_running(environment.job_id):
                return
            if rank == 0:
                requeue(signal.SIGUSR2, None)
            scheduler.command("scontrol", "requeue", environment.job_id)
            return
        except (scheduler.SchedulerError, subprocess.SubprocessError):
            if tries_left == 0:
                raise
            time.sleep(5.0)  # the controller may be restarting
