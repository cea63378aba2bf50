"""How many steps runs take to a loss: read off final losses, evaluations, or the smoothed training loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from scipy.optimize import isotonic_regression

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.laws.base import Array
from studies.analysis.outcomes import Outcomes
from studies.analysis.results import Study

FEWEST_HORIZONS = 3
FEWEST_EVALUATIONS = 5
"""Evaluations over a run's training that make a curve."""
ALL_POINTS = 1 << 40
"""More than there are of curves: none are put together."""

Source = Literal["horizons", "evaluations", "training"]


class Point(NamedTuple):
    """A loss in nats per token after so many steps, the mean of `rows` logged ones."""

    step: float
    loss: float
    rows: int = 1


class Curve(NamedTuple):
    """Log steps and losses (m,) of one run, or of one batch and seed over horizons; losses fall strictly."""

    steps: Array
    losses: Array

    def reaches(self, loss: float) -> float | None:
        """Log steps to `loss`; None where it begins below it or does not come down to it."""
        # What it ends at it has reached, also where that was computed by other roundings.
        if not self.losses[0] > loss >= self.losses[-1] * (1 - 1e-12):
            return None
        return float(np.interp(-loss, -self.losses, self.steps))


Curves = dict[int, list[Curve]]
"""By physical batch."""


def falling_curves(
    study: Study, horizons: Mapping[float, list[RunPlan]], good: Sequence[RunPlan], ended: Outcomes
) -> tuple[Source, Curves]:
    """What the steps to a loss are read of: `good` are the runs that did not fail."""
    if len(horizons) >= FEWEST_HORIZONS:
        final: dict[tuple[int, int], list[Point]] = {}
        for run in good:
            final.setdefault((run.batch.physical, run.seed), []).append(Point(run.steps, ended[run.id][MIX]))
        return "horizons", _by_batch((batch, points) for (batch, _), points in final.items())
    longest = {run.id: run for run in list(horizons.values())[-1] if run in good}
    evaluated = _points(study.curves().filter(modality=MIX).select("id", "step", loss="nelbo", rows=pl.lit(1)), longest)
    source: Source = "evaluations"
    if len(evaluated) < len(longest) or min(map(len, evaluated.values()), default=0) < FEWEST_EVALUATIONS:
        per_step = pl.DataFrame(
            [(run.id, run.tokens / run.steps) for run in longest.values()],
            schema={"id": pl.String, "per_step": pl.Float64},
            orient="row",
        )
        logged = study.curves_of(ALL_POINTS).filter(modality=MIX).join(per_step, on="id")
        step = pl.col("tokens") / pl.col("per_step")
        evaluated = _points(logged.select("id", "loss", "rows", step=step), longest)
        source = "training"
    return source, _by_batch((longest[name].batch.physical, points) for name, points in evaluated.items())


def _points(table: pl.DataFrame, runs: Mapping[str, RunPlan]) -> dict[str, list[Point]]:
    """Points after the warm-up, by run, of a table of `id`, `step`, `loss` and `rows`."""
    begun = pl.DataFrame(
        [(run.id, run.schedule.warmup_steps) for run in runs.values()],
        schema={"id": pl.String, "begun": pl.Int64},
        orient="row",
    )
    kept = table.join(begun, on="id").filter(pl.col("step") > pl.col("begun"), pl.col("loss").is_finite())
    found: dict[str, list[Point]] = {}
    for name, *point in kept.select("id", "step", "loss", "rows").iter_rows():
        found.setdefault(name, []).append(Point(*point))
    return found


def _by_batch(points: Iterable[tuple[int, list[Point]]]) -> Curves:
    curves: Curves = {}
    for batch, some in points:
        curves.setdefault(batch, []).append(_curve(some))
    return curves


def _curve(points: Sequence[Point]) -> Curve:
    """The falling curve nearest to the points (isotonic regression), with straight lines over log steps between the
    middles of its levels."""
    steps, losses, rows = np.array(sorted(points), float).T
    falling = isotonic_regression(losses, weights=rows, increasing=False)
    begins = falling.blocks[:-1]
    return Curve(np.add.reduceat(rows * np.log(steps), begins) / np.add.reduceat(rows, begins), falling.x[begins])
