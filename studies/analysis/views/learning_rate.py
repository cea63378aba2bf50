"""Transfer of the learning rate in words and figures."""

from __future__ import annotations

from functools import partial

from studies.analysis.questions.learning_rate import Curve, Transfer, learning_rate_transfer
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, Verdict, nats, number, signed

TEXT = (
    "Final held-out nelbo of the mix over the learning rate of the study's file, a mean over seeds for each shape. "
    "Rings mark the best, crosses where a run failed, which counts as infinitely bad. “Vertex” is that of the "
    "parabola in log lr through the best and its neighbours; “regret” is what the base shape's best learning rate "
    "costs here. The learning rate transfers where a shape's best lies within one grid step of the base shape's; where "
    "either lies at its grid's edge there is no verdict, as the best may lie beyond."
)


def learning_rate_table(transfer: Transfer) -> Found:
    """The best learning rate of each shape (width × depth) against that of the base shape."""
    return Found(
        transfer_title(transfer),
        ("shape", "best lr", "vertex", "grid steps", "regret, nats", "failed", "verdict"),
        tuple(_curve_row(curve) for curve in transfer.curves),
    )


def transfer_title(transfer: Transfer) -> str:
    """Such as: Learning rates, with CompleteP."""
    return in_words("Learning rates", transfer.rule, transfer.setting)


def _curve_row(curve: Curve) -> tuple[Cell, ...]:
    if curve.open:
        verdict: Cell = "base\nedge, widen the grid" if curve.is_base else "no verdict\nedge, widen the grid"
    elif curve.within is None:
        verdict = NONE
    elif curve.is_base:
        verdict = "base"
    else:
        verdict = Verdict("transfers" if curve.within else "moved", curve.within)
    return (
        f"{curve.width}\u00a0×\u00a0{curve.depth}",
        number(curve.best) + (" (edge)" if curve.edge else ""),
        number(curve.vertex),
        NONE if curve.steps is None else signed(curve.steps, "d"),
        NONE if curve.regret is None else nats(curve.regret),
        f"{sum(curve.failed)} of {curve.runs}" if sum(curve.failed) else "0",
        verdict,
    )


def _show(transfer: Transfer) -> Block:
    from studies.analysis.charts.learning_rate import learning_rates

    return Block([Figure("losses", "", partial(learning_rates, transfer))], [learning_rate_table(transfer)])


LEARNING_RATE = Question(
    key="learning_rate",
    title="Learning-rate transfer",
    text=TEXT,
    ask=lambda study, how: learning_rate_transfer(study),
    show=_show,
)
