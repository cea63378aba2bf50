"""The life of a run, as `status.json` tells it: attempts that begin, resume and end. Only a run's owner writes it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import msgspec

from compiler.files import write_atomically
from compiler.records import (
    KEPT_ATTEMPTS,
    Attempt,
    State,
    Status,
    checkpoint_steps,
    digests,
    read_status,
)

FRUITLESS = 3
"""Attempts in a row that ended without a checkpoint of their own after which a run is not tried again by itself."""

FRUITLESS_LINKS = 10
"""The same for a scheduler's job that comes back: a busy partition may preempt it some times before it has begun."""

GAVE_UP = "attempts in a row ended before a checkpoint of their own"
GONE = "its process was gone"


def write_status(folder: Path, status: Status) -> None:
    """Replace `status.json`."""
    write_atomically(folder / "status.json", msgspec.json.encode(status))


def begin(folder: Path, *, job: str, hosts: tuple[str, ...], ranks: int) -> Status:
    """A new attempt at the run in `folder`; one that has no end, its process having been killed, is given one."""
    now = time.time()
    before = close(read_status(folder), folder, "preempted", GONE)
    attempt = Attempt(job=job, hosts=hosts, pid=os.getpid(), ranks=ranks, started=now)
    status = Status(
        state="running",
        attempts=before.attempts + 1,
        step=before.step,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=now,
        updated=now,
        history=(*before.history, attempt)[-KEPT_ATTEMPTS:],
    )
    write_status(folder, status)
    return status


def resumed(status: Status, folder: Path, step: int) -> Status:
    """The attempt has loaded the checkpoint of `step`, 0 where it starts anew."""
    attempt = msgspec.structs.replace(status.history[-1], first_step=step, last_step=step)
    changed = msgspec.structs.replace(status, history=(*status.history[:-1], attempt), updated=time.time())
    write_status(folder, changed)
    return changed


def close(status: Status, folder: Path, state: State, reason: str, saved: int | None = None) -> Status:
    """The status with its newest attempt ended so, unless it has ended already; not written. `saved` is the step of its
    newest checkpoint, by default that which is in the folder."""
    if not status.history or status.history[-1].state != "running":
        return status
    if saved is None:
        saved = max(checkpoint_steps(folder), default=0)
    attempt = msgspec.structs.replace(
        status.history[-1], state=state, reason=reason, ended=time.time(), last_step=saved
    )
    return msgspec.structs.replace(status, history=(*status.history[:-1], attempt))


def end(
    status: Status, folder: Path, state: State, reason: str, *, saved: int | None = None, diverged: bool = False
) -> Status:
    """End the newest attempt and the run's state with it, and write both."""
    ended = msgspec.structs.replace(
        close(status, folder, state, reason, saved),
        state=state,
        reason=reason,
        updated=time.time(),
        step=saved if saved is not None else status.step,
        diverged=diverged,
        results=digests(folder) if state == "done" else {},
    )
    write_status(folder, ended)
    return ended


def was_fruitful(status: Status) -> bool:
    """Whether the newest attempt has left a checkpoint of its own."""
    return bool(status.history) and status.history[-1].last_step > status.history[-1].first_step


def fruitless(status: Status, job: str) -> int:
    """How many of the newest attempts in a row, all of scheduler's job `job`, were interrupted without a checkpoint of
    their own."""
    count = 0
    for attempt in reversed(status.history):
        if attempt.job != job or attempt.state != "preempted" or attempt.last_step > attempt.first_step:
            break
        count += 1
    return count
