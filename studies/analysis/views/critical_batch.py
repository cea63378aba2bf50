"""The critical batch in words and figures."""

from __future__ import annotations

import math
from functools import partial

from specs.quantities import format_quantity
from studies.analysis.laws.hyperbola import Hyperbola
from studies.analysis.questions.breaking import NOISE, TOLERANCE, Break
from studies.analysis.questions.critical_batch import CriticalBatch, Target, critical_batches
from studies.analysis.questions.reaching import Source
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, Verdict, estimate, nats, stacked

TEXT = (
    "How large a physical batch is of use, told in three ways. To reach one loss takes S steps and E = B · S "
    "sequences, S = S<sub>min</sub> (1 + B<sub>crit</sub> / B): at B<sub>crit</sub> twice the fewest steps and twice "
    "the fewest sequences (arXiv 1812.06162). Under the SDE reparameterization the final loss stays that of the "
    "logical batch up to a critical batch, which is S<sub>crit</sub> = D / (L · B<sub>crit</sub>) steps of sequences "
    f"of L tokens (arXiv 2602.21472): where it is {100 * TOLERANCE:g} % above that of the base batch, or {NOISE:g} "
    "times the seed noise where that is more. And the simple noise scale tr Σ / |G|² is near the first of the two "
    "where the loss is curved alike in all directions. Brackets and bars hold the central 90 % of a bootstrap."
)

SOURCES: dict[Source, str] = {
    "horizons": "Steps to a loss are read off the final held-out losses of runs of several horizons.",
    "evaluations": "Steps to a loss are read off the held-out losses over the training of the longest runs.",
    "training": "Steps to a loss are read off the smoothed training losses of the longest runs.",
}


def hyperbola_table(found: CriticalBatch) -> Found:
    """B_crit, S_min and E_min for each loss, from the highest down."""
    rows = tuple(_target_row(target, found.sequence_tokens) for target in found.targets)
    header = ("loss", "B_crit", "S_min", "E_min", "in tokens", "residual", "held out", "left out")
    return Found(critical_title(found), header, rows, tuple(_said(found)), tuple(_warned(found)))


def break_table(found: CriticalBatch) -> Found:
    """Where the final loss breaks at each horizon, B_crit and S_crit."""
    rows: list[tuple[Cell, ...]] = []
    for one in found.breaks:
        largest = one.batches[-1]
        bracket = f"{one.holds} to {one.breaks}" if one.breaks is not None else f"> {largest}"
        steps = f"< {one.steps_at(largest):.4g}"
        rows.append(
            (
                format_quantity(one.tokens),
                f"{one.base}",
                nats(one.tolerance),
                bracket,
                f"> {largest}" if one.critical is None else stacked(one.critical, one.critical_interval, "{:.3g}"),
                steps if one.steps is None else stacked(one.steps, one.steps_interval, "{:.3g}"),
                Verdict("breaks" if one.breaks is not None else "holds", one.breaks is None),
            )
        )
    header = ("tokens", "base", "tolerance, nats", "between", "B_crit", "S_crit", "verdict")
    said = tuple(_break_said(one) for one in found.breaks)
    return Found("Where the reparameterization breaks", header, tuple(rows), said)


def critical_title(found: CriticalBatch) -> str:
    """Such as: With the SDE reparameterization, logical batch 16, 64 × 2."""
    if found.logical is None:
        arm = "Without the SDE reparameterization"
    else:
        arm = f"With the SDE reparameterization, logical batch {found.logical:.4g}"
    tokens = "/".join(format_quantity(tokens) for tokens in found.tokens)
    return in_words(arm, f"{tokens} tokens", f"{found.width} × {found.depth}", found.setting)


def _target_row(target: Target, sequence_tokens: float) -> tuple[Cell, ...]:
    left_out = ", ".join(map(str, target.missed)) or NONE
    if target.fit is None:
        return (nats(target.loss), *[NONE] * 6, left_out)
    law = target.fit
    tokens = law.examples_min * sequence_tokens
    return (
        nats(target.loss),
        stacked(law.critical, law.intervals.get("critical"), "{:.3g}"),
        stacked(law.steps_min, law.intervals.get("steps_min"), "{:,.0f}"),
        stacked(law.examples_min, law.intervals.get("examples_min"), "{:,.0f}"),
        format_quantity(float(f"{tokens:.3g}")) if tokens else "0",
        NONE if law.residual is None else f"{100 * law.residual:.2g} %",
        NONE if law.held_out is None else f"{100 * law.held_out:.2g} %",
        left_out,
    )


def _said(found: CriticalBatch) -> list[str]:
    said = [
        f"{SOURCES[found.source]} B_crit and E_min are in sequences, S_min in steps; residuals and held-out errors (of "
        "each batch by the others) are of steps, and batches are left out that do not come down to the loss."
    ]
    if found.source != "horizons" and found.decaying:
        said.append(
            "The learning rate decays over a run, and losses on the way are above what a run planned to end there "
            "would reach: these steps are too many, most of all in a run's first half, and B_crit is a rough one."
        )
    if found.logical is None:
        said.append("The optimizer is the same at every batch unless the study tunes it: a better one moves B_crit.")
    scale = found.noise_scale
    if scale is None:
        said.append("The gradient noise was not estimated (monitor.gradient_noise): there is no noise scale beside it.")
    else:
        how = "medians" if scale.medians else "means"
        said.append(
            f"Simple noise scale, over the second half of {scale.runs} runs ({how} of {scale.estimates} estimates): "
            f"{estimate(scale.simple, scale.interval, '{:.3g}')} sequences."
        )
        if scale.medians:
            said.append(
                "Times were not drawn by importance: tr Σ has no mean there, and medians stand in for it "
                "(time.importance: weight mends that)."
            )
    return said


def _warned(found: CriticalBatch) -> list[str]:
    warned = list(found.warnings)
    for target in found.targets:
        weak = target.fit.warnings if isinstance(target.fit, Hyperbola) else (target.why,)
        warned += [f"at a loss of {nats(target.loss)}: {one}" for one in weak]
    return warned


def _break_said(one: Break) -> str:
    tokens = format_quantity(one.tokens)
    if one.steps is None:
        steps = one.steps_at(one.batches[-1])
        return (
            f"At {tokens} tokens the loss holds up to the largest batch: S_crit is at most {steps:.4g}, and "
            f"`transfer.critical: {{steps: {math.ceil(steps)}}}` is on the safe side."
        )
    high = one.steps_interval[1] if one.steps_interval is not None else one.steps
    return (
        f"At {tokens} tokens S_crit is {estimate(one.steps, one.steps_interval, '{:.3g}')}: `transfer.critical: "
        f"{{steps: {math.ceil(one.steps)}}}`, or {{steps: {math.ceil(high)}}} to be on the safe side."
    )


def _show(found: CriticalBatch) -> Block:
    from studies.analysis.charts.critical_batch import critical_over_loss, steps_to_loss

    figures = []
    if found.targets:
        figures.append(Figure("steps", "", partial(steps_to_loss, found)))
        figures.append(Figure("critical", "", partial(critical_over_loss, found)))
    tables = [hyperbola_table(found)] + ([break_table(found)] if found.breaks else [])
    return Block(figures, tables)


CRITICAL_BATCH = Question(
    key="critical_batch",
    title="The critical batch",
    text=TEXT,
    ask=lambda study, how: critical_batches(study, how.bootstrap, how.seed),
    show=_show,
)
