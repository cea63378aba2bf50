"""The figures of a sampling study: quality against network calls, and against diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from compiler.sampling import Score
from studies.analysis.charts.axes import HEIGHT, labelled_axis, legend, linear_axis, log_axis
from studies.analysis.sampling.front import LEAST_DIVERSITY, Setting, TaskFront, varied
from studies.analysis.sampling.show import STATES, field_words, quality_title, score_words, setting_words

_SHAPES = ("circle", "triangle-down", "cross")
_MOST_COLOURS = 8
"""So many colours the theme has."""
_MOST_LABELS = 10
"""Counts of calls that the axis names each."""
_WIDE = 8.0
"""Quality over such a ratio is drawn on a logarithmic axis."""


def pareto_chart(found: TaskFront) -> alt.LayerChart:
    """Quality with 90 % over network calls for each sample, the front as steps, the default ringed.

    A menu chooses what the colours are of, a click in the legend shows one of them; the axes drag, and zoom by the
    wheel with shift.
    """
    rows = setting_rows(found)
    x = _calls_axis(found.settings)
    front = alt.Chart(rows.filter(place=STATES["front"]))
    layers: list[Any] = [
        *_real_rule(found),
        front.mark_line(interpolate="step-after", strokeWidth=1.4, opacity=0.6, color="gray").encode(
            x=x, y=_quality_axis(found)
        ),
        *_marks(found, rows, x, "calls"),
    ]
    return alt.layer(*layers).properties(height=HEIGHT + 40, width="container")


def diversity_chart(found: TaskFront) -> alt.LayerChart:
    """Quality with 90 % over diversity as a share of real data's, with the least that a default must have."""
    rows = setting_rows(found).drop_nulls("diversity")
    x = linear_axis("diversity", f"{score_words(found.diversity or '')}, as a share of real data's", ".2~f", alt.X)
    lines = pl.DataFrame({"diversity": [LEAST_DIVERSITY, 1.0], "what": ["least for a default", "real data"]})
    base = alt.Chart(lines).encode(x=x)
    layers: list[Any] = [
        *_real_rule(found),
        base.mark_rule(strokeDash=[4, 4], opacity=0.6, color="gray"),
        base.mark_text(align="left", baseline="top", angle=270, dx=4, dy=3, fontSize=11).encode(
            y=alt.value("height"), text="what:N"
        ),
        *_marks(found, rows, x, "diversity"),
    ]
    return alt.layer(*layers).properties(height=HEIGHT + 40, width="container")


def setting_rows(found: TaskFront) -> pl.DataFrame:
    """A row a setting: `setting` and its `place` in words, whether it is the `default`, `calls`, `quality`, `low`,
    `high`, `relative`, `diversity`, `tokens_per_second`; and for every field that varies its value in words, with
    `rank:FIELD`, its place among these."""
    fields = varied(found.settings)
    ranks = {name: _ranks(found.settings, name) for name in fields}
    rows = [
        {
            "setting": setting_words(setting.sampler, fields),
            "place": STATES[setting.state],
            "default": setting == found.choice.setting,
            "calls": setting.calls,
            "quality": setting.quality.value,
            **_ends(setting.quality),
            "relative": setting.relative,
            "diversity": setting.diversity,
            "tokens_per_second": setting.tokens_per_second,
            **{name: field_words(setting.sampler, name) for name in fields},
            **{f"rank:{name}": ranks[name][field_words(setting.sampler, name)] for name in fields},
        }
        for setting in found.settings
    ]
    numbers = dict.fromkeys(("quality", "low", "high", "relative", "diversity", "tokens_per_second"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=numbers, infer_schema_length=None)


def coloured(settings: Sequence[Setting]) -> list[str]:
    """The fields that colours can tell apart, the sampler's kind first."""
    fields = [name for name in varied(settings) if len(_ranks(settings, name)) <= _MOST_COLOURS]
    return sorted(fields, key=lambda name: name != "kind")


def _marks(found: TaskFront, rows: pl.DataFrame, x: alt.X, field: str) -> list[alt.Chart]:
    """Bars of 90 %, points, and a ring around the default, with `field` on the axis `x`."""
    y, fields = _quality_axis(found), coloured(found.settings)
    base = alt.Chart(rows).encode(x=x)
    shape = alt.Shape(
        "place:N",
        title=None,
        scale=alt.Scale(domain=list(STATES.values()), range=list(_SHAPES)),
        # Above the chart: beside the colours' it would be cut off where the page is narrow.
        legend=alt.Legend(symbolOpacity=1, orient="top") if len(found.front) < len(found.settings) else None,
    )
    points = base.mark_point(filled=True, size=64).encode(y=y, shape=shape, tooltip=_tooltip(found))
    bars = base.mark_rule(strokeWidth=1.4).encode(y=_quality_axis(found, "low"), y2="high:Q")
    points = points.add_params(alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.shiftKey]"))
    default = alt.Chart(rows.filter(pl.col("default"))).encode(x=x, y=y)
    ring = default.mark_point(filled=False, size=260, strokeWidth=2, opacity=1)
    # On the side of the middle, so that no edge cuts it off.
    side = "right" if _default_is_high(rows, field) else "left"
    down = 18 if _default_is_high(rows, "quality") else -18
    word = default.mark_text(dy=down, fontSize=12, fontWeight="bold", text="default", align=side)
    return [*(_in_colours(bars, points, fields) if fields else (bars, points)), ring, word]


def _default_is_high(rows: pl.DataFrame, field: str) -> bool:
    """Whether the default lies above the middle of `field`."""
    middle = (pl.col(field).min() + pl.col(field).max()) / 2
    return bool(rows.select((pl.col("default") & (pl.col(field) > middle)).any()).item())


def _in_colours(bars: alt.Chart, points: alt.Chart, fields: Sequence[str]) -> tuple[alt.Chart, alt.Chart]:
    """By the field that a menu chooses among `fields`, where there are several."""
    menu = alt.binding_select(options=list(fields), name="Colour by ") if len(fields) > 1 else alt.Undefined
    keys = alt.selection_point(name="keys", fields=["shade"], bind="legend", toggle="true")
    color = alt.Color(
        "shade:N",
        title=None if len(fields) > 1 else fields[0],
        sort=alt.EncodingSortField("rank", op="min"),
        legend=legend(),
    )

    def colour(made: alt.Chart, opacity: float) -> alt.Chart:
        shown = alt.when(keys).then(alt.value(opacity)).otherwise(alt.value(0.06))
        return made.transform_calculate(shade="datum[colour]", rank="datum['rank:' + colour]").encode(
            color=color, opacity=shown
        )

    chosen = alt.param(name="colour", value=fields[0], bind=menu)
    return colour(bars, 0.45), colour(points, 1).add_params(chosen, keys)


def _real_rule(found: TaskFront) -> list[alt.Chart]:
    """The level of real data; none where that is not known."""
    real = found.choice.setting.quality.real
    if real is None:
        return []
    base = alt.Chart(pl.DataFrame({"quality": [real]})).encode(y=_quality_axis(found))
    # On the side of the settings, where there is room for it.
    below = all(setting.quality.value <= real for setting in found.settings)
    word = base.mark_text(align="left", baseline="top" if below else "bottom", dx=4, dy=4 if below else -3, fontSize=11)
    word = word.encode(x=alt.value(0), text=alt.value("real data"))
    return [base.mark_rule(strokeDash=[4, 4], opacity=0.7, color="gray"), word]


def _calls_axis(settings: Sequence[Setting]) -> alt.X:
    title, counts = "network calls a sample", sorted({setting.calls for setting in settings})
    if len(counts) <= _MOST_LABELS:
        return labelled_axis("calls", title, counts, format=".3~g")
    return log_axis("calls", title, format=".3~g")


def _quality_axis(found: TaskFront, field: str = "quality") -> Any:
    ends = [end for setting in found.settings for end in _ends(setting.quality).values()]
    title = quality_title(found)
    if min(ends) > 0 and max(ends) / min(ends) > _WIDE:
        return log_axis(field, title, channel=alt.Y)
    return linear_axis(field, title)


def _ends(score: Score) -> dict[str, float]:
    return {
        "low": score.value if score.low is None else score.low,
        "high": score.value if score.high is None else score.high,
    }


def _ranks(settings: Sequence[Setting], name: str) -> dict[str, int]:
    """The values of a field in words, in their order; one step a token is the most."""
    values = {getattr(setting.sampler, name): field_words(setting.sampler, name) for setting in settings}
    ordered = sorted(values, key=lambda value: (value is None, 0 if value is None else value))
    return {values[value]: rank for rank, value in enumerate(ordered)}


def _tooltip(found: TaskFront) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("setting:N"),
        alt.Tooltip("place:N"),
        alt.Tooltip("calls:Q", title="calls a sample", format=".4~g"),
        alt.Tooltip("quality:Q", title=score_words(found.quality), format=".4~g"),
        alt.Tooltip("low:Q", format=".4~g"),
        alt.Tooltip("high:Q", format=".4~g"),
        alt.Tooltip("relative:Q", title="of real data's", format=".3f"),
        alt.Tooltip("diversity:Q", title="diversity, of real data's", format=".3f"),
        alt.Tooltip("tokens_per_second:Q", title="tokens/s", format=".3~s"),
    ]
