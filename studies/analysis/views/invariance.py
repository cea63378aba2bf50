"""Invariance to the physical batch in words and figures."""

from __future__ import annotations

import math
from functools import partial

from specs.quantities import format_quantity
from studies.analysis.questions.invariance import AIM, NOISE, Invariance, Losses, batch_invariance
from studies.analysis.results import modality_title
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, Verdict, nats, stacked

TEXT = (
    "Final held-out nelbo over the physical batch at one logical batch and the same tokens: with the SDE "
    "reparameterization of the optimizer, and without it, where the logical batch is the physical one. The spread "
    "is the largest minus the smallest mean over seeds, in nats; brackets hold the central 90 % of a bootstrap "
    "over seeds. “Of noise alone” is the spread that seed noise would give if the batch did not matter. It breaks "
    f"at the smallest batch whose loss is more than {NOISE:g} times the seed noise above that of the batch nearest "
    "to the logical one."
)


def invariance_table(found: Invariance) -> Found:
    """Spreads over the physical batch, with and without the reparameterization."""
    rows = []
    for modality, scaled in found.scaled.items():
        plain, ratio = found.plain.get(modality), found.ratio.get(modality)
        verdict: Cell = NONE
        if ratio is not None and not math.isnan(ratio):
            verdict = Verdict("≤ 1/3" if ratio <= AIM else "> 1/3", ratio <= AIM)
        rows.append(
            (
                modality_title(modality),
                _spread(scaled),
                NONE if plain is None else _spread(plain),
                NONE if ratio is None else stacked(ratio, found.ratio_interval.get(modality), "{:.2f}"),
                NONE if scaled.noise_spread is None else nats(scaled.noise_spread),
                _breaks(scaled),
                verdict,
            )
        )
    header = ("modality", "spread with", "without", "ratio", "of noise alone", "breaks at", "verdict")
    said, warned = [], []
    if found.critical is None:
        said.append("The plan names no critical batch: spreads are over all physical batches.")
    else:
        said.append(f"Spreads are over physical batches up to the critical one, {found.critical:.4g}.")
    if not found.plain:
        warned.append(
            "not run without the reparameterization, with the same transfer in width and depth: there is nothing to "
            "compare the spread with"
        )
    if any(losses.seed_noise is None for losses in found.scaled.values()):
        warned.append("one seed: neither intervals, nor where it breaks, can be told")
    return Found(invariance_title(found), header, tuple(rows), tuple(said), tuple(warned))


def invariance_title(found: Invariance) -> str:
    """Such as: Logical batch 16, 5M tokens, 64 × 2."""
    shape = f"{found.width} × {found.depth}"
    return in_words(
        f"Logical batch {found.logical:.4g}", f"{format_quantity(found.tokens)} tokens", shape, found.setting
    )


def _breaks(losses: Losses) -> str:
    if losses.seed_noise is None:
        return NONE
    return f"> {losses.batches[-1]}" if losses.breaks is None else str(losses.breaks)


def _spread(losses: Losses) -> str:
    return stacked(losses.spread, losses.spread_interval, "{:.3f}")


def _show(found: Invariance) -> Block:
    from studies.analysis.charts.invariance import invariance

    figures = [Figure(m, modality_title(m), partial(invariance, found, m)) for m in found.scaled]
    return Block(figures, [invariance_table(found)])


INVARIANCE = Question(
    key="invariance",
    title="Batch invariance",
    text=TEXT,
    ask=lambda study, how: batch_invariance(study, how.bootstrap, how.seed),
    show=_show,
)
