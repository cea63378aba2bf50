"""The Gantt chart of a planned study on its cluster: a page that opens without a network, an SVG or a PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import msgspec
import numpy as np
import polars as pl
import vl_convert

from compiler.files import write_atomically
from compiler.plan import RunPlan, StudyPlan
from compiler.timeline import Block, Span, study_hours, timeline, too_large
from specs.errors import Problem, SpecError
from specs.quantities import format_quantity, parse_quantity
from studies.analysis.page import card, chart, escape, page

MOST_RUN_ROWS = 60
"""Up to so many runs have a row each; more are drawn on the devices that they hold."""
MOST_BARS = 4_000
"""Up to so many bars are drawn; more are shown as devices in use over time."""

_MOST_COLOURS = 12
_BASE = "as in the base"
_BINS = 240
_WIDTH = 960
_UNITS = (("seconds", 1 / 3600, 1 / 30), ("minutes", 1 / 60, 2.0), ("hours", 1.0, 96.0), ("days", 24.0, math.inf))
# What the page's own theme gives a chart on it, for files that stand alone.
_PRINT: dict[str, Any] = {
    "background": "white",
    "padding": 16,
    "font": "DejaVu Sans, Helvetica, Arial, sans-serif",
    "range": {"ordinal": {"scheme": "viridis", "extent": [0, 0.86]}},
    "axis": {"labelColor": "#3b4656", "titleColor": "#3b4656", "gridColor": "#e6e9ee", "domainColor": "#c8ced6",
             "tickColor": "#c8ced6", "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
             "titlePadding": 8},
    "legend": {"labelColor": "#3b4656", "titleColor": "#3b4656", "orient": "bottom", "direction": "horizontal",
               "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "columns": 12},
    "title": {"color": "#1b2330", "fontSize": 15, "anchor": "start", "subtitleColor": "#5a6678",
              "subtitleFontSize": 12, "offset": 14},
    "view": {"stroke": None},
}  # fmt: skip
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def write_gantt(plan: StudyPlan, path: Path) -> None:
    """Draw `plan` on its cluster into `path`, as its suffix says: .html, .svg or .png.

    Raises SpecError for another suffix, and where the file cannot be written.
    """
    drawers = {".html": _html, ".svg": _svg, ".png": _png}
    draw = drawers.get(path.suffix.lower())
    if draw is None:
        what = f"'{path.suffix}' is not a kind of file that a chart can be" if path.suffix else "the file has no suffix"
        raise SpecError([Problem(str(path), 1, "file", what, f"end its name in {', '.join(drawers)}")])
    data = draw(plan)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        what = f"the chart cannot be written ({error.strerror or error})"
        raise SpecError([Problem(str(path), 1, "file", what, "give a path where you may write")]) from None


def gantt(plan: StudyPlan, width: int | str = "container") -> alt.Chart:
    """The chart alone, `width` in pixels or as wide as the page's column.

    A bar per run, coloured by the study's first axis: in rows of its own, or on its devices, or (very many) not as bars
    but as devices in use over time.
    """
    spans = timeline(plan.runs, plan.cluster)
    unit, hours = _unit(study_hours(spans))
    x = alt.X("start:Q", title=f"{unit} from the start", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=8))
    colours = _Colours.of(plan.runs)
    rows_of_runs = len(spans) <= MOST_RUN_ROWS
    if not rows_of_runs and sum(len(span.blocks) for span in spans) > MOST_BARS:
        made = _usage(plan, spans, colours, x, hours)
    else:
        made = _run_rows(plan, spans, colours, x, hours) if rows_of_runs else _devices(plan, spans, colours, x, hours)
    return made.encode(**colours.encoding()).properties(width=width)


@dataclass(frozen=True)
class _Colours:
    """The first axis' path, the label of each run's value by id, and all labels in their order."""

    axis: str | None
    labels: dict[str, str]
    order: list[str]
    numeric: bool

    @classmethod
    def of(cls, runs: Sequence[RunPlan]) -> _Colours:
        axis = next(iter(runs[0].point), None) if runs else None
        if axis is None:
            return cls(None, {}, [], False)
        values = {run.id: run.point.get(axis, _BASE) for run in runs}
        distinct = list(dict.fromkeys(values.values()))
        sizes = {value: _size(value) for value in distinct}
        numeric = None not in sizes.values()
        if numeric:
            distinct.sort(key=lambda value: sizes[value] or 0.0)
        order = list(dict.fromkeys(map(_label, distinct)))
        return cls(axis, {run: _label(value) for run, value in values.items()}, order, numeric)

    @property
    def field(self) -> str:
        return "value:O" if self.numeric else "value:N"

    def encoding(self) -> dict[str, alt.Color]:
        if self.axis is None:
            return {}
        legend: Any = alt.Legend(title=self.axis)
        if len(self.order) > _MOST_COLOURS:
            last = len(self.order) - 1
            few = [self.order[round(k * last / 7)] for k in range(8)]
            legend = alt.Legend(title=self.axis, values=few) if self.numeric else None
        return {"color": alt.Color(self.field, sort=self.order, legend=legend)}


def _size(value: object) -> float | None:
    try:
        return parse_quantity(value)
    except ValueError:
        return None


def _label(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return format_quantity(value) if value >= 1e5 else f"{value:.6g}"


def _rows(plan: StudyPlan, spans: Sequence[Span], colours: _Colours, hours: float, devices: bool) -> pl.DataFrame:
    """A row per span, or, with `devices`, per block of devices of each."""
    device_hours = {run.id: run.device_hours for run in plan.runs}
    alone: tuple[Block, ...] = ((0, 0),)
    return pl.DataFrame(
        [
            {
                "row": k,
                "run": span.name or span.run,
                "start": round(span.start_hours / hours, 6),
                "end": round(span.end_hours / hours, 6),
                "first": first,
                "last": first + count,
                "devices": span.devices,
                "starts": _duration(span.start_hours),
                "takes": _duration(span.hours),
                "device_hours": device_hours[span.run],
                "value": colours.labels.get(span.run, ""),
            }
            for k, span in enumerate(spans)
            for first, count in (span.blocks if devices else alone)
        ]
    )


def _bars(rows: pl.DataFrame, x: alt.X) -> alt.Chart:
    return alt.Chart(rows).encode(
        x=x,
        x2="end:Q",
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("starts:N", title="starts after"),
            alt.Tooltip("takes:N"),
            alt.Tooltip("devices:Q", format=","),
            alt.Tooltip("device_hours:Q", title="device-hours", format=".3~g"),
        ],
    )


def _run_rows(plan: StudyPlan, spans: Sequence[Span], colours: _Colours, x: alt.X, hours: float) -> alt.Chart:
    # Rows are numbered, not named: names may be equal.
    names = msgspec.json.encode([span.name or span.run for span in spans]).decode()
    axis = alt.Axis(labelExpr=f"{names}[datum.value]", labelLimit=320, ticks=False, domain=False, labelPadding=8)
    rows = _rows(plan, spans, colours, hours, devices=False)
    made = _bars(rows, x).mark_bar(cornerRadius=2).encode(y=alt.Y("row:O", title=None, axis=axis))
    return made.properties(height=20 * len(rows))


def _devices(plan: StudyPlan, spans: Sequence[Span], colours: _Colours, x: alt.X, hours: float) -> alt.Chart:
    rows = _rows(plan, spans, colours, hours, devices=True)
    used = max(first + count for span in spans for first, count in span.blocks)
    y = alt.Y(
        "first:Q",
        title="device",
        scale=alt.Scale(domain=[0, used], reverse=True, nice=False),
        axis=alt.Axis(grid=False, tickMinStep=1, format="d"),
    )
    # Edges keep bars of one colour apart, until there are so many that edges are all one sees.
    edge = 0.5 if len(rows) <= 1000 else 0.0
    made = _bars(rows, x).mark_rect(stroke="white", strokeWidth=edge).encode(y=y, y2="last:Q")
    return made.properties(height=max(160, min(640, 14 * used)))


def _usage(plan: StudyPlan, spans: Sequence[Span], colours: _Colours, x: alt.X, hours: float) -> alt.Chart:
    """Devices in use, the mean over each of `_BINS` stretches of time, stacked by the first axis."""
    edges = np.linspace(0.0, study_hours(spans) or 1.0, _BINS + 1)
    by_value: dict[str, list[Span]] = {}
    for span in spans:
        by_value.setdefault(colours.labels.get(span.run, ""), []).append(span)
    below = np.zeros(_BINS)
    tables = []
    for value in colours.order or [""]:
        here = by_value[value]
        widths = np.array([span.devices for span in here])
        times = np.array([span.start_hours for span in here] + [span.end_hours for span in here])
        order = np.argsort(times, kind="stable")
        moments, rate = times[order], np.cumsum(np.concatenate([widths, -widths])[order])
        spent = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(moments))])
        mean = np.diff(np.interp(edges, moments, spent)) / np.diff(edges)
        stretch = {"start": edges[:-1] / hours, "end": edges[1:] / hours, "devices": mean}
        stack = {"below": below, "above": below + mean}
        tables.append(pl.DataFrame({**stretch, **stack}).with_columns(value=pl.lit(value)))
        below = below + mean
    rows = pl.concat(tables).filter(pl.col("devices") > 1e-6 * plan.cluster.devices)
    y = alt.Y(
        "below:Q", title="devices in use", scale=alt.Scale(domain=[0, plan.cluster.devices]), axis=alt.Axis(grid=False)
    )
    tooltip = [alt.Tooltip("value:N", title=colours.axis or "runs"), alt.Tooltip("devices:Q", format=",.4~g")]
    # Edges of the bars' own colour close the gaps that antialiasing leaves between neighbours.
    edge = {"stroke": alt.Stroke(colours.field, sort=colours.order, legend=None)} if colours.axis else {}
    made = alt.Chart(rows).mark_rect(strokeWidth=0.6)
    return made.encode(x=x, x2="end:Q", y=y, y2="above:Q", tooltip=tooltip, **edge).properties(height=320)


def _html(plan: StudyPlan) -> bytes:
    title, summary = _titles(plan)
    body = f'<h1>{escape(title)}</h1><p class="soft">{escape(summary)}</p>'
    return page(f"{title} · Triptych", body + card("", chart(gantt(plan), "gantt"))).encode()


def _svg(plan: StudyPlan) -> bytes:
    return vl_convert.vegalite_to_svg(_standalone(plan), vl_version=_VEGA_LITE, config=_PRINT).encode()


def _png(plan: StudyPlan) -> bytes:
    made: bytes = vl_convert.vegalite_to_png(_standalone(plan), vl_version=_VEGA_LITE, config=_PRINT, scale=2)
    return made


def _standalone(plan: StudyPlan) -> dict[str, Any]:
    title, summary = _titles(plan)
    with alt.data_transformers.enable("default", max_rows=None):
        drawn = gantt(plan, _WIDTH).properties(title=alt.Title(title, subtitle=summary))
        spec: dict[str, Any] = drawn.to_dict()
    spec.pop("config", None)  # Altair's own, which would win over `_PRINT`
    return spec


def _titles(plan: StudyPlan) -> tuple[str, str]:
    cluster = plan.cluster
    runs = f"{len(plan.runs):,} run{'' if len(plan.runs) == 1 else 's'}"
    where = f"{cluster.devices:,} × {cluster.accelerator.name} ({cluster.name}), MFU {cluster.mfu:g}"
    summary = f"{runs} on {where}: {_duration(plan.hours)} in all, as planned"
    large = len(too_large(plan.runs, cluster))
    if large:
        summary += f"; {large:,} need{'s' if large == 1 else ''} more devices than there are (drawn on all)"
    return f"{plan.study}: the plan in time", summary


def _unit(total: float) -> tuple[str, float]:
    """The unit that suits `total` hours, and how many hours it has."""
    return next((name, hours) for name, hours, limit in _UNITS if total < limit or math.isinf(limit))


def _duration(hours: float) -> str:
    unit, size = _unit(hours)
    return f"{hours / size:.3g} {unit}"
