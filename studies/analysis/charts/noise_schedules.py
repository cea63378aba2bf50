"""The figures of noise schedules."""

from __future__ import annotations

import altair as alt
import polars as pl

from studies.analysis.charts.axes import HEIGHT, legend
from studies.analysis.questions.noise_schedules import Bands, NoiseSchedules, Schedules

_ALIKE, _WORSE, _UNTESTED = "not told from the best", "worse", "not tested"
_ROW = 34
_LONGEST = 150
"""Pixels that the name of a schedule may take."""


def schedule_losses(found: Schedules) -> alt.LayerChart:
    """Final nelbo of one modality by schedule, the best on top: small marks are runs, large ones means with 90 %."""
    comparison, means, runs = found.comparison, [], []
    for k, name in enumerate(found.names):
        told = _UNTESTED if not comparison.letters else _ALIKE if "a" in comparison.letters[k] else _WORSE
        low, high = comparison.intervals[k] or (comparison.means[k],) * 2
        group = comparison.letters[k] if comparison.letters else ""
        if found.nelbos[k]:
            means.append((name, comparison.means[k], low, high, group, told, comparison.counts[k]))
        runs += [(name, nelbo, told) for nelbo in found.nelbos[k]]
    number = dict.fromkeys(("nelbo", "low", "high"), pl.Float64)
    schema = {"schedule": pl.String, **number, "group": pl.String, "told": pl.String, "runs": pl.Int64}
    table = pl.DataFrame(means, schema=schema, orient="row")
    points = pl.DataFrame(runs, schema={"schedule": pl.String, "nelbo": pl.Float64, "told": pl.String}, orient="row")
    scale = alt.Scale(zero=False, nice=False, padding=12)
    x = alt.X("nelbo:Q", title="held-out nelbo, nats per token", scale=scale, axis=alt.Axis(tickCount=5))
    y = alt.Y("schedule:N", title=None, sort=list(found.names), axis=alt.Axis(labelLimit=_LONGEST))
    color = alt.Color("told:N", title=None, sort=[_ALIKE, _WORSE, _UNTESTED], legend=legend())
    tooltip = [
        alt.Tooltip("schedule:N"),
        alt.Tooltip("nelbo:Q", title="mean nelbo", format=".4f"),
        alt.Tooltip("low:Q", format=".4f"),
        alt.Tooltip("high:Q", format=".4f"),
        alt.Tooltip("group:N"),
        alt.Tooltip("runs:Q"),
    ]
    base = alt.Chart(table).encode(y=y, color=color)
    return alt.layer(
        alt.Chart(points)
        .mark_point(size=22, opacity=0.5)
        .encode(x=x, y=y, color=color, tooltip=[alt.Tooltip("schedule:N"), alt.Tooltip("nelbo:Q", format=".4f")]),
        base.mark_rule(strokeWidth=1.6).encode(x=alt.X("low:Q", scale=scale), x2="high:Q"),
        base.mark_point(filled=True, size=80, opacity=1, shape="diamond").encode(x=x, tooltip=tooltip),
    ).properties(height=_ROW * len(found.names) + 10, width="container")


def band_losses(found: NoiseSchedules) -> alt.LayerChart | alt.Chart:
    """The training loss by band of t and schedule, over the second half of training.

    Where every run has one schedule for all modalities: the mean loss of a masked token over the masked shares that a
    band covers (horizontal bars), with 90 % over seeds (vertical ones). Elsewhere: what each band adds to the loss.
    """
    if all(one.per_token is not None for one in found.bands):
        return _by_share(found.bands)
    return _by_time(found.bands)


def _by_share(bands: tuple[Bands, ...]) -> alt.LayerChart:
    rows = []
    for one in bands:
        for k, loss in enumerate(one.per_token or ()):
            low, high = (one.shares or one.edges)[k : k + 2]
            ends = one.intervals[k] or (loss, loss)
            rows.append((one.schedule, _band(one, k), low, high, (low + high) / 2, loss, *ends))
    number = dict.fromkeys(("share", "share_end", "middle", "loss", "low", "high"), pl.Float64)
    table = pl.DataFrame(rows, schema={"schedule": pl.String, "band": pl.String, **number}, orient="row")
    names = [one.schedule for one in bands]
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(title="masked share, 1 − α(t)", format=".0%", tickCount=6)
    y = alt.Y(
        "loss:Q",
        title="training loss of a masked token, nats",
        scale=alt.Scale(zero=False, nice=False, padding=10),
        axis=alt.Axis(tickCount=5),
    )
    # Colours and shapes make one legend only where they are alike in all but the range.
    color = alt.Color("schedule:N", scale=alt.Scale(domain=names), legend=_columns())
    shape = alt.Shape("schedule:N", scale=alt.Scale(domain=names), legend=_columns())
    base = alt.Chart(table).encode(color=color)
    middle = alt.X("middle:Q", scale=scale, axis=axis)
    return alt.layer(
        base.mark_rule(strokeWidth=1.2, opacity=0.4).encode(
            x=alt.X("share:Q", scale=scale, axis=axis), x2="share_end:Q", y=y
        ),
        base.mark_rule(strokeWidth=1.4, opacity=0.7).encode(x=middle, y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(strokeWidth=1.2).encode(x=middle, y=y),
        base.mark_point(filled=True, size=50, opacity=1).encode(
            x=middle,
            y=y,
            shape=shape,
            tooltip=[
                alt.Tooltip("schedule:N"),
                alt.Tooltip("band:N", title="t"),
                alt.Tooltip("share:Q", title="masked from", format=".1%"),
                alt.Tooltip("share_end:Q", title="to", format=".1%"),
                alt.Tooltip("loss:Q", title="a masked token", format=".4f"),
                alt.Tooltip("low:Q", format=".4f"),
                alt.Tooltip("high:Q", format=".4f"),
            ],
        ),
    ).properties(height=HEIGHT, width="container")


def _by_time(bands: tuple[Bands, ...]) -> alt.Chart:
    rows = [(one.schedule, _band(one, k), loss) for one in bands for k, loss in enumerate(one.losses)]
    table = pl.DataFrame(rows, schema={"schedule": pl.String, "band": pl.String, "loss": pl.Float64}, orient="row")
    names = [one.schedule for one in bands]
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("band:O", title="t", sort=None, axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("schedule:N", sort=names),
            y=alt.Y("loss:Q", title="added to the training loss, nats", axis=alt.Axis(tickCount=5)),
            color=alt.Color("schedule:N", sort=names, legend=_columns()),
            tooltip=[
                alt.Tooltip("schedule:N"),
                alt.Tooltip("band:N", title="t"),
                alt.Tooltip("loss:Q", title="added to the loss", format=".4f"),
            ],
        )
        .properties(height=HEIGHT, width="container")
    )


def _band(one: Bands, k: int) -> str:
    return f"{one.edges[k]:.3g} to {one.edges[k + 1]:.3g}"


def _columns() -> alt.Legend:
    """In few columns, for names that may be long."""
    return alt.Legend(columns=2, symbolOpacity=1, labelLimit=2 * _LONGEST)
