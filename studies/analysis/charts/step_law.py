"""The figure of the best learning rate over size or tokens."""

from __future__ import annotations

from typing import Literal

import altair as alt
import numpy as np
import polars as pl

from specs.quantities import format_quantity
from studies.analysis.charts.axes import HEIGHT, log_axis, near, ordinal, within
from studies.analysis.laws.optima import StepLaw

Along = Literal["N", "D"]

_IN, _OUT = "in the law", "left out"
_TITLES: dict[str, str] = {"N": "parameters", "D": "training tokens"}


def best_rates(law: StepLaw, along: Along) -> alt.LayerChart:
    """Best learning rates over size (or tokens) with 90 % bars, and the law, a colour for each value of the other."""
    other = "D" if along == "N" else "N"
    points = [
        (
            getattr(one, along),
            getattr(one, other),
            one.lr,
            *one.lr_interval,
            _OUT if one.left_out else _IN,
        )
        for one in law.optima
        if np.isfinite(one.lr)
    ]
    columns = {"at": pl.Float64, "other": pl.Float64, "lr": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    table = pl.DataFrame(points, schema={**columns, "part": pl.String}, orient="row")
    x = np.geomspace(min(getattr(one, along) for one in law.optima), max(getattr(one, along) for one in law.optima), 40)
    lines = []
    for value in sorted({getattr(one, other) for one in law.optima}):
        at = (x, np.full_like(x, value))
        lrs = law.lr.predict(*(at if along == "N" else at[::-1]))
        lines.append(pl.DataFrame({"at": x, "lr": lrs}).with_columns(other=pl.lit(float(value))))
    values = table["other"]
    words = pl.col("other").map_elements(format_quantity, return_dtype=pl.String)
    color = ordinal("group", _TITLES[other], values)
    # An optimum whose interval is open must not stretch the axis.
    ends = near([table["lr"], *(line["lr"] for line in lines)], [table["low"], table["high"]])
    low, rate = (
        within(log_axis(field, "best learning rate", format=".2~e", channel=alt.Y), *ends) for field in ("low", "lr")
    )
    at_x = log_axis("at", _TITLES[along], counts=True)
    base = alt.Chart(table.with_columns(group=words)).encode(x=at_x, color=color)
    return alt.layer(
        alt.Chart(pl.concat(lines).with_columns(group=words))
        .mark_line(strokeWidth=1.6, strokeDash=[5, 4])
        .encode(x=at_x, y=rate, color=color),
        base.mark_rule(strokeWidth=1.6, clip=True).encode(y=low, y2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            y=rate,
            shape=alt.Shape("part:N", title=None, scale=alt.Scale(domain=[_IN, _OUT])),
            tooltip=[
                alt.Tooltip("at:Q", title=_TITLES[along], format=".3~s"),
                alt.Tooltip("group:N", title=_TITLES[other]),
                alt.Tooltip("lr:Q", title="best lr", format=".3~g"),
                alt.Tooltip("part:N", title="takes part"),
            ],
        ),
    ).properties(height=HEIGHT, width="container")
