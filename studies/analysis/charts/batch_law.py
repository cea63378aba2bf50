"""The figure of the best batch by the law of steps and batch."""

from __future__ import annotations

import altair as alt
import polars as pl

from studies.analysis.charts.axes import COUNTS, HEIGHT, labelled_axis, legend, log_axis, near, within
from studies.analysis.questions.batch_law import BatchLaw

_BEST, _CRITICAL, _LOWEST = "best by the law", "critical by the law", "lowest of those run"


def best_batches(found: BatchLaw) -> alt.LayerChart:
    """Best and critical logical batch over the horizon, with 90 % bars, beside the lowest of those that were run."""
    rows = [
        row
        for one in found.horizons
        for row in (
            (one.tokens, _BEST, one.best, *one.best_interval),
            (one.tokens, _CRITICAL, one.critical, *one.critical_interval),
            (one.tokens, _LOWEST, one.lowest, one.lowest, one.lowest),
        )
    ]
    schema = {"tokens": pl.Float64, "kind": pl.String, "batch": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    kinds = [_BEST, _CRITICAL, _LOWEST]
    x = labelled_axis("tokens", "training tokens", [one.tokens for one in found.horizons], labelExpr=COUNTS)
    color = alt.Color("kind:O", title=None, sort=kinds, legend=legend())
    table = pl.DataFrame(rows, schema=schema, orient="row")
    base = alt.Chart(table).encode(x=x, color=color)
    ends = near([table["batch"]], [table["low"], table["high"]])
    low, batch = (
        within(log_axis(field, "logical batch, sequences", channel=alt.Y), *ends) for field in ("low", "batch")
    )
    return alt.layer(
        base.mark_rule(strokeWidth=1.6, clip=True).encode(y=low, y2="high:Q"),
        base.mark_line(strokeWidth=1.4).encode(y=batch),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            y=batch,
            shape=alt.Shape("kind:N", sort=kinds, legend=None),
            tooltip=[
                alt.Tooltip("kind:N", title="batch"),
                alt.Tooltip("tokens:Q", format=".3~s"),
                alt.Tooltip("batch:Q", format=".3~g"),
                alt.Tooltip("low:Q", format=".3~g"),
                alt.Tooltip("high:Q", format=".3~g"),
            ],
        ),
    ).properties(height=HEIGHT, width="container")
