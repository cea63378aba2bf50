"""The figures of the mix of modalities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from studies.analysis.charts.axes import HEIGHT, legend, nelbo_axis
from studies.analysis.laws.mixes import Mix, barycentric, inside
from studies.analysis.laws.simplex import Best
from studies.analysis.questions.mixing import Mixing

_PARTS = 40
_GRID = 5
_BEST, _SPOTS, _BASE, _RUN = "best mix", "best in resamples (90 %)", "base mix", "run"
_KINDS = (_BEST, _SPOTS, _BASE, _RUN)
_SHAPES = ("diamond", "circle", "square", "cross")
_LOSS = "weighted nelbo, nats per token"


def simplex_map(found: Mixing) -> alt.LayerChart:
    """The weighted loss over the triangle of three modalities' mixes, with the best mix, where it lies in resamples,
    the base mix, and the mixes that were run. Needs a best mix."""
    best = found.best
    assert best is not None
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.1, 1.1], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.12, 1.12], nice=False))
    kinds = alt.Legend(columns=2, symbolOpacity=1)
    cells = (
        alt.Chart(_cells(found, best))
        # Faint, so that the marks above it stand out on light ground and on dark.
        .mark_rect(opacity=0.6)
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=alt.Color(
                "nelbo:Q",
                title=_LOSS,
                scale=alt.Scale(scheme="viridis", reverse=True),
                legend=alt.Legend(
                    format=".3~f", gradientLength=180, orient="top", titleLimit=360, tickCount=2, padding=16
                ),
            ),
            tooltip=[alt.Tooltip("mix:N"), alt.Tooltip("nelbo:Q", title="weighted nelbo", format=".4f")],
        )
    )
    lines = alt.Chart(_lines()).mark_rule(color="gray", strokeWidth=0.6, opacity=0.5)
    names = alt.Chart(_names(found.modalities)).mark_text(fontSize=12, baseline="middle")
    marks = alt.Chart(_marks(found, best)).mark_point(filled=True, opacity=0.9, strokeWidth=1.5)
    return (
        alt.layer(
            cells,
            lines.encode(x=x, x2="x2:Q", y=y, y2="y2:Q"),
            names.encode(x=x, y=y, text="name:N"),
            marks.encode(
                x=x,
                y=y,
                # The two make one legend only where they are alike in all but the range.
                color=alt.Color("kind:N", title=None, scale=alt.Scale(domain=_KINDS), legend=kinds),
                shape=alt.Shape("kind:N", title=None, scale=alt.Scale(domain=_KINDS, range=_SHAPES), legend=kinds),
                size=alt.Size("area:Q", scale=None, legend=None),
                tooltip=[
                    alt.Tooltip("kind:N", title="what"),
                    alt.Tooltip("mix:N"),
                    alt.Tooltip("said:N", title="there"),
                ],
            ),
        )
        .resolve_scale(color="independent", shape="independent")
        .properties(height=HEIGHT + 60, width="container")
    )


def best_shares(found: Mixing) -> alt.LayerChart:
    """The least weighted loss that can be had at each share of a modality, the others being best for it; bands hold
    90 % of resamples, points are the best mix, and bars the 90 % interval of its share. Needs a best mix.

    Of two modalities one is drawn: the other has the rest.
    """
    best = found.best
    assert best is not None
    shown = found.modalities[: 1 if len(found.modalities) == 2 else None]
    curves, optima = [], []
    for k, name in enumerate(shown):
        profile = best.profiles[k]
        low, high = profile.low or profile.losses, profile.high or profile.losses
        curves += [(name, *row) for row in zip(profile.weights, profile.losses, low, high, strict=True)]
        ends = best.weights[k] if best.weights is not None else (best.mix[k], best.mix[k])
        optima.append((name, best.mix[k], best.loss, *ends))
    number = dict.fromkeys(("share", "nelbo", "low", "high"), pl.Float64)
    rows = pl.DataFrame(curves, schema={"modality": pl.String, **number}, orient="row")
    points = pl.DataFrame(optima, schema={"modality": pl.String, **number}, orient="row")
    x = _share_axis(shown[0] if len(shown) == 1 else None)
    color = alt.Color("modality:N", sort=list(shown), legend=legend() if len(shown) > 1 else None)
    scale = alt.Scale(zero=False, nice=False, padding=8)
    y = alt.Y("nelbo:Q", title=_LOSS, scale=scale, axis=alt.Axis(tickCount=5, format=".3~f"))
    base, marks = alt.Chart(rows).encode(x=x, color=color), alt.Chart(points).encode(color=color)
    tooltip = [
        alt.Tooltip("modality:N"),
        alt.Tooltip("share:Q", format=".1%"),
        alt.Tooltip("nelbo:Q", title="least weighted nelbo", format=".4f"),
        alt.Tooltip("low:Q", format=".4f"),
        alt.Tooltip("high:Q", format=".4f"),
    ]
    return alt.layer(
        base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=_LOSS, scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=1.6).encode(y=y, tooltip=tooltip),
        marks.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q", y=y),
        marks.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, tooltip=tooltip[:3]),
    ).properties(height=HEIGHT, width="container")


def own_losses(found: Mixing) -> alt.Chart:
    """Each modality's final nelbo over its own share of the mix, a mark for each run; crosses are runs that never
    trained on it."""
    fitted = [None if one is None else one(found.mixes) for one in found.best.regressions] if found.best else []
    rows = []
    for k, name in enumerate(found.modalities):
        regression = fitted[k] if fitted else None
        for run, (mix, losses) in enumerate(zip(found.mixes, found.losses, strict=True)):
            if math.isfinite(losses[k]):
                by = math.nan if regression is None else float(regression[run])
                trained = "yes" if mix[k] > 0 else "no"
                rows.append((name, mix[k], losses[k], by, trained, _words(found.modalities, mix)))
    table = pl.DataFrame(
        rows,
        schema={
            "modality": pl.String,
            "share": pl.Float64,
            "nelbo": pl.Float64,
            "fitted": pl.Float64,
            "trained": pl.String,
            "mix": pl.String,
        },
        orient="row",
    )
    return (
        alt.Chart(table)
        .mark_point(filled=True, size=44, opacity=0.8)
        .encode(
            x=_share_axis(None),
            y=nelbo_axis(),
            color=alt.Color("modality:N", sort=list(found.modalities), legend=legend()),
            shape=alt.Shape("trained:N", scale=alt.Scale(domain=["yes", "no"], range=["circle", "cross"]), legend=None),
            tooltip=[
                alt.Tooltip("modality:N"),
                alt.Tooltip("mix:N"),
                alt.Tooltip("nelbo:Q", format=".4f"),
                alt.Tooltip("fitted:Q", format=".4f"),
            ],
        )
        .properties(height=HEIGHT, width="container")
    )


def _share_axis(name: str | None) -> alt.X:
    title = "share of the modality" if name is None else f"share of {name}"
    return alt.X(
        "share:Q", title=title, axis=alt.Axis(format=".0%", tickCount=6), scale=alt.Scale(nice=False, padding=8)
    )


def _words(names: Sequence[str], mix: Sequence[float]) -> str:
    return ", ".join(f"{100 * weight:.3g} % {name}" for name, weight in zip(names, mix, strict=True))


def _flat(mix: Sequence[float]) -> tuple[float, float]:
    """Where a mix of three lies: the first modality is the left corner, the second the right one, the third the top."""
    return mix[1] + mix[2] / 2, mix[2]


def _cells(found: Mixing, best: Best) -> pl.DataFrame:
    mixes = [mix for mix in barycentric(_PARTS, 3) if inside(mix, best.corners)]
    losses = best(np.array(mixes)).tolist() if mixes else []
    half = 0.5 / _PARTS
    rows = []
    for mix, loss in zip(mixes, losses, strict=True):
        x, y = _flat(mix)
        if math.isfinite(loss):
            rows.append((x - half, x + half, y - half, y + half, loss, _words(found.modalities, mix)))
    schema: dict[str, Any] = dict.fromkeys(("x", "x2", "y", "y2", "nelbo"), pl.Float64)
    return pl.DataFrame(rows, schema={**schema, "mix": pl.String}, orient="row")


def _lines() -> pl.DataFrame:
    """Lines of equal weight, in fifths, and the edges."""
    rows = []
    for step in range(_GRID):
        w = step / _GRID
        for ends in (
            ((w, 1 - w, 0.0), (w, 0.0, 1 - w)),
            ((1 - w, w, 0.0), (0.0, w, 1 - w)),
            ((1 - w, 0.0, w), (0.0, 1 - w, w)),
        ):
            (x, y), (x2, y2) = map(_flat, ends)
            rows.append((x, x2, y, y2))
    return pl.DataFrame(rows, schema=dict.fromkeys(("x", "x2", "y", "y2"), pl.Float64), orient="row")


def _names(names: Sequence[str]) -> pl.DataFrame:
    places = [(0.0, -0.06), (1.0, -0.06), (0.5, 1.06)]
    rows = [(*place, name) for place, name in zip(places, names, strict=True)]
    return pl.DataFrame(rows, schema={"x": pl.Float64, "y": pl.Float64, "name": pl.String}, orient="row")


def _marks(found: Mixing, best: Best) -> pl.DataFrame:
    rows = [(_RUN, mix, 60.0, _losses(found.modalities, losses)) for mix, losses in _by_mix(found)]
    total = sum(spot.count for spot in best.spots)
    for spot in best.spots:
        if spot.inside:
            share = spot.count / total
            rows.append((_SPOTS, spot.mix, 8 + 400 * share, f"best in {100 * share:.3g} % of resamples"))
    if best.base is not None:
        rows.append((_BASE, best.base.mix, 90.0, f"weighted {best.base.loss:.4f}"))
    rows.append((_BEST, best.mix, 170.0, f"weighted {best.loss:.4f}"))
    table = [(kind, *_flat(mix), area, _words(found.modalities, mix), said) for kind, mix, area, said in rows]
    schema = {
        "kind": pl.String,
        "x": pl.Float64,
        "y": pl.Float64,
        "area": pl.Float64,
        "mix": pl.String,
        "said": pl.String,
    }
    return pl.DataFrame(table, schema=schema, orient="row")


def _by_mix(found: Mixing) -> list[tuple[Mix, list[float]]]:
    """Each mix that was run once, with the means of its runs' losses."""
    mixes = sorted(set(found.mixes))
    losses = np.array(found.losses)
    return [(mix, losses[[one == mix for one in found.mixes]].mean(axis=0).tolist()) for mix in mixes]


def _losses(names: Sequence[str], losses: Sequence[float]) -> str:
    return ", ".join(f"{name} {loss:.3f}" for name, loss in zip(names, losses, strict=True) if math.isfinite(loss))
