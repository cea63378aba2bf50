"""Studies compiled from YAML whose runs ended as a test says: experiments with known answers."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from compiler.plan import RunPlan
from compiler.records import MIX, Evaluation, GradientNoise, Metrics, Status, store_folder
from studies.analysis.results import Study, read_study
from tests.compiling import compile_data, study
from tests.synthetic import write_lines, write_plan

Loss = Callable[[RunPlan, str], float | None]
"""Final loss of a run and modality: inf for a run that failed, None for one that is pending."""
TRANSFER = {"base": {"width": 64, "depth": 2, "heads": 2, "batch": 16, "tokens": "100K"}, "gamma": 0}
Runs = tuple[RunPlan, ...]


def once(axes: list[dict[str, Any]], **base: Any) -> Runs:
    """The runs of a study, compiled once for many outcomes."""
    return compile_data(study(**base) | {"axes": axes}).runs


ARMS = {"list": [{"transfer": TRANSFER}, {"transfer": None}]}
SHAPES = {"list": [
    {"model.width": 64, "model.heads": 2}, {"model.width": 256, "model.heads": 8},
    {"model.width": 1024, "model.heads": 32}, {"model.depth": 8, "model.heads": 2},
]}  # fmt: skip


@cache
def watched() -> Runs:
    """Four shapes with CompleteP and without it, their activations logged."""
    return once([ARMS, SHAPES, {"seeds": 2}], monitor__activations=True)


def scaled(run: RunPlan) -> bool:
    return (run.multipliers.head, run.multipliers.residual) != (1.0, 1.0)


def grows(width: float, depth: float) -> Callable[[RunPlan, int], dict[str, float]]:
    """Activations that grow as width^`width` and depth^`depth` without transfer, and stay with it."""

    def activations(run: RunPlan, step: int) -> dict[str, float]:
        factor = 1.0 if scaled(run) else (run.model.width / 64) ** width * (run.model.depth / 2) ** depth
        # Blocks add up: what has passed the same share of them is compared.
        blocks = {f"block.{n}": factor * (n + 1) / run.model.depth for n in range(run.model.depth)}
        return {"embedding": 1.0, **blocks, "final": 1.0, "logits": 0.0 if step == 1 else factor * step}

    return activations


def level(run: RunPlan, modality: str) -> float:
    return 3.0


def never(run: RunPlan, modality: str) -> None:
    return None


RATES = [1e-3 * 2**k for k in range(6)]
WIDTHS = {"zip": {"model.width": [64, 256], "model.heads": [2, 8]}}


@cache
def swept() -> Runs:
    """Learning rates at two widths, with CompleteP and without it."""
    return once([ARMS, WIDTHS, {"grid": {"optimizer.lr": RATES}}, {"seeds": 2}])


def rate(run: RunPlan) -> float:
    return float(run.point["optimizer.lr"] or 0)


def bowl(best: Callable[[RunPlan], float]) -> Callable[[RunPlan, str], float]:
    return lambda run, modality: 3 + 0.1 * math.log2(rate(run) / best(run)) ** 2


BATCHES = (4, 8, 16, 32, 64)
CRITICAL = {**TRANSFER, "critical": {"batch": 32}}
SIDES = {"list": [
    {"transfer": CRITICAL, "batch.logical": 16, "batch.allow_supercritical": True},
    {"transfer": None, "batch.logical": None},
]}  # fmt: skip


@cache
def rescaled() -> Runs:
    """Physical batches at one logical batch, and where the logical batch is the physical one."""
    return once([SIDES, {"grid": {"batch.physical": list(BATCHES)}}, {"seeds": 3}], tokens="200K", model__heads=2)


def dependence(with_: float, without: float, beyond: float = 0.0) -> Callable[[RunPlan, str], float]:
    """Losses that rise by so much over BATCHES up to 32, and by `beyond` at 64; images half as much."""

    def loss(run: RunPlan, modality: str) -> float:
        place = math.log(min(run.batch.physical, 32) / 16) / math.log(8)
        # The run at the logical batch is both sides'.
        slope = without if run.batch.critical is None else with_
        share = 1.0 if modality == "text" else 0.5
        return 3 + 0.1 * run.seed + share * (slope * place + (beyond if run.batch.physical == 64 else 0.0))

    return loss


GRID = [4, 8, 16, 32, 64]
HORIZONS = [1e5, 2e5, 4e5, 1.6e6]


@cache
def sweeps() -> Runs:
    """Logical batches at four horizons."""
    return once(
        [{"grid": {"batch.logical": GRID}}, {"grid": {"tokens": HORIZONS}}, {"seeds": 2}],
        batch__physical=4,
        transfer=TRANSFER,
    )


def bent(gamma: float, at_base: float = 12.0, curvature: float = 0.03) -> Callable[[RunPlan, str], float]:
    """A parabola in log batch whose lowest point is at_base · (D / 100K)^gamma."""

    def loss(run: RunPlan, modality: str) -> float:
        best = at_base * (run.tokens / 1e5) ** gamma
        return 3 - 0.1 * math.log(run.tokens) + curvature * math.log(run.batch.logical / best) ** 2

    return loss


def finished(
    runs: Runs,
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
        reason = "loss is NaN" if failed else ""
        status = Status(state="failed" if failed else "done", reason=reason, diverged=failed, step=run.steps)
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


def trained(
    out: Path,
    loss: Callable[[RunPlan, Any], Any],
    noise: float = 0.0,
    seed: int = 0,
    gradient: Callable[[RunPlan], tuple[float, float]] | None = None,
) -> Study:
    """The study under `out` with training losses: those of `loss` at an array of steps, and noise on each.

    `gradient` gives what the signal and the noise of the gradient are on average, estimated at each of these steps.
    """
    rng = np.random.default_rng(seed)
    for run in read_study(out / "tiny").plan.runs:
        steps = np.arange(1, run.steps + 1)
        losses = loss(run, steps) + rng.normal(0, noise, len(steps))
        rows = [metrics(run, int(step), None, float(value)) for step, value in zip(steps, losses, strict=True)]
        if gradient is not None:
            drawn = np.array(gradient(run)) * (1 + rng.normal(0, 0.5, (len(steps), 2)))
            rows = [
                msgspec.structs.replace(row, gradient_noise={MIX: GradientNoise(signal=float(s), noise=float(n))})
                for row, (s, n) in zip(rows, drawn, strict=True)
            ]
        write_lines(store_folder(out, run.id) / "metrics.jsonl", rows)
    return read_study(out / "tiny")


def metrics(run: RunPlan, step: int, activations: dict[str, float] | None, loss: float = 3.0) -> Metrics:
    return Metrics(
        step=step,
        tokens=round(step * run.tokens / run.steps),
        loss=loss,
        losses=dict.fromkeys(run.modalities, loss),
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
