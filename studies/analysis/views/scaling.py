"""The approaches to scaling laws in words and figures; approach 3's own curves stand in the report's section on it."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from specs.quantities import format_quantity
from studies.analysis.fits import COLUMN, Count
from studies.analysis.laws.base import Interval
from studies.analysis.laws.isoflop import TOLERANCE, Budget, IsoFlop, PowerLaw
from studies.analysis.questions.scaling import Approaches, Scaling, scaling
from studies.analysis.results import modality_title
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, stacked, together

if TYPE_CHECKING:
    import altair as alt

TEXT = (
    "How compute C should be split: N ∝ C<sup>a</sup>, D ∝ C<sup>b</sup>, by the envelope of the runs (approach 1), "
    "by parabolas through runs of equal compute (approach 2), and by the law L = E + A/N<sup>α</sup> + B/D<sup>β</sup> "
    "(approach 3: a = β/(α + β)). Parabolas are biased where α and β differ or sizes lie far or off centre (arXiv "
    "2603.22339): the bias is what they give for noise-free losses of approach 3’s law at the very same points. "
    "Brackets hold the central 90 % of a bootstrap. Runs that see a source more than four times are left out."
)
_CURVE = 40
_MOST = 12
"""Budgets that one figure shows."""


def split_table(found: Scaling) -> Found:
    """Exponents of the compute-optimal split by each approach, and the largest budget's best size by approach 2."""
    rows: list[tuple[Cell, ...]] = []
    said: list[str] = []
    weak: list[tuple[str, str]] = []
    for one in found.approaches:
        rows += _split_rows(one)
        title = modality_title(one.modality)
        if one.repeated:
            said.append(f"{title}: {one.repeated} runs see a source more than four times and are left out.")
        if one.repeats is not None:
            said.append(f"{title}: with them, R* = {_of(one.repeats.parameters, one.repeats.intervals, 'R_D')}.")
        for name, words in (("isoflop", "approach 2"), ("envelope", "approach 1"), ("repeats", "the law of repeats")):
            approach = getattr(one, name)
            if name in one.missing:
                weak.append((title, f"{one.missing[name]} ({words})"))
            elif approach is not None:
                weak += [(title, f"{warning} ({words})") for warning in approach.warnings]
    header = ("modality", "approach", "a", "b", "bias of a", "best N, largest budget")
    return Found("The compute-optimal split", header, tuple(rows), tuple(said), (*found.warnings, *_together(weak)))


def prediction_table(found: Scaling) -> Found:
    """How well the law predicts what it has not seen: configurations left out, and the largest budgets."""
    rows: list[tuple[Cell, ...]] = []
    weak: list[tuple[str, str]] = []
    for one in found.approaches:
        title = modality_title(one.modality)
        if one.law is None:
            continue
        held, beyond = one.held_out, one.extrapolated
        known = beyond is not None and beyond.predicted.n > 0
        rows.append(
            (
                title,
                f"{one.law.n}",
                f"{100 * one.law.residual:.2f} %\nR² {one.law.r2:.3f}",
                NONE if held is None or not held.n else f"{100 * held.rms:.2f} %",
                NONE if not known or beyond is None else f"{beyond.predicted.n} at ×{beyond.reach:.3g}",
                NONE if not known or beyond is None else f"{100 * beyond.predicted.rms:.2f} %",
                NONE if not known or beyond is None else f"{100 * beyond.predicted.bias:+.2f} %".replace("-", "−"),
                NONE if not known or beyond is None else _inside(beyond.predicted.coverage, beyond.predicted.n),
            )
        )
        for name, words in (("held_out", "left out"), ("extrapolated", "extrapolated")):
            if name in one.missing:
                weak.append((title, f"{one.missing[name]} ({words})"))
        weak += [(title, f"{warning} (left out)") for warning in (held.warnings if held else ())]
        weak += [(title, f"{warning} (extrapolated)") for warning in (beyond.predicted.warnings if beyond else ())]
    said = (
        "Errors of log loss. Left out: each configuration predicted by the law of the others. Largest budgets: "
        "predicted by the law of the smaller ones; “×” is how many times the largest compute that law has seen.",
    )
    header = ("modality", "runs", "fit", "left out", "largest budgets", "their error", "its mean", "inside 90 %")
    return Found("What the law predicts", header, tuple(rows), said if rows else (), _together(weak))


def _together(weak: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(one.replace("N_opt", "best N") for one in together(weak))


def _split_rows(one: Approaches) -> list[tuple[Cell, ...]]:
    title = modality_title(one.modality)
    rows: list[tuple[Cell, ...]] = []
    if one.envelope is not None:
        rows.append((title, "1 envelope", _exponent(one.envelope.N_law), _exponent(one.envelope.D_law), NONE, NONE))
    if one.isoflop is not None:
        found = one.isoflop
        bias = NONE if found.bias is None else f"{found.bias.a:+.3f}".replace("-", "−")
        rows.append((title, "2 IsoFLOP", _exponent(found.N), _exponent(found.D), bias, _best(found)))
    if one.law is not None:
        split = one.law.allocation()
        ends = split.intervals
        a, b = (stacked(value, ends.get(name), "{:.2f}") for name, value in (("a", split.a), ("b", split.b)))
        rows.append((title, "3 law", a, b, NONE, NONE))
    return rows


def _best(found: IsoFlop) -> str:
    largest = found.budgets[-1]
    if largest.N is None:
        return NONE
    return format_quantity(largest.N) + (f"\n{largest.left_out}" if largest.left_out else "")


def _exponent(law: PowerLaw | None) -> str:
    return NONE if law is None else stacked(law.exponent, law.interval, "{:.2f}")


def _of(parameters: dict[str, float], intervals: dict[str, Interval], name: str) -> str:
    if name not in parameters:
        return "not fitted"
    return stacked(parameters[name], intervals.get(name), "{:.3g}").replace("\n", ", ")


def _inside(coverage: float, n: int) -> str:
    return NONE if math.isnan(coverage) else f"{round(coverage * n)} of {n}"


def _show(found: Scaling) -> Block:
    figures = [
        Figure(
            f"isoflop-{k}", modality_title(one.modality), partial(_equal_compute, found.count, one.rows, one.isoflop)
        )
        for k, one in enumerate(found.approaches)
        if one.isoflop is not None
    ]
    return Block(figures, [split_table(found), prediction_table(found)])


def _equal_compute(count: Count, results: pl.DataFrame, found: IsoFlop) -> alt.LayerChart:
    """The IsoFLOP figure: runs at the budget nearest to them, parabolas, and their lowest points."""
    from studies.analysis.charts.axes import thinned
    from studies.analysis.charts.runs import points
    from studies.analysis.charts.scaling import isoflop

    fitted = [budget for budget in found.budgets if budget.curve is not None]
    kept = set(thinned([budget.flops for budget in fitted], _MOST))
    budgets = [budget for budget in fitted if budget.flops in kept]
    # Runs of a budget differ a little in FLOPs: each belongs to the nearest.
    gaps = np.abs(np.log(results["flops"].to_numpy())[:, None] - np.log([budget.flops for budget in budgets])[None])
    nearest = pl.Series([budgets[b].flops for b in gaps.argmin(axis=1)])
    runs = points(results, results["modality"][0]).with_columns(N=pl.col(COLUMN[count]), budget=nearest)
    curves = pl.concat(
        pl.DataFrame({"N": sizes, "nelbo": budget.losses(sizes)}).with_columns(budget=pl.lit(budget.flops))
        for budget in budgets
        for sizes in [np.geomspace(budget.smallest, budget.largest, _CURVE)]
    )
    minima = pl.DataFrame(
        [_minimum(budget) for budget in budgets if budget.N is not None and not budget.edge],
        schema=dict.fromkeys(("budget", "N", "nelbo", "low", "high"), pl.Float64),
        orient="row",
    )
    return isoflop(runs.filter(pl.Series(gaps.min(axis=1) < TOLERANCE)), curves, minima, count)


def _minimum(budget: Budget) -> tuple[float | None, ...]:
    low, high = budget.interval or (math.nan, math.nan)
    # An interval that reaches beyond the sizes is drawn to their ends.
    ends = [None if math.isnan(end) else min(max(end, budget.smallest), budget.largest) for end in (low, high)]
    return (budget.flops, budget.N, budget.loss, *ends)


SCALING = Question(
    key="scaling",
    title="Scaling: the compute-optimal split",
    text=TEXT,
    ask=scaling,
    show=_show,
    plain=Scaling.plain,
)
