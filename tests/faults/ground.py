"""What lives stand on: the studies, each once trained in peace; their processes; mounts; and a clock that can jump."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from compiler.plan import RunPlan, StudyPlan
from compiler.records import study_folder
from tests.faults.plan import Variant
from tests.tiny import STUDY, write_study

TRIPTYCH = str(Path(sys.executable).with_name("triptych"))
MARK = "TRIPTYCH_FAULTS"
"""The variable by which a life's processes are known."""

STUDIES = {
    "one": STUDY,
    "two": STUDY.replace("batch: {physical: 8}", "batch: {physical: 8, micro: 2}\n  parallel: {shard: 2}"),
    "pair": STUDY.replace("axes: []", "axes: [{grid: {model.width: [16, 32]}}]"),
}

# Ranks wait 10 s for each other, so that a hanging one is found while one looks on.
PROFILE = "kind: local\naccelerator: cpu-core\nmfu: 0.25\nnodes: 1\ngpus_per_node: 2\npatience: 10\n"


class Lost(RuntimeError):  # noqa: N818
    """A study does not come to its end, or goes on as if nothing were; the message says how."""


class Impossible(RuntimeError):  # noqa: N818
    """This machine cannot have such a fault; the message says why."""


@dataclass(frozen=True)
class Study:
    """A study and where it was trained in peace."""

    file: Path
    calm: Path
    runs: tuple[RunPlan, ...]

    @property
    def steps(self) -> int:
        """Steps of all runs."""
        return sum(run.steps for run in self.runs)


def environment(mark: Path) -> dict[str, str]:
    """The environment of `triptych`, whose processes can be found by `mark`, and leave their temporary files there."""
    temporary = mark / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return os.environ | {MARK: str(mark), "TMPDIR": str(temporary), "TRIPTYCH_CLUSTERS": str(mark.parent / "clusters")}


def train_in_peace(variant: Variant, folder: Path) -> Study:
    """Write a study into `folder` and train it undisturbed."""
    (folder / "clusters").mkdir(parents=True, exist_ok=True)
    (folder / "clusters/faults.yaml").write_text(PROFILE)
    home = folder / f"study-{variant}"
    home.mkdir()
    text = STUDIES[variant].replace("tokens: 3K", "tokens: 20K").replace("every: 5", "every: 20")
    text = text.replace("{sequences: 16}", "{sequences: 16, every: 40}").replace("base:", "cluster: faults\nbase:")
    file = write_study(home, text)
    done = subprocess.run(
        [TRIPTYCH, "run", str(file), "--out", str(home / "calm")],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the study could not be trained in peace: {done.stdout}{done.stderr}")
    planned = (study_folder(home / "calm", "tiny") / "plan.json").read_bytes()
    return Study(file, home / "calm", msgspec.json.decode(planned, type=StudyPlan).runs)


@dataclass(frozen=True)
class Process:
    """A process of a life: `rank` is None of the launcher."""

    pid: int
    parent: int
    rank: int | None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def state(self) -> str:
        """The kernel's letter for it: T stopped, Z dead and not yet waited for; empty where it is gone."""
        return _stat(self.pid)[0]

    def is_alive(self) -> bool:
        """Whether it still does, or may do, anything."""
        return self.state() not in ("", "Z", "X")


def _stat(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def processes(mark: Path) -> list[Process]:
    """The launchers and ranks of the life that `mark` names; nobody else's."""
    found = []
    wanted = f"{MARK}={mark}".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if wanted not in variables:
            continue
        rank = None
        if b"runtime.worker" in command:
            rank = next(int(variable[5:]) for variable in variables if variable.startswith(b"RANK="))
        process = Process(int(name), _stat(int(name))[1], rank)
        if process.is_alive():
            found.append(process)
    return found


def until(met: Callable[[], bool], seconds: float, pause: float = 0.005) -> bool:
    """Wait for a condition, at most so long; returns whether it was met."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def mount(*arguments: str | Path) -> None:
    """Mount. Raises Impossible where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise Impossible("only root may mount")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Impossible(f"mounting is not allowed: {done.stderr.strip()}")


def unmount(folder: Path) -> None:
    """Undo the last mount on `folder`, also while files there are open."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Meanwhile `folder` is a file system of that size; then what it held is an ordinary folder. May raise
    Impossible."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder)
    try:
        yield
    finally:
        kept = folder.with_name(f"{folder.name}-kept")
        shutil.copytree(folder, kept, symlinks=True)
        unmount(folder)
        folder.rmdir()
        kept.rename(folder)


def build_clock(folder: Path) -> Path:
    """The library that shifts the clock, compiled into `folder`. Raises Impossible without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Impossible("there is no C compiler")
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Impossible(f"the clock cannot be compiled: {done.stderr.splitlines()[0]}")
    return library
