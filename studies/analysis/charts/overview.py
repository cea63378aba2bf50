"""The figures that show all runs of a study at once, from which runs are picked for all other figures."""

from __future__ import annotations

from typing import get_args

import altair as alt
import polars as pl

from compiler.records import State
from studies.analysis.charts.axes import (
    HEIGHT,
    brush,
    labels,
    linear_axis,
    log_axis,
    nelbo_axis,
    ordinal,
    picked,
    shape,
    shown,
)
from studies.analysis.charts.runs import points, tooltip

STATES = ("done", "failed", "running", *(s for s in get_args(State) if s not in ("done", "failed", "running")))
# The golden angle: a spiral whose points lie evenly, each so much of the axis from the next.
_TURN, _APART = 2.39996, 0.012
_SHAPES = ("circle", "cross", "triangle-up", "square", "diamond", "triangle-down")


def planned_runs(runs: pl.DataFrame) -> alt.Chart:
    """Every run of a `Study.runs` table by size and tokens, by its state, those of the same next to each other; drag
    over them to pick."""
    rows = runs.select(
        "id",
        "flops",
        "state",
        *_side_by_side("params_non_embedding", "tokens"),
        run="name",
        size=labels("params_non_embedding"),
        budget=labels("tokens"),
    )
    found = [state for state in STATES if state in set(rows["state"])]
    key = alt.Legend(values=found, symbolOpacity=1)
    scale = {"domain": list(STATES)}
    return (
        alt.Chart(rows)
        .mark_point(filled=True, size=60)
        .encode(
            x=log_axis("params_non_embedding", "non-embedding parameters", counts=True),
            y=log_axis("tokens", "training tokens", counts=True, channel=alt.Y),
            color=alt.Color("state:N", title="state", scale=alt.Scale(**scale), legend=key),
            shape=alt.Shape("state:N", title="state", scale=alt.Scale(range=list(_SHAPES), **scale), legend=key),
            opacity=shown(0.9, 0.1),
            tooltip=[
                alt.Tooltip("run:N"),
                alt.Tooltip("state:N"),
                alt.Tooltip("size:N", title="non-embedding"),
                alt.Tooltip("budget:N", title="tokens"),
                alt.Tooltip("flops:Q", title="FLOPs", format=".2e"),
            ],
        )
        .add_params(picked(), brush())
        .properties(height=HEIGHT, width="container", description="All runs by parameters and tokens, by their state")
    )


def _side_by_side(x: str, y: str) -> list[pl.Expr]:
    """Both columns, moved so that rows which share both do not hide each other: along a spiral, on logarithmic axes."""
    place = pl.int_range(pl.len()).over(x, y).cast(pl.Float64)
    angle, radius = _TURN * place, _APART * place.sqrt()
    return [
        pl.col(name).cast(pl.Float64) * (radius * part * (pl.col(name).max() / pl.col(name).min()).log()).exp()
        for name, part in ((x, angle.cos()), (y, angle.sin()))
    ]


def outcomes(results: pl.DataFrame, modality: str) -> alt.Chart:
    """The held-out nelbo of every finished run over its FLOPs, or, where all cost the same, in the plan's order; drag
    over them to pick."""
    rows = points(results, modality).with_row_index("place", 1)
    title, sizes = "non-embedding parameters", rows["params_non_embedding"]
    if rows["flops"].max() > 1.02 * rows["flops"].min():  # type: ignore[operator]
        x = log_axis("flops", "training FLOPs", format=".1~e")
    else:
        x = linear_axis("place", "finished runs, in the plan's order", "d", alt.X)
    return (
        alt.Chart(rows)
        .mark_point(filled=True, size=60)
        .encode(
            x=x,
            y=nelbo_axis(),
            color=ordinal("size", title, sizes),
            shape=shape("size", title, sizes),
            opacity=shown(0.9, 0.1),
            tooltip=tooltip(),
        )
        .add_params(picked(), brush())
        .properties(height=HEIGHT, width="container", description="Held-out nelbo of every finished run over its FLOPs")
    )
