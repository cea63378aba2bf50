"""A study's folder as tidy tables: a row per run, per logged step, per evaluation, and `results.parquet`.

Only the runs of the study's current plan are read. A study can be read while it runs: half-written lines are skipped
and counted, steps that a resumed run logged twice are kept once, as last written.

Units: `params` are counts, `tokens` non-padding tokens of the whole mix, `flops` model FLOPs of the whole run (forward
and backward), `nelbo` and `conditional` nats per non-padding token.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from compiler.files import PLAN, decode, open_plain
from compiler.plan import RunPlan, StudyPlan
from compiler.records import MIX, read_status, store_folder
from specs.errors import Problem, SpecError

Schema = dict[str, pl.DataType | type[pl.DataType]]

RUNS: Schema = {
    "id": pl.String,
    "name": pl.String,
    "seed": pl.Int64,
    "point": pl.UInt32,
    "params": pl.Int64,
    "params_non_embedding": pl.Int64,
    "width": pl.Int64,
    "depth": pl.Int64,
    "heads": pl.Int64,
    "tokens": pl.Float64,
    "steps": pl.Int64,
    "sequence_length": pl.Int64,
    "batch_logical": pl.Float64,
    "batch_physical": pl.Int64,
    "batch_critical": pl.Float64,
    "kappa": pl.Float64,
    "lr": pl.Float64,
    "flops": pl.Float64,
    "hardware_flops": pl.Float64,
    "axes": pl.String,
    "state": pl.String,
    "reason": pl.String,
    "step": pl.Int64,
    "diverged": pl.Boolean,
}
"""Columns of `Study.runs`. `point` numbers the configurations: runs that differ in seed alone share it. `axes` is
what the study's axes set, path to value, as JSON; `lr` the learning rate after the batch and token transfer."""

_EVALUATIONS: Schema = {
    "step": pl.Int64,
    "tokens": pl.Int64,
    "modality": pl.String,
    "nelbo": pl.Float64,
    "standard_error": pl.Float64,
    "conditional": pl.Float64,
    "scored_tokens": pl.Int64,
    "sequences": pl.Int64,
}
_METRICS: Schema = {
    "step": pl.Int64,
    "tokens": pl.Int64,
    "loss": pl.Float64,
    "lr": pl.Float64,
    "grad_norm": pl.Float64,
    "tokens_per_second": pl.Float64,
    "padding": pl.Float64,
    "seconds": pl.Float64,
    "bands": pl.List(pl.Float64),
    "parameter_norm": pl.Float64,
    "update_norm": pl.Float64,
    "data_wait": pl.Float64,
    "mfu": pl.Float64,
}
_GRADIENT_NOISE = pl.Struct({"signal": pl.Float64, "noise": pl.Float64})


@dataclass(frozen=True)
class Study:
    """One study as read.

    `runs` has the columns `RUNS`, in the plan's order; `metrics` a row per logged step with `id` and the fields of
    `compiler.records.Metrics`: the losses by modality in columns `loss:MODALITY`, the gradient noise in
    `signal:MODALITY` and `noise:MODALITY` (also of the mix, `MIX`), the activations in `activation:NAME`, all of them
    null where a row has none; `evaluations` a row per evaluation and modality with `id`. `skipped` counts lines that
    could not be read.
    """

    folder: Path
    plan: StudyPlan
    runs: pl.DataFrame
    metrics: pl.DataFrame
    evaluations: pl.DataFrame
    skipped: int

    @property
    def modalities(self) -> list[str]:
        """Every modality of any run, in the plan's order."""
        return list(dict.fromkeys(name for run in self.plan.runs for name in run.modalities))

    def results(self) -> pl.DataFrame:
        """`results.parquet`: a row per finished run and modality, from its last evaluation, and one for the mix.

        The mix, modality "all", is Σ weight · nelbo over the run's modalities; it is left out where one of them has no
        evaluation. `tokens` is the planned D of the run, `tokens_seen` what it had trained on at that evaluation.
        """
        weights = pl.DataFrame(
            [(run.id, name, m.weight) for run in self.plan.runs for name, m in run.modalities.items()],
            schema={"id": pl.String, "modality": pl.String, "weight": pl.Float64},
            orient="row",
        )
        last = (
            weights.join(self.evaluations.rename({"tokens": "tokens_seen"}).drop("step"), on=["id", "modality"])
            .unique(["id", "modality"], keep="last", maintain_order=True)
            .filter(pl.col("nelbo").is_finite())
        )
        expected = weights.group_by("id").len("expected")
        weighted = pl.col("weight") * pl.col("nelbo")
        mix = (
            last.group_by("id", maintain_order=True)
            .agg(
                pl.lit(MIX).alias("modality"),
                weighted.sum().alias("nelbo"),
                (pl.col("weight") * pl.col("standard_error")).pow(2).sum().sqrt().alias("standard_error"),
                pl.col("scored_tokens", "sequences").sum(),
                pl.col("tokens_seen").max(),
                pl.col("weight").sum().round(12),
                pl.len().alias("found"),
            )
            .join(expected, on="id")
            .filter(pl.col("found") == pl.col("expected"))
            .drop("found", "expected")
        )
        finished = self.runs.filter(state="done").drop("state", "reason", "step").with_row_index("order")
        rows = finished.join(pl.concat([mix, last], how="diagonal_relaxed"), on="id", maintain_order="left_right")
        front = ["id", "name", "seed", "modality", "params", "params_non_embedding", "tokens", "flops", "nelbo"]
        front += ["standard_error", "conditional"]
        for name in ("standard_error", "conditional"):
            if name not in rows.columns:
                rows = rows.with_columns(pl.lit(None, pl.Float64).alias(name))
        return rows.sort("order", maintain_order=True).drop("order").select(*front, pl.exclude(front))


def modality_title(modality: str) -> str:
    """What people read for a modality."""
    return "the mix" if modality == MIX else modality


def read_study(folder: str | Path) -> Study:
    """Read the study in `folder` (`OUT/STUDY`). Raises `SpecError` where it holds no readable plan."""
    folder = Path(folder)
    path = folder / "plan.json"
    try:
        plan = decode(path, msgspec.json.Decoder(StudyPlan), PLAN)
    except (FileNotFoundError, NotADirectoryError):
        what, todo = "the folder holds no study", "name the folder of one, such as runs/NAME, after `triptych run`"
        raise SpecError([Problem(str(path), 1, "plan", what, todo)]) from None
    except (msgspec.MsgspecError, OSError) as error:
        what = f"the plan cannot be read ({error})"
        raise SpecError([Problem(str(path), 1, "plan", what, "write it anew with `triptych run`")]) from None

    modalities = list(dict.fromkeys(name for run in plan.runs for name in run.modalities))
    blocks = max((run.model.depth for run in plan.runs), default=0)
    places = ["embedding", *(f"block.{i}" for i in range(blocks)), "final", "logits"]
    parts = [*modalities, MIX]
    logged: Schema = {
        **_METRICS,
        "losses": pl.Struct(dict.fromkeys(modalities, pl.Float64())),
        "gradient_noise": pl.Struct(dict.fromkeys(parts, _GRADIENT_NOISE)),
        "activations": pl.Struct(dict.fromkeys(places, pl.Float64())),
    }
    statuses: list[tuple[object, ...]] = []
    metrics: list[pl.DataFrame] = []
    evaluations: list[pl.DataFrame] = []
    skipped = 0
    for run in plan.runs:
        place = run_folder(folder, run.id)
        status = read_status(place)
        statuses.append((status.state, status.reason, status.step, status.diverged))
        for name, schema, keep in (("metrics.jsonl", logged, metrics), ("eval.jsonl", _EVALUATIONS, evaluations)):
            frame, lost = read_rows(place / name, schema)
            skipped += lost
            keep.append(frame.select(pl.lit(run.id).alias("id"), pl.all()))
    points = _points(plan.runs)
    runs = [_run_row(run, points[run.id]) + status for run, status in zip(plan.runs, statuses, strict=True)]
    steps = _together(metrics, {"id": pl.String, **logged}).select(
        pl.exclude("losses", "gradient_noise", "activations"),
        *(pl.col("losses").struct.field(name).alias(f"loss:{name}") for name in modalities),
        *(
            pl.col("gradient_noise").struct.field(name).struct.field(field).alias(f"{field}:{name}")
            for name in parts
            for field in ("signal", "noise")
        ),
        *(pl.col("activations").struct.field(name).alias(f"activation:{name}") for name in places),
    )
    return Study(
        folder=folder,
        plan=plan,
        runs=pl.DataFrame(runs, schema=RUNS, orient="row"),
        metrics=steps.unique(["id", "step"], keep="last", maintain_order=True),
        evaluations=_together(evaluations, {"id": pl.String, **_EVALUATIONS})
        .unique(["id", "step", "modality"], keep="last", maintain_order=True)
        .sort("step", maintain_order=True),
        skipped=skipped,
    )


def write_results(study: Study) -> Path:
    """Write the study's `results.parquet` and give back its path."""
    path = study.folder / "results.parquet"
    partial = path.with_name(f".{path.name}")
    study.results().write_parquet(partial)
    partial.replace(path)
    return path


def run_folder(folder: Path, run_id: str) -> Path:
    """Where run `run_id` of the study in `folder` lies: its link, or its place in the store beside the study."""
    link = folder / "runs" / run_id
    return link if link.exists() else store_folder(folder.resolve().parent, run_id)


def read_rows(path: Path, schema: Schema) -> tuple[pl.DataFrame, int]:
    """The rows of a JSON-lines file with the columns of `schema`, and how many lines could not be read.

    A missing file, or what is no plain file, is an empty table; a missing field is null; fields that the schema does
    not name are dropped.
    """
    try:
        with open_plain(path) as file:
            data = file.read()
    except OSError:
        return pl.DataFrame(schema=schema), 0
    whole, _, rest = data.rpartition(b"\n")
    try:
        complete = pl.read_ndjson(io.BytesIO(whole), schema=schema) if whole.strip() else pl.DataFrame(schema=schema)
        tail, skipped = _read_each([rest], schema)
    except pl.exceptions.PolarsError:
        # A line inside the file is broken (a run was killed while writing, and later went on): take it line by line.
        complete, skipped = _read_each(data.split(b"\n"), schema)
        tail = complete.clear()
    return pl.concat([complete, tail]), skipped


def _read_each(lines: list[bytes], schema: Schema) -> tuple[pl.DataFrame, int]:
    frames, skipped = [pl.DataFrame(schema=schema)], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            frames.append(pl.read_ndjson(io.BytesIO(line), schema=schema))
        except pl.exceptions.PolarsError:
            skipped += 1
    return pl.concat(frames), skipped


def _together(frames: list[pl.DataFrame], schema: Schema) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=schema), *frames])


def _points(runs: tuple[RunPlan, ...]) -> dict[str, int]:
    """A number per configuration: equal for runs whose plans differ in seed (and so in id and name) alone."""
    numbers: dict[bytes, int] = {}
    by_id = {}
    for run in runs:
        bare = msgspec.structs.replace(run, id="", name="", seed=0, point={})
        by_id[run.id] = numbers.setdefault(msgspec.json.encode(bare), len(numbers))
    return by_id


def _run_row(run: RunPlan, point: int) -> tuple[object, ...]:
    parameters = run.model.parameters
    return (
        *(run.id, run.name, run.seed, point, parameters.total, parameters.non_embedding),
        *(run.model.width, run.model.depth, run.model.heads, run.tokens, run.steps, run.sequence_length),
        *(run.batch.logical, run.batch.physical, run.batch.critical, run.batch.kappa, run.optimizer.lr),
        *(run.flops, run.hardware_flops, msgspec.json.encode(run.point).decode()),
    )
