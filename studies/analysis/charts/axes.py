"""Axes, colours and legends that the figures share. Nothing here names a colour: the page's theme does.

Sizes and token counts are ordinal and take the theme's ordinal range, so that one chart serves light and dark.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import polars as pl

from specs.quantities import format_quantity

HEIGHT = 280
COUNTS = "replace(format(datum.value, '.3~s'), 'G', 'B')"
"""Axis labels as 200k, 20M, 13B."""


def nelbo_axis(field: str = "nelbo") -> alt.Y:
    """Held-out nelbo on a logarithmic vertical axis."""
    return log_axis(field, "held-out nelbo, nats per token", channel=alt.Y)


def log_axis(field: str, title: str, counts: bool = False, format: str = "", channel: Any = None) -> Any:
    """A logarithmic axis that fits its data and keeps few, readable labels."""
    axis: dict[str, Any] = {"title": title, "tickCount": 5, "labelOverlap": "greedy", "labelSeparation": 8}
    if counts:
        axis["labelExpr"] = COUNTS
    elif format:
        axis["format"] = format
    else:
        axis["format"] = ".3~g"
    made = channel or (alt.Y if field == "loss" else alt.X)
    return made(f"{field}:Q", axis=alt.Axis(**axis), scale=alt.Scale(type="log", nice=False, padding=12))


def ordinal(field: str, title: str, values: pl.Series) -> alt.Color:
    """Colour by a quantity in words, in the order of its `values`."""
    ordered = [format_quantity(v) for v in values.unique().sort().to_list()]
    return alt.Color(f"{field}:O", title=title, sort=list(dict.fromkeys(ordered)), legend=legend())


def labels(column: str) -> pl.Expr:
    """A column of quantities in words, such as 20M."""
    return pl.col(column).map_elements(format_quantity, return_dtype=pl.String)


def thinned(values: list[float], most: int) -> list[float]:
    """At most `most` of `values`, both ends among them."""
    if len(values) <= most:
        return values
    return [values[round(k)] for k in np.linspace(0, len(values) - 1, most)]


def sizes_axis(field: str, title: str, values: list[Any]) -> alt.X:
    """A logarithmic axis of counts, labelled at `values`."""
    return labelled_axis(field, title, values, labelExpr="format(datum.value, datum.value < 1e4 ? '.4~g' : '.3~s')")


def labelled_axis(field: str, title: str, values: list[Any], **labels: Any) -> alt.X:
    """A logarithmic axis labelled at the values themselves, such as the points of a grid."""
    # Without a count of its own the theme's would thin the values out.
    axis = alt.Axis(
        title=title, values=values, tickCount=len(values), labelOverlap="greedy", labelSeparation=6, **labels
    )
    return alt.X(f"{field}:Q", axis=axis, scale=alt.Scale(type="log", nice=False, padding=12))


def legend() -> alt.Legend:
    """A legend whose symbols stay solid where marks are faint."""
    return alt.Legend(symbolOpacity=1)
