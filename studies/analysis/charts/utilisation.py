"""The figures of what runs cost and how well they used their devices; each takes a `utilisation` table."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from studies.analysis.charts.axes import (
    HEIGHT,
    brush,
    labels,
    linear_axis,
    log_axis,
    ordinal,
    picked,
    shape,
    shown,
)

_SIZE = "non-embedding parameters"


def hours(rows: pl.DataFrame) -> alt.LayerChart:
    """Device-hours that runs took over those planned for what they have done; the dashed line is as planned."""
    rows = rows.filter(pl.col("planned_hours") > 0, pl.col("hours") > 0)
    ends = pl.concat([rows["planned_hours"], rows["hours"]])
    line = pl.DataFrame({"planned_hours": [ends.min(), ends.max()], "hours": [ends.min(), ends.max()]})
    x = log_axis("planned_hours", "planned device-hours", format=".2~g")
    y = log_axis("hours", "device-hours taken", format=".2~g", channel=alt.Y)
    equal = alt.Chart(line).mark_line(color="gray", strokeDash=[5, 4], strokeWidth=1.2).encode(x=x, y=y)
    return alt.layer(equal, _marks(rows, x, y)).properties(height=HEIGHT, width="container")


def throughput(rows: pl.DataFrame) -> alt.Chart:
    """Tokens per second of each run, the mean over its logged steps, over its parameters."""
    rows = rows.filter(pl.col("tokens_per_second") > 0)
    y = log_axis("tokens_per_second", "tokens per second", counts=True, channel=alt.Y)
    return _marks(rows, _size(), y).properties(height=HEIGHT, width="container")


def mfu(rows: pl.DataFrame) -> alt.Chart:
    """Model FLOPs utilisation of each run, the mean over its logged steps, over its parameters."""
    rows = rows.filter(pl.col("mfu").is_finite())
    y = linear_axis("mfu", "model FLOPs utilisation", ".0%", zero=True)
    return _marks(rows, _size(), y).properties(height=HEIGHT, width="container")


def waste(rows: pl.DataFrame) -> alt.Chart:
    """The share of each run's time that it waited for data, and of its positions that were padding, over its
    parameters."""
    named = rows.select("id", "run", "params_non_embedding", pl.col("data_wait").alias("waiting for data"), "padding")
    long = named.unpivot(
        ["waiting for data", "padding"],
        index=["id", "run", "params_non_embedding"],
        variable_name="what",
        value_name="share",
    )
    long = long.filter(pl.col("share").is_finite())
    key = alt.Legend(symbolOpacity=1)
    return (
        alt.Chart(long)
        .mark_point(filled=True, size=48)
        .encode(
            x=_size(),
            y=linear_axis("share", "share", ".0%", zero=True),
            color=alt.Color("what:N", title=None, legend=key),
            shape=alt.Shape("what:N", title=None, legend=key),
            opacity=shown(0.9, 0.08),
            tooltip=[alt.Tooltip("run:N"), alt.Tooltip("what:N"), alt.Tooltip("share:Q", format=".1%")],
        )
        .add_params(picked(), brush())
        .properties(height=HEIGHT, width="container")
    )


def _size() -> Any:
    return log_axis("params_non_embedding", _SIZE, counts=True)


def _marks(rows: pl.DataFrame, x: Any, y: Any) -> alt.Chart:
    rows = rows.with_columns(size=labels("params_non_embedding"))
    sizes = rows["params_non_embedding"]
    return (
        alt.Chart(rows)
        .mark_point(filled=True, size=48)
        .encode(
            x=x,
            y=y,
            color=ordinal("size", _SIZE, sizes),
            shape=shape("size", _SIZE, sizes),
            opacity=shown(0.9, 0.08),
            tooltip=[
                alt.Tooltip("run:N"),
                alt.Tooltip("planned_hours:Q", title="planned device-hours", format=".3~g"),
                alt.Tooltip("hours:Q", title="device-hours", format=".3~g"),
                alt.Tooltip("tokens_per_second:Q", title="tokens per second", format=",.0f"),
                alt.Tooltip("mfu:Q", title="MFU", format=".1%"),
            ],
        )
        .add_params(picked(), brush())
    )
