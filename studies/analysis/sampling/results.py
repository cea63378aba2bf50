"""A sampling study's folder as read: its plan, the points that are judged, and what is missing or broken.

A study can be read while it is being drawn: points without results are named, not waited for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from compiler.files import decode, read_plan
from compiler.sampling import JUDGED, PLAN, POINTS, Judged, Sampler, SamplingPlan, SamplingPoint, Score

_TYPES: dict[Any, Any] = {str: pl.String, int: pl.Int64, int | None: pl.Int64, float: pl.Float64}

COLUMNS: dict[str, Any] = {
    "id": pl.String,
    "name": pl.String,
    "run": pl.String,
    "run_name": pl.String,
    "task": pl.String,
    "n": pl.Int64,
    "seed": pl.Int64,
    **{field.name: _TYPES[field.type] for field in msgspec.structs.fields(Sampler)},
    "calls": pl.Float64,
    "tokens": pl.Int64,
    "seconds": pl.Float64,
    "tokens_per_second": pl.Float64,
    "judge": pl.String,
    "quality": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "real": pl.Float64,
    "relative": pl.Float64,
}
"""Columns of `table` that every study has: the fields of `Judged` and of its sampler, then the score that decides:
`judge` is its name, `quality` its value, `low` to `high` 90 %, `real` that of real data, `relative` quality / real."""

_JUDGED = msgspec.json.Decoder(Judged)
_PLAN = msgspec.json.Decoder(SamplingPlan)


@dataclass(frozen=True)
class SamplingStudy:
    """One study as read: `points` are judged, `missing` have no results yet, both in the plan's order; `broken` says of
    each point whose results cannot be used why."""

    folder: Path
    plan: SamplingPlan
    points: tuple[Judged, ...]
    missing: tuple[SamplingPoint, ...]
    broken: tuple[str, ...]

    @property
    def tasks(self) -> list[str]:
        """Every task of the plan, in its order."""
        return list(dict.fromkeys(point.task for point in self.plan.points))


def read_sampling(folder: str | Path) -> SamplingStudy:
    """Read the sampling study in `folder` (`OUT/STUDY`). Raises `SpecError` where it holds no readable plan."""
    folder = Path(folder)
    plan = read_plan(
        folder / PLAN,
        _PLAN,
        absent="name the folder of a sampling study, such as runs/NAME, after `triptych run`",
        broken="write it anew with `triptych run`",
    )
    points: list[Judged] = []
    missing: list[SamplingPoint] = []
    broken: list[str] = []
    for point in plan.points:
        try:
            judged = decode(folder / POINTS / point.id / JUDGED, _JUDGED)
        except FileNotFoundError:
            missing.append(point)
            continue
        except (OSError, msgspec.MsgspecError) as error:
            broken.append(f"{point.name or point.id}: {JUDGED} cannot be read ({error})")
            continue
        wrong = _wrong(judged, point)
        if wrong:
            broken.append(f"{point.name or point.id}: {wrong}")
        else:
            points.append(judged)
    return SamplingStudy(folder, plan, tuple(points), tuple(missing), tuple(broken))


def headline(judged: Judged) -> Score:
    """The score that decides."""
    return next(score for score in judged.scores if score.name == judged.quality)


def table(study: SamplingStudy) -> pl.DataFrame:
    """A row a judged point: `COLUMNS`, then `score:NAME` and `real:NAME` of every score, with the ends `low:NAME` and
    `high:NAME` of its interval, and `control:CONTROL:NAME` of every control's; null where a point has none."""
    rows = [_row(judged, study.plan.names) for judged in study.points]
    scored = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    return pl.DataFrame(rows, schema=COLUMNS | dict.fromkeys(scored, pl.Float64))


def _wrong(judged: Judged, point: SamplingPoint) -> str:
    """Why results cannot be those of `point`; empty where they can."""
    if (judged.id, judged.run, judged.task, judged.sampler) != (point.id, point.run, point.task, point.sampler):
        return f"{JUDGED} is of another point"
    if max(Counter(score.name for score in judged.scores).values(), default=0) > 1:
        return f"{JUDGED} has two scores of one name"
    if all(score.name != judged.quality for score in judged.scores):
        return f"{JUDGED} has no score {judged.quality!r}, which is to decide"
    if judged.calls <= 0:
        return f"{JUDGED} says that the network was not called"
    return ""


def _row(judged: Judged, names: dict[str, str]) -> dict[str, Any]:
    quality = headline(judged)
    row = {
        **{field: getattr(judged, field) for field in ("id", "name", "run", "task", "n", "seed")},
        **msgspec.structs.asdict(judged.sampler),
        **{field: getattr(judged, field) for field in ("calls", "tokens", "seconds")},
        "run_name": names.get(judged.run, ""),
        "tokens_per_second": judged.tokens / judged.seconds if judged.seconds > 0 else None,
        "judge": judged.quality,
        "quality": quality.value,
        "low": quality.low,
        "high": quality.high,
        "real": quality.real,
        "relative": quality.value / quality.real if quality.real else None,
    }
    for score in judged.scores:
        ends = {"score": score.value, "real": score.real, "low": score.low, "high": score.high}
        row |= {f"{end}:{score.name}": value for end, value in ends.items()}
    for control, scores in judged.controls.items():
        row |= {f"control:{control}:{score.name}": score.value for score in scores}
    return row
