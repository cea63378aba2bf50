"""The figures of a study, as Altair charts; the report is made of these, and each stands alone in a notebook.

Charts name no colours: sizes and token counts are ordinal and take the theme's ordinal range, so that one chart serves
light and dark. All rows carry fixed column names; what users named stands in values, never in field names.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import polars as pl

from compiler.records import MIX
from specs.quantities import format_quantity
from studies.analysis.charts.axes import HEIGHT, labels, log_axis, nelbo_axis, ordinal, thinned
from studies.analysis.fits import COLUMN, Count
from studies.analysis.laws.chinchilla import Fit
from studies.analysis.results import Study

MOST_POINTS = 20_000
"""Bound on the rows that the loss curves of one study hold, over all runs and modalities."""
MOST_CURVES = 8
"""Bound on the law's curves in one chart; the points are all drawn."""


def loss_curves(study: Study, points: int = MOST_POINTS) -> alt.Chart:
    """Training loss against tokens, a line per run, coloured by size.

    The modality is chosen by a menu, sizes by a click in the legend; the axes drag,
    and zoom by the wheel with shift, so that the page still scrolls. Each line is the mean over
    stretches of equal length in log tokens, at most `points` rows in all, since single steps are noisy.
    """
    names = [MIX, *study.modalities]
    rows = curve_rows(study, points)
    chosen = alt.param(name="modality", value=MIX, bind=alt.binding_select(options=names, name="Modality "))
    size = alt.selection_point(fields=["size"], bind="legend", toggle="true")
    zoom = alt.selection_interval(bind="scales", zoom="wheel![event.shiftKey]")
    return (
        alt.Chart(rows, height=HEIGHT + 60, width="container")
        .transform_filter("datum.modality === modality")
        .mark_line(strokeWidth=1.6)
        .encode(
            x=log_axis("tokens", "training tokens", counts=True),
            y=log_axis("loss", "training loss, nats per token"),
            color=ordinal("size", "non-embedding parameters", study.runs["params_non_embedding"]),
            detail="id:N",
            opacity=alt.when(size).then(alt.value(0.9)).otherwise(alt.value(0.08)),
            tooltip=[
                alt.Tooltip("run:N"),
                alt.Tooltip("size:N", title="non-embedding"),
                alt.Tooltip("tokens:Q", format=".3~s"),
                alt.Tooltip("loss:Q", format=".3f"),
            ],
        )
        .add_params(chosen, size, zoom)
    )


def curve_rows(study: Study, points: int = MOST_POINTS) -> pl.DataFrame:
    """The rows behind `loss_curves`: `id`, `run`, `size`, `modality`, `tokens`, `loss`, at most `points` of them."""
    lines = max(1, study.metrics["id"].n_unique()) * (1 + len(study.modalities))
    buckets = int(np.clip(points // lines, 2, 80))
    long = study.metrics.select(
        "id", "tokens", pl.col("loss").alias(MIX), *(pl.col(f"loss:{m}").alias(m) for m in study.modalities if m != MIX)
    ).unpivot(index=["id", "tokens"], variable_name="modality", value_name="loss")
    long = long.filter(pl.col("loss").is_finite() & (pl.col("loss") > 0) & (pl.col("tokens") > 0))
    log = pl.col("tokens").log()
    place = (log - log.min().over("id")) / (log.max().over("id") - log.min().over("id") + 1e-9)
    return (
        long.with_columns((place * (buckets - 1e-6)).floor().alias("bucket"))
        .group_by("id", "modality", "bucket", maintain_order=True)
        .agg(pl.col("tokens").mean().round(), pl.col("loss").mean().round(4))
        .drop("bucket")
        .join(study.runs.select("id", run="name", size=labels("params_non_embedding")), on="id", maintain_order="left")
    )


def loss_against_flops(results: pl.DataFrame, modality: str) -> alt.LayerChart:
    """Held-out nelbo against training FLOPs, a line per size through its mean over seeds, a point per run."""
    color = ordinal("size", "non-embedding parameters", results["params_non_embedding"])
    return _points_and_lines(
        _points(results, modality), log_axis("flops", "training FLOPs", format=".1~e"), color, group="size"
    )


def loss_against_tokens(results: pl.DataFrame, modality: str) -> alt.LayerChart:
    """Held-out nelbo against training tokens, a line per size through its mean over seeds, a point per run."""
    color = ordinal("size", "non-embedding parameters", results["params_non_embedding"])
    return _points_and_lines(
        _points(results, modality), log_axis("tokens", "training tokens", counts=True), color, group="size"
    )


def law(results: pl.DataFrame, modality: str, fitted: Fit, count: Count) -> alt.LayerChart:
    """The fitted law over parameters, a curve for each token count with its 90 % band, and the runs as points."""
    rows = _points(results, modality).with_columns(N=pl.col(COLUMN[count]))
    sizes = rows["N"].to_numpy()
    x = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 48)
    curves = []
    for tokens in thinned(rows["tokens"].unique().sort().to_list(), MOST_CURVES):
        line = {"N": x, "nelbo": fitted.law(x, np.full_like(x, tokens))}
        if len(fitted.samples):
            line["low"], line["high"] = fitted.band(x, np.full_like(x, tokens))
        curves.append(pl.DataFrame(line).with_columns(budget=pl.lit(format_quantity(tokens))))
    law_rows = pl.concat(curves)
    what = "non-embedding parameters" if count == "non_embedding" else "parameters"
    color = ordinal("budget", "tokens", results["tokens"])
    base = alt.Chart(law_rows).encode(x=log_axis("N", what, counts=True), color=color)
    layers = [base.mark_line(strokeWidth=1.6).encode(y=nelbo_axis())]
    if len(fitted.samples):
        layers.insert(0, base.mark_area(opacity=0.18).encode(y=nelbo_axis("low"), y2="high:Q"))
    points = (
        alt.Chart(rows)
        .mark_point(filled=True, size=48, opacity=1)
        .encode(x=log_axis("N", what, counts=True), y=nelbo_axis(), color=color, tooltip=_tooltip())
    )
    return alt.layer(*layers, points).properties(height=HEIGHT, width="container")


def _points(results: pl.DataFrame, modality: str) -> pl.DataFrame:
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


def _points_and_lines(rows: pl.DataFrame, x: alt.X, color: alt.Color, group: str) -> alt.LayerChart:
    picked = alt.selection_point(fields=[group], bind="legend", toggle="true")
    base = alt.Chart(rows).encode(x=x, color=color)
    means = alt.Chart(
        rows.group_by("point", "size", "budget", "flops", "tokens", maintain_order=True).agg(pl.col("nelbo").mean())
    ).encode(x=x, color=color)
    line = means.mark_line(strokeWidth=1.6).encode(
        y=nelbo_axis(), opacity=alt.when(picked).then(alt.value(0.8)).otherwise(alt.value(0.1))
    )
    points = base.mark_point(filled=True, size=48).encode(
        y=nelbo_axis(),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1)),
        tooltip=_tooltip(),
    )
    return alt.layer(line, points.add_params(picked)).properties(height=HEIGHT, width="container")


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("run:N"),
        alt.Tooltip("size:N", title="non-embedding"),
        alt.Tooltip("tokens:Q", format=".3~s"),
        alt.Tooltip("flops:Q", title="FLOPs", format=".2e"),
        alt.Tooltip("nelbo:Q", format=".4f"),
        alt.Tooltip("standard_error:Q", title="standard error", format=".4f"),
    ]
