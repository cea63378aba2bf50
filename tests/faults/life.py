"""One study's life: started as a user would, struck by its faults, started again, and judged in the end."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from compiler.plan import RunPlan
from compiler.records import checkpoint_steps, is_done, read_status, store_folder, study_folder
from tests.faults import plan
from tests.faults.ground import TRIPTYCH, Impossible, Lost, Process, Study, environment, processes, small_disk, until
from tests.faults.judge import problems
from tests.faults.plan import CHECKPOINTED, Fault
from tests.faults.strikes import STRIKES

STARTS = 4
"""Times that a user starts a study again before giving up on it."""

LONG = 300.0
"""Seconds after which a study that does not come to its end is given up."""

DISK = 8
"""Megabytes of a disk that fills up."""

Result = Literal["survived", "lost", "missed", "skipped"]


@dataclass
class Outcome:
    """How a life went. `results` are of its faults in order, with the reason of one that was skipped or missed."""

    life: plan.Life
    folder: Path
    results: list[tuple[Fault, Result, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    starts: int = 0
    failures: int = 0
    """Starts that ended badly by themselves, not by a kill or while a disk was full or read-only."""
    seconds: float = 0.0


class Life:
    """A study in a folder of its own."""

    def __init__(self, life: plan.Life, study: Study, folder: Path, clock: Path | None) -> None:
        self.life, self.study, self.folder = life, study, folder
        self.out = folder / "runs"
        self.source = study_folder(self.out, "tiny") / "source.json"
        self.environment = environment(folder)
        if clock is not None and any(fault.kind == "clock" for fault in life.faults):
            self.environment |= {"LD_PRELOAD": str(clock), "FAULT_CLOCK": str(folder / "clock")}
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.starts = self.failures = 0
        self.finished = False
        """Whether it was done, and has not been started since."""

    # What strikes need.

    def home(self, run: RunPlan) -> Path:
        """A run's folder."""
        return store_folder(self.out, run.id)

    def is_over(self) -> bool:
        """Whether all runs are done."""
        return all(is_done(self.home(run)) for run in self.study.runs)

    def ranks(self) -> list[Process]:
        """Ranks of runs that train now."""
        found = [process for process in processes(self.folder) if process.rank is not None]
        running = {status.pid for status in map(read_status, map(self.home, self.study.runs)) if not status.results}
        parents = {process.parent for process in found if process.pid in running}
        return [process for process in found if process.parent in parents and (process.rank or process.pid in running)]

    def running(self) -> list[subprocess.Popen[bytes]]:
        """Launchers that live."""
        return [launcher for launcher in self.launchers if launcher.poll() is None]

    def start(self, *command: str | Path) -> None:
        """Start `triptych run`, or another command."""
        command = command or ("run", self.study.file, "--out", self.out)
        self.starts, self.finished = self.starts + 1, False
        with (self.folder / "output.txt").open("ab") as output:
            self.launchers.append(
                subprocess.Popen(
                    [TRIPTYCH, *map(str, command)],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )

    def forget(self) -> None:
        """What ended because of a fault is no failure of the launcher's."""
        self.launchers = self.running()

    def stop(self, rng: random.Random) -> None:
        """End all processes in one of the ways that they end in, and wait for them."""
        way = rng.choice(["kill", "kill all", "ask"])
        for launcher in self.running():
            launcher.send_signal(signal.SIGTERM if way == "ask" else signal.SIGKILL)
        if way == "kill all":
            for process in processes(self.folder):
                process.send(signal.SIGKILL)
        for launcher in self.launchers:
            launcher.wait(LONG)
        if not until(lambda: not processes(self.folder), 60):
            raise Lost("processes outlive their launcher")
        self.launchers = []

    def steps(self) -> int:
        """Rows of all runs so far."""
        total = 0
        for run in self.study.runs:
            with contextlib.suppress(FileNotFoundError):
                total += (self.home(run) / "metrics.jsonl").read_bytes().count(b"\n")
        return total

    def writing(self) -> bool:
        """Whether a checkpoint is begun and not yet sealed."""
        for run in self.study.runs:
            newest = checkpoint_steps(self.home(run))[:1]
            if newest and not (self.home(run) / f"checkpoint/step-{newest[0]}/seal-0.json").exists():
                return True
        return False

    def attempts(self) -> int:
        """Attempts of all runs so far."""
        return sum(read_status(self.home(run)).attempts for run in self.study.runs)

    # The life itself.

    def live(self) -> Outcome:
        """Be born, suffer, end and be judged."""
        began = time.monotonic()
        outcome = Outcome(self.life, self.folder)
        try:
            with contextlib.ExitStack() as stack:
                why_not = ""
                if any(fault.kind == "full" for fault in self.life.faults):
                    try:
                        stack.enter_context(small_disk(self.out, DISK))
                    except Impossible as error:
                        why_not = str(error)
                stack.callback(self._end)
                for fault in self.life.faults:
                    result, reason = ("skipped", why_not) if fault.kind == "full" and why_not else self._suffer(fault)
                    outcome.results.append((fault, result, reason))
                self._finish()
                self._retry([fault for fault, result, _ in outcome.results if result == "survived"])
                outcome.problems = self._judge()
        except Lost as error:
            outcome.problems = [str(error)]
            struck = len(outcome.results)
            outcome.results += [(fault, "lost", "") for fault in self.life.faults[struck : struck + 1]]
            outcome.results += [(fault, "missed", "") for fault in self.life.faults[struck + 1 :]]
        if outcome.problems:
            # Which of them it was is not known: all count.
            outcome.results = [
                (fault, "lost" if result == "survived" else result, reason) for fault, result, reason in outcome.results
            ]
        outcome.starts, outcome.failures = self.starts, self.failures
        outcome.seconds = time.monotonic() - began
        return outcome

    def _suffer(self, fault: Fault) -> tuple[Result, str]:
        rng = random.Random(fault.seed)
        if fault.when == "end":
            if not self.finished:  # else it is damaged further
                self._finish()
        elif not self._reach(fault):
            return "missed", "the study was done before"
        elif fault.when == "between":
            self.stop(rng)
        if fault.when != "end" and self.is_over():
            return "missed", "the study was done before"
        try:
            hit = STRIKES[fault.kind](self, fault, rng)
        except Impossible as error:
            return "skipped", str(error)
        return ("survived", "") if hit else ("missed", "it hit nothing")

    def _reach(self, fault: Fault) -> bool:
        """Wait for a fault's moment; False where the study is done before. One between two starts comes at once where
        the study was stopped by another."""
        if fault.when == "between" and not self.launchers and self.starts and not self.is_over():
            return True
        steps, attempts = fault.at * self.study.steps, self.attempts()
        deadline = time.monotonic() + LONG
        while True:
            self._keep_running()
            if not self.launchers:
                return False
            if fault.when == "launch" and self.source.exists():
                return True
            if fault.when == "start" and self.attempts() > attempts:
                return True
            if self.steps() >= steps and (fault.when != "checkpoint" or self.writing()):
                return True
            if time.monotonic() > deadline:
                raise Lost(f"it came no further than {self.steps()} of {self.study.steps} steps")
            time.sleep(0.003)

    def _keep_running(self) -> None:
        """See to it that the study runs, or is done: then no launcher is left."""
        if not self.launchers and not (self.starts and self.is_over()):
            self.start()
        for launcher in [launcher for launcher in self.launchers if launcher.poll() is not None]:
            self.launchers.remove(launcher)
            if launcher.returncode != 0:
                self.failures += 1
                if self.failures == STARTS:
                    said = (self.folder / "output.txt").read_text()[-500:]
                    raise Lost(f"started {STARTS} times it ended with {launcher.returncode}: {said}")
                if not self.launchers:
                    self.start()

    def _finish(self) -> None:
        """Start the study, again and again, until it says that it is done."""
        deadline = time.monotonic() + LONG
        if not self.launchers:
            self.start()
        while self.launchers:
            self._keep_running()
            if time.monotonic() > deadline:
                raise Lost(f"it came no further than {self.steps()} of {self.study.steps} steps")
            time.sleep(0.02)
        self.finished = True

    def _retry(self, faults: list[Fault]) -> None:
        """`triptych run` does not read the checkpoints of runs that are done: a user who fears for them says `triptych
        retry` with the runs' names."""
        if any(fault.when == "end" and fault.file in CHECKPOINTED for fault in faults):
            self.start("retry", study_folder(self.out, "tiny"), *(run.id for run in self.study.runs))
            self._finish()

    def _judge(self) -> list[str]:
        found = []
        if not until(lambda: not processes(self.folder), 30):
            found.append("processes are left")
        for run in self.study.runs:
            found += [f"{run.name}: {what}" for what in problems(self.home(run), store_folder(self.study.calm, run.id))]
        links = study_folder(self.out, "tiny")
        strays = [path.name for path in (*links.iterdir(), *self.out.iterdir()) if path.name.startswith(".")]
        return found + [f"{name} was left behind" for name in strays]

    def _end(self) -> None:
        """Leave no process behind."""
        for process in processes(self.folder):
            process.send(signal.SIGKILL)
        for launcher in self.launchers:
            launcher.wait()
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)


def live(life: plan.Life, study: Study, folder: Path, clock: Path | None) -> Outcome:
    """Let a life happen in `folder`; the folder goes where it was survived."""
    folder.mkdir()
    outcome = Life(life, study, folder, clock).live()
    if not outcome.problems:
        shutil.rmtree(folder)
    else:
        (folder / "problems.txt").write_text("\n".join([repr(life), *outcome.problems]) + os.linesep)
    return outcome
