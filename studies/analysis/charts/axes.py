"""Axes, colours, legends and the linked selection that the figures share. Nothing here names a colour: themes do.

Sizes and token counts are ordinal and take the theme's ordinal range, so that one chart serves light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import altair as alt
import numpy as np
import polars as pl

from specs.quantities import format_quantity

T = TypeVar("T")

HEIGHT = 280
COUNTS = "replace(replace(format(datum.value, '.3~s'), 'G', 'B'), 'k', 'K')"
"""Axis labels as 200K, 20M, 13B."""
MOST_SHAPES = 6
"""So many kinds of point the eye tells apart; with more, only colour does."""

_MOST_KEYS = 12
_KEYS_IN_ROW = 6
_PICKED = "!picked || picked[datum.id]"


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


def linear_axis(field: str, title: str, format: str = ".3~g", channel: Any = alt.Y, zero: bool = False) -> Any:
    """A linear axis that fits its data, or begins at zero."""
    axis = alt.Axis(title=title, format=format, labelOverlap="greedy")
    return channel(f"{field}:Q", axis=axis, scale=alt.Scale(zero=zero, nice=zero, padding=0 if zero else 12))


def ordinal(field: str, title: str, values: pl.Series, form: str = "") -> alt.Color:
    """Colour by a quantity in words, in the order of its `values`; `form` is that of the words, where they are not
    those of `labels`."""
    # By domains, not by sort: only so do colour and `shape` share one legend.
    ordered = _in_words(values, form)
    return alt.Color(f"{field}:O", title=title, scale=alt.Scale(domain=ordered), legend=_key(ordered))


def shape(field: str, title: str, values: pl.Series, form: str = "") -> alt.Shape:
    """The same by shape, where there are few values; all alike where there are many."""
    ordered = _in_words(values, form)
    if len(ordered) > MOST_SHAPES:
        return alt.ShapeValue("circle")
    return alt.Shape(f"{field}:N", title=title, scale=alt.Scale(domain=ordered), legend=_key(ordered))


def labels(column: str) -> pl.Expr:
    """A column of quantities in words, such as 20M."""
    return pl.col(column).map_elements(format_quantity, return_dtype=pl.String)


def thinned(values: list[T], most: int) -> list[T]:
    """At most `most` of `values`, both ends among them."""
    if len(values) <= most:
        return values
    return [values[round(k)] for k in np.linspace(0, len(values) - 1, most)]


def sizes_axis(field: str, title: str, values: list[Any]) -> alt.X:
    """A logarithmic axis of counts, labelled at `values`."""
    return labelled_axis(field, title, values, labelExpr=f"datum.value < 1e4 ? format(datum.value, '.4~g') : {COUNTS}")


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


def picked() -> alt.Parameter:
    """The runs picked on the page, null or {id: true}: a page sets it in every chart that has it, and a click on a mark
    whose row has an `id` picks that run. A chart alone shows all of its runs."""
    return alt.param(name="picked", value=None)


def brush() -> alt.Parameter:
    """A rectangle to drag over points that have an `id`: a page picks the runs inside."""
    return alt.selection_interval(name="brush")


def shown(full: float, faint: float, chosen: alt.Parameter | None = None) -> alt.OpacityValue:
    """Opacity: `full` for the runs that are picked (and that `chosen`, a legend, holds), `faint` for others."""
    tests: list[Any] = [_PICKED]
    if chosen is not None:
        tests.append({"param": chosen.name})
    return alt.OpacityValue(faint, condition={"test": {"and": tests}, "value": full})


def near(inner: Sequence[pl.Series], outer: Sequence[pl.Series], reach: float = 0.6) -> tuple[float, float]:
    """The ends of a logarithmic axis that holds all of `inner`, and what lies around it (wide bands, open intervals) no
    farther than `reach` times its span."""
    low, high = _ends(inner)
    room = max((high / low) ** reach, 1.01)
    least, most = _ends([*inner, *outer])
    low, high = max(least, low / room), min(most, high * room)
    margin = max((high / low) ** 0.04, 1.001)
    return low / margin, high * margin


def within(axis: T, low: float, high: float) -> T:
    """`axis` with these ends; what reaches beyond them is to be clipped."""
    scale: Any = axis.scale  # type: ignore[attr-defined]
    scale.domainMin, scale.domainMax, scale.padding = low, high, 0
    return axis


def _ends(values: Sequence[pl.Series]) -> tuple[float, float]:
    all_of = pl.concat([series.cast(pl.Float64) for series in values])
    drawn = all_of.filter(all_of.is_finite() & (all_of > 0))
    return float(drawn.min()), float(drawn.max())  # type: ignore[arg-type]


def _key(ordered: list[str]) -> alt.Legend:
    """Solid symbols in rows of like length, of many values only some."""
    shown = ordered if len(ordered) <= _MOST_KEYS else thinned(ordered, 8)
    rows = -(-len(shown) // _KEYS_IN_ROW)
    return alt.Legend(
        symbolOpacity=1,
        values=alt.Undefined if shown is ordered else shown,
        columns=alt.Undefined if rows < 2 else -(-len(shown) // rows),
    )


def _in_words(values: pl.Series, form: str) -> list[str]:
    ordered = [form.format(v) if form else format_quantity(v) for v in values.unique().sort().to_list()]
    return list(dict.fromkeys(ordered))
