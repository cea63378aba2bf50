"""The figure of what tokens of one modality are worth to another."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from studies.analysis.charts.axes import HEIGHT, legend
from studies.analysis.laws.joint_comparison import Comparison

_SCHEMA = {"to": pl.String, "of": pl.String, "worth": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def worths(comparisons: Sequence[Comparison]) -> alt.LayerChart:
    """How many own tokens one token of another modality is worth, with 90 % bars; dashed at nothing."""
    rows = []
    for one in comparisons:
        for name in one.transfer.modalities:
            value = one.transfer.parameters.get(f"tau_{name}")
            if value is not None:
                rows.append((one.modality, name, value, *one.transfer.intervals.get(f"tau_{name}", (value, value))))
    table = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    names = list(dict.fromkeys(name for one in comparisons for name in one.transfer.modalities))
    x = alt.X("to:N", axis=alt.Axis(title="to the loss of", labelAngle=0), sort=names)
    offset = alt.XOffset("of:N", sort=names)
    color = alt.Color("of:O", title="a token of", sort=names, legend=legend())
    base = alt.Chart(table).encode(x=x, xOffset=offset, color=color)
    axis = alt.Axis(title="worth in own tokens", tickCount=5)
    zero = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(strokeDash=[5, 4], color="gray").encode(y="zero:Q")
    return alt.layer(
        zero,
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", axis=axis), y2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            y=alt.Y("worth:Q", axis=axis),
            shape=alt.Shape("of:N", sort=names, legend=None),
            tooltip=[
                alt.Tooltip("of:N", title="a token of"),
                alt.Tooltip("to:N", title="to the loss of"),
                alt.Tooltip("worth:Q", format=".3f"),
                alt.Tooltip("low:Q", format=".3f"),
                alt.Tooltip("high:Q", format=".3f"),
            ],
        ),
    ).properties(height=HEIGHT, width="container")
