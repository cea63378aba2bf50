"""The sections on scaling: held-out loss, the fitted law, its frontier and what it leaves unexplained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import altair as alt
import numpy as np
import polars as pl

from studies.analysis.charts import residuals as residual_charts
from studies.analysis.charts import runs as run_charts
from studies.analysis.charts import scaling as charts
from studies.analysis.fits import COLUMN, Count, Fits
from studies.analysis.laws.chinchilla import NAMES, Fit, UnidentifiedError, fit
from studies.analysis.optimum import frontier
from studies.analysis.page import card, escape, note, table
from studies.analysis.report.sections import Card, Section
from studies.analysis.report.wording import counted, number
from studies.analysis.results import modality_title
from studies.analysis.views.question import Figure

SYMBOLS = dict(zip(NAMES, ("E", "A", "B", "α", "β"), strict=True))
COUNTED: dict[Count, str] = {
    "non_embedding": "non-embedding parameters",
    "total": "all parameters, embeddings included",
}
_REACH = 100.0
_SAME = 1.1
"""Runs whose FLOPs differ by less than this factor have equal compute."""


def held_out(results: pl.DataFrame) -> list[Section]:
    """Held-out loss against compute and against tokens, a figure for each modality."""
    modalities = results["modality"].unique(maintain_order=True).to_list()

    def cards(draw: Callable[[pl.DataFrame, str], alt.LayerChart], kind: str) -> list[Card]:
        return [
            Card(modality_title(m), [Figure(f"{kind}-{k}", "", partial(draw, results, m))])
            for k, m in enumerate(modalities)
        ]

    text = (
        "Negative ELBO on held-out data, in nats per non-padding token of whole sequences, one noise level for all "
        "tokens. Points are runs, lines join a size's mean over seeds."
    )
    return [
        Section(
            "compute", "Held-out loss against compute", text, cards(run_charts.loss_against_flops, "flops"), beside=True
        ),
        Section(
            "tokens",
            "Held-out loss against tokens",
            "The same runs over their training tokens (of all modalities together), by size.",
            cards(run_charts.loss_against_tokens, "tokens"),
            beside=True,
        ),
    ]


def law(results: pl.DataFrame, fits: Fits) -> Section:
    """The fitted laws: curves with bands, the parameters with their intervals, and what is to be read with care."""
    text = (
        "L(N, D) = E + A / N<sup>α</sup> + B / D<sup>β</sup>, fitted by Huber loss (δ = 0.001) on log L. "
        f"N counts {COUNTED[fits.count]}; D counts the tokens of all modalities together. Bands and brackets hold the "
        "central 90 % of a bootstrap over runs; bands are of the law, without a single run's noise. Dashed: beyond the "
        f"runs, up to {charts.REACH:g} times their parameters and tokens."
    )
    cards = [
        Card(modality_title(m), [Figure(f"law-{k}", "", partial(charts.law, results, m, f, fits.count))])
        for k, (m, f) in enumerate(fits.fits.items())
    ]
    above = ""
    if fits.missing:
        above += note("Not fitted", [f"{modality_title(m)}: {why}" for m, why in fits.missing.items()])
    if fits.fits:
        above += card("", table(["modality", *SYMBOLS.values(), "runs", "objective", "rms error of L"], _rows(fits)))
    warned = [f"{modality_title(m)}: {_symbols(said)}" for m, f in fits.fits.items() for said in f.warnings]
    if warned:
        above += note("Read with care", warned)
    return Section("law", "The law", text, cards, html=above + "<br>" if cards else above, beside=True)


def compute_optimal(results: pl.DataFrame, fits: Fits) -> list[Section]:
    """What the laws promise for a budget, up to `_REACH` times that of the largest run; none where no law is fitted or
    the cost of a token is known at one size only."""
    cards = []
    unknown = []
    for k, (modality, fitted) in enumerate(fits.fits.items()):
        rows = run_charts.points(results, modality)
        if rows[COLUMN[fits.count]].n_unique() < 2:
            continue
        N, D, C = (rows[column].to_numpy() for column in (COLUMN[fits.count], "tokens", "flops"))
        curve = frontier(fitted, N, D, C, reach=_REACH)
        if len(curve) < 2:
            unknown.append(f"{modality_title(modality)}: the law has no optimum near the sizes that were run")
            continue
        drawn = [
            Figure(f"frontier-{k}", "Loss", partial(charts.frontier, rows, curve)),
            Figure(f"optimum-{k}", "Parameters and tokens", partial(charts.optimum, curve)),
        ]
        cards.append(Card(modality_title(modality), drawn))
    if not cards and not unknown:
        return []
    text = (
        "The least loss that each law promises for so many training FLOPs, and the parameters and tokens that reach "
        "it, at what a token costs in the study's own shapes. Bands hold 90 % of the bootstrap. Dashed: more FLOPs "
        f"than any run had, up to {_REACH:g} times; nothing was measured there."
    )
    above = note("No optimum", unknown) if unknown else ""
    return [Section("frontier", "Compute-optimal frontier", text, cards, html=above)]


def residuals(results: pl.DataFrame, fits: Fits) -> list[Section]:
    """What the laws leave unexplained; none where no law is fitted."""
    cards = []
    for k, modality in enumerate(fits.fits):
        rows = residual_rows(results, modality, fits)
        drawn = [
            Figure(
                f"residuals-{against.lower()}-{k}", f"over {words}", partial(residual_charts.residuals, rows, against)
            )
            for against, words in _AGAINST
        ]
        predicted = partial(residual_charts.predicted_against_measured, rows)
        drawn.append(Figure(f"predicted-{k}", "predicted over measured", predicted))
        cards.append(Card(modality_title(modality), drawn, _unseen(rows), layout="close"))
    if not cards:
        return []
    text = (
        "How far each run's held-out loss lies from the law. Where the other runs determine it, the law is fitted anew "
        "without the runs of most compute: those are predicted, not fitted. Points that bend away from the dashed line "
        "together are something that the law does not have."
    )
    return [Section("residuals", "Residuals", text, cards)]


def _unseen(rows: pl.DataFrame) -> str:
    """How well the runs that the law has not seen are predicted."""
    unseen = rows.filter(part=residual_charts.HELD_OUT)["error"]
    if unseen.is_empty():
        return '<p class="soft">No run is held out: the others do not determine the law.</p>'
    bias, size = float(unseen.mean()), float(unseen.abs().mean())  # type: ignore[arg-type]
    return (
        f'<p class="soft">{counted(len(unseen), "run")} of most compute, held out: off by {size:.2g} % on average, '
        f"measured {'above' if bias > 0 else 'below'} predicted by {abs(bias):.2g} %.</p>"
    )


_AGAINST: tuple[tuple[residual_charts.Against, str], ...] = (("N", "parameters"), ("D", "tokens"), ("C", "FLOPs"))


def residual_rows(results: pl.DataFrame, modality: str, fits: Fits) -> pl.DataFrame:
    """The rows that the residual figures take: of the law fitted without the runs of most compute, or, where the others
    do not determine one, of that of all runs."""
    rows = results.filter(pl.col("modality") == modality)
    N, D, loss = (rows[name].to_numpy() for name in (COLUMN[fits.count], "tokens", "nelbo"))
    flops = rows["flops"].to_numpy()
    held = flops > flops.max() / _SAME
    try:
        fitted = fit(N[~held], D[~held], loss[~held], bootstrap=0).law
    except (UnidentifiedError, ValueError):
        fitted, held = fits.fits[modality].law, np.zeros(len(rows), bool)
    predicted = fitted(N, D)
    return rows.select(
        "id",
        "nelbo",
        run="name",
        N=pl.Series(N),
        D=pl.Series(D),
        C=pl.Series(flops),
        predicted=pl.Series(predicted),
        error=pl.Series(100 * (loss / predicted - 1)),
        part=pl.Series(np.where(held, residual_charts.HELD_OUT, residual_charts.FITTED), dtype=pl.String),
    )


def _rows(fits: Fits) -> list[list[str]]:
    return [
        [
            escape(modality_title(m)),
            *(_estimate(f, name) for name in NAMES),
            str(f.n),
            f"{f.objective:.3g}",
            f"{100 * f.residual:.2g} %",
        ]
        for m, f in fits.fits.items()
    ]


def _estimate(fit: Fit, name: str) -> str:
    value = number(getattr(fit.law, name))
    if name not in fit.intervals:
        return value
    low, high = fit.intervals[name]
    return f"{value}<small>{number(low)} to {number(high)}</small>"


def _symbols(text: str) -> str:
    return text.replace("alpha", "α").replace("beta", "β")
