"""The figures of the critical batch."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import polars as pl

from studies.analysis.charts.axes import HEIGHT, legend, log_axis, sizes_axis
from studies.analysis.questions.critical_batch import CriticalBatch

_FITTED, _BROKEN, _NOISE = "hyperbola", "break of the final loss", "simple noise scale"


def steps_to_loss(found: CriticalBatch) -> alt.LayerChart:
    """Steps to each loss over the physical batch, a mean over seeds, and the hyperbola through them."""
    names = [f"{target.loss:.3f}" for target in found.targets]
    points, curves = [], []
    for name, target in zip(names, found.targets, strict=True):
        points += [
            (name, float(batch), steps, batch * steps)
            for batch, steps in zip(target.batches, target.steps, strict=True)
        ]
        if target.fit is not None:
            grid = np.geomspace(target.batches[0], target.batches[-1], 40).tolist()
            curves += [(name, batch, target.fit.steps(batch), batch * target.fit.steps(batch)) for batch in grid]
    color = alt.Color("loss:O", title="to a loss of", sort=names, legend=legend())
    tooltip = [
        alt.Tooltip("loss:N", title="to a loss of"),
        alt.Tooltip("batch:Q", title="physical batch", format=".3~g"),
        alt.Tooltip("steps:Q", format=".4~g"),
        alt.Tooltip("sequences:Q", format=".4~g"),
    ]

    def layer(rows: list[tuple[str, float, float, float]]) -> alt.Chart:
        schema = {"loss": pl.String, "batch": pl.Float64, "steps": pl.Float64, "sequences": pl.Float64}
        return alt.Chart(pl.DataFrame(rows, schema=schema, orient="row")).encode(
            x=sizes_axis("batch", "physical batch, sequences", list(found.batches)),
            y=log_axis("steps", "steps to the loss", channel=alt.Y),
            color=color,
            tooltip=tooltip,
        )

    return alt.layer(
        layer(curves).mark_line(strokeWidth=1.6), layer(points).mark_point(filled=True, size=40, opacity=1)
    ).properties(height=HEIGHT, width="container")


def critical_over_loss(found: CriticalBatch) -> alt.LayerChart:
    """B_crit of the hyperbola over the loss that is reached, with 90 % bars; lines are where the final loss breaks at
    the longest horizon, and the simple noise scale. What lies far outside the batches is drawn at the figure's edge."""
    lowest, highest = found.batches[0] / 4, found.batches[-1] * 4

    def inside(batch: float) -> float:
        return min(max(batch, lowest), highest)

    rows = []
    for target in found.targets:
        if target.fit is not None:
            ends = target.fit.intervals.get("critical", (target.fit.critical, target.fit.critical))
            value = target.fit.critical
            low, high = map(inside, ends)
            rows.append((target.loss, inside(value), low, high, f"{value:.3g}", _FITTED))
    others = []
    if found.breaks and found.breaks[-1].critical is not None:
        others.append((found.breaks[-1].critical, _BROKEN))
    if found.noise_scale is not None and math.isfinite(found.noise_scale.simple):
        others.append((inside(found.noise_scale.simple), _NOISE))
    table = pl.DataFrame(
        rows,
        schema={
            "loss": pl.Float64,
            "batch": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
            "shown": pl.String,
            "kind": pl.String,
        },
        orient="row",
    )
    lines = pl.DataFrame(others, schema={"batch": pl.Float64, "kind": pl.String}, orient="row")
    seen = [*found.batches, *(batch for row in rows for batch in row[1:4]), *(batch for batch, _ in others)]
    scale = alt.Scale(type="log", base=2, nice=False, padding=12, domain=[min(seen), max(seen)])
    axis = alt.Axis(title="critical batch, sequences", format=".3~g", labelOverlap="greedy")
    x = alt.X("loss:Q", axis=alt.Axis(title="loss reached, nats per token", tickCount=5), scale=alt.Scale(zero=False))
    kinds = [_FITTED, *(kind for _, kind in others)]
    color = alt.Color("kind:O", title=None, sort=kinds, legend=legend())
    base = alt.Chart(table).encode(x=x, color=color)
    return alt.layer(
        alt.Chart(lines)
        .mark_rule(strokeWidth=1.6, strokeDash=[5, 4])
        .encode(y=alt.Y("batch:Q", scale=scale, axis=axis), color=color, tooltip=["kind:N", "batch:Q"]),
        base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q"),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            y=alt.Y("batch:Q", scale=scale, axis=axis),
            tooltip=[alt.Tooltip("loss:Q", format=".4f"), alt.Tooltip("shown:N", title="B_crit")],
        ),
    ).properties(height=HEIGHT, width="container")
