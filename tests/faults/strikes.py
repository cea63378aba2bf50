"""How each kind of fault is done to a life. A strike returns whether it hit something that was at work."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.records import checkpoint_steps, is_done, read_status, study_folder
from tests.faults.ground import Impossible, Lost, Process, mount, unmount, until
from tests.faults.plan import Fault

if TYPE_CHECKING:
    from tests.faults.life import Life

FOUND_OUT = 200.0
"""Seconds after which a fault that nobody has noticed will not be noticed: twice a lease's patience."""


def kill_rank(life: Life, fault: Fault, rng: random.Random) -> bool:
    ranks = life.ranks()
    if not ranks:
        return False
    return _kill([rng.choice(ranks)], life)


def kill_launcher(life: Life, fault: Fault, rng: random.Random) -> bool:
    launcher = rng.choice(life.running())
    return _kill([Process(launcher.pid, 0, None)], life)


def kill_machine(life: Life, fault: Fault, rng: random.Random) -> bool:
    launchers = [Process(launcher.pid, 0, None) for launcher in life.running()]
    return _kill([*launchers, *life.ranks()], life)


def _kill(victims: list[Process], life: Life) -> bool:
    alive = [victim for victim in victims if victim.is_alive()]
    for victim in alive:
        victim.send(signal.SIGKILL)
    gone = until(lambda: not any(victim.is_alive() for victim in alive), 20)
    for launcher in life.launchers:
        launcher.poll()
    life.launchers = [launcher for launcher in life.launchers if launcher.returncode != -signal.SIGKILL]
    return bool(alive) and gone and not life.is_over()


def ask(life: Life, fault: Fault, rng: random.Random) -> bool:
    ended = _interrupted(life)
    if rng.random() < 0.5:
        launcher = rng.choice(life.running())
        launcher.send_signal(signal.SIGTERM)
        if not until(lambda: launcher.poll() is not None, FOUND_OUT, 0.02):
            raise Lost(f"a launcher that was asked to stop did not in {FOUND_OUT:.0f} s")
        life.launchers.remove(launcher)
        return launcher.returncode != 0 and _interrupted(life) > ended
    ranks = life.ranks()
    if not ranks:
        return False
    rng.choice(ranks).send(signal.SIGTERM)
    return until(lambda: _interrupted(life) > ended, 30)


def _interrupted(life: Life) -> int:
    """Attempts that ended before the run did."""
    statuses = [read_status(life.home(run)) for run in life.study.runs]
    return sum(attempt.state == "preempted" for status in statuses for attempt in status.history)


def fill(life: Life, fault: Fault, rng: random.Random) -> bool:
    filler = life.out / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
        # A row may then be half written, or a checkpoint begun.
        file.truncate(max(0, file.tell() - rng.choice([0, 0, 4096, 12288, 65536])))
    try:
        return _wait_for_the_end(life, "the disk was full")
    finally:
        filler.unlink()


def make_read_only(life: Life, fault: Fault, rng: random.Random) -> bool:
    mount("--bind", life.out, life.out)
    try:
        mount("-o", "remount,bind,ro", life.out)
        return _wait_for_the_end(life, "the folder was read-only")
    finally:
        unmount(life.out)


def _wait_for_the_end(life: Life, why: str) -> bool:
    """Wait until all launchers have given up; not where the study was done in spite of it."""
    launchers = life.running()
    if not until(lambda: not life.running(), FOUND_OUT, 0.05):
        raise Lost(f"{why}, and the study neither ended nor failed for {FOUND_OUT:.0f} s")
    life.forget()
    return any(launcher.returncode != 0 for launcher in launchers)


def truncate(life: Life, fault: Fault, rng: random.Random) -> bool:
    path = _victim(life, fault, rng)
    if path is None:
        return False
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    return True


def flip(life: Life, fault: Fault, rng: random.Random) -> bool:
    path = _victim(life, fault, rng)
    if path is None:
        return False
    data = bytearray(path.read_bytes())
    for place in rng.sample(range(len(data)), min(len(data), rng.choice([1, 1, 3]))):
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return True


def _victim(life: Life, fault: Fault, rng: random.Random) -> Path | None:
    """A file of that sort that is not empty, of a run that is (or, before the end, is not) done."""
    homes = [life.home(run) for run in life.study.runs]
    home = rng.choice([home for home in homes if is_done(home) == (fault.when == "end")] or homes)
    newest = checkpoint_steps(home)
    # Of a run that is done nobody reads any but the last.
    choice = newest[:1] if fault.when == "end" else [*newest[:1] * 3, *newest]
    checkpoint = home / f"checkpoint/step-{rng.choice(choice) if newest else 0}"
    found = {
        "checkpoint": lambda: checkpoint.glob("*.distcp"),
        "metadata": lambda: [checkpoint / ".metadata"],
        "seal": lambda: checkpoint.glob("seal-*.json"),
        "checkpointed rows": lambda: checkpoint.glob("*.jsonl"),
        "status": lambda: [home / "status.json"],
        "metrics": lambda: [home / "metrics.jsonl"],
        "evaluations": lambda: [home / "eval.jsonl"],
        "plan of the run": lambda: [home / "run.json"],
        "plan of the study": lambda: [study_folder(life.out, "tiny") / "plan.json"],
        "lease": lambda: home.glob("lease-*"),
    }[fault.file]()
    files = sorted(path for path in found if path.is_file() and path.stat().st_size)
    return rng.choice(files) if files else None


def jump(life: Life, fault: Fault, rng: random.Random) -> bool:
    if "FAULT_CLOCK" not in life.environment:
        raise Impossible("there is no C compiler")
    clock, seen = life.folder / "clock", life.folder / "clock.seen"
    shift = rng.choice([-1, 1]) * rng.randrange(60, 30 * 3600)
    ranks = {str(process.pid) for process in life.ranks()}
    temporary = clock.with_name("clock.new")
    temporary.write_text(str(shift))
    temporary.replace(clock)

    def has_jumped() -> bool:
        lines = seen.read_text().splitlines() if seen.exists() else []
        return any(line.split() == [pid, str(shift)] for line in lines for pid in ranks)

    return until(has_jumped, 20) and not life.is_over()


def start_second(life: Life, fault: Fault, rng: random.Random) -> bool:
    before = life.source.stat().st_ino
    first = life.running()
    life.start()
    begun = until(lambda: life.source.stat().st_ino != before, 60)
    return begun and any(launcher.poll() is None for launcher in first) and not life.is_over()


def slow_down(life: Life, fault: Fault, rng: random.Random) -> bool:
    ranks = life.ranks()
    if not ranks:
        return False
    rank, stopped, before = rng.choice(ranks), 0, life.steps()
    for _ in range(8):
        rank.send(signal.SIGSTOP)
        time.sleep(0.3)
        stopped += rank.state() == "T"
        rank.send(signal.SIGCONT)
        time.sleep(0.1)
    return stopped > 0 and (life.steps() > before or not life.is_over())


def hang(life: Life, fault: Fault, rng: random.Random) -> bool:
    ranks = life.ranks()
    if not ranks:
        return False
    rank = rng.choice(ranks)
    rank.send(signal.SIGSTOP)
    if not until(lambda: rank.state() == "T", 5):
        return False
    if not until(lambda: not rank.is_alive(), FOUND_OUT, 0.05):
        raise Lost(f"a hanging rank {rank.rank} was not found in {FOUND_OUT:.0f} s")
    return not life.is_over()


STRIKES: dict[str, Callable[[Life, Fault, random.Random], bool]] = {
    "worker": kill_rank,
    "rank": kill_rank,
    "launcher": kill_launcher,
    "machine": kill_machine,
    "signal": ask,
    "full": fill,
    "read-only": make_read_only,
    "truncated": truncate,
    "flipped": flip,
    "clock": jump,
    "two launchers": start_second,
    "slow": slow_down,
    "hanging": hang,
}
