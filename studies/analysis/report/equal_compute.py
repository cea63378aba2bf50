"""The section on runs of equal compute: IsoFLOP parabolas and their minima."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import polars as pl

from studies.analysis.charts import scaling as charts
from studies.analysis.charts.axes import thinned
from studies.analysis.charts.runs import points
from studies.analysis.fits import COLUMN, Fits
from studies.analysis.laws.chinchilla import UnidentifiedError
from studies.analysis.laws.isoflop import FEWEST_SIZES, Budget, IsoFlop, fit
from studies.analysis.page import card, escape, note, table
from studies.analysis.report.sections import Card, Section
from studies.analysis.report.wording import NONE
from studies.analysis.results import modality_title
from studies.analysis.views.question import Figure
from studies.analysis.views.words import estimate, signed

_MOST = 12
"""Budgets that one figure shows."""
_CURVE = 40


def isoflop(results: pl.DataFrame, fits: Fits, bootstrap: int) -> list[Section]:
    """Parabolas through the losses at each FLOPs budget; none where most runs have no others of equal compute."""
    cards, rows, warned = [], [], []
    for k, modality in enumerate(results["modality"].unique(maintain_order=True).to_list()):
        runs = points(results, modality).with_columns(N=pl.col(COLUMN[fits.count]))
        law = fits.fits[modality].law if modality in fits.fits else None
        try:
            found = fit(runs["N"], runs["tokens"], runs["nelbo"], runs["flops"], law=law, bootstrap=bootstrap)
        except (UnidentifiedError, ValueError):
            continue
        budgets = [budget for budget in found.budgets if budget.sizes >= FEWEST_SIZES]
        if len(budgets) < 2 or 2 * sum(budget.runs for budget in budgets) < len(runs):
            continue
        cards.append(Card(modality_title(modality), [_figure(k, runs, budgets, fits)]))
        rows.append([escape(modality_title(modality)), *_exponents(found), str(len(budgets))])
        warned += [f"{modality_title(modality)}: {said}" for said in found.warnings]
    if not cards:
        return []
    text = (
        "Held-out nelbo over parameters at equal compute, a parabola in log N through each budget's runs and its "
        "lowest point with the central 90 % of a bootstrap of residuals. The best N and D grow as C<sup>a</sup> and "
        "C<sup>b</sup> through these points (Chinchilla's approach 2)."
    )
    above = card("", table(["modality", "a (of N)", "b (of D)", "bias of a", "budgets"], rows))
    above += note("Read with care", warned) if warned else ""
    return [Section("isoflop", "IsoFLOP", text, cards, html=above + "<br>", beside=True)]


def _exponents(found: IsoFlop) -> list[str]:
    laws = [NONE if law is None else estimate(law.exponent, law.interval, "{:.3f}") for law in (found.N, found.D)]
    return [*laws, NONE if found.bias is None else f"<span>{signed(found.bias.a, '.3f')}</span>"]


def _figure(k: int, runs: pl.DataFrame, budgets: list[Budget], fits: Fits) -> Figure:
    kept = set(thinned([budget.flops for budget in budgets], _MOST))
    budgets = [budget for budget in budgets if budget.flops in kept]
    # Runs of a budget differ a little in FLOPs: each belongs to the nearest.
    places = np.log([budget.flops for budget in budgets])
    gaps = np.abs(np.log(runs["flops"].to_numpy())[:, None] - places[None])
    nearest = gaps.argmin(axis=1)
    named = runs.with_columns(budget=pl.Series([budgets[b].flops for b in nearest]))
    near = named.filter(pl.Series(gaps.min(axis=1) < 0.1))
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
    return Figure(f"isoflop-{k}", "", partial(charts.isoflop, near, curves, minima, fits.count))


def _minimum(budget: Budget) -> tuple[float | None, ...]:
    low, high = budget.interval or (math.nan, math.nan)
    # An interval that reaches beyond the sizes is drawn to their ends.
    ends = [None if math.isnan(end) else min(max(end, budget.smallest), budget.largest) for end in (low, high)]
    return (budget.flops, budget.N, budget.loss, *ends)
