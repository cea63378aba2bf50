"""The head at the pilot's shape: at all positions, at masked ones only, and at these in chunks.

python -m tests.benchmarks.head [--micro 8] [--accumulation 1] [--rounds 1] [--checkpoint none] [--dtype float32]
                                [--compile] [--ways all masked chunked modality] [--json]

Each way is a process of its own, with the trainer's model and optimizer: the seconds of a step's forward and backward
passes, and of the full step; and the step's peak of memory above parameters, gradients (which are there from the start,
as those of an earlier micro-batch are) and optimizer state. The FLOP bound is what leaving out the unmasked positions
can save at most. `modality` is the head over the vocabulary of a position's own segment, of which the random sequences
have `--parts`, each a vocabulary of its own: another loss, with a bound of its own. Runs on the accelerator where there
is one; on a CPU with one thread the seconds are the thread's own, so that other processes disturb them little.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import re
import statistics
import subprocess
import sys
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
from compiler.cost import hardware_flops
from compiler.layout import shape_of
from compiler.plan import RunPlan
from runtime.training.head import Targets
from runtime.training.platform import ON_CPU, start_process_group
from runtime.training.trainer import DiffusionTrainer, trainer_config
from tests.tiny import write_source

WAYS = ("all", "masked", "chunked", "modality")
STUDY = """\
study: head
base:
  model: {{width: {width}, depth: {depth}}}
  modalities: {{mixed: {{data: data}}}}
  sequence_length: {length}
  tokens: 1M
  batch: {{physical: {batch}, micro: {micro}}}
  optimizer: {{lr: 1.0e-3}}
  parallel: {{activation_checkpoint: {checkpoint}, compile: {compile}}}
  dtype: {dtype}
  evaluation: {{sequences: 1}}
  log_every: 1000
"""
DEVICE = torch.device("cpu" if ON_CPU else "cuda")


def plan(options: argparse.Namespace, folder: Path) -> RunPlan:
    """A run of the pilot's shape on random sequences that fill their length, all segments as long as each other; the
    few special tokens come on top of the vocabulary."""
    segment = (options.length - 1 - 2 * (options.parts - 1)) // options.parts
    vocabularies = {f"part{i}": options.vocabulary // options.parts for i in range(options.parts)}
    write_source(folder / "data", vocabularies, sequences=256, lengths=(segment, segment))
    file = folder / "study.yaml"
    file.write_text(STUDY.format(**vars(options), batch=options.micro * options.accumulation))
    return compile_study(file).runs[0]


def peak_of(step: Callable[[], None]) -> int:
    """Bytes that a call takes at its peak above what stands before it."""
    if not ON_CPU:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    # Linux: 5 sets the process's peak of resident memory back to what it has now.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def resident(line: str) -> int:
    found = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


class Steps:
    """Steps of the real trainer's model and optimizer, with the head computed one way."""

    def __init__(self, trainer: DiffusionTrainer, way: str) -> None:
        self.trainer, self.way = trainer, way
        self.model = trainer.model_parts[0]
        self.takes = inspect.signature(self.model.forward).parameters
        self.batches = [trainer.dataloader.batch(0, part) for part in range(trainer.run.batch.accumulation)]
        self.valid = torch.tensor(sum(int((labels >= 0).sum()) for _, labels in self.batches), device=DEVICE)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.step = 2  # not a logged one
        trainer.optimizers.step()  # makes its state

    def forward_backward(self) -> float:
        """The gradients of one step; returns the loss."""
        total = 0.0
        for inputs, labels in self.batches:
            moved = {key: value.to(DEVICE) for key, value in inputs.items()}
            scored, weights = moved["scored"], moved["weights"]
            if self.way == "all":
                weights = torch.zeros(labels.numel(), device=DEVICE).index_copy_(0, scored, weights)
                scored = torch.arange(labels.numel(), device=DEVICE)
            # Positions that are not scored have a weight of 0, and any label.
            targets = Targets(labels.to(DEVICE).flatten()[scored].clamp(min=0), weights, moved.get("parts"))
            arguments = {key: value for key, value in moved.items() if key in self.takes} | {"scored": scored}
            with self.trainer.train_context():
                pred = self.model(
                    moved["input"], targets=targets if self.way in ("chunked", "modality") else None, **arguments
                )
                loss, _ = self.trainer.loss_fn(pred, targets.labels, self.valid, weights=weights)
                del pred
                loss.backward()
            total += loss.item()
        return total

    def update(self) -> None:
        """The optimizer's part of the step."""
        self.trainer.optimizers.step()
        self.trainer.optimizers.zero_grad(set_to_none=False)
        if not ON_CPU:
            torch.cuda.synchronize()


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak of one way, in this process."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    start_process_group(HashStore(), 0, 1)
    clock = time.process_time if ON_CPU and options.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory() as name:
        run = plan(options, Path(name))
        run = msgspec.structs.replace(run, head="modality" if way == "modality" else "full")
        steps = Steps(trainer_config(run, Path(name), Path(name)).build(), way)
    losses: list[float] = []
    passes: list[float] = []
    whole: list[float] = []

    def step() -> None:
        start = clock()
        losses.append(steps.forward_backward())
        passes.append(clock() - start)
        steps.update()
        whole.append(clock() - start)

    if not ON_CPU or options.compile:
        step()  # warm-up: kernels are chosen
        del passes[:], whole[:]
    peaks = [peak_of(step) for _ in range(options.rounds)]
    torch.distributed.destroy_process_group()

    positions = run.batch.physical * run.sequence_length
    scored = sum(len(inputs["scored"]) for inputs, _ in steps.batches)
    sizes = torch.tensor([part.size + len(run.vocabulary.specials) for part in run.vocabulary.parts])
    reach = sum(int(sizes[inputs["parts"]].sum()) for inputs, _ in steps.batches) if way == "modality" else None
    share = scored / positions if reach is None else reach / (positions * run.vocabulary.size)
    everywhere, here = (hardware_flops(shape_of(run), scored, options.checkpoint) for scored in (1.0, share))
    return {
        "way": way,
        "device": torch.cuda.get_device_name() if not ON_CPU else "cpu",
        "forward_backward": statistics.median(passes),
        "step": statistics.median(whole),
        "peak": max(peaks),
        "loss": losses[0],
        "positions": positions,
        "masked": scored / positions,
        "bound": everywhere / here,
        "flops": positions * (everywhere if way == "all" else here),
        "parameters": run.model.parameters.total,
    }


def main() -> None:
    """Measure each way in turn; with `--way`, that one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=117_000)
    parser.add_argument("--parts", type=int, default=2, help="segments of a sequence, each of its own vocabulary")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--micro", type=int, default=8, help="sequences at a time")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches in a step")
    parser.add_argument("--checkpoint", choices=("none", "full"), default="none")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    rows: list[dict[str, Any]] = []
    for way in options.ways:
        command = [sys.executable, "-m", "tests.benchmarks.head", *arguments, "--way", way]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        if not options.json:
            tell(rows[-1], rows[0])
    if options.json:
        print(json.dumps(rows))


def tell(row: dict[str, Any], first: dict[str, Any]) -> None:
    """Print one way beside the first, the plain head at all positions."""
    if row is first:
        print(
            f"{row['device']}, {row['parameters'] / 1e6:.0f}M parameters, {row['positions']} positions a step, "
            f"{row['masked']:.1%} masked"
        )
    passes, step = (first[what] / row[what] for what in ("forward_backward", "step"))
    bound = row["bound"] if row["way"] != "all" else 1.0
    print(
        f"{row['way']:>8}: FLOP bound {bound:.2f}x; forward-backward {row['forward_backward']:8.3f} s "
        f"({row['flops'] / row['forward_backward'] / 1e9:,.0f} GFLOP/s), {passes:.2f}x ({passes / bound:.2f} of the "
        f"bound); full step {row['step']:8.3f} s, {step:.2f}x ({step / bound:.2f}); peak {row['peak'] / 2**30:6.2f} "
        f"GiB ({row['peak'] / first['peak']:.2f}); loss {row['loss']:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
