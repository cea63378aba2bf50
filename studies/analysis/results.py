"""A study's folder as tidy tables: a row per run, per logged step, per evaluation, and `results.parquet`.

Only the runs of the study's current plan are read. A study can be read while it runs: half-written lines are skipped
and counted, steps that a resumed run logged twice are kept once, as last written. `docs/results.md` lists the columns
with their units.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import polars as pl

from compiler.files import PLAN, decode, write_atomically
from compiler.identity import Identity
from compiler.plan import Noise, RunPlan, StudyPlan
from compiler.records import MIX, read_status, store_folder
from specs.errors import Problem, SpecError
from studies.analysis.lines import size_of
from studies.analysis.logs import Logs
from studies.analysis.reading import Layout, Schema

_FEW = 1 << 24
"""Bytes of metrics up to which they are read with the study, and not when they are first asked for."""

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

_PLANNED: Schema = {
    "id": pl.String,
    "modality": pl.String,
    "weight": pl.Float64,
    "noise": pl.String,
    "epochs": pl.Float64,
    "tokens_modality": pl.Float64,
}


@dataclass(frozen=True)
class Study:
    """One study as read.

    `runs` has the columns `RUNS`, in the plan's order; `evaluations` a row per evaluation and modality, in the order of
    steps, with `id` and the fields of `compiler.records.Evaluation`, the nelbo by token modality in columns
    `nelbo:PART`. `broken` counts lines of evaluations that could not be read.

    The rows of training, `logs`, are read when they are first asked for where they are many (above 16 MB); all else is
    as it was when the study was read.
    """

    folder: Path
    plan: StudyPlan
    runs: pl.DataFrame
    evaluations: pl.DataFrame
    broken: int
    logs: Logs

    @property
    def metrics(self) -> pl.DataFrame:
        """A row per logged step with `id` and the fields of `compiler.records.Metrics`: the losses by modality in
        columns `loss:MODALITY`, the gradient noise in `signal:MODALITY` and `noise:MODALITY` (also of the mix, `MIX`),
        the activations in `activation:NAME`, all of them null where a row has none.

        These are all rows, some 200 bytes each: where there are millions, use `scan_metrics`, or what is made of them
        as they are read, `curves_of`, `utilisation` and `bands`.
        """
        return self.logs.rows

    @property
    def skipped(self) -> int:
        """Lines of the runs' rows that could not be read, such as the one that is being written."""
        return self.broken + sum(digest.skipped for digest in self.logs.digests.values())

    @property
    def modalities(self) -> list[str]:
        """Every modality of any run, in the plan's order."""
        return list(dict.fromkeys(name for run in self.plan.runs for name in run.modalities))

    def scan_metrics(self) -> pl.LazyFrame:
        """`metrics`, lazily: where they are not yet read, runs are read one after the other while a query is collected,
        and only the columns that it takes."""
        return self.logs.scan()

    def curves_of(self, points: int) -> pl.DataFrame:
        """Training curves of at most `points` rows in all: `id`, `modality`, `tokens`, `loss` and `rows`.

        A row is the mean over a stretch of tokens: of the tokens of its `rows` logged steps, and of their training
        losses (nats per token; modality "all": the mix). Stretches have equal length in log tokens, the same for all
        runs, as fine as `points` allows, at most 12 to a doubling. Where even stretches of three doublings are too
        many, only every so many runs are there.
        """
        return self.logs.curves_of(points)

    def utilisation(self) -> pl.DataFrame:
        """A row per run that has logged a step: `id`; `rows`, how many; `step`, `tokens` and `seconds` of the last; and
        means over rows of `tokens_per_second`, `padding`, `data_wait` and `mfu` (the first steps left out), null where
        no row has them."""
        return self.logs.utilisation()

    def bands(self) -> pl.DataFrame:
        """What each quarter of t adds to the training loss late in a run: `id`, `band` (1, the least masked, to 4),
        `loss` in nats per token, its mean over the second half of the run's tokens so far."""
        return self.logs.bands()

    def results(self) -> pl.DataFrame:
        """`results.parquet`: a row per finished run and modality, from its last evaluation, and one for the mix.

        The mix, modality "all", is Σ weight · nelbo over the run's modalities; it is left out where one of them has no
        evaluation at that step. `tokens` is the planned D of the run, `tokens_seen` what it had trained on at that
        evaluation. The other columns are in `docs/results.md`.
        """
        return self._results

    def curves(self) -> pl.DataFrame:
        """Held-out loss over training: the columns of `results`, a row per evaluation, run and modality, of unfinished
        runs too. `step`, `tokens_seen` and `flops_seen` are those of the evaluation; `state` is the run's."""
        rows = _with_mix(self.evaluations.filter(pl.col("nelbo").is_finite()), self._planned)
        joined = self._joined(self.runs.drop("reason", "step", "diverged"), rows)
        return joined.with_columns(flops_seen=pl.col("flops") * pl.col("step") / pl.col("steps"))

    @cached_property
    def _results(self) -> pl.DataFrame:
        last = self.evaluations.unique(["id", "modality"], keep="last", maintain_order=True)
        rows = _with_mix(last.filter(pl.col("nelbo").is_finite()), self._planned)
        return self._joined(self.runs.filter(state="done").drop("state", "reason", "step"), rows.drop("step"))

    @cached_property
    def _planned(self) -> pl.DataFrame:
        return pl.DataFrame([row for run in self.plan.runs for row in _planned(run)], schema=_PLANNED, orient="row")

    def _joined(self, runs: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
        """`rows` of `runs`, in the order of runs, then of rows."""
        rows = rows.rename({"tokens": "tokens_seen"}).join(
            self._planned, on=["id", "modality"], how="left", maintain_order="left"
        )
        front = ["id", "name", "seed", "modality", "params", "params_non_embedding", "tokens", "flops", "nelbo"]
        front += ["standard_error", "conditional"]
        return runs.join(rows, on="id", maintain_order="left_right").select(*front, pl.exclude(front))


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

    layout = _layout(plan.runs)
    places = {run.id: run_folder(folder, run.id) for run in plan.runs}
    evaluations, broken = layout.read_evaluations({run: place / "eval.jsonl" for run, place in places.items()})
    points = configurations(plan.runs)
    study = Study(
        folder=folder,
        plan=plan,
        runs=pl.DataFrame([_run_row(run, points[run.id], places[run.id]) for run in plan.runs], RUNS, orient="row"),
        evaluations=evaluations,
        broken=broken,
        logs=Logs(folder, layout, {run: place / "metrics.jsonl" for run, place in places.items()}),
    )
    if sum(map(size_of, study.logs.files.values())) <= _FEW:
        study.logs.read()
    return study


def write_results(study: Study) -> Path:
    """Write the study's `results.parquet` and give back its path."""
    path = study.folder / "results.parquet"
    data = io.BytesIO()
    study.results().write_parquet(data)
    write_atomically(path, data.getvalue())
    return path


def run_folder(folder: Path, run_id: str) -> Path:
    """Where run `run_id` of the study in `folder` lies: its link, or its place in the store beside the study."""
    link = folder / "runs" / run_id
    return link if link.exists() else store_folder(folder.resolve().parent, run_id)


def configurations(runs: Iterable[RunPlan]) -> dict[str, int]:
    """A number per run id, equal for runs that differ in their seed alone."""
    numbers: dict[str, int] = {}
    identity = Identity()
    return {run.id: numbers.setdefault(identity.of(msgspec.structs.replace(run, seed=0)), len(numbers)) for run in runs}


def describe_noise(noise: Noise) -> str:
    """A noise schedule in words: "cosine", "polynomial 2", "linear (image: cosine)"."""
    detail = {"polynomial": f" {noise.power:g}", "log-linear": f" {noise.eps:g}"}.get(noise.kind, "")
    if noise.kind == "table":
        detail = " " + " ".join(f"{t:g}:{alpha:g}" for t, alpha in zip(noise.t, noise.alpha, strict=True))
    parts = ", ".join(f"{name}: {describe_noise(part)}" for name, part in noise.segments.items())
    return f"{noise.kind}{detail}{f' ({parts})' if parts else ''}"


def _with_mix(rows: pl.DataFrame, planned: pl.DataFrame) -> pl.DataFrame:
    """`rows` of evaluations after those of the mix, for each run and step at which every modality of positive weight
    was evaluated."""
    weights = planned.filter((pl.col("modality") != MIX) & (pl.col("weight") > 0)).select("id", "modality", "weight")
    mix = (
        rows.join(weights, on=["id", "modality"], maintain_order="left")
        .group_by("id", "step", maintain_order=True)
        .agg(
            pl.lit(MIX).alias("modality"),
            (pl.col("weight") * pl.col("nelbo")).sum().alias("nelbo"),
            (pl.col("weight") * pl.col("standard_error")).pow(2).sum().sqrt().alias("standard_error"),
            pl.col("scored_tokens", "sequences").sum(),
            pl.col("tokens").max(),
            pl.len().alias("found"),
        )
        .join(weights.group_by("id").len("expected"), on="id", maintain_order="left")
        .filter(pl.col("found") == pl.col("expected"))
        .drop("found", "expected")
    )
    return pl.concat([mix, rows], how="diagonal_relaxed").select(rows.columns)


def _planned(run: RunPlan) -> list[tuple[object, ...]]:
    """What the plan says of a run's modalities, and of the mix: rows of `_PLANNED`."""
    schedules = {name: describe_noise(plan.noise) for name, plan in run.modalities.items()}
    rows: list[tuple[object, ...]] = [
        (run.id, name, plan.weight, schedules[name], run.epochs.get(plan.data), plan.tokens)
        for name, plan in run.modalities.items()
    ]
    weight = round(sum(plan.weight for plan in run.modalities.values()), 12)
    noise = next(iter(schedules.values())) if len(set(schedules.values())) == 1 else None
    return [*rows, (run.id, MIX, weight, noise, max(run.epochs.values(), default=None), run.tokens)]


def _layout(runs: tuple[RunPlan, ...]) -> Layout:
    modalities = dict.fromkeys(name for run in runs for name in run.modalities)
    parts = dict.fromkeys(part.name for run in runs for part in run.vocabulary.parts)
    return Layout(tuple(modalities), max((run.model.depth for run in runs), default=0), (*parts, "special"))


def _run_row(run: RunPlan, point: int, place: Path) -> tuple[object, ...]:
    parameters = run.model.parameters
    status = read_status(place)
    return (
        *(run.id, run.name, run.seed, point, parameters.total, parameters.non_embedding),
        *(run.model.width, run.model.depth, run.model.heads, run.tokens, run.steps, run.sequence_length),
        *(run.batch.logical, run.batch.physical, run.batch.critical, run.batch.kappa, run.optimizer.lr),
        *(run.flops, run.hardware_flops, msgspec.json.encode(run.point).decode()),
        *(status.state, status.reason, status.step, status.diverged),
    )
