"""The section on what the study cost and how well it used its devices."""

from __future__ import annotations

from functools import partial

import polars as pl

from specs.quantities import format_quantity
from studies.analysis.charts import utilisation as charts
from studies.analysis.page import card, table
from studies.analysis.report.sections import Card, Section
from studies.analysis.report.wording import percent
from studies.analysis.views.question import Figure
from studies.analysis.views.words import NONE


def costs(used: pl.DataFrame) -> list[Section]:
    """Planned against measured, and rates, from a `utilisation` table; none before a step is logged."""
    logged = used.filter(pl.col("share").is_not_null())
    if logged.is_empty():
        return []
    text = (
        "Device-hours are those of training alone, without start and evaluation; planned ones are of the steps that "
        "are done, by the cluster's profile (<code>triptych mfu --write</code> corrects it). Rates are means over a "
        "run's logged steps but the first ones."
    )
    cards = [Card(figures=[figure]) for figure in _figures(logged)]
    return [Section("costs", "Cost and utilisation", text, cards, html=_totals(logged) + "<br>", beside=True)]


def _figures(logged: pl.DataFrame) -> list[Figure]:
    found = []
    if len(logged.filter(pl.col("planned_hours") > 0, pl.col("hours") > 0)):
        found.append(Figure("costs-hours", "Device-hours, planned and taken", partial(charts.hours, logged)))
    if len(logged.filter(pl.col("tokens_per_second") > 0)):
        found.append(Figure("costs-throughput", "Tokens per second", partial(charts.throughput, logged)))
    if logged["mfu"].is_finite().any():
        found.append(Figure("costs-mfu", "Model FLOPs utilisation", partial(charts.mfu, logged)))
    if logged["padding"].is_finite().any() or logged["data_wait"].is_finite().any():
        found.append(Figure("costs-waste", "Waiting and padding", partial(charts.waste, logged)))
    return found


def _totals(logged: pl.DataFrame) -> str:
    hours, planned = float(logged["hours"].sum()), float(logged["planned_hours"].sum())
    # Rates over all runs are weighed by the hours in which they held.
    rows = [
        ["training FLOPs of the steps done", f"{logged['flops'].sum():.3g}", f"{logged['planned_flops'].sum():.3g}"],
        [
            "training tokens of the steps done",
            format_quantity(float(logged["tokens_seen"].sum())),
            format_quantity(float(logged["planned_tokens"].sum())),
        ],
        ["device-hours", f"{hours:.3g}", f"{planned:.3g}"],
        ["model FLOPs utilisation", percent(_mean(logged, "mfu")), NONE],
        ["waiting for data", percent(_mean(logged, "data_wait")), NONE],
        ["padding", percent(_mean(logged, "padding")), NONE],
    ]
    rows[0][2] += "<small>whole runs</small>"
    rows[1][2] += "<small>for these steps</small>"
    rows[2][2] += "<small>for these steps</small>"
    return card("", table(["all runs that have begun", "measured", "planned"], rows))


def _mean(logged: pl.DataFrame, column: str) -> float | None:
    known = logged.filter(pl.col(column).is_finite(), pl.col("hours") > 0)
    weight = float(known["hours"].sum())
    return float((known[column] * known["hours"]).sum()) / weight if weight else None
