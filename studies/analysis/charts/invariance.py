"""The figure of batch invariance."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import polars as pl

from studies.analysis.charts.axes import HEIGHT, legend, nelbo_axis, sizes_axis
from studies.analysis.questions.invariance import Invariance, Losses

_WITH, _WITHOUT = "with", "without"


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
    color = alt.Color("side:O", title="SDE reparameterization", sort=[_WITH, _WITHOUT], legend=legend())
    base = alt.Chart(rows).encode(x=sizes_axis("batch", "physical batch, sequences", batches), color=color)
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
            .encode(x=sizes_axis("batch", "physical batch, sequences", batches))
        )
    return alt.layer(*layers).properties(height=HEIGHT - 40, width="container")


def _batch_rows(losses: Losses) -> list[tuple[int, float, float, float, int]]:
    columns = zip(losses.batches, losses.losses, losses.lowest, losses.highest, losses.seeds, strict=True)
    return [row for row in columns if math.isfinite(row[3])]
