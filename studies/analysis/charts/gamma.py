"""The figures of the logical batch."""

from __future__ import annotations

import math
from typing import get_args

import altair as alt
import numpy as np
import polars as pl

from specs.quantities import format_quantity
from studies.analysis.charts.axes import COUNTS, HEIGHT, labelled_axis, legend, sizes_axis
from studies.analysis.questions.gamma import Gamma, Role


def batch_sweeps(found: Gamma) -> alt.LayerChart:
    """Loss over the logical batch at each horizon, above the least of its parabola, and the optima as rings."""
    points, curves, optima = [], [], []
    names = [format_quantity(horizon.tokens) for horizon in found.horizons]
    for name, horizon in zip(names, found.horizons, strict=True):
        if horizon.window is None or horizon.tuned is None:
            continue
        least = horizon.loss(horizon.tuned)
        points += [
            (name, batch, loss - least)
            for batch, loss in zip(horizon.batches, horizon.losses, strict=True)
            if math.isfinite(loss)
        ]
        grid = np.geomspace(*horizon.window, 40)
        curves += [(name, float(batch), horizon.loss(float(batch)) - least) for batch in grid]
        optima.append((name, horizon.tuned, 0.0))
    schema = {"tokens": pl.String, "batch": pl.Float64, "above": pl.Float64}
    color = alt.Color("tokens:O", title="tokens", sort=names, legend=legend())
    batches = sorted({batch for horizon in found.horizons for batch in horizon.batches})
    y = alt.Y("above:Q", axis=alt.Axis(title="nelbo above the curve's least, nats", tickCount=5))

    def layer(rows: list[tuple[str, float, float]]) -> alt.Chart:
        table = pl.DataFrame(rows, schema=schema, orient="row")
        return alt.Chart(table).encode(
            x=sizes_axis("batch", "logical batch, sequences", batches),
            y=y,
            color=color,
            tooltip=[
                alt.Tooltip("tokens:N"),
                alt.Tooltip("batch:Q", title="logical batch", format=".3~g"),
                alt.Tooltip("above:Q", title="above the least", format=".4f"),
            ],
        )

    return alt.layer(
        layer(curves).mark_line(strokeWidth=1.6),
        layer(points).mark_point(filled=True, size=40, opacity=1),
        layer(optima).mark_point(filled=False, size=180, strokeWidth=2, opacity=1),
    ).properties(height=HEIGHT, width="container")


def batch_law(found: Gamma) -> alt.LayerChart:
    """The best logical batch over the horizon with its 90 % bar, and the fitted power law; horizons that took no part
    in the fit have other marks, and the law reaches to them."""
    horizons = [horizon.tokens for horizon in found.horizons]
    ends = [batch for horizon in found.horizons for batch in (horizon.batches or (1.0,))]
    # An optimum that is hardly determined, or not at all, must not stretch the axis beyond use.
    lowest, highest = min(ends) / 2, max(ends) * 2
    rows = []
    for horizon in found.horizons:
        if horizon.best is not None:
            low, high = horizon.interval or (horizon.best, horizon.best)
            bar = (min(max(end, lowest), highest) for end in (low, high))
            rows.append((horizon.tokens, horizon.best, *bar, found.role(horizon)))
    table = pl.DataFrame(
        rows,
        schema={
            "tokens": pl.Float64,
            "batch": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
            "kind": pl.String,
        },
        orient="row",
    )
    line = pl.DataFrame(
        [(tokens, found.law(tokens)) for tokens in (min(horizons), max(horizons))] if found.gamma is not None else [],
        schema={"tokens": pl.Float64, "batch": pl.Float64},
        orient="row",
    )
    scale = alt.Scale(type="log", base=2, nice=False, padding=12, domain=[lowest, highest], clamp=True)
    axis = alt.Axis(title="best logical batch, sequences", format=".3~g", labelOverlap="greedy")
    x = labelled_axis("tokens", "training tokens", horizons, labelExpr=COUNTS)
    color = alt.Color("kind:O", title=None, sort=list(get_args(Role)), legend=legend())
    base = alt.Chart(table).encode(x=x, color=color)
    return alt.layer(
        alt.Chart(line)
        .mark_line(strokeWidth=1.6, strokeDash=[5, 4], color="gray")
        .encode(x=x, y=alt.Y("batch:Q", scale=scale, axis=axis)),
        base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q"),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            y=alt.Y("batch:Q", scale=scale, axis=axis),
            shape=alt.Shape("kind:N", sort=list(get_args(Role)), legend=None),
            tooltip=[
                alt.Tooltip("tokens:Q", format=".3~s"),
                alt.Tooltip("batch:Q", title="best batch", format=".3~g"),
                alt.Tooltip("low:Q", format=".3~g"),
                alt.Tooltip("high:Q", format=".3~g"),
            ],
        ),
    ).properties(height=HEIGHT, width="container")
