"""The sections on scaling: held-out loss, the fitted law, its frontier and what it leaves unexplained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import altair as alt
import polars as pl

from studies.analysis.charts import residuals as residual_charts
from studies.analysis.charts import runs as run_charts
from studies.analysis.charts import scaling as charts
from studies.analysis.fits import COLUMN, fit_results
from studies.analysis.how import How
from studies.analysis.optimum import frontier
from studies.analysis.page import card, note
from studies.analysis.questions.scaling import Approaches, Scaling
from studies.analysis.report.answers import found_table
from studies.analysis.report.sections import Card, Section
from studies.analysis.results import modality_title
from studies.analysis.views.law import law_table
from studies.analysis.views.question import Figure

_REACH = 100.0


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


def law(found: Scaling) -> Section:
    """The fitted laws: curves with bands, the parameters with their intervals, and what is to be read with care."""
    text = (
        "L(N, D) = E + A / N<sup>α</sup> + B / D<sup>β</sup>, fitted by Huber loss (δ = 0.001) on log L; D counts the "
        "tokens of all modalities together. Bands and brackets hold the central 90 % of a bootstrap; bands are of the "
        f"law, without a single run's noise. Dashed: beyond the runs, up to {charts.REACH:g} times their parameters "
        "and tokens."
    )
    cards = [
        Card(modality_title(one.modality), [Figure(f"law-{k}", "", partial(_law, found, one))])
        for k, one in enumerate(_fitted(found))
    ]
    above = card("", found_table(law_table(found.fits)))
    return Section("law", "The law", text, cards, html=above + "<br>" if cards else above, beside=True)


def unfitted(results: pl.DataFrame, how: How) -> Section:
    """Why a study that asks nothing else has no law."""
    fits = fit_results(results, how.count, how.bootstrap, how.seed, how.by)
    return Section("law", "The law", html=card("", found_table(law_table(fits))))


def _fitted(found: Scaling) -> list[Approaches]:
    return [one for one in found.approaches if one.law is not None]


def _law(found: Scaling, one: Approaches) -> alt.LayerChart:
    return charts.law(one.rows, one.modality, found.fits.fits[one.modality], found.count)


def compute_optimal(found: Scaling) -> list[Section]:
    """What the laws promise for a budget, up to `_REACH` times that of the largest run; none where no law is fitted or
    the cost of a token is known at one size only."""
    cards = []
    unknown = []
    for k, one in enumerate(_fitted(found)):
        rows = run_charts.points(one.rows, one.modality)
        if rows[COLUMN[found.count]].n_unique() < 2:
            continue
        N, D, C = (rows[column].to_numpy() for column in (COLUMN[found.count], "tokens", "flops"))
        curve = frontier(found.fits.fits[one.modality], N, D, C, reach=_REACH)
        if len(curve) < 2:
            unknown.append(f"{modality_title(one.modality)}: the law has no optimum near the sizes that were run")
            continue
        drawn = [
            Figure(f"frontier-{k}", "Loss", partial(charts.frontier, rows, curve)),
            Figure(f"optimum-{k}", "Parameters and tokens", partial(charts.optimum, curve)),
        ]
        cards.append(Card(modality_title(one.modality), drawn))
    if not cards and not unknown:
        return []
    text = (
        "The least loss that each law promises for so many training FLOPs, and the parameters and tokens that reach "
        "it, at what a token costs in the study's own shapes. Bands hold 90 % of the bootstrap. Dashed: more FLOPs "
        f"than any run had, up to {_REACH:g} times; nothing was measured there."
    )
    above = note("No optimum", unknown) if unknown else ""
    return [Section("frontier", "Compute-optimal frontier", text, cards, html=above)]


def residuals(found: Scaling) -> list[Section]:
    """What the laws leave unexplained; none where no law is fitted."""
    cards = []
    for k, one in enumerate(_fitted(found)):
        rows = residual_rows(one, found)
        drawn = [
            Figure(
                f"residuals-{against.lower()}-{k}", f"over {words}", partial(residual_charts.residuals, rows, against)
            )
            for against, words in _AGAINST
        ]
        predicted = partial(residual_charts.predicted_against_measured, rows)
        drawn.append(Figure(f"predicted-{k}", "predicted over measured", predicted))
        cards.append(Card(modality_title(one.modality), drawn, layout="close"))
    if not cards:
        return []
    text = (
        "How far each run's held-out loss lies from the law. Where the other runs determine it, the law is fitted anew "
        "without the runs of most compute: those are predicted, not fitted. Points that bend away from the dashed line "
        "together are something that the law does not have."
    )
    return [Section("residuals", "Residuals", text, cards)]


_AGAINST: tuple[tuple[residual_charts.Against, str], ...] = (("N", "parameters"), ("D", "tokens"), ("C", "FLOPs"))


def residual_rows(one: Approaches, found: Scaling) -> pl.DataFrame:
    """The rows that the residual figures take: of the law fitted without the runs of most compute, or, where the others
    do not determine one, of that of all runs."""
    fitted, held = found.fits.fits[one.modality], set[int]()
    if one.extrapolated is not None and one.extrapolated.fit is not None:
        fitted, held = one.extrapolated.fit, set(one.extrapolated.predicted.rows.tolist())
    predicted = fitted.law(one.rows[COLUMN[found.count]].to_numpy(), one.rows["tokens"].to_numpy())
    return one.rows.select(
        "id",
        "nelbo",
        run="name",
        N=pl.col(COLUMN[found.count]),
        D=pl.col("tokens"),
        C=pl.col("flops"),
        predicted=pl.Series(predicted),
        error=pl.Series(100 * (one.rows["nelbo"].to_numpy() / predicted - 1)),
        part=pl.Series(
            [residual_charts.HELD_OUT if k in held else residual_charts.FITTED for k in range(len(one.rows))]
        ),
    )
