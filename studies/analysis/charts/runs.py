"""The figures of a study's runs, as Altair charts; the report is made of these, and each stands alone in a notebook.

Charts name no colours: sizes and token counts are ordinal and take the theme's ordinal range, so that one chart serves
light and dark. All rows carry fixed column names; what users named stands in values, never in field names.
"""

from __future__ import annotations

import altair as alt
import polars as pl

from compiler.records import MIX
from studies.analysis.charts.axes import (
    HEIGHT,
    brush,
    labels,
    log_axis,
    nelbo_axis,
    ordinal,
    picked,
    shape,
    shown,
)
from studies.analysis.results import Study

MOST_POINTS = 20_000
"""Bound on the rows that the loss curves of one study hold, over all runs and modalities."""
_PER_LINE = 24
"""And on those of one line, where there are few: finer stretches would show the noise of single batches."""


def loss_curves(study: Study, points: int = MOST_POINTS) -> alt.Chart:
    """Training loss against tokens, a line per run, coloured by size.

    The modality is chosen by a menu, sizes by a click in the legend; the axes drag,
    and zoom by the wheel with shift, so that the page still scrolls. Each line is the mean over
    stretches of equal length in log tokens, at most `points` rows in all, since single steps are noisy.
    """
    names = [MIX, *study.modalities]
    rows = curve_rows(study, points)
    chosen = alt.param(name="modality", value=MIX, bind=alt.binding_select(options=names, name="Modality "))
    size = alt.selection_point(name="sizes", fields=["size"], bind="legend", toggle="true")
    zoom = alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.shiftKey]")
    return (
        alt.Chart(rows, height=HEIGHT + 60, width="container")
        .transform_filter("datum.modality === modality")
        .mark_line(strokeWidth=1.6)
        .encode(
            x=log_axis("tokens", "training tokens", counts=True),
            y=log_axis("loss", "training loss, nats per token"),
            color=ordinal("size", "non-embedding parameters", study.runs["params_non_embedding"]),
            detail="id:N",
            opacity=shown(0.6, 0.06, size),
            tooltip=[
                alt.Tooltip("run:N"),
                alt.Tooltip("size:N", title="non-embedding"),
                alt.Tooltip("tokens:Q", format=".3~s"),
                alt.Tooltip("loss:Q", format=".3f"),
            ],
        )
        .add_params(picked(), chosen, size, zoom)
        .properties(description="Training loss against tokens, a line for each run, coloured by size")
    )


def curve_rows(study: Study, points: int = MOST_POINTS) -> pl.DataFrame:
    """The rows behind `loss_curves`: `id`, `modality`, `tokens`, `loss`, `run` and `size`, at most `points` of them."""
    named = study.runs.select("id", run="name", size=labels("params_non_embedding"))
    return (
        study.curves_of(min(points, _PER_LINE * len(study.runs) * (1 + len(study.modalities))))
        .filter(pl.col("loss").is_finite() & (pl.col("loss") > 0) & (pl.col("tokens") > 0))
        .select("id", "modality", pl.col("tokens").round(), pl.col("loss").round(4))
        .join(named, on="id", maintain_order="left")
    )


def loss_against_flops(results: pl.DataFrame, modality: str) -> alt.LayerChart:
    """Held-out nelbo against training FLOPs, a line per size through its mean over seeds, a point per run."""
    return _points_and_lines(results, modality, log_axis("flops", "training FLOPs", format=".1~e"))


def loss_against_tokens(results: pl.DataFrame, modality: str) -> alt.LayerChart:
    """Held-out nelbo against training tokens, a line per size through its mean over seeds, a point per run."""
    return _points_and_lines(results, modality, log_axis("tokens", "training tokens", counts=True))


def points(results: pl.DataFrame, modality: str) -> pl.DataFrame:
    """The rows of one modality's runs that figures draw; figures of one modality share them."""
    return results.filter(pl.col("modality") == modality).select(
        "id",
        "point",
        "nelbo",
        "standard_error",
        "params",
        "params_non_embedding",
        "tokens",
        "flops",
        run="name",
        size=labels("params_non_embedding"),
        budget=labels("tokens"),
    )


def tooltip() -> list[alt.Tooltip]:
    """What the point of a run says."""
    return [
        alt.Tooltip("run:N"),
        alt.Tooltip("size:N", title="non-embedding"),
        alt.Tooltip("tokens:Q", format=".3~s"),
        alt.Tooltip("flops:Q", title="FLOPs", format=".2e"),
        alt.Tooltip("nelbo:Q", format=".4f"),
        alt.Tooltip("standard_error:Q", title="standard error", format=".4f"),
    ]


def _points_and_lines(results: pl.DataFrame, modality: str, x: alt.X) -> alt.LayerChart:
    rows = points(results, modality)
    title, sizes = "non-embedding parameters", results["params_non_embedding"]
    color = ordinal("size", title, sizes)
    chosen = alt.selection_point(name="sizes", fields=["size"], bind="legend", toggle="true")
    means = rows.group_by("point", "size", "flops", "tokens", maintain_order=True).agg(pl.col("nelbo").mean())
    line = (
        alt.Chart(means)
        .mark_line(strokeWidth=1.6)
        .encode(
            x=x, color=color, y=nelbo_axis(), opacity=alt.when(chosen).then(alt.value(0.7)).otherwise(alt.value(0.1))
        )
    )
    marks = (
        alt.Chart(rows)
        .mark_point(filled=True, size=48)
        .encode(
            x=x,
            y=nelbo_axis(),
            color=color,
            shape=shape("size", title, sizes),
            opacity=shown(1, 0.08, chosen),
            tooltip=tooltip(),
        )
    )
    return alt.layer(line, marks.add_params(picked(), chosen, brush())).properties(height=HEIGHT, width="container")
