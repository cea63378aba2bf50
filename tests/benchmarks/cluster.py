"""Seconds that a user waits: for 1,000 runs to be submitted to a real Slurm, and for the status of 10,000.

Run by hand: `python -m tests.benchmarks.cluster`. The jobs are submitted held, so that none trains meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from compiler.compile import compile_study
from compiler.records import Attempt, Metrics, Status, store_folder
from tests.slurm import Cluster
from tests.tiny import STUDY, write_study

PROFILE = """\
kind: slurm
accelerator: cpu-core
mfu: 0.25
nodes: 2
gpus_per_node: 8
pack: 0
options: {hold: true}
"""
TRIPTYCH = str(Path(sys.executable).with_name("triptych"))


def timed(*arguments: object) -> tuple[float, str]:
    """Seconds that the command takes, its start included, and what it prints."""
    started = time.perf_counter()
    done = subprocess.run([TRIPTYCH, *map(str, arguments)], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, done.stdout


def write(folder: Path, runs: int) -> Path:
    """A study of so many runs."""
    folder.mkdir()
    return write_study(folder, STUDY.replace("axes: []", f"axes: [{{seeds: {runs}}}]"))


def pretend(file: Path, out: Path) -> None:
    """Leave in a study's folders what runs of all kinds leave: done, training somewhere else, failed, waiting."""
    for number, run in enumerate(compile_study(file).runs):
        folder = store_folder(out, run.id)
        state = ("done", "preempted", "failed", "pending")[number % 4]
        if state == "pending":
            continue
        attempt = Attempt(state=state, reason="asked to stop by SIGTERM", job=f"7_{number}", hosts=("n1",))  # type: ignore[arg-type]
        status = Status(state=state, attempts=3, history=(attempt,) * 3)  # type: ignore[arg-type]
        (folder / "status.json").write_bytes(msgspec.json.encode(status))
        row = Metrics(
            step=0,
            tokens=0,
            loss=2.0,
            losses={},
            lr=1e-3,
            grad_norm=1.0,
            tokens_per_second=1e3,
            padding=0.0,
            seconds=1.0,
        )
        lines = [msgspec.json.encode(msgspec.structs.replace(row, step=step, tokens=100 * step)) for step in range(200)]
        (folder / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary, Cluster() as cluster:
        folder = Path(temporary)
        (folder / "clusters").mkdir()
        (folder / "clusters/pair.yaml").write_text(PROFILE)
        os.environ |= cluster.environment | {"TRIPTYCH_CLUSTERS": str(folder / "clusters")}
        for name, runs in (("thousand", 1_000), ("many", 10_000)):
            file, out = write(folder / name, runs), folder / name / "runs"
            seconds, said = timed("submit", file, "--profile", "pair", "--out", out)
            print(f"submit of {runs:,} runs: {seconds:.1f} s ({said.splitlines()[-1]})", flush=True)
            seconds, said = timed("submit", file, "--profile", "pair", "--out", out)
            print(f"submit again: {seconds:.1f} s ({said.splitlines()[-1]})", flush=True)
        pretend(file, out)
        for turn in range(3):
            seconds, said = timed("status", out / "tiny")
            print(f"status of {runs:,} runs, turn {turn}: {seconds:.2f} s ({said.splitlines()[-2]})", flush=True)


if __name__ == "__main__":
    main()
