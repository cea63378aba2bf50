"""How the best learning rate and batch move with size and tokens, in words and figures."""

from __future__ import annotations

from functools import partial

from specs.quantities import format_quantity
from studies.analysis.laws.optima import OptimumLaw
from studies.analysis.questions.step_law import Optima, step_law
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, estimate, nats, stacked

TEXT = (
    "The learning rate (of the study’s file, before any transfer) and logical batch of the lowest loss at each size "
    "and token count, by a quadratic near it, and power laws through these optima, as Step Law fits them (arXiv "
    "2503.04715): lr* = c N<sup>a</sup> D<sup>b</sup>, B* = d N<sup>f</sup> D<sup>e</sup>. An optimum at the edge of "
    "its grid takes no part. Brackets hold the central 90 % of a bootstrap."
)


def optima_table(found: Optima) -> Found:
    """The optimum of each size and token count, and the laws."""
    rows: list[tuple[Cell, ...]] = []
    said = []
    if found.law is not None:
        rows += [
            (
                format_quantity(one.N),
                format_quantity(one.D),
                stacked(one.lr, one.lr_interval, "{:.3g}"),
                NONE if one.batch is None else stacked(one.batch, one.batch_interval, "{:.3g}"),
                nats(one.loss),
                str(one.runs) + (f"\n{one.left_out}" if one.left_out else ""),
            )
            for one in found.law.optima
        ]
        said.append(f"Learning rate: {_law(found.law.lr)}")
        if found.law.batch is not None:
            said.append(f"Batch: {_law(found.law.batch)}")
    title = in_words("Best learning rate by size and tokens", found.setting)
    header = ("parameters", "tokens", "best lr", "best batch", "nelbo there", "runs")
    return Found(title, header, tuple(rows), tuple(said), found.warnings)


def _law(law: OptimumLaw) -> str:
    words = {"coefficient": "coefficient", "N": "exponent of N", "D": "exponent of D"}
    estimates = ", ".join(
        f"{words[name]} {estimate(value, law.intervals.get(name), '{:.3g}')}" for name, value in law.parameters.items()
    )
    weak = " " + "; ".join(law.warnings) if law.warnings else ""
    return f"{estimates}; through {law.n} optima, rms error of the log {law.residual:.2g}.{weak}"


def _show(found: Optima) -> Block:
    from studies.analysis.charts.step_law import best_rates

    figures = []
    if found.law is not None:
        if len({one.N for one in found.law.optima}) > 1:
            figures.append(Figure("sizes", "over parameters", partial(best_rates, found.law, "N")))
        if len({one.D for one in found.law.optima}) > 1:
            figures.append(Figure("tokens", "over tokens", partial(best_rates, found.law, "D")))
    return Block(figures, [optima_table(found)])


STEP_LAW = Question(
    key="step_law",
    title="Best learning rate and batch by size and tokens",
    text=TEXT,
    ask=lambda study, how: step_law(study, how.count, how.bootstrap, how.seed),
    show=_show,
    plain=Optima.plain,
)
