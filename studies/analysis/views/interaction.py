"""What tokens of one modality are worth to another, in words and figures."""

from __future__ import annotations

from functools import partial

from specs.quantities import format_quantity
from studies.analysis.laws.interaction import Interaction
from studies.analysis.laws.joint_comparison import Comparison
from studies.analysis.questions.interaction import JointLaws, joint_laws
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, estimate, stacked, together

TEXT = (
    "Two laws of each modality’s loss. Additive: only its own tokens count, L = E + A/N<sup>α</sup> + "
    "B/D<sub>m</sub><sup>β</sup>. Transfer: a token of modality j is worth τ tokens of its own; negative is "
    "competition. The law of the mean loss (arXiv 2301.03728) adds to the laws of separate models a synergy C, less a "
    "competition that fades with size and tokens. Brackets hold the central 90 % of a bootstrap; held-out errors are "
    "of runs that took no part in the fit. A run that never saw a modality is left out of its additive law."
)


def comparison_table(found: JointLaws) -> Found:
    """For each modality the two laws' held-out errors, whether they differ, and what the others' tokens are worth."""
    rows = [_row(one, found.modalities) for one in found.comparisons]
    header = ("modality", "additive", "transfer", "p", "runs", *(f"a token of {m}" for m in found.modalities))
    warned = together(
        (one.modality, said)
        for one in found.comparisons
        for said in (*one.warnings, *one.additive.warnings, *one.transfer.warnings)
    )
    said = ["Additive, transfer: root mean square held-out error of log loss."] if rows else []
    title = in_words("What tokens are worth to other modalities", found.setting)
    return Found(title, header, tuple(rows), tuple(said), (*found.warnings, *warned))


def interaction_table(law: Interaction, found: JointLaws) -> Found:
    """The parameters of the law of the mean loss, and its synergy at the largest size and token count."""
    rows: list[tuple[Cell, ...]] = [("C, nats", estimate(law.C, law.intervals.get("C"), "{:.3f}"))]
    for name, symbol in (("A", "A"), ("alpha", "α"), ("B", "B"), ("beta", "β")):
        if name in law.parameters:
            rows.append((symbol, estimate(law.parameters[name], law.intervals.get(name), "{:.3g}")))
    synergy = float(law.synergy(found.N, found.D)[0])
    low, high = (float(end[0]) for end in law.synergy_interval(found.N, found.D))
    rows.append(("synergy, nats", estimate(synergy, (low, high), "{:.3f}")))
    where = f"N = {format_quantity(found.N)} and D = {format_quantity(found.D)}"
    verdict = "passed" if low > 0 else "not passed" if high < 0 else "not told from zero"
    said = (
        f"Synergy at {where}, the largest that were run: the competition barrier is {verdict}.",
        f"{law.n} mixed runs; rms residual {100 * law.residual:.2g} %, held out {100 * law.held_out:.2g} %.",
    )
    return Found("The mean loss of a mix", ("parameter", "estimate"), tuple(rows), said, law.warnings)


def _row(one: Comparison, modalities: tuple[str, ...]) -> tuple[Cell, ...]:
    worth = []
    for name in modalities:
        value = one.transfer.parameters.get(f"tau_{name}")
        own = "1" if name == one.modality else NONE
        worth.append(own if value is None else stacked(value, one.transfer.intervals.get(f"tau_{name}"), "{:.2f}"))
    return (
        one.modality,
        f"{100 * one.additive.held_out:.2f} %",
        f"{100 * one.transfer.held_out:.2f} %",
        f"{one.p_value:.3f}" + (" (significant)" if one.significant else ""),
        str(one.additive.n),
        *worth,
    )


def _show(found: JointLaws) -> Block:
    from studies.analysis.charts.interaction import worths

    tables = [comparison_table(found)]
    if found.interaction is not None:
        tables.append(interaction_table(found.interaction, found))
    figures = [Figure("worths", "", partial(worths, found.comparisons))] if found.comparisons else []
    return Block(figures, tables)


INTERACTION = Question(
    key="interaction",
    title="Tokens of other modalities",
    text=TEXT,
    ask=lambda study, how: joint_laws(study, how.count, min(how.bootstrap, 500), how.seed),
    show=_show,
    plain=JointLaws.plain,
)
