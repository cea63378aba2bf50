"""What Slurm says of jobs and nodes, by squeue and scontrol alone: accounting may be missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

import msgspec

TIMEOUT = 30.0
"""Seconds that a command of Slurm's may take: its controller may be restarting."""

LIVE = frozenset(
    ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "RESIZING")
)
"""States of jobs that wait, run, or will again; Slurm remembers others for a while."""


class SchedulerError(RuntimeError):
    """Slurm is not there, does not answer, or refuses."""


class QueuedJob(msgspec.Struct, frozen=True):
    """A job, or a task of an array, that waits or runs; `reason` is why it waits, `nodes` where it runs."""

    state: str
    reason: str
    nodes: str


def command(*words: str, timeout: float = TIMEOUT) -> str:
    """What one of Slurm's commands prints. Raises SchedulerError."""
    if shutil.which(words[0]) is None:
        raise SchedulerError(f"there is no {words[0]} here: Slurm's commands are not installed, or not on the PATH")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{words[0]} did not answer in {timeout:.0f} s") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or f"{words[0]} ended with {error.returncode}").splitlines()[0]
        raise SchedulerError(said) from None
    return done.stdout


def queue(jobs: Sequence[str] = ()) -> dict[str, QueuedJob]:
    """This user's jobs that wait or run, by id, tasks of arrays as 12_3; only those of arrays and jobs `jobs` if given.

    Raises SchedulerError.
    """
    found = {}
    for line in command("squeue", "--me", "-r", "-h", "-o", "%i|%T|%r|%N").splitlines():
        job, state, reason, nodes = line.split("|", 3)
        if state in LIVE:
            found[job] = QueuedJob(state, reason, nodes)
    return {job: one for job, one in found.items() if not jobs or job in jobs}


def is_running(job: str) -> bool:
    """Whether a job runs and is not being cancelled: one that does may be requeued. Raises SchedulerError."""
    said = command("scontrol", "show", "job", "-o", job)
    state = re.search(r"\bJobState=(\S+)", said)
    return state is not None and state[1] == "RUNNING"


def address(node: str) -> str:
    """Where other nodes reach a node: its name need not resolve. Raises SchedulerError."""
    said = command("scontrol", "show", "node", "-o", node)
    found = re.search(r"\bNodeAddr=(\S+)", said)
    return found[1] if found is not None else node


def largest_array() -> int:
    """Tasks that an array may have. Raises SchedulerError."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", command("scontrol", "show", "config"), re.MULTILINE)
    return int(found[1]) if found is not None and int(found[1]) > 0 else 1000


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs and tasks of arrays; those that have ended are left alone. Raises SchedulerError."""
    for start in range(0, len(jobs), 500):
        command("scancel", *jobs[start : start + 500])
