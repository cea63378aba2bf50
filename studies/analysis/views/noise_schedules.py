"""Noise schedules in words and figures."""

from __future__ import annotations

import math
from functools import partial

from specs.quantities import format_quantity
from studies.analysis.laws.comparisons import ALPHA, FEWEST_BLOCKS, Pair
from studies.analysis.questions.noise_schedules import NoiseSchedules, Schedules, noise_schedules
from studies.analysis.results import modality_title
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, Verdict, estimate, nats, signed, stacked

TEXT = (
    "Final held-out nelbo by noise schedule, for each modality; the evaluation is the same whatever the schedule. "
    "Brackets and bars hold 90 % by Student's t over seeds; circles are runs, diamonds means. Differences are paired "
    "by seed, and their p-values are of paired t tests with Holm's correction over all pairs of a modality's "
    f"schedules: those that share a letter cannot be told apart at {ALPHA:g}. Against the base's schedule the "
    "correction is over its own pairs alone. The loss by band of t is that of training, of the whole mix, over its "
    "second half."
)


def schedules_table(found: Schedules) -> Found:
    """A modality's schedules, the best first."""
    comparison, rows = found.comparison, []
    base = None if found.base is None else found.names.index(found.base)
    for k, name in enumerate(found.names):
        failed = f"\n{found.failed[k]} diverged" if found.failed[k] else ""
        rows.append(
            (
                name,
                comparison.letters[k] if comparison.letters else NONE,
                stacked(comparison.means[k], comparison.intervals[k], "{:.4f}"),
                NONE if k == 0 else _difference(comparison.pair(k, 0)),
                NONE if k == 0 else _p(comparison.pair(k, 0).corrected),
                _against(None if base is None else found.comparison.against(base), k),
                f"{comparison.counts[k]}{failed}",
            )
        )
    header = ("schedule", "group", "nelbo", "above the best", "p (Holm)", "against the base's", "runs")
    return Found(modality_title(found.modality), header, tuple(rows), tuple(_said(found)), tuple(_warned(found)))


def bands_table(found: NoiseSchedules) -> Found:
    """The training loss by band of t."""
    count = max(len(one.losses) for one in found.bands)
    rows = []
    for one in found.bands:
        cells = [nats(loss) for loss in one.losses]
        if one.per_token is not None and one.shares is not None:
            spans = zip(one.shares[:-1], one.shares[1:], one.per_token, strict=True)
            cells = [
                f"{cell}\n{each:.3f} a token, {100 * low:.0f} to {100 * high:.0f} % masked"
                for cell, (low, high, each) in zip(cells, spans, strict=True)
            ]
        rows.append((one.schedule, *cells, *(NONE,) * (count - len(cells)), f"{one.runs}"))
    header = ("schedule", *(f"t to {(k + 1) / count:.3g}" for k in range(count)), "runs")
    said = [
        "What each band of t adds to the training loss, in nats per token. It depends on the schedule's weight and on "
        "how much it masks in the band, so bands of one t are not to be compared between schedules."
    ]
    if any(one.per_token is not None for one in found.bands):
        said.append(
            "The second line is the mean loss of a masked token over the masked shares that the band covers: that can "
            "be compared where shares overlap."
        )
    if any(one.per_token is None for one in found.bands):
        said.append("Where modalities or segments have schedules of their own, bands have no one masked share.")
    return Found("The training loss by band of t", header, tuple(rows), tuple(said))


def noise_title(found: NoiseSchedules) -> str:
    """Such as: 400K tokens, 40 × 2."""
    return in_words(f"{format_quantity(found.tokens)} tokens", f"{found.width} × {found.depth}", found.setting)


def _difference(pair: Pair) -> str:
    if math.isnan(pair.difference):
        return NONE
    ends = "" if pair.interval is None else f"\n{signed(pair.interval[0], '.4f')} to {signed(pair.interval[1], '.4f')}"
    return signed(pair.difference, ".4f") + ends


def _p(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _against(pairs: dict[int, Pair] | None, k: int) -> Cell:
    if pairs is None:
        return NONE
    if k not in pairs:
        return "the base's"
    pair = pairs[k]
    if pair.corrected is None:
        return NONE
    if pair.corrected >= ALPHA:
        return f"not told apart (p {_p(pair.corrected)})"
    word = "better" if pair.difference < 0 else "worse"
    return Verdict(f"{word} (p {_p(pair.corrected)})", pair.difference < 0)


def _said(found: Schedules) -> list[str]:
    said, letters = [], found.comparison.letters
    if letters and not any("a" in group for group in letters[1:]):
        said.append(f"{found.names[0]} is the best alone.")
    if found.seed_noise is not None:
        said.append(f"Runs that differ in seed alone lie {nats(found.seed_noise)} nats apart (standard deviation).")
    return said


def _warned(found: Schedules) -> list[str]:
    warned, comparison = [], found.comparison
    if all(pair.corrected is None for pair in comparison.pairs):
        warned.append(f"significance cannot be told: no two schedules have {FEWEST_BLOCKS} seeds in common")
    elif any(pair.corrected is None for pair in comparison.pairs):
        few = {found.names[k] for k, count in enumerate(comparison.counts) if count < FEWEST_BLOCKS}
        warned.append(in_words("some pairs have too few seeds in common to be tested", ", ".join(sorted(few))))
    if any(found.failed):
        lost = [f"{name} ({count})" for name, count in zip(found.names, found.failed, strict=True) if count]
        warned.append(f"runs that diverged take no part in means and tests: {', '.join(lost)}")
    return warned


def _show(found: NoiseSchedules) -> Block:
    from studies.analysis.charts.noise_schedules import band_losses, schedule_losses

    figures = [
        Figure(f"schedules-{k}", modality_title(one.modality), partial(schedule_losses, one))
        for k, one in enumerate(found.modalities)
    ]
    tables = [schedules_table(one) for one in found.modalities]
    if found.bands:
        figures.append(Figure("bands", "Training loss by band of t", partial(band_losses, found)))
        tables.append(bands_table(found))
    overview = Found(noise_title(found), _OVERVIEW, tuple(map(_overview, found.modalities)), _overview_said(found))
    return Block(figures, [overview, *tables])


_OVERVIEW = ("modality", "best", "nelbo", "not told from it", "p that none matters")


def _overview(found: Schedules) -> tuple[Cell, ...]:
    comparison = found.comparison
    alike = [n for n, group in zip(found.names, comparison.letters, strict=False) if "a" in group][1:]
    return (
        modality_title(found.modality),
        found.names[0],
        estimate(comparison.means[0], comparison.intervals[0], "{:.4f}"),
        ", ".join(alike) or NONE,
        _p(comparison.p),
    )


def _overview_said(found: NoiseSchedules) -> tuple[str, ...]:
    said = []
    blocks = {one.comparison.blocks for one in found.modalities if one.comparison.p is not None}
    if blocks:
        seeds = " or ".join(map(str, sorted(blocks)))
        said.append(f"That no schedule matters is tested by permuting schedules within each of {seeds} seeds.")
    if any(one.together for one in found.modalities):
        said.append("All modalities' schedules changed in step: what the others' do to one is in its differences too.")
    if found.missing:
        said.append(f"Runs that have not ended: {found.missing}.")
    return tuple(said)


NOISE = Question(
    key="noise",
    title="Noise schedules",
    text=TEXT,
    ask=lambda study, how: noise_schedules(study, 2 * how.bootstrap, how.seed),
    show=_show,
)
