"""The figures of scaling laws: loss by size at equal compute, the fitted law, and the compute-optimal frontier.

What is fitted reaches beyond the runs: solid where there are data, dashed where the law is extrapolated.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import polars as pl

from specs.quantities import format_quantity
from studies.analysis.charts.axes import (
    HEIGHT,
    brush,
    log_axis,
    near,
    nelbo_axis,
    ordinal,
    picked,
    shape,
    shown,
    thinned,
    within,
)
from studies.analysis.charts.runs import points, tooltip
from studies.analysis.fits import COLUMN, Count
from studies.analysis.laws.chinchilla import Fit

MOST_CURVES = 8
"""Bound on the law's curves in one chart; the points are all drawn."""
REACH = 10.0
"""How many times beyond the largest run the law is drawn, in parameters and in tokens: 100 times its compute."""

_DATA, _BEYOND = "among the runs", "beyond them"
_STEPS = 48


def law(results: pl.DataFrame, modality: str, fitted: Fit, count: Count) -> alt.LayerChart:
    """The fitted law over parameters, a curve for each token count with its 90 % band, and the runs as points.

    Curves go on to `REACH` times the largest size, and one is of `REACH` times the most tokens: dashed, since no run is
    there.
    """
    rows = points(results, modality)
    sizes = rows[COLUMN[count]].to_numpy()
    most = float(rows["tokens"].max())  # type: ignore[arg-type]
    tokens = [*thinned(rows["tokens"].unique().sort().to_list(), MOST_CURVES), REACH * most]
    x = np.geomspace(sizes.min(), REACH * sizes.max(), _STEPS)
    curves = []
    for D in tokens:
        line = {"N": x, "nelbo": fitted.law(x, np.full_like(x, D))}
        if len(fitted.samples):
            line["low"], line["high"] = fitted.band(x, np.full_like(x, D))
        reached = (x <= 1.05 * sizes.max()) & (most >= D)
        curves.append(
            pl.DataFrame(line).with_columns(
                budget=pl.lit(format_quantity(D)), tokens=pl.lit(D), reach=pl.Series(np.where(reached, _DATA, _BEYOND))
            )
        )
    curve_rows = pl.concat([_joined(curve) for curve in curves])
    title, budgets = "tokens", pl.Series(sorted({*rows["tokens"].to_list(), tokens[-1]}))
    color = ordinal("budget", title, budgets)
    x_axis = log_axis("N", _what(count), counts=True)
    base = alt.Chart(curve_rows).encode(x=x_axis, color=color)
    # Bands and the smallest sizes may be as good as open: they must not stretch the axis far beyond the runs.
    bands = [curve_rows["low"]] if len(fitted.samples) else []
    bottom, _ = near([rows["nelbo"], curve_rows["nelbo"]], bands, reach=0.3)
    top = 1.01 * max(float(rows["nelbo"].max()), float(curve_rows.filter(reach=_DATA)["nelbo"].min()))  # type: ignore[arg-type]
    low, y = (within(nelbo_axis(field), bottom, top) for field in ("low", "nelbo"))
    layers: list[alt.Chart] = [base.mark_line(strokeWidth=1.6, clip=True).encode(y=y, strokeDash=_dash())]
    if len(fitted.samples):
        layers.insert(0, base.mark_area(opacity=0.16, clip=True).encode(y=low, y2="high:Q", detail="reach:N"))
    marks = (
        alt.Chart(rows)
        .mark_point(filled=True, size=48)
        .encode(
            x=log_axis(COLUMN[count], _what(count), counts=True),
            y=y,
            color=color,
            shape=shape("budget", title, budgets),
            opacity=shown(1, 0.08),
            tooltip=tooltip(),
        )
        .add_params(picked(), brush())
    )
    return alt.layer(*layers, marks).properties(height=HEIGHT + 40, width="container")


def isoflop(rows: pl.DataFrame, curves: pl.DataFrame, minima: pl.DataFrame, count: Count) -> alt.LayerChart:
    """Held-out nelbo over parameters, for each FLOPs budget the runs, the parabola through them and its minimum.

    `rows` are runs (`id`, `run`, `N`, `nelbo`, `budget` in FLOPs, and what `points` has), `curves` points of the
    parabolas (`budget`, `N`, `nelbo`), `minima` their lowest points (`budget`, `N`, `nelbo`, and the ends `low`, `high`
    of an interval of N, which may be null).
    """
    color = ordinal("flops_budget", "FLOPs", rows["budget"], "{:.3g}")
    kinds = shape("flops_budget", "FLOPs", rows["budget"], "{:.3g}")
    rows, curves, minima = (
        table.with_columns(
            flops_budget=pl.col("budget").map_elements(lambda value: f"{value:.3g}", return_dtype=pl.String)
        )
        for table in (rows, curves, minima)
    )
    x = log_axis("N", _what(count), counts=True)
    runs = (
        alt.Chart(rows)
        .mark_point(filled=True, size=48)
        .encode(x=x, y=nelbo_axis(), color=color, shape=kinds, opacity=shown(1, 0.08), tooltip=tooltip())
        .add_params(picked(), brush())
    )
    lines = alt.Chart(curves).mark_line(strokeWidth=1.6).encode(x=x, y=nelbo_axis(), color=color)
    bars = (
        alt.Chart(minima.drop_nulls(["low", "high"]))
        .mark_rule(strokeWidth=2, opacity=0.7)
        .encode(x=log_axis("low", _what(count), counts=True), x2="high:Q", y=nelbo_axis(), color=color)
    )
    lowest = (
        alt.Chart(minima)
        .mark_point(filled=False, shape="diamond", size=150, strokeWidth=2, opacity=1)
        .encode(
            x=x,
            y=nelbo_axis(),
            color=color,
            tooltip=[
                alt.Tooltip("flops_budget:N", title="FLOPs"),
                alt.Tooltip("N:Q", title="best size", format=".3~s"),
                alt.Tooltip("low:Q", format=".3~s"),
                alt.Tooltip("high:Q", format=".3~s"),
                alt.Tooltip("nelbo:Q", format=".4f"),
            ],
        )
    )
    layers = [lines, runs, *([bars] if len(minima.drop_nulls()) else []), *([lowest] if len(minima) else [])]
    return alt.layer(*layers).properties(height=HEIGHT + 40, width="container")


def frontier(rows: pl.DataFrame, curve: pl.DataFrame) -> alt.LayerChart:
    """The runs over their FLOPs, and the least loss that the law promises for them.

    `rows` are runs (what `points` has), `curve` has `flops`, `nelbo`, the ends `low`, `high` of its 90 % band, `N` and
    `D` of the optimum, and `beyond`, whether it needs more FLOPs than any run had.
    """
    line = _joined(curve.with_columns(reach=pl.when("beyond").then(pl.lit(_BEYOND)).otherwise(pl.lit(_DATA))))
    x = log_axis("flops", "training FLOPs", format=".1~e")
    base = alt.Chart(line).encode(x=x)
    color = ordinal("size", "non-embedding parameters", rows["params_non_embedding"])
    ends = near([rows["nelbo"], curve["nelbo"]], [curve["low"], curve["high"]])
    low, y = (within(nelbo_axis(field), *ends) for field in ("low", "nelbo"))
    layers = [
        base.mark_area(opacity=0.2, color="gray", clip=True).encode(y=low, y2="high:Q", detail="reach:N"),
        base.mark_line(strokeWidth=2, color="gray", clip=True).encode(
            y=y,
            strokeDash=_dash(),
            tooltip=[
                alt.Tooltip("flops:Q", title="FLOPs", format=".2e"),
                alt.Tooltip("nelbo:Q", title="least nelbo", format=".4f"),
                alt.Tooltip("low:Q", format=".4f"),
                alt.Tooltip("high:Q", format=".4f"),
                alt.Tooltip("N:Q", title="best size", format=".3~s"),
                alt.Tooltip("D:Q", title="best tokens", format=".3~s"),
            ],
        ),
        alt.Chart(rows)
        .mark_point(filled=True, size=40)
        .encode(
            x=x,
            y=y,
            color=color,
            shape=shape("size", "non-embedding parameters", rows["params_non_embedding"]),
            opacity=shown(0.9, 0.08),
            tooltip=tooltip(),
        )
        .add_params(picked(), brush()),
    ]
    return alt.layer(*layers).properties(height=HEIGHT + 40, width="container")


def optimum(curve: pl.DataFrame) -> alt.LayerChart:
    """The compute-optimal parameters and tokens over FLOPs, with 90 % bands; `curve` as for `frontier`, with
    `N_low`, `N_high`, `D_low` and `D_high`."""
    parts = [
        curve.select(
            "flops",
            "beyond",
            value=pl.col(name),
            low=pl.col(f"{name}_low"),
            high=pl.col(f"{name}_high"),
            of=pl.lit(what),
        )
        for name, what in (("N", "parameters"), ("D", "tokens"))
    ]
    reach = pl.when("beyond").then(pl.lit(_BEYOND)).otherwise(pl.lit(_DATA))
    rows = pl.concat([_joined(part.with_columns(reach=reach)) for part in parts])
    key = alt.Legend(symbolOpacity=1)
    base = alt.Chart(rows).encode(
        x=log_axis("flops", "training FLOPs", format=".1~e"),
        color=alt.Color("of:N", title=None, sort=["parameters", "tokens"], legend=key),
    )
    around = [curve[f"{name}_{end}"] for name in ("N", "D") for end in ("low", "high")]
    ends = near([curve["N"], curve["D"]], around, reach=0.25)
    y, band = (
        within(log_axis(field, "compute-optimal count", counts=True, channel=alt.Y), *ends)
        for field in ("value", "low")
    )
    return alt.layer(
        base.mark_area(opacity=0.16, clip=True).encode(y=band, y2="high:Q", detail="reach:N"),
        base.mark_line(strokeWidth=1.8).encode(
            y=y,
            strokeDash=_dash(),
            tooltip=[
                alt.Tooltip("of:N", title="what"),
                alt.Tooltip("flops:Q", title="FLOPs", format=".2e"),
                alt.Tooltip("value:Q", title="optimum", format=".3~s"),
                alt.Tooltip("low:Q", format=".3~s"),
                alt.Tooltip("high:Q", format=".3~s"),
            ],
        ),
    ).properties(height=HEIGHT + 40, width="container")


def _what(count: Count) -> str:
    return "non-embedding parameters" if count == "non_embedding" else "parameters"


def _dash() -> alt.StrokeDash:
    scale = alt.Scale(domain=[_DATA, _BEYOND], range=[[1, 0], [6, 4]])
    return alt.StrokeDash("reach:N", title=None, scale=scale, legend=None)


def _joined(line: pl.DataFrame) -> pl.DataFrame:
    """`line`, whose dashed part begins where its solid one ends: that point is in both."""
    solid = line.filter(reach=_DATA)
    if solid.is_empty() or len(solid) == len(line):
        return line
    return pl.concat([solid, solid.tail(1).with_columns(reach=pl.lit(_BEYOND)), line.filter(reach=_BEYOND)])
