"""The figures of the experiments, one function for each; as in `charts`, they name no colours and stand alone."""

from __future__ import annotations

import math
from typing import Any, get_args

import altair as alt
import numpy as np
import polars as pl

from specs.quantities import format_quantity
from studies.analysis.charts import COUNTS, HEIGHT, nelbo_axis
from studies.analysis.coordinates import Sweep
from studies.analysis.gamma import Gamma, Role
from studies.analysis.invariance import Invariance, Losses
from studies.analysis.learning_rate import Transfer

MOST_STEPS = 4
_SMALL = 190
_WITH, _WITHOUT = "with", "without"


def activations(sweep: Sweep, kind: str) -> alt.Chart:
    """Root mean square of one kind of activation over width or depth, a line for each of a few steps.

    Both axes are logarithmic and of equal span where the data allow, so that a slope of 1 is the diagonal.
    """
    steps = [sweep.steps[round(k)] for k in np.linspace(0, len(sweep.steps) - 1, min(MOST_STEPS, len(sweep.steps)))]
    rows = pl.DataFrame(
        [
            (size, rms, f"{step}")
            for step, means in zip(sweep.steps, sweep.rms[kind], strict=True)
            for size, rms in zip(sweep.sizes, means, strict=True)
            if rms is not None and rms > 0 and step in steps
        ],
        schema={"size": pl.Int64, "rms": pl.Float64, "step": pl.String},
        orient="row",
    )
    logs = np.log(rows["rms"].to_numpy()) if len(rows) else np.zeros(1)
    half = max(math.log(sweep.sizes[-1] / sweep.sizes[0]), float(np.ptp(logs))) / 2
    middle = float(logs.max() + logs.min()) / 2
    domain = [math.exp(middle - half), math.exp(middle + half)]
    ticks = [m * 10.0**e for e in range(-12, 13) for m in (1, 3) if domain[0] <= m * 10.0**e <= domain[1]]
    color = alt.Color("step:O", title="step", sort=[str(step) for step in steps], legend=_legend())
    return (
        alt.Chart(rows, height=_SMALL, width="container")
        .mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=36, filled=True))
        .encode(
            x=_sizes("size", sweep.along, list(sweep.sizes)),
            y=alt.Y(
                "rms:Q",
                axis=alt.Axis(title="rms", format=".3~g", values=ticks, tickCount=len(ticks)),
                scale=alt.Scale(type="log", nice=False, padding=6, domain=domain),
            ),
            color=color,
            tooltip=[
                alt.Tooltip("step:O"),
                alt.Tooltip("size:Q", title=sweep.along),
                alt.Tooltip("rms:Q", format=".4g"),
            ],
        )
    )


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
    color = alt.Color("shape:O", title="width × depth", sort=shapes, legend=_legend())
    x = _at("lr", "learning rate", sorted({lr for curve in transfer.curves for lr in curve.lrs}), format=".2~e")
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


def invariance(found: Invariance, modality: str) -> alt.LayerChart:
    """Final nelbo over the physical batch, with and without the reparameterization; bars hold the single runs, the
    dashed line is the plan's critical batch."""
    sides = [(_WITH, found.scaled.get(modality)), (_WITHOUT, found.plain.get(modality))]
    rows = pl.DataFrame(
        [(name, *row) for name, losses in sides if losses is not None for row in _batch_rows(losses)],
        schema={
            "side": pl.String,
            "batch": pl.Int64,
            "nelbo": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
            "seeds": pl.Int64,
        },
        orient="row",
    )
    batches = sorted({batch for _, losses in sides if losses is not None for batch in losses.batches})
    color = alt.Color("side:O", title="SDE reparameterization", sort=[_WITH, _WITHOUT], legend=_legend())
    base = alt.Chart(rows).encode(x=_sizes("batch", "physical batch, sequences", batches), color=color)
    tooltip = [
        alt.Tooltip("side:N", title="reparameterization"),
        alt.Tooltip("batch:Q", title="physical batch"),
        alt.Tooltip("nelbo:Q", title="mean nelbo", format=".4f"),
        alt.Tooltip("seeds:Q"),
    ]
    layers: list[Any] = [
        base.mark_rule(strokeWidth=1.4, opacity=0.6).encode(y=nelbo_axis("low"), y2="high:Q"),
        base.mark_line(strokeWidth=1.6).encode(y=nelbo_axis()),
        base.mark_point(filled=True, size=48, opacity=1).encode(y=nelbo_axis(), tooltip=tooltip),
    ]
    if found.critical is not None and batches[0] / 2 < found.critical < 2 * batches[-1]:
        critical = pl.DataFrame({"batch": [found.critical]})
        layers.append(
            alt.Chart(critical)
            .mark_rule(strokeDash=[5, 4], color="gray")
            .encode(x=_sizes("batch", "physical batch, sequences", batches))
        )
    return alt.layer(*layers).properties(height=HEIGHT - 40, width="container")


def _batch_rows(losses: Losses) -> list[tuple[int, float, float, float, int]]:
    columns = zip(losses.batches, losses.losses, losses.lowest, losses.highest, losses.seeds, strict=True)
    return [row for row in columns if math.isfinite(row[3])]


def batch_sweeps(found: Gamma) -> alt.LayerChart:
    """Loss over the logical batch at each horizon, above the least of its parabola, and the optima as rings."""
    points, curves, optima = [], [], []
    names = [format_quantity(horizon.tokens) for horizon in found.horizons]
    for name, horizon in zip(names, found.horizons, strict=True):
        if horizon.window is None or horizon.tuned is None:
            continue
        least = horizon.loss(horizon.tuned)
        points += [
            (name, batch, loss - least)
            for batch, loss in zip(horizon.batches, horizon.losses, strict=True)
            if math.isfinite(loss)
        ]
        grid = np.geomspace(*horizon.window, 40)
        curves += [(name, float(batch), horizon.loss(float(batch)) - least) for batch in grid]
        optima.append((name, horizon.tuned, 0.0))
    schema = {"tokens": pl.String, "batch": pl.Float64, "above": pl.Float64}
    color = alt.Color("tokens:O", title="tokens", sort=names, legend=_legend())
    batches = sorted({batch for horizon in found.horizons for batch in horizon.batches})
    y = alt.Y("above:Q", axis=alt.Axis(title="nelbo above the curve's least, nats", tickCount=5))

    def layer(rows: list[tuple[str, float, float]]) -> alt.Chart:
        table = pl.DataFrame(rows, schema=schema, orient="row")
        return alt.Chart(table).encode(
            x=_sizes("batch", "logical batch, sequences", batches),
            y=y,
            color=color,
            tooltip=[
                alt.Tooltip("tokens:N"),
                alt.Tooltip("batch:Q", title="logical batch", format=".3~g"),
                alt.Tooltip("above:Q", title="above the least", format=".4f"),
            ],
        )

    return alt.layer(
        layer(curves).mark_line(strokeWidth=1.6),
        layer(points).mark_point(filled=True, size=40, opacity=1),
        layer(optima).mark_point(filled=False, size=180, strokeWidth=2, opacity=1),
    ).properties(height=HEIGHT, width="container")


def batch_law(found: Gamma) -> alt.LayerChart:
    """The best logical batch over the horizon with its 90 % bar, and the fitted power law; horizons that took no part
    in the fit have other marks, and the law reaches to them."""
    rows = []
    for horizon in found.horizons:
        if horizon.best is not None:
            low, high = horizon.interval or (horizon.best, horizon.best)
            rows.append((horizon.tokens, horizon.best, low, high, found.role(horizon)))
    table = pl.DataFrame(
        rows,
        schema={
            "tokens": pl.Float64,
            "batch": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
            "kind": pl.String,
        },
        orient="row",
    )
    horizons = [horizon.tokens for horizon in found.horizons]
    ends = [batch for horizon in found.horizons for batch in (horizon.batches or (1.0,))]
    line = pl.DataFrame(
        [(tokens, found.law(tokens)) for tokens in (min(horizons), max(horizons))] if found.gamma is not None else [],
        schema={"tokens": pl.Float64, "batch": pl.Float64},
        orient="row",
    )
    # An optimum that is hardly determined must not stretch the axis beyond use.
    scale = alt.Scale(type="log", base=2, nice=False, padding=12, domain=[min(ends) / 2, max(ends) * 2], clamp=True)
    axis = alt.Axis(title="best logical batch, sequences", format=".3~g", labelOverlap="greedy")
    x = _at("tokens", "training tokens", horizons, labelExpr=COUNTS)
    color = alt.Color("kind:O", title=None, sort=list(get_args(Role)), legend=_legend())
    base = alt.Chart(table).encode(x=x, color=color)
    return alt.layer(
        alt.Chart(line)
        .mark_line(strokeWidth=1.6, strokeDash=[5, 4], color="gray")
        .encode(x=x, y=alt.Y("batch:Q", scale=scale, axis=axis)),
        base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q"),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            y=alt.Y("batch:Q", scale=scale, axis=axis),
            shape=alt.Shape("kind:N", sort=list(get_args(Role)), legend=None),
            tooltip=[
                alt.Tooltip("tokens:Q", format=".3~s"),
                alt.Tooltip("batch:Q", title="best batch", format=".3~g"),
                alt.Tooltip("low:Q", format=".3~g"),
                alt.Tooltip("high:Q", format=".3~g"),
            ],
        ),
    ).properties(height=HEIGHT, width="container")


def _sizes(field: str, title: str, values: list[Any]) -> alt.X:
    return _at(field, title, values, labelExpr="format(datum.value, datum.value < 1e4 ? '.4~g' : '.3~s')")


def _at(field: str, title: str, values: list[Any], **labels: Any) -> alt.X:
    """A logarithmic axis labelled at the values themselves, such as the points of a grid."""
    # Without a count of its own the theme's would thin the values out.
    axis = alt.Axis(
        title=title, values=values, tickCount=len(values), labelOverlap="greedy", labelSeparation=6, **labels
    )
    return alt.X(f"{field}:Q", axis=axis, scale=alt.Scale(type="log", nice=False, padding=12))


def _legend() -> alt.Legend:
    return alt.Legend(symbolOpacity=1)
