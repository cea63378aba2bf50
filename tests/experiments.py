"""Studies compiled from YAML whose runs ended as a test says: experiments with known answers."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from compiler.plan import RunPlan
from compiler.records import Evaluation, Metrics, Status, store_folder
from studies.analysis.results import Study, read_study
from tests.compiling import compile_data, study
from tests.synthetic import write_lines, write_plan

Loss = Callable[[RunPlan, str], float | None]
"""Final loss of a run and modality: inf for a run that failed, None for one that is pending."""
TRANSFER = {"base": {"width": 64, "depth": 2, "heads": 2, "batch": 16, "tokens": "100K"}, "gamma": 0}


def experiment(
    axes: list[dict[str, Any]],
    loss: Loss,
    activations: Callable[[RunPlan, int], dict[str, float] | None] | None = None,
    noise: float = 0.0,
    out: Path | None = None,
    name: str = "tiny",
    seed: int = 0,
    **base: Any,
) -> Study:
    """A finished study of `axes` over `tests.compiling.study(**base)`, with normal `noise` on each run's losses."""
    runs = compile_data(study(**base) | {"axes": axes}).runs
    return finished(runs, loss, activations, noise, out, name, seed)


def finished(
    runs: tuple[RunPlan, ...],
    loss: Loss,
    activations: Callable[[RunPlan, int], dict[str, float] | None] | None = None,
    noise: float = 0.0,
    out: Path | None = None,
    name: str = "tiny",
    seed: int = 0,
) -> Study:
    """`runs` as a study under `out` (or a passing folder) that ended as `loss` says."""
    if out is None:
        with tempfile.TemporaryDirectory() as passing:
            return finished(runs, loss, activations, noise, Path(passing), name, seed)
    rng = np.random.default_rng(seed)
    folder = write_plan(out, name, runs)
    for run in runs:
        place = store_folder(out, run.id)
        losses = {modality: loss(run, modality) for modality in run.modalities}
        if activations is not None:
            logged = [metrics(run, step, activations(run, step)) for step in range(1, 9)]
            write_lines(place / "metrics.jsonl", [row for row in logged if row.activations is not None])
        if all(value is None for value in losses.values()):
            continue
        failed = math.inf in losses.values()
        status = Status(state="failed" if failed else "done", reason="loss is NaN" if failed else "", step=run.steps)
        (place / "status.json").write_bytes(msgspec.json.encode(status))
        if not failed:
            shift = rng.normal(0, noise) if noise else 0.0
            rows = [evaluation(run, m, value + shift) for m, value in losses.items() if value is not None]
            write_lines(place / "eval.jsonl", rows)
    return read_study(folder)


def again(study: Study, loss: Callable[[RunPlan, str], float], noise: float = 0.0, seed: int = 0) -> Study:
    """`study`, all of whose runs are done, with other losses: much quicker than to write it anew."""
    rng = np.random.default_rng(seed)
    shifts = dict(zip((run.id for run in study.plan.runs), rng.normal(0, 1, len(study.plan.runs)), strict=True))
    losses = {(run.id, m): loss(run, m) + noise * shifts[run.id] for run in study.plan.runs for m in run.modalities}
    rows = study.evaluations.select("id", "modality").iter_rows()
    changed = study.evaluations.with_columns(nelbo=pl.Series([losses[row] for row in rows], dtype=pl.Float64))
    return dataclasses.replace(study, evaluations=changed)


def metrics(run: RunPlan, step: int, activations: dict[str, float] | None) -> Metrics:
    return Metrics(
        step=step,
        tokens=step * 100,
        loss=3.0,
        losses=dict.fromkeys(run.modalities, 3.0),
        lr=1e-3,
        grad_norm=1.0,
        tokens_per_second=1e4,
        padding=0.1,
        seconds=step * 0.1,
        activations=activations,
    )


def evaluation(run: RunPlan, modality: str, nelbo: float) -> Evaluation:
    return Evaluation(
        step=run.steps,
        tokens=round(run.tokens),
        modality=modality,
        nelbo=nelbo,
        standard_error=0.01,
        by_token_modality={},
        conditional=None,
        scored_tokens=1000,
        sequences=64,
    )
