"""A rank of a training worker: imports torch once, then trains the runs it is told to, one after another.

It reads one JSON object a line, `{"folder", "data_root", "store"}`, and answers each with `{"state", "reason"}`.
Where its standard input ends it exits at once: a worker does not outlive its launcher. What the libraries print goes
to the run's log.txt.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import queue
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO

import msgspec

from compiler.plan import RunPlan
from compiler.records import Status, read_status, write_atomically
from runtime.data import DataError


class Job(msgspec.Struct, frozen=True):
    """A run to train: its folder, the folder its data names are relative to, and (several ranks) a file to meet at."""

    folder: str
    data_root: str
    store: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """How a job ended: `done`, `failed`, or `busy` where another process trains that run."""

    state: str
    reason: str = ""


def hold(folder: Path) -> IO[bytes] | None:
    """Take a run folder's lock, which falls with this process; None where another process has it."""
    file = (folder / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def write_status(folder: Path, status: Status) -> None:
    """Replace `status.json`."""
    write_atomically(folder / "status.json", msgspec.json.encode(status))


def train(job: Job, rank: int, world_size: int) -> None:
    """Train one run to its end on this rank, and raise where that fails."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import FileStore, HashStore

    from runtime.training.platform import start_process_group
    from runtime.training.trainer import DiffusionTrainer, trainer_config

    folder = Path(job.folder)
    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    store = HashStore() if job.store is None else FileStore(job.store, world_size)
    start_process_group(store, rank, world_size)
    trainer: DiffusionTrainer | None = None
    try:
        trainer = trainer_config(run, folder, Path(job.data_root)).build()
        trainer.train()
    finally:
        if trainer is not None:
            trainer.close()
        del trainer
        dist.destroy_process_group()
        gc.collect()


def serve(job: Job, rank: int, world_size: int) -> Answer:
    """Train one run, keeping its status (rank 0) and its log."""
    from runtime.training.trainer import TrainingError

    folder = Path(job.folder)
    lock = hold(folder) if rank == 0 else None
    if rank == 0 and lock is None:
        return Answer("busy", "another process is training this run")
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    before = read_status(folder)
    status = Status(
        state="running",
        attempts=before.attempts + 1,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=time.time(),
        updated=time.time(),
    )
    if rank == 0:
        write_status(folder, status)
    try:
        train(job, rank, world_size)
        answer = Answer("done")
    except (TrainingError, DataError) as error:
        answer = Answer("failed", str(error))
    except Exception as error:
        traceback.print_exc()
        answer = Answer("failed", f"{type(error).__name__}: {error}".splitlines()[0])
    if rank == 0:
        ended = msgspec.structs.replace(status, state=answer.state, reason=answer.reason, updated=time.time())
        write_status(folder, ended)
    if lock is not None:
        lock.close()
    return answer


def jobs() -> queue.SimpleQueue[bytes]:
    """Lines of standard input as they come; the process ends where they end."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


def main() -> None:
    """Serve jobs. RANK, WORLD_SIZE, LOCAL_RANK and OMP_NUM_THREADS are the launcher's to set."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    lines = jobs()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    while True:
        job = msgspec.json.decode(lines.get(), type=Job)
        answers.write(msgspec.json.encode(serve(job, rank, world_size)) + b"\n")


if __name__ == "__main__":
    main()
