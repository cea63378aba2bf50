"""The report's sections on the experiments: for each that the study makes, what was asked, figures, and a table."""

from __future__ import annotations

from collections.abc import Sequence

from studies.analysis import experiment_charts as charts
from studies.analysis.coordinates import FIRST, FLAT, Sweep
from studies.analysis.experiment_tables import (
    Cell,
    Found,
    Verdict,
    coordinates_table,
    gamma_table,
    invariance_table,
    learning_rate_table,
)
from studies.analysis.experiments import Experiments
from studies.analysis.gamma import HELD_OUT_FROM, Gamma
from studies.analysis.invariance import NOISE, Invariance
from studies.analysis.learning_rate import Transfer
from studies.analysis.page import card, chart, escape, note, section, table
from studies.analysis.results import modality_title


def experiment_sections(found: Experiments) -> list[str]:
    """The HTML sections of every experiment that the study makes, in a fixed order."""
    return [
        *([_coordinates(found.coordinates)] if found.coordinates else []),
        *([_learning_rate(found.learning_rate)] if found.learning_rate else []),
        *([_invariance(found.invariance)] if found.invariance else []),
        *([_gamma(found.gamma)] if found.gamma else []),
    ]


def _coordinates(sweeps: Sequence[Sweep]) -> str:
    text = (
        f"Root mean square of activations at up to {FIRST} of the first logged steps, while width or depth grows and "
        "the rest stays: where the parameterization holds they stay too. Numbers are slopes in log-log with their "
        "standard error, over all runs and seeds. "
        f"Flat is a slope within ±{FLAT:g} at the last of these steps; “range” is the largest over the smallest size "
        "there. Charts have the same span up as across, so that a slope of 1 is the diagonal. Steps at which an "
        "activation is zero everywhere (the logits before the first update) are left out."
    )
    blocks = []
    for k, sweep in enumerate(sweeps):
        drawn = "".join(
            f"<div><h3>{escape(kind)}</h3>{chart(charts.activations(sweep, kind), f'activations-{k}-{n}')}</div>"
            for n, kind in enumerate(sweep.rms)
        )
        found = coordinates_table(sweep)
        blocks.append(card(found.title, f'<div class="small">{drawn}</div>{_table(found)}'))
    return section("Coordinate check", text, "<br>".join(blocks))


def _learning_rate(transfers: Sequence[Transfer]) -> str:
    text = (
        "Final held-out nelbo of the mix over the learning rate of the study's file, a mean over seeds for each shape. "
        "Rings mark the best, crosses where a run failed, which counts as infinitely bad. “Vertex” is that of the "
        "parabola in log lr through the best and its neighbours; “regret” is what the base shape's best learning rate "
        "costs here. The learning rate transfers where a shape's best lies within one grid step of the base shape's."
    )
    blocks = [
        _beside(learning_rate_table(one), [chart(charts.learning_rates(one), f"learning-rates-{k}")])
        for k, one in enumerate(transfers)
    ]
    return section("Learning-rate transfer", text, "<br>".join(blocks))


def _invariance(checks: Sequence[Invariance]) -> str:
    text = (
        "Final held-out nelbo over the physical batch at one logical batch and the same tokens: with the SDE "
        "reparameterization of the optimizer, and without it, where the logical batch is the physical one. The spread "
        "is the largest minus the smallest mean over seeds, in nats; brackets hold the central 90 % of a bootstrap "
        "over seeds. “Of noise alone” is the spread that seed noise would give if the batch did not matter. It breaks "
        f"at the smallest batch whose loss is more than {NOISE:g} times the seed noise above that of the batch nearest "
        "to the logical one."
    )
    blocks = []
    for k, one in enumerate(checks):
        drawn = [
            f"<h3>{escape(modality_title(m))}</h3>" + chart(charts.invariance(one, m), f"invariance-{k}-{n}")
            for n, m in enumerate(one.scaled)
        ]
        blocks.append(_beside(invariance_table(one), drawn))
    return section("Batch invariance", text, "<br>".join(blocks))


def _gamma(fits: Sequence[Gamma]) -> str:
    text = (
        "The best logical batch of each token horizon, by a parabola in log batch near the lowest loss, and its "
        "growth with the horizon, batch ∝ tokens<sup>γ</sup>. Brackets and bars hold the central 90 % of a bootstrap "
        f"over residuals. With {HELD_OUT_FROM} horizons or more the longest takes no part in the fit: there the batch "
        "that γ gives is compared with the re-tuned one."
    )
    blocks = [
        _beside(
            gamma_table(one),
            [
                chart(charts.batch_sweeps(one), f"batch-sweeps-{k}"),
                chart(charts.batch_law(one), f"batch-law-{k}"),
            ],
        )
        for k, one in enumerate(fits)
    ]
    return section("The logical batch and the horizon", text, "<br>".join(blocks))


def _beside(found: Found, drawn: Sequence[str]) -> str:
    """Figures next to each other, and below them their table."""
    figures = "".join(f"<div>{one}</div>" for one in drawn)
    return card(found.title, f'<div class="grid">{figures}</div>{_table(found)}')


def _table(found: Found) -> str:
    said = "".join(f'<p class="soft">{escape(one)}</p>' for one in found.said)
    warned = note("Read with care", found.warned) if found.warned else ""
    return table(found.header, [[_cell(cell) for cell in row] for row in found.rows]) + said + warned


def _cell(cell: Cell) -> str:
    if isinstance(cell, Verdict):
        return f'<span class="{"good" if cell.good else "bad"}">{escape(cell.text)}</span>'
    first, _, more = cell.partition("\n")
    # A span: signs here are no better or worse, and get no colour.
    return f"<span>{escape(first)}</span>" + (f"<small>{escape(more)}</small>" if more else "")
