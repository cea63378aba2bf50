"""Training a whole study on this machine: a pool of workers, each of one or more ranks, fed with runs.

No torch here: the launcher starts at once, and pays for torch once per worker, not once per run.
"""

from __future__ import annotations

import glob
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import yaml  # type: ignore[import-untyped]

from compiler.compile import Compiled
from compiler.plan import RunPlan
from compiler.records import read_status, store_folder, study_folder, write_atomically
from compiler.source import Source
from runtime.worker import Answer, Job, hold, write_status

Report = Callable[[RunPlan, Answer], None]


def processors() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def accelerators() -> list[str]:
    """CUDA devices this process may use, by index; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device]
    return [str(i) for i, _ in enumerate(glob.glob("/dev/nvidia[0-9]*"))]


class WorkerGroup:
    """The processes of one worker, one per rank, kept alive from run to run."""

    def __init__(self, ranks: int, threads: int, devices: list[str]) -> None:
        self.ranks = ranks
        self.folder = Path(tempfile.mkdtemp(prefix="triptych-"))
        self.meetings = 0
        environment = dict(os.environ) | {"WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": str(threads)}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        self.errors = (self.folder / "stderr").open("wb")
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "runtime.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(ranks)
        ]

    def train(self, folder: Path, data_root: Path) -> Answer:
        """Train the run in `folder`. An answer of `died` means that the group must be replaced."""
        self.meetings += 1
        store = str(self.folder / f"store-{self.meetings}") if self.ranks > 1 else None
        line = msgspec.json.encode(Job(str(folder), str(data_root), store)) + b"\n"
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        for process in self.processes:
            threading.Thread(target=self._ask, args=(process, line, answers), daemon=True).start()
        worst = Answer("done")
        for _ in self.processes:
            answer = answers.get()
            if answer.state != "done":
                worst = answer
                if self.ranks > 1:
                    return Answer("died", answer.reason)  # the other ranks wait for this one for ever
        return worst

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], line: bytes, answers: queue.SimpleQueue[Answer]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
        except OSError:
            reply = b""
        if reply:
            answers.put(msgspec.json.decode(reply, type=Answer))
        else:
            answers.put(Answer("died", f"its process ended ({ending(process.wait())})"))

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.errors.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def prepare(compiled: Compiled, study_file: Path, overrides: Sequence[str], out: Path) -> None:
    """Write the study's folder, and a folder for each of its runs in the store."""
    plan, document = compiled.plan, compiled.loaded.document
    folder = study_folder(out, plan.study)
    links = folder / "runs"
    links.mkdir(parents=True, exist_ok=True)
    text = study_file.read_bytes()
    if overrides or len(document.files) > 1:
        # What includes and the command line brought is written in, so that the folder says it all.
        text = yaml.safe_dump(document.data, sort_keys=False, allow_unicode=True).encode()
    write_atomically(folder / "study.yaml", text)
    source = Source(file=str(study_file.resolve()), overrides=tuple(overrides), digest=plan.digest)
    write_atomically(folder / "source.json", msgspec.json.encode(source))
    write_atomically(folder / "plan.json", msgspec.json.encode(plan))
    for run in plan.runs:
        home = store_folder(out, run.id)
        home.mkdir(parents=True, exist_ok=True)
        write_atomically(home / "run.json", msgspec.json.encode(run))
        link = links / run.id
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(home, links))


def train_all(
    runs: list[RunPlan],
    out: Path,
    data_root: Path,
    *,
    workers: int | None,
    started: Callable[[RunPlan], None],
    ended: Report,
) -> None:
    """Train `runs`, longest first, several at once. `started` and `ended` are called from worker threads."""
    waiting: queue.SimpleQueue[RunPlan] = queue.SimpleQueue()
    for run in sorted(runs, key=lambda run: (-run.parallel.ranks, -run.flops)):
        waiting.put(run)
    ranks = max((run.parallel.ranks for run in runs), default=1)
    devices = accelerators()
    slots = workers or max(1, (len(devices) or processors()) // ranks)
    threads = max(1, processors() // (slots * ranks))

    def work(slot: int) -> None:
        group: WorkerGroup | None = None
        try:
            while True:
                try:
                    run = waiting.get_nowait()
                except queue.Empty:
                    return
                if group is None or group.ranks != run.parallel.ranks:
                    if group is not None:
                        group.close()
                    own = devices[slot * ranks : slot * ranks + run.parallel.ranks]
                    group = WorkerGroup(run.parallel.ranks, threads, own)
                started(run)
                folder = store_folder(out, run.id)
                answer = group.train(folder, data_root)
                if answer.state == "died":
                    group.close()
                    group = None
                    answer = Answer("failed", answer.reason)
                    write_status(
                        folder,
                        msgspec.structs.replace(
                            read_status(folder), state="failed", reason=answer.reason, updated=time.time()
                        ),
                    )
                ended(run, answer)
        finally:
            if group is not None:
                group.close()

    threads_ = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(min(slots, len(runs)))]
    for thread in threads_:
        thread.start()
    for thread in threads_:
        thread.join()


def is_held(folder: Path) -> bool:
    """Whether a live process on this machine trains the run in `folder`."""
    if not (folder / "lock").exists():
        return False
    lock = hold(folder)
    if lock is None:
        return True
    lock.close()
    return False
