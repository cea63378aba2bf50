"""A rank of a training worker: imports torch once, then trains the runs it is told to, one after another.

It reads one JSON object a line, a `Job`, and answers each with an `Answer`; the line `stop` asks it to save the run
that it trains, and to take no other. Where its standard input ends it exits at once: a worker does not outlive its
launcher. What the libraries print goes to the run's log.txt.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from compiler.files import decode
from compiler.identity import Identity
from compiler.plan import RunPlan
from compiler.records import Status, is_cancelled, is_done, read_status
from runtime import attempts
from runtime.control import Asked, Control
from runtime.data import DataError
from runtime.lease import BEAT, Lease, LeaseLost

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

LOST, HUNG = 77, 78
"""Exit codes of a process that has lost its run to another owner, and of one that came no further."""

PATIENCE = 1800.0
"""Seconds that a rank waits for others, and that a step may take, by default."""

STOP = b"stop\n"
CANCELLED = "by `triptych cancel`; `triptych retry` takes it up again"


class Job(msgspec.Struct, frozen=True):
    """A run to train: its folder, the folder its data names are relative to, and (several ranks) a file to meet at.

    An owner of generation `evict` or before is dead. `scheduled` names the scheduler's job. `patience` in seconds.
    """

    folder: str
    data_root: str
    store: str | None = None
    evict: int = -1
    scheduled: str = ""
    patience: float = PATIENCE


class Answer(msgspec.Struct, frozen=True):
    """How a job ended: `done`; `failed`; `preempted` where it was interrupted, by a signal or by the loss of another
    rank; `cancelled`; or `busy` where another process trains that run. `diverged` as in `Status`."""

    state: Literal["done", "failed", "preempted", "cancelled", "busy"]
    reason: str = ""
    diverged: bool = False


def serve(job: Job, rank: int, world_size: int, asked: Asked, store: Store) -> Answer:
    """Train one run, which rank 0 owns meanwhile and keeps the status of."""
    folder = Path(job.folder)
    try:
        lease = Lease.take(folder, job=job.scheduled, evict=job.evict) if rank == 0 else None
    except OSError as error:
        store.set("turn", f"{folder} cannot be written: {error.strerror or error}")
        return Answer("failed", store.get("turn").decode())
    if rank == 0:
        store.set("turn", "busy" if lease is None else _unwanted(job) or "go")
    turn = store.get("turn").decode()
    try:
        match turn:
            case "go":
                return _train(job, rank, world_size, asked, store, lease)
            case "done":
                return Answer("done")
            case "cancelled":
                return Answer("cancelled", CANCELLED)
            case "busy":
                return Answer("busy", "another process is training this run")
            case _:
                return Answer("failed", turn)
    finally:
        if lease is not None:
            lease.release()


def _unwanted(job: Job) -> str:
    """Why a run is not to be trained, empty where it is: another has finished it meanwhile, a user has cancelled it, or
    it has failed in this very job of the scheduler's."""
    folder = Path(job.folder)
    if is_done(folder):
        return "done"
    if is_cancelled(folder):
        return "cancelled"
    status = read_status(folder)
    failed_here = job.scheduled and status.state == "failed" and status.history[-1:]
    return status.reason if failed_here and status.history[-1].job == job.scheduled else ""


def _train(job: Job, rank: int, world_size: int, asked: Asked, store: Store, lease: Lease | None) -> Answer:
    folder, control = Path(job.folder), Control(asked)
    try:
        _write_to(folder / "log.txt")
        store.set(f"host-{rank}", os.environ.get("SLURMD_NODENAME") or socket.gethostname())
        status: Status | None = None
        with _tended(job, control, lease):
            if lease is not None:
                control.check = lease.beat
                hosts = dict.fromkeys(store.get(f"host-{other}").decode() for other in range(world_size))
                status = attempts.begin(folder, job=job.scheduled, hosts=tuple(hosts), ranks=world_size)

                def resumed(step: int) -> None:
                    nonlocal status
                    assert status is not None
                    status = attempts.resumed(status, folder, step)

                control.resumed = resumed
            answer = _outcome(job, rank, world_size, control, store)
        if status is not None:
            assert answer.state != "busy"
            attempts.end(status, folder, answer.state, answer.reason, saved=control.saved, diverged=answer.diverged)
        return answer
    except LeaseLost as error:
        return Answer("busy", str(error))
    except OSError as error:
        return Answer("failed", _words(error))


def _outcome(job: Job, rank: int, world_size: int, control: Control, store: Store) -> Answer:
    """Train to the end or to a stop, and say how that ended."""
    from torch.distributed.checkpoint.api import CheckpointException

    from runtime.training.trainer import TrainingError

    try:
        if train(job, rank, world_size, control, store):
            return Answer("done")
        if control.cancelled:
            return Answer("cancelled", CANCELLED)
        return Answer("preempted", control.asked.why or "another rank was asked to stop")
    except LeaseLost:
        raise
    except TrainingError as error:
        return Answer("failed", str(error), diverged=True)
    except DataError as error:
        return Answer("failed", str(error))
    except (Exception, CheckpointException) as error:  # DCP's is none
        traceback.print_exc()
        if world_size > 1 and lost_contact(error):
            return Answer("preempted", f"lost contact with another rank: {_words(error)}")
        return Answer("failed", _words(error))


def train(job: Job, rank: int, world_size: int, control: Control, store: Store) -> bool:
    """Train one run on this rank, to its end or until it is asked to stop; returns whether it came to its end."""
    import torch.distributed as dist

    from runtime.training.platform import start_process_group
    from runtime.training.trainer import DiffusionTrainer, trainer_config

    folder = Path(job.folder)
    run = decode(folder / "run.json", msgspec.json.Decoder(RunPlan))
    if Identity().of(run) != folder.resolve().name:
        raise ValueError("run.json is not the plan that the folder is named after; run or submit the study again")
    start_process_group(store, rank, world_size, timedelta(seconds=job.patience))
    trainer: DiffusionTrainer | None = None
    try:
        trainer = trainer_config(run, folder, Path(job.data_root)).build()
        return trainer.train(control)
    finally:
        if trainer is not None:
            trainer.close()
        del trainer
        dist.destroy_process_group()
        gc.collect()


def lost_contact(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that of a collective whose other ranks are gone or silent."""
    import torch.distributed as dist

    return any(isinstance(cause, dist.DistError) or "gloo/transport" in str(cause) for cause in _causes(error))


def _words(error: BaseException) -> str:
    """An error in one line: that of the file system underneath, where there is one."""
    from torch.distributed.checkpoint.api import CheckpointException

    causes = list(_causes(error))
    for inner in causes:
        if isinstance(inner, OSError) and inner.strerror:
            return f"{inner.strerror}{f': {inner.filename}' if inner.filename else ''}"
    told = next((inner for inner in causes if not isinstance(inner, CheckpointException)), error)
    return f"{type(told).__name__}: {told}".splitlines()[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and what DCP has gathered of it from all ranks."""
    from torch.distributed.checkpoint.api import CheckpointException

    cause: BaseException | None = error
    while cause is not None:
        yield cause
        if isinstance(cause, CheckpointException):
            yield from (failure for failure, _ in cause.failures.values())
        cause = cause.__cause__ or cause.__context__


@contextmanager
def _tended(job: Job, control: Control, lease: Lease | None) -> Iterator[None]:
    """Meanwhile, each second: see whether the run was cancelled, or comes no further; and keep its lease alive."""
    ending = threading.Event()

    def tend() -> None:
        beaten = time.monotonic()
        while not ending.wait(1.0):
            now = time.monotonic()
            control.cancelled = control.cancelled or is_cancelled(Path(job.folder))
            if now - control.moved > job.patience + 60:  # collectives are to give up first: they know more
                print(f"no step for {now - control.moved:.0f} s: this process ends itself", file=sys.stderr)
                faulthandler.dump_traceback()
                os._exit(HUNG)
            if lease is None or now - beaten < BEAT:
                continue
            beaten = now
            try:
                lease.beat()
            except LeaseLost:
                os._exit(LOST)  # it must not write one byte more
            except OSError:
                traceback.print_exc()  # the next may work; if none does, the lease is lost in time

    thread = threading.Thread(target=tend, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _write_to(log: Path) -> None:
    """Let all that this process prints be appended to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)  # a stranger's link leads anywhere
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def listen(asked: Asked) -> queue.SimpleQueue[bytes]:
    """Lines of standard input as they come; the process ends where they end."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            if line == STOP:
                asked.stop("interrupted; run the study again to go on")
            else:
                lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


def obey_signals(asked: Asked) -> None:
    """Save and end where a scheduler or a user asks for it by signal. Ctrl-C reaches all processes of a terminal: what
    to do then is the launcher's to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _: asked.stop(f"asked to stop by {signal.Signals(number).name}"))


def main() -> None:
    """Serve jobs. RANK, WORLD_SIZE, LOCAL_RANK and OMP_NUM_THREADS are the launcher's to set."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    asked = Asked()
    obey_signals(asked)
    lines = listen(asked)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    while True:
        job = msgspec.json.decode(lines.get(), type=Job)
        from torch._C._distributed_c10d import FileStore, HashStore

        store = HashStore() if job.store is None else FileStore(job.store, world_size)
        answer = serve(job, rank, world_size, asked, store)
        answers.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
