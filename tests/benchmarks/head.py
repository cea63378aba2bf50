"""The head at the pilot's shape: at all positions, at masked ones only, and at these in chunks.

python -m tests.benchmarks.head [--micro 8] [--accumulation 1] [--rounds 1] [--checkpoint none] [--json]

Each way is a process of its own: the seconds of a step's forward and backward passes, and its peak of memory above
parameters and gradients. The FLOP bound is what leaving out the unmasked positions can save at most. Runs on the
accelerator where there is one.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import runtime.training  # noqa: F401  tells the platform before torchtitan is imported
from compiler.compile import compile_study
from compiler.cost import hardware_flops
from compiler.layout import shape_of
from compiler.plan import RunPlan
from runtime.training.head import Targets
from runtime.training.loader import NoisedLoader
from runtime.training.model import model_config
from runtime.training.objective import MaskedDiffusionLoss
from runtime.training.trainer import activation_checkpoint
from tests.tiny import write_source

WAYS = ("all", "masked", "chunked")
STUDY = """\
study: head
base:
  model: {{width: {width}, depth: {depth}}}
  modalities: {{text: {{data: data}}}}
  sequence_length: {length}
  tokens: 1M
  batch: {{physical: {batch}, micro: {micro}}}
  optimizer: {{lr: 1.0e-3}}
  parallel: {{activation_checkpoint: {checkpoint}}}
"""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plan(options: argparse.Namespace, folder: Path) -> RunPlan:
    """A run of the pilot's shape on random packed text; the few special tokens come on top of the vocabulary."""
    write_source(
        folder / "data", {"text": options.vocabulary}, sequences=256, lengths=(64, 2 * options.length), packed=True
    )
    file = folder / "study.yaml"
    file.write_text(STUDY.format(**vars(options), batch=options.micro * options.accumulation))
    return compile_study(file).runs[0]


def peak_of(step: Callable[[], None]) -> int:
    """Bytes that a call takes at its peak above what stands before it."""
    if DEVICE.type == "cuda":
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


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak of one way, in this process."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        run = plan(options, Path(name))
        loader = NoisedLoader(
            NoisedLoader.Config(run=run, data_root=Path(name)),
            dp_world_size=1,
            dp_rank=0,
            local_batch_size=run.batch.micro,
        )
        batches = [loader.batch(0, part) for part in range(options.accumulation)]
    with DEVICE:
        model = model_config(run).build()
    model.init_states()
    policy = activation_checkpoint(options.checkpoint)
    if policy is not None:
        policy.build(dump_folder="").apply(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)  # resident, like those of an earlier micro-batch
    loss_fn = MaskedDiffusionLoss.Config().build(compile_config=None)
    valid = torch.tensor(run.batch.physical * run.sequence_length, device=DEVICE)
    losses = []

    def step() -> None:
        for inputs, labels in batches:
            moved = {key: value.to(DEVICE) for key, value in inputs.items()}
            scored, weights = moved["scored"], moved["weights"]
            if way == "all":
                places = torch.arange(labels.numel(), device=DEVICE)
                weights = torch.zeros(labels.numel(), device=DEVICE).index_copy_(0, scored, weights)
                scored = places
            targets = Targets(labels.to(DEVICE).flatten()[scored], weights)
            pred = model(
                moved["input"],
                document=moved["document"],
                code_index=moved["code_index"],
                scored=scored,
                targets=targets if way == "chunked" else None,
            )
            loss, _ = loss_fn(pred, targets.labels, valid, weights=weights)
            del pred
            loss.backward()
            losses.append(loss.item())

    if DEVICE.type == "cuda":
        step()  # warm-up: kernels are chosen
    losses.clear()
    seconds, busy, peaks = [], [], []
    for _ in range(options.rounds):
        start, started = time.perf_counter(), time.process_time()
        peaks.append(peak_of(step))
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - started)
    shape, share = shape_of(run), sum(len(inputs["scored"]) for inputs, _ in batches) / valid.item()
    per_position = [hardware_flops(shape, scored, options.checkpoint) for scored in (1.0, share)]
    return {
        "way": way,
        "seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(busy),  # with one thread, fair on a busy machine too
        "peak": max(peaks),
        "loss": sum(losses) / options.rounds,
        "positions": valid.item(),
        "masked": share,
        "bound": per_position[0] / per_position[1],
        "flops": valid.item() * per_position[0 if way == "all" else 1],
        "parameters": run.model.parameters.total,
    }


def main() -> None:
    """Measure each way in turn; with `--way`, that one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=117_000)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--micro", type=int, default=8, help="sequences at a time")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches in a step")
    parser.add_argument("--checkpoint", choices=("none", "full"), default="none")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    rows: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        command = [sys.executable, "-m", "tests.benchmarks.head", *arguments, "--way", way]
        rows[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if not options.json:
            tell(rows[way], rows["all"])
    if options.json:
        print(json.dumps(list(rows.values())))


def tell(row: dict[str, Any], whole: dict[str, Any]) -> None:
    """Print one way beside the plain head at all positions."""
    if row is whole:
        print(
            f"{row['parameters'] / 1e6:.0f}M parameters, {row['positions']} tokens a step, {row['masked']:.1%} masked: "
            f"FLOP bound {row['bound']:.2f}x"
        )
    faster = whole["seconds"] / row["seconds"]
    print(
        f"{row['way']:>8}: {row['seconds']:8.3f} s forward-backward ({row['flops'] / row['seconds'] / 1e9:,.0f} "
        f"GFLOP/s), {faster:.2f}x ({faster / row['bound']:.2f} of the bound), peak {row['peak'] / 2**30:6.2f} GiB "
        f"({row['peak'] / whole['peak']:.2f}), loss {row['loss']:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
