"""The law of steps and batch in words and figures."""

from __future__ import annotations

from functools import partial

from specs.quantities import format_quantity
from studies.analysis.questions.batch_law import BatchLaw, batch_law
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import Found, estimate, stacked

TEXT = (
    "One law for all horizons, L = E + A/N<sup>α</sup> + B/S<sup>β</sup> + C/b<sup>γ</sup>, in S logical steps of b "
    "tokens (arXiv 2607.01487): the best batch at D tokens balances the last two terms. Critical is the batch that "
    "needs 20 % more tokens than the best one for the same loss. Brackets hold the central 90 % of a bootstrap over "
    "residuals."
)

_SYMBOLS = {name: name for name in "EABC"} | {"alpha": "α", "beta": "β", "gamma": "γ", "batch_exponent": "b* ∝ D^"}


def batch_law_table(found: BatchLaw) -> Found:
    """The best and the critical batch of each horizon by the law, beside the lowest of those that were run."""
    rows = tuple(
        (
            format_quantity(one.tokens),
            stacked(one.best, one.best_interval, "{:.3g}"),
            stacked(one.critical, one.critical_interval, "{:.3g}"),
            f"{one.lowest:.3g}",
        )
        for one in found.horizons
    )
    said = []
    law = found.law
    if law is not None:
        values = law.parameters | ({"batch_exponent": law.batch_exponent} if found.horizons else {})
        said.append(
            "; ".join(
                f"{symbol} = {estimate(values[name], law.intervals.get(name), '{:.3g}')}".replace("^ = ", "^")
                for name, symbol in _SYMBOLS.items()
                if name in values
            )
        )
        said.append(
            f"{law.n} runs; rms residual of log loss {100 * law.residual:.2g} %, held out {100 * law.held_out:.2g} %, "
            f"R² {law.r2:.3f}. A sequence holds {found.sequence:.3g} tokens."
        )
    if found.failed:
        said.append(f"{found.failed} runs diverged and take no part.")
    title = in_words("Best batch by the law of steps and batch, sequences", found.setting)
    return Found(title, ("tokens", "best", "critical", "lowest of those run"), rows, tuple(said), found.warnings)


def _show(found: BatchLaw) -> Block:
    from studies.analysis.charts.batch_law import best_batches

    figures = [Figure("best", "", partial(best_batches, found))] if found.horizons else []
    return Block(figures, [batch_law_table(found)])


BATCH_LAW = Question(
    key="batch_law",
    title="Loss against steps and batch",
    text=TEXT,
    ask=lambda study, how: batch_law(study, how.count, min(how.bootstrap, 500), how.seed),
    show=_show,
    plain=BatchLaw.plain,
)
