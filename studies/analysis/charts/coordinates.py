"""The figures of the coordinate check."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import polars as pl

from studies.analysis.charts.axes import legend, sizes_axis
from studies.analysis.questions.coordinates import Sweep

MOST_STEPS = 4
_SMALL = 190


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
    color = alt.Color("step:O", title="step", sort=[str(step) for step in steps], legend=legend())
    return (
        alt.Chart(rows, height=_SMALL, width="container")
        .mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=36, filled=True))
        .encode(
            x=sizes_axis("size", sweep.along, list(sweep.sizes)),
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
