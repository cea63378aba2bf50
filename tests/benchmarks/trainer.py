"""Tokens/s of our trainer against a plain PyTorch loop: same model, batches, optimizer and threads, in one process.

python -m tests.benchmarks.trainer [--threads 1] [--steps 40] [--rounds 7] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}

import torch
from torch._C._distributed_c10d import HashStore
from torch.nn.functional import cross_entropy

from compiler.compile import compile_study
from compiler.plan import RunPlan
from runtime.training.loader import NoisedLoader
from runtime.training.model import model_config
from runtime.training.platform import start_process_group
from runtime.training.trainer import trainer_config

DEMO = Path(__file__).parents[2] / "studies/demo/study.yaml"


def ours(run: RunPlan, folder: Path) -> Callable[[int], None]:
    """Steps of the real trainer."""
    trainer = trainer_config(run, folder, folder).build()
    batches = trainer.batch_generator(trainer.dataloader)

    def steps(count: int) -> None:
        for _ in range(count):
            trainer.step += 1
            trainer.metrics_processor.reset_step()
            trainer.train_step(batches)

    return steps


def plain(run: RunPlan, folder: Path) -> Callable[[int], None]:
    """Steps of the loop that one would write by hand: no torchtitan around the model, nothing logged."""
    model = model_config(run).build()
    model.init_states()
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for name, p in named if re.fullmatch(group.pattern, name)],
                "lr": group.lr,
                "betas": group.betas,
                "eps": group.eps,
                "weight_decay": group.weight_decay,
            }
            for group in run.groups
        ],
        fused=True,
    )
    loader = NoisedLoader(
        NoisedLoader.Config(run=run, data_root=folder), dp_world_size=1, dp_rank=0, local_batch_size=run.batch.micro
    )
    batches = iter(loader)

    def steps(count: int) -> None:
        for _ in range(count):
            inputs, labels = next(batches)
            scored = inputs["scored"]
            logits = model(
                inputs["input"],
                document=inputs["document"],
                code_index=inputs["code_index"],
                scored=scored,
            )
            nats = cross_entropy(logits, labels.flatten()[scored], reduction="none")
            loss = (inputs["weights"] * nats).sum() / (labels >= 0).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def measure(run: RunPlan, steps: int, rounds: int) -> dict[str, float]:
    """Median milliseconds a step of both, and the median over rounds of ours / plain in tokens/s."""
    with tempfile.TemporaryDirectory() as name:
        sides = {"trainer": ours(run, Path(name)), "plain": plain(run, Path(name))}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for take in sides.values():
            take(steps)  # warm-up
        for turn in range(rounds):
            for side in sorted(sides, reverse=turn % 2 == 1):
                start = time.perf_counter()
                sides[side](steps)
                seconds[side].append((time.perf_counter() - start) / steps)
    ratios = [b / a for a, b in zip(seconds["trainer"], seconds["plain"], strict=True)]
    return {
        "trainer_ms": 1e3 * statistics.median(seconds["trainer"]),
        "plain_ms": 1e3 * statistics.median(seconds["plain"]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def main() -> None:
    """Measure the smallest and the largest model of the demo study."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    start_process_group(HashStore(), 0, 1)
    runs = sorted(compile_study(DEMO).runs, key=lambda run: run.flops)
    for run in (runs[0], runs[-1]):
        result = measure(run, options.steps, options.rounds)
        if options.json:
            print(json.dumps({"run": run.name, "threads": options.threads} | result))
        else:
            print(
                f"{run.name}: trainer {result['trainer_ms']:.1f} ms, plain loop {result['plain_ms']:.1f} ms a step; "
                f"tokens/s ratio {result['ratio']:.3f} ({result['ratio_low']:.3f} to {result['ratio_high']:.3f})"
            )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
