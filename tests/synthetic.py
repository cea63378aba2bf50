"""A study's folder made by hand through the public record types: runs that follow a known law, with noise."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np

from compiler.clusters import find_cluster
from compiler.plan import (
    BatchPlan,
    CheckpointPlan,
    EvaluationPlan,
    Memory,
    MixStage,
    ModalityPlan,
    ModelPlan,
    MonitorPlan,
    Multipliers,
    Noise,
    OptimizerPlan,
    ParallelPlan,
    Parameters,
    RunPlan,
    SchedulePlan,
    StudyPlan,
    TimePlan,
    Totals,
    Vocabulary,
    VocabularyPart,
)
from compiler.records import Evaluation, Metrics, State, Status, store_folder, study_folder
from studies.analysis.laws.chinchilla_law import Law

LAWS = {
    "text": Law(E=3.6, A=55.0, B=900.0, alpha=0.42, beta=0.52),
    "image": Law(E=2.0, A=18.0, B=500.0, alpha=0.33, beta=0.49),
    "audio": Law(E=1.4, A=30.0, B=700.0, alpha=0.36, beta=0.48),
}
SIZES = {32: 36_000, 48: 83_000, 64: 151_000, 96: 333_000}
TOKENS = (2e5, 4e5, 8e5)


def modality(name: str, weight: float, data: str | None = None) -> ModalityPlan:
    segments = ("text",) if name == "text" else ("text", name)
    return ModalityPlan(
        weight=weight,
        share=weight,
        data=data or f"embedded/{name}",
        digest="0",
        noise=Noise(kind="linear"),
        segments=segments,
        packed=name == "text",
        mean_tokens=96.0,
        tokens=weight * 8e5,
    )


def run_plan(width: int, params: int, tokens: float, seed: int, modalities: dict[str, ModalityPlan]) -> RunPlan:
    steps = round(tokens / (96 * 8))
    return RunPlan(
        id=f"{width:04x}{int(tokens):010x}{seed:02x}",
        name=f"width={width},tokens={tokens:g},seed={seed}",
        seed=seed,
        point={"model.width": width, "tokens": tokens},
        tokens=tokens,
        steps=steps,
        sequence_length=128,
        model=ModelPlan(
            width=width,
            depth=2,
            heads=2,
            ffn=4 * width,
            vocabulary=1900,
            parameters=Parameters(total=params + 2 * 1900 * width, non_embedding=params),
        ),
        vocabulary=Vocabulary(size=1900, parts=(VocabularyPart(name="text", offset=0, size=512),), specials={}),
        modalities=modalities,
        mix=(
            MixStage(
                start=0,
                weights={m: plan.weight for m, plan in modalities.items()},
                shares={m: plan.share for m, plan in modalities.items()},
            ),
        ),
        batch=BatchPlan(logical=8.0, physical=8, micro=8, accumulation=1, kappa=1.0, critical=None),
        optimizer=OptimizerPlan(lr=4e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1),
        clip=None,
        groups=(),
        multipliers=Multipliers(residual=1.0, head=1.0, embedding=1.0, attention=0.125),
        schedule=SchedulePlan(kind="cosine", warmup_steps=20, final=0.1),
        time=TimePlan(),
        head="full",
        parallel=ParallelPlan(),
        evaluation=EvaluationPlan(sequences=128, every=0),
        checkpoint=CheckpointPlan(every=100, keep=2),
        monitor=MonitorPlan(),
        log_every=10,
        dtype="float32",
        epochs=dict.fromkeys(modalities, 1.0),
        flops=6.0 * (params + 1900 * width) * tokens,
        hardware_flops=5.0 * (params + 1900 * width) * tokens,
        peak_flops=1e11,
        memory=Memory(per_rank=4, parameters=1, gradients=1, optimizer=1, activations=1),
        device_hours=0.01,
    )


def make_study(
    out: Path,
    name: str = "demo",
    sizes: dict[int, int] = SIZES,
    tokens: tuple[float, ...] = TOKENS,
    seeds: int = 1,
    laws: dict[str, Law] = LAWS,
    noise: float = 0.002,
    states: dict[int, tuple[State, str]] | None = None,
    data: dict[str, str] | None = None,
) -> Path:
    """Write a study of `sizes` × `tokens` × `seeds` under `out`; `states` gives run k another state than done."""
    rng = np.random.default_rng(0)
    weights = np.arange(len(laws), 0, -1) / (len(laws) * (len(laws) + 1) / 2)
    modalities = {m: modality(m, float(w), (data or {}).get(m)) for m, w in zip(laws, weights, strict=True)}
    runs = tuple(
        run_plan(width, params, D, seed, modalities)
        for width, params in sizes.items()
        for D in tokens
        for seed in range(seeds)
    )
    folder = write_plan(out, name, runs)
    for k, run in enumerate(runs):
        state, reason = (states or {}).get(k, ("done", ""))
        place = store_folder(out, run.id)
        done = run.steps if state == "done" else run.steps // 2
        status = Status(state=state, reason=reason, attempts=1, step=done)
        (place / "status.json").write_bytes(msgspec.json.encode(status))
        if state == "pending":
            continue
        write_lines(place / "metrics.jsonl", curve(run, laws, done, rng))
        if state == "done":
            write_lines(place / "eval.jsonl", evaluations(run, laws, noise, rng))
    return folder


def write_plan(out: Path, name: str, runs: tuple[RunPlan, ...]) -> Path:
    """The folder of a study of `runs`, none of them begun."""
    totals = Totals(
        runs=len(runs), tokens=sum(r.tokens for r in runs), flops=sum(r.flops for r in runs), device_hours=0.1
    )
    plan = StudyPlan(
        study=name,
        digest="d1ge57",
        warnings=(),
        cluster=find_cluster("local"),
        excluded=0,
        hours=0.1,
        totals=totals,
        runs=runs,
    )
    folder = study_folder(out, name)
    (folder / "runs").mkdir(parents=True)
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    for run in runs:
        place = store_folder(out, run.id)
        place.mkdir(parents=True)
        (folder / "runs" / run.id).symlink_to(
            Path("../../../store") / run.id if "/" in name else Path("../../store") / run.id
        )
        (place / "run.json").write_bytes(msgspec.json.encode(run))
    return folder


def curve(run: RunPlan, laws: dict[str, Law], done: int, rng: np.random.Generator) -> list[Metrics]:
    rows = []
    for step in range(10, done + 1, run.log_every):
        seen = run.tokens * step / run.steps
        losses = {
            m: float(law(run.model.parameters.non_embedding, seen)) * math.exp(rng.normal(0, 0.05))
            for m, law in laws.items()
        }
        loss = sum(run.modalities[m].weight * value for m, value in losses.items())
        rows.append(
            Metrics(
                step=step,
                tokens=round(seen),
                loss=loss,
                losses=losses,
                lr=1e-3,
                grad_norm=1.0,
                tokens_per_second=2e4,
                padding=0.1,
                seconds=step * 0.05,
            )
        )
    return rows


def evaluations(run: RunPlan, laws: dict[str, Law], noise: float, rng: np.random.Generator) -> list[Evaluation]:
    rows = []
    for m, law in laws.items():
        nelbo = float(law(run.model.parameters.non_embedding, run.tokens)) * math.exp(rng.normal(0, noise))
        rows.append(
            Evaluation(
                step=run.steps,
                tokens=round(run.tokens),
                modality=m,
                nelbo=nelbo,
                standard_error=0.01,
                by_token_modality={"text": nelbo, "special": 0.5},
                conditional=None if m == "text" else nelbo * 0.9,
                scored_tokens=12_288,
                sequences=128,
            )
        )
    return rows


def write_lines(path: Path, rows: list[Metrics] | list[Evaluation]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
