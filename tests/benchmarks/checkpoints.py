"""What saving costs the demo's runs: how long a step waits for a checkpoint, and for a row to be written.

python -m tests.benchmarks.checkpoints [--steps 1200] [--rounds 3] [--json]

The real trainer trains the demo's smallest and largest model, at the demo's interval and without checkpoints by turns.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}

import msgspec
import torch
from torch._C._distributed_c10d import HashStore

from compiler.compile import compile_study
from compiler.plan import RunPlan
from runtime.training.platform import start_process_group
from runtime.training.trainer import trainer_config

DEMO = Path(__file__).parents[2] / "studies/demo/study.yaml"


class Stopwatch:
    """Seconds spent in a function, and its longest call."""

    def __init__(self) -> None:
        self.total = self.longest = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.perf_counter() - started
                self.total += spent
                self.longest = max(self.longest, spent)

        return timed


def take(run: RunPlan, every: int) -> dict[str, float]:
    """Train `run` with a checkpoint every so many steps; seconds in all, and in saving and writing, the last
    checkpoint apart: after it nothing waits."""
    run = msgspec.structs.replace(run, checkpoint=msgspec.structs.replace(run.checkpoint, every=every))
    with tempfile.TemporaryDirectory() as name:
        trainer = trainer_config(run, Path(name), Path(name)).build()
        saving, last, writing = Stopwatch(), Stopwatch(), Stopwatch()
        save, save_last = trainer.checkpointer.save, trainer.checkpointer._save_last_step
        trainer.checkpointer.save = saving.around(save)
        trainer.checkpointer._save_last_step = last.around(save_last)
        trainer.metrics_processor.metrics.append = writing.around(trainer.metrics_processor.metrics.append)
        trainer.validator.should_validate = lambda step: False
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started - last.total
        trainer.close()
    return {
        "seconds": seconds,
        "stall": (saving.total - last.total) / seconds,
        "rows": writing.total / seconds,
        "longest_ms": 1e3 * saving.longest,
    }


def measure(run: RunPlan, steps: int, rounds: int) -> dict[str, float]:
    """Medians over rounds; `slowdown` is time with checkpoints over time without, less one."""
    run = msgspec.structs.replace(run, steps=steps)
    take(msgspec.structs.replace(run, steps=50), 0)  # warm-up
    every = run.checkpoint.every
    rows = [(take(run, every), take(run, 0)) for _ in range(rounds)]
    found = {name: statistics.median(one[name] for one, _ in rows) for name in ("stall", "rows")}
    ratios = [one["seconds"] / other["seconds"] - 1 for one, other in rows]
    step_ms = 1e3 * statistics.median(other["seconds"] for _, other in rows) / steps
    return found | {"slowdown": statistics.median(ratios), "slowdown_high": max(ratios), "step_ms": step_ms}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    start_process_group(HashStore(), 0, 1)
    runs = sorted(compile_study(DEMO).runs, key=lambda run: run.flops)
    for run in (runs[0], runs[-1]):
        result = measure(run, options.steps, options.rounds)
        if options.json:
            print(json.dumps({"run": run.name} | result))
        else:
            print(
                f"{run.name}: steps of {result['step_ms']:.1f} ms; of the time, waiting for checkpoints every "
                f"{run.checkpoint.every} steps {result['stall']:.2%}, writing rows {result['rows']:.2%}; with "
                f"checkpoints {result['slowdown']:.1%} slower (at most {result['slowdown_high']:.1%})",
                flush=True,
            )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
