"""Training a whole study on this machine: a pool of workers, each of one or more ranks, fed with runs.

No torch here: the launcher starts at once, and pays for torch once per worker, not once per run.
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from compiler.plan import RunPlan
from compiler.records import State, Status, is_done, read_status, store_folder
from runtime import attempts
from runtime.lease import Lease, Owner, Watch, owner_of
from runtime.worker import HUNG, LOST, PATIENCE, STOP, Answer, Job

Report = Callable[[RunPlan, Answer], None]

OTHERS = 20.0
"""Seconds that the other ranks have to answer once one has not come to the end."""

BUSY = 1.0
"""Seconds between looks at a run that another process trains."""


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
                start_new_session=True,  # a terminal's Ctrl-C is the launcher's to pass on
            )
            for rank in range(ranks)
        ]

    def train(self, job: Job) -> Answer:
        """Train a run. After `preempted` the group must be closed."""
        self.meetings += 1
        store = str(self.folder / f"store-{self.meetings}") if self.ranks > 1 else None
        line = msgspec.json.encode(msgspec.structs.replace(job, store=store)) + b"\n"
        replies: queue.SimpleQueue[tuple[int, Answer | None]] = queue.SimpleQueue()
        for rank, process in enumerate(self.processes):
            threading.Thread(target=self._ask, args=(rank, process, line, replies), daemon=True).start()
        watch, answers, dead = Watch(Path(job.folder)), dict[int, Answer](), list[int]()
        deadline = math.inf
        while len(answers) + len(dead) < self.ranks and time.monotonic() < deadline:
            try:
                rank, answer = replies.get(timeout=1.0)
            except queue.Empty:
                if watch.is_silent():
                    return Answer("preempted", f"its process gave no sign of life for {watch.patience:.0f} s")
                continue
            if answer is None:
                dead.append(rank)
            else:
                answers[rank] = answer
            if answer is None or answer.state != "done":
                deadline = min(deadline, time.monotonic() + OTHERS)  # those that are left may wait for one that is gone
        if dead:
            ways = ", ".join(ending(self.processes[rank].wait()) for rank in sorted(dead))
            which = "its process" if self.ranks == 1 else f"rank {', '.join(map(str, sorted(dead)))}"
            return Answer("preempted", f"{which} ended ({ways})")
        if len(answers) < self.ranks:
            reason = next(answer.reason for answer in answers.values() if answer.state != "done")
            return Answer("preempted", f"a rank did not answer; another: {reason}")
        return answers[0]

    @staticmethod
    def _ask(
        rank: int,
        process: subprocess.Popen[bytes],
        line: bytes,
        replies: queue.SimpleQueue[tuple[int, Answer | None]],
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
        except OSError:
            reply = b""
        replies.put((rank, msgspec.json.decode(reply, type=Answer) if reply else None))

    def stop(self) -> None:
        """Ask all ranks to save the run that they train, and to take no other."""
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.write(STOP)
                process.stdin.flush()

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.errors.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code in (LOST, HUNG):
        return {LOST: "another process has taken over the run", HUNG: "it came no further"}[code]
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Pool:
    """Workers that train runs, longest first, several at once, until all have ended or it is told to stop.

    A run whose processes die is tried again, up to `attempts.FRUITLESS` times without a checkpoint of its own. One that
    another process trains is waited for, and taken over where that process dies.
    """

    def __init__(
        self,
        runs: list[RunPlan],
        out: Path,
        data_root: Path,
        *,
        workers: int | None,
        patience: float = PATIENCE,
        started: Callable[[RunPlan], None],
        ended: Report,
        busy: Callable[[RunPlan, Owner], None],
    ) -> None:
        self.out, self.data_root, self.patience = out, data_root, patience
        self.started, self.ended, self.busy = started, ended, busy
        self.waiting = sorted(runs, key=lambda run: (run.parallel.ranks, run.flops))
        self.watches: dict[str, Watch] = {}
        self.told: set[str] = set()
        self.ranks = max((run.parallel.ranks for run in runs), default=1)
        self.devices = accelerators()
        self.slots = workers or max(1, (len(self.devices) or processors()) // self.ranks)
        self.threads = max(1, processors() // (self.slots * self.ranks))
        self.lock = threading.Lock()
        self.groups: dict[int, WorkerGroup] = {}
        self.stopping = False

    def train(self) -> None:
        """Train all runs. `started`, `ended` and, of runs that another process owns, `busy` are called from several
        threads."""
        threads = [
            threading.Thread(target=self._work, args=(slot,), daemon=True)
            for slot in range(min(self.slots, len(self.waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # so that signals are heard

    def stop(self) -> None:
        """Begin no other run, and let those that train be saved and end."""
        with self.lock:
            self.stopping = True
            for group in self.groups.values():
                group.stop()

    def kill(self) -> None:
        """End all processes at once."""
        with self.lock:
            self.stopping = True
            for group in self.groups.values():
                for process in group.processes:
                    process.kill()

    def _work(self, slot: int) -> None:
        try:
            while True:
                with self.lock:
                    if self.stopping or not self.waiting:
                        return
                    run = self.waiting.pop()
                try:
                    answer = self._attempt(slot, run)
                except OSError as error:  # no process, no file: the other runs may fare better
                    answer = self._ended(run, Answer("failed", f"{error.filename or 'here'}: {error.strerror}"))
                if answer is None:
                    with self.lock:
                        self.waiting.insert(0, run)
                    time.sleep(BUSY)
        finally:
            self._close(slot)

    def _attempt(self, slot: int, run: RunPlan) -> Answer | None:
        """Train a run to its end; None where its turn is later, since another process has it."""
        folder = store_folder(self.out, run.id)
        watch = self.watches.setdefault(run.id, Watch(folder))
        evict = watch.evictable()
        if evict is None:
            owner = owner_of(folder)
            if owner is not None and run.id not in self.told:
                self.told.add(run.id)
                self.busy(run, owner)
            return None
        if is_done(folder):
            return self._ended(run, Answer("done"))
        job = Job(str(folder), str(self.data_root), evict=evict, patience=self.patience)
        self.started(run)
        fruitless = 0
        while True:
            answer = self._group(slot, run.parallel.ranks).train(job)
            if answer.state == "busy":
                return None
            if answer.state != "preempted":
                return self._ended(run, answer)
            self._close(slot)  # its processes are dead, or were told by a signal to take no other run
            status = self._note(folder, answer.reason)
            if self.stopping:
                return self._ended(run, answer)
            fruitless = 0 if attempts.was_fruitful(status) else fruitless + 1
            if fruitless == attempts.FRUITLESS:
                answer = Answer("failed", f"{fruitless} {attempts.GAVE_UP}; the last: {answer.reason}")
                self._note(folder, answer.reason, "failed")
                return self._ended(run, answer)
            job = msgspec.structs.replace(job, evict=-1)

    def _ended(self, run: RunPlan, answer: Answer) -> Answer:
        self.ended(run, answer)
        return answer

    def _note(self, folder: Path, reason: str, state: State = "preempted") -> Status:
        """Write how an attempt ended where its processes could not; returns the status."""
        status = read_status(folder)
        try:
            lease = Lease.take(folder)
            if lease is None:
                return status
            with lease:
                return attempts.end(read_status(folder), folder, state, reason)
        except OSError:
            return attempts.close(status, folder, state, reason)

    def _group(self, slot: int, ranks: int) -> WorkerGroup:
        group = self.groups.get(slot)
        if group is not None and group.ranks != ranks:
            self._close(slot)
            group = None
        if group is None:
            own = self.devices[slot * self.ranks : slot * self.ranks + ranks]
            group = WorkerGroup(ranks, self.threads, own)
            with self.lock:
                self.groups[slot] = group
                if self.stopping:
                    group.stop()
        return group

    def _close(self, slot: int) -> None:
        with self.lock:
            group = self.groups.pop(slot, None)
        if group is not None:
            group.close()
