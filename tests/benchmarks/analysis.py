"""Seconds and memory to read and aggregate 1,000 runs of 10,000 logged steps, beside polars' own reader of JSON lines.

Run by hand: `python -m tests.benchmarks.analysis`. It writes up to 6 GB under the folder for temporary files, which
`--runs` makes less. Rows are `full`, as the runtime writes them (530 bytes), or `sparse`: what a row need not have is
null (400 bytes). Each figure is of a process of its own, its start included, with the files in the page cache. The
ratios are of CPU time: on a busy machine the wall says little.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from compiler.records import Metrics, Status, store_folder
from studies.analysis.logs import KEPT
from tests.synthetic import modality, run_plan, write_plan

OURS = """
from studies.analysis.results import read_study
study = read_study(FOLDER)
print(len(study.curves_of(20_000)), len(study.utilisation()), len(study.bands()), study.skipped)
"""
POLARS = """
import polars as pl
from pathlib import Path
fields = dict.fromkeys(["tokens", "loss", "tokens_per_second", "padding", "data_wait", "mfu"], pl.Float64)
fields["losses"] = pl.Struct(dict.fromkeys(["text", "image", "audio"], pl.Float64))
fields["bands"] = pl.List(pl.Float64)
files = sorted(Path(FOLDER).parent.glob("store/*/metrics.jsonl"))
rows = pl.scan_ndjson(files, schema=fields, include_file_paths="file")
stretch = (pl.col("tokens").log(2) * 12).floor().alias("stretch")
measured = pl.col("tokens", "loss", "tokens_per_second", "padding", "data_wait", "mfu").mean()
nested = [pl.col("losses").struct.field(m).mean().alias(m) for m in ("text", "image", "audio")]
nested += [pl.col("bands").list.get(k, null_on_oob=True).mean().alias(f"band{k}") for k in range(4)]
print(len(rows.group_by("file", stretch).agg(measured, *nested).collect(engine="streaming")))
"""
MEASURE = """
import json, resource, time
ended = time.time()
own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
cpu = sum(each.ru_utime + each.ru_stime for each in (own, children))
print(json.dumps([ended, cpu, own.ru_maxrss / 2**20, children.ru_maxrss / 2**20]))
"""


def rows(count: int, full: bool, rng: np.random.Generator) -> bytes:
    """A run's `metrics.jsonl`."""
    losses = rng.normal(3, 0.1, (count, 3))
    bands = rng.random((count, 4))
    others = rng.random((count, 8))
    lines = []
    for k in range(count):
        by_name = dict(zip(("text", "image", "audio"), losses[k].tolist(), strict=True))
        lr, norm, speed, padding, seconds, size, update, wait = others[k].tolist()
        row = Metrics(
            step=k + 1, tokens=(k + 1) * 65_431, loss=float(losses[k].mean()), losses=by_name, lr=lr * 1e-3,
            grad_norm=norm, tokens_per_second=speed * 1e5, padding=padding, seconds=k + seconds,
        )  # fmt: skip
        if full:
            row = msgspec.structs.replace(
                row, bands=tuple(bands[k].tolist()), parameter_norm=100 * size, update_norm=update, data_wait=wait,
                mfu=padding,
            )  # fmt: skip
        lines.append(msgspec.json.encode(row))
    return b"\n".join(lines) + b"\n"


def write(out: Path, runs: int, count: int, full: bool) -> Path:
    """A study whose runs have so many rows each; ten runs' rows, over and over."""
    modalities = {name: modality(name, 1 / 3) for name in ("text", "image", "audio")}
    plans = tuple(
        msgspec.structs.replace(run_plan(32, 36_000, 6e8, seed, modalities), id=f"{seed:016x}") for seed in range(runs)
    )
    folder = write_plan(out, "many", plans)
    rng = np.random.default_rng(0)
    samples = [rows(count, full, rng) for _ in range(min(runs, 10))]
    for number, run in enumerate(plans):
        place = store_folder(out, run.id)
        (place / "metrics.jsonl").write_bytes(samples[number % 10])
        (place / "status.json").write_bytes(msgspec.json.encode(Status(state="done", step=count)))
    return folder


def measured(script: str, folder: Path) -> tuple[float, str]:
    """CPU seconds of `script` in processes of its own, and what else there is to say."""
    started = time.time()
    command = [sys.executable, "-c", script.replace("FOLDER", repr(str(folder))) + MEASURE]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    ended, cpu, own, children = json.loads(said[-1])
    return cpu, f"{ended - started:5.1f} s, {cpu:5.1f} s of CPU, {own:.2f} + {children:.2f} GB ({said[0]})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kinds", nargs="+", default=["full", "sparse"])
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    for kind in chosen.kinds:
        with tempfile.TemporaryDirectory() as temporary:
            folder = write(Path(temporary), chosen.runs, chosen.rows, kind == "full")
            size = sum(path.stat().st_size for path in Path(temporary).glob("store/*/metrics.jsonl"))
            print(f"{kind}: {chosen.runs * chosen.rows:,} rows, {size / 1e9:.1f} GB, load {os.getloadavg()[0]:.1f}")
            for _ in range(chosen.rounds):
                (folder / KEPT).unlink(missing_ok=True)
                first, said = measured(OURS, folder)
                print(f"  first read   {said}", flush=True)
                again, said = measured(OURS, folder)
                kept = folder / KEPT
                note = f", kept {kept.stat().st_size / 1e6:.0f} MB" if kept.exists() else ""
                print(f"  later read   {said}{note}", flush=True)
                polars, said = measured(POLARS, folder)
                print(f"  polars       {said}: {polars / first:.1f} and {polars / again:.1f} times as long", flush=True)
            shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main()
