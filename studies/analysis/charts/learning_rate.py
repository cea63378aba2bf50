"""The figure of learning-rate transfer."""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from studies.analysis.charts.axes import HEIGHT, labelled_axis, legend, nelbo_axis
from studies.analysis.questions.learning_rate import Transfer


def learning_rates(transfer: Transfer) -> alt.LayerChart:
    """Final nelbo of the mix over the learning rate, a line for each shape, its best ringed; crosses are failures."""
    rows, lost = [], []
    shapes = [f"{curve.width} × {curve.depth}" for curve in transfer.curves]
    finite = [x for curve in transfer.curves for x in curve.losses if x is not None and math.isfinite(x)]
    top = max(finite, default=1.0)
    for shape, curve in zip(shapes, transfer.curves, strict=True):
        for lr, loss in zip(curve.lrs, curve.losses, strict=True):
            if loss is not None and math.isfinite(loss):
                rows.append((shape, lr, loss, lr == curve.best))
            elif loss is not None:
                lost.append((shape, lr, top))
    table = pl.DataFrame(
        rows, schema={"shape": pl.String, "lr": pl.Float64, "nelbo": pl.Float64, "best": pl.Boolean}, orient="row"
    )
    failures = pl.DataFrame(lost, schema={"shape": pl.String, "lr": pl.Float64, "nelbo": pl.Float64}, orient="row")
    color = alt.Color("shape:O", title="width × depth", sort=shapes, legend=legend())
    x = labelled_axis(
        "lr", "learning rate", sorted({lr for curve in transfer.curves for lr in curve.lrs}), format=".2~e"
    )
    tooltip = [
        alt.Tooltip("shape:N", title="width × depth"),
        alt.Tooltip("lr:Q", title="learning rate", format=".3~g"),
        alt.Tooltip("nelbo:Q", format=".4f"),
    ]
    base = alt.Chart(table).encode(x=x, y=nelbo_axis(), color=color, tooltip=tooltip)
    layers = [
        base.mark_line(strokeWidth=1.6),
        base.mark_point(filled=True, size=40, opacity=1),
        base.transform_filter("datum.best").mark_point(filled=False, size=180, strokeWidth=2, opacity=1),
    ]
    if lost:
        crosses = alt.Chart(failures).mark_point(shape="cross", angle=45, filled=True, size=90, opacity=1)
        layers.append(crosses.encode(x=x, y=nelbo_axis(), color=color, tooltip=tooltip[:2]))
    return alt.layer(*layers).properties(height=HEIGHT, width="container")
