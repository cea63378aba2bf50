"""Compiling large studies, beside hydra-core 1.3.8 composing runs of like size.

python -m tests.benchmarks.compiler [--runs 10000] [--hydra-runs 200] [--rounds 3] [--json]

Each size is a `triptych plan STUDY --json > FILE` in a process of its own, start-up included: seconds and peak memory.
`make bench-compiler` makes the environment .venv/hydra that Hydra needs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

HYDRA = Path(__file__).parents[2] / ".venv/hydra/bin/python"
BASE = {
    "model": {"width": 256, "depth": 2, "heads": 4},
    "modalities": {
        "text": {"weight": 2, "data": "embedded/text", "noise": "linear"},
        "image": {"weight": 1, "data": "embedded/image", "noise": "cosine"},
        "audio": {"weight": 1, "data": "embedded/audio", "noise": {"kind": "polynomial", "power": 2}},
    },
    "sequence_length": 128,
    "tokens": "20M",
    "batch": {"logical": "auto", "physical": 64, "micro": "auto"},
    "optimizer": {"lr": 3e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": None},
    "transfer": {"base": {"width": 128, "depth": 2, "batch": 64, "tokens": "20M"}, "gamma": 0.44},
    "schedule": {"kind": "cosine", "warmup": 1000, "warmup_cap": 0.25, "final": 0.1},
    "seed": 0,
}


def study(runs: int) -> dict[str, object]:
    """A study of at least `runs` runs over width, learning rate, tokens and seed."""
    grid = {
        "model.width": [64, 128, 256, 512],
        "optimizer.lr": [1e-3, 2e-3, 3e-3],
        "tokens": ["5M", "20M", "80M"],
    }
    return {"study": "large", "base": BASE, "axes": [{"grid": grid}, {"seeds": math.ceil(runs / 36)}]}


def plan(runs: int, folder: Path) -> tuple[int, float, float]:
    """Runs, seconds and peak GB of planning a study and writing its plan."""
    path, out = folder / "study.yaml", folder / "plan.json"
    path.write_text(yaml.safe_dump(study(runs)))
    with out.open("wb") as file:
        started = time.perf_counter()
        command = [str(Path(sys.executable).with_name("triptych")), "plan", str(path), "--json"]
        process = subprocess.Popen(command, stdout=file)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"planning failed with status {status}")
    return math.ceil(runs / 36) * 36, seconds, usage.ru_maxrss * 1024 / 1e9


def hydra(runs: int) -> float:
    """Seconds a run that Hydra takes to compose so many."""
    side = Path(__file__).with_name("hydra_side.py")
    done = subprocess.run(
        [str(HYDRA), str(side), str(runs)], input=yaml.safe_dump(BASE), text=True, capture_output=True, check=True
    )
    return float(done.stdout) / runs


def main() -> None:
    """Print medians over the rounds, the sizes and Hydra by turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--hydra-runs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = [arguments.runs // 10, arguments.runs, arguments.runs * 10]
    seconds: dict[int, list[float]] = {}
    memory: dict[int, float] = {}
    composed: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for size in sizes:
                runs, taken, peak = plan(size, Path(folder))
                seconds.setdefault(runs, []).append(taken)
                memory[runs] = max(peak, memory.get(runs, 0.0))
            if HYDRA.exists():
                composed.append(hydra(arguments.hydra_runs))
    rows = [
        {"runs": runs, "seconds": statistics.median(taken), "peak_gb": memory[runs]} for runs, taken in seconds.items()
    ]
    result: dict[str, object] = {"plans": rows}
    if composed:
        each = statistics.median(composed)
        ours = rows[1]["seconds"] / rows[1]["runs"]
        result |= {"hydra_seconds_per_run": each, "ratio": each / ours}
    if arguments.json:
        print(json.dumps(result))
        return
    for row in rows:
        print(
            f"{row['runs']:>9,} runs  {row['seconds']:6.2f} s  {1e6 * row['seconds'] / row['runs']:6.0f} µs a run  "
            f"{row['peak_gb']:.2f} GB"
        )
    if composed:
        print(f"hydra-core  {1e3 * each:.1f} ms a run: {each / ours:.0f} times as long")
    else:
        print(f"no {HYDRA}: `make bench-compiler` sets it up")


if __name__ == "__main__":
    main()
