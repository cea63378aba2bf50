"""The figures of what a law leaves unexplained: by size, tokens and compute, and predicted against measured."""

from __future__ import annotations

from typing import Literal

import altair as alt
import polars as pl

from studies.analysis.charts.axes import HEIGHT, brush, linear_axis, log_axis, picked, shown

Against = Literal["N", "D", "C"]
FITTED, HELD_OUT = "fitted", "held out"

_TITLES = {"N": "parameters (N)", "D": "tokens (D)", "C": "FLOPs (C)"}


def residuals(rows: pl.DataFrame, against: Against) -> alt.LayerChart:
    """By how much each run's loss is above (plus) or below what the law says, in per cent of it, over N, D or C.

    `rows` has `id`, `run`, `N`, `D`, `C`, `nelbo`, `predicted`, `error` (in per cent) and `part`, `FITTED` or
    `HELD_OUT`.
    """
    x = log_axis(against, _TITLES[against], counts=against != "C", format=".1~e")
    zero = alt.Chart(pl.DataFrame({"error": [0.0]})).mark_rule(color="gray", strokeDash=[5, 4])
    y = linear_axis("error", "measured − predicted, %", "+.2~f")
    return alt.layer(zero.encode(y=y), _marks(rows).encode(x=x, y=y)).properties(height=HEIGHT - 60, width="container")


def predicted_against_measured(rows: pl.DataFrame) -> alt.LayerChart:
    """The law's loss over the measured one, the dashed line where they are equal; `rows` as for `residuals`."""
    ends = pl.concat([rows["nelbo"], rows["predicted"]])
    line = pl.DataFrame({"nelbo": [ends.min(), ends.max()], "predicted": [ends.min(), ends.max()]})
    x = log_axis("nelbo", "measured nelbo")
    y = log_axis("predicted", "predicted nelbo", channel=alt.Y)
    equal = alt.Chart(line).mark_line(color="gray", strokeDash=[5, 4], strokeWidth=1.2).encode(x=x, y=y)
    return alt.layer(equal, _marks(rows).encode(x=x, y=y)).properties(height=HEIGHT - 60, width="container")


def _marks(rows: pl.DataFrame) -> alt.Chart:
    both = rows["part"].n_unique() > 1
    key = alt.Legend(symbolOpacity=1) if both else None
    scale = {"domain": [FITTED, HELD_OUT]}
    return (
        alt.Chart(rows)
        .mark_point(filled=True, size=40)
        .encode(
            color=alt.Color("part:N", title=None, legend=key, scale=alt.Scale(**scale)),
            shape=alt.Shape("part:N", title=None, legend=key, scale=alt.Scale(range=["circle", "diamond"], **scale)),
            opacity=shown(0.85, 0.08),
            tooltip=[
                alt.Tooltip("run:N"),
                alt.Tooltip("N:Q", title="parameters", format=".3~s"),
                alt.Tooltip("D:Q", title="tokens", format=".3~s"),
                alt.Tooltip("nelbo:Q", title="measured", format=".4f"),
                alt.Tooltip("predicted:Q", format=".4f"),
                alt.Tooltip("error:Q", title="error, %", format="+.2f"),
                alt.Tooltip("part:N", title="this run was"),
            ],
        )
        .add_params(picked(), brush())
    )
