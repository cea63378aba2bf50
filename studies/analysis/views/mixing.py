"""The best mix of modalities in words and figures."""

from __future__ import annotations

import math
from functools import partial

from specs.quantities import format_quantity
from studies.analysis.laws.base import Interval
from studies.analysis.laws.simplex_profiles import Place
from studies.analysis.laws.simplex_regression import Candidate, Regression
from studies.analysis.questions.mixing import Mixing, mixing
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, Verdict, estimate, nats, stacked

TEXT = (
    "Each modality's final held-out nelbo by regression over the simplex of mixes, and the mix with the least weighted "
    "loss among those between the mixes that were run. The form of each regression is the one with the least error "
    "when one mix at a time is left out. Brackets hold the central 90 % of a bootstrap over residuals in which the "
    "form is chosen anew; so do the dots, each of them a mix that is best in some resamples. The best mix is chosen "
    "for its low loss, which therefore errs on the low side, and the gain on the high one."
)


def mixing_table(found: Mixing) -> Found:
    """The best mix with its losses, beside the base's."""
    best = found.best
    rows: list[tuple[Cell, ...]] = []
    if best is not None:
        intervals = best.weights or (None,) * len(found.modalities)
        for k, name in enumerate(found.modalities):
            rows.append(
                (
                    name,
                    _percent(best.mix[k], intervals[k]),
                    f"{100 * found.base[k]:.3g} %",
                    f"{found.values[name]:.2f}",
                    _loss(best.at, k),
                    NONE if best.base is None else _loss(best.base, k),
                )
            )
        here = stacked(best.at.loss, best.at.interval, "{:.4f}")
        there = NONE if best.base is None else stacked(best.base.loss, best.base.interval, "{:.4f}")
        rows.append(("weighted", _verdict(found), "", "", here, there))
    header = ("modality", "best mix", "base mix", "value", "nelbo at best", "at base")
    return Found(mixing_title(found), header, tuple(rows), tuple(_said(found)), found.warnings)


def regression_table(found: Mixing) -> Found:
    """Which form each modality's loss takes over the simplex, and how well it fits."""
    rows = []
    for name, one in zip(found.modalities, found.best.regressions if found.best else (), strict=False):
        if one is None:
            continue
        others = [tried for tried in one.tried[1:] if tried.error is not None]
        noise = found.seed_noise.get(name)
        rows.append(
            (
                name,
                form_words(one.chosen),
                f"{one.n} ({one.mixes} mixes)",
                NONE if one.chosen.error is None else nats(one.chosen.error),
                f"{others[0].form}\n{nats(others[0].error or 0.0)}" if others else NONE,
                nats(one.residual) + ("" if noise is None else f"\nseeds alone: {nats(noise)}"),
                NONE if math.isnan(one.explained) else f"{100 * one.explained:.1f} %",
            )
        )
    header = ("modality", "form", "runs", "error left out", "next form", "residual", "explained, left out")
    return Found("How the losses were fitted", header, tuple(rows), tuple(_fit_said(found)))


def mixing_title(found: Mixing) -> str:
    """Such as: Best mix 40 % text, 60 % image, 500K tokens, 56 × 2."""
    best = found.best
    mix = "Best mix not found"
    if best is not None:
        shares = ", ".join(f"{100 * share:.0f} % {m}" for m, share in zip(found.modalities, best.mix, strict=True))
        mix = f"Best mix {shares}"
    return in_words(mix, f"{format_quantity(found.tokens)} tokens", f"{found.width} × {found.depth}", found.setting)


def form_words(candidate: Candidate) -> str:
    """A form with its numbers, such as: own power\\np = 0.5, e = 0.03."""
    numbers = in_words(
        f"p = {candidate.power:g}" if candidate.power else "", f"e = {candidate.shift:g}" if candidate.shift else ""
    )
    return candidate.form + (f"\n{numbers}" if numbers else "")


def _percent(weight: float, interval: Interval | None) -> str:
    ends = None if interval is None else (100 * interval[0], 100 * interval[1])
    return stacked(100 * weight, ends, "{:.0f}").replace("\n", " %\n") + ("" if ends else " %")


def _loss(place: Place, k: int) -> str:
    return stacked(place.losses[k], place.intervals[k], "{:.4f}")


def _verdict(found: Mixing) -> Cell:
    best = found.best
    if best is None or best.gain is None or best.gain_interval is None:
        return NONE
    if best.gain_interval[0] > 0:
        return Verdict("better than the base mix", True)
    return Verdict("not told from the base mix", False)


def _said(found: Mixing) -> list[str]:
    said = []
    worth = ", ".join(f"{name} {value:.2f}" for name, value in found.values.items())
    said.append(
        "The weighted loss counts every modality alike." if found.equal else f"The weighted loss counts {worth}."
    )
    if not found.own_base:
        said.append("The study's own base mix cannot be read: equal weights stand for it.")
    best = found.best
    if best is not None:
        if best.base is None:
            said.append("The base mix lies outside the mixes at which losses are predicted.")
        elif best.gain is not None:
            gain = estimate(best.gain, best.gain_interval, "{:.4f}")
            said.append(f"The weighted loss there is {gain} nats below that of the base mix.")
        if best.edge_share is not None:
            share = 100 * best.edge_share
            said.append(f"In {share:.0f} % of resamples the best mix lies on the edge of those that were searched.")
    counts = in_words(
        f"runs that diverged: {found.failed}" if found.failed else "",
        f"runs that have not ended: {found.missing}" if found.missing else "",
    )
    if counts:
        counts = counts[0].upper() + counts[1:]
        said.append(f"{counts}; {len(set(found.mixes))} of {found.planned} mixes took part.")
    return said


def _fit_said(found: Mixing) -> list[str]:
    if found.best is None:
        return []
    said = []
    if any(one is not None and _is_bent(one) for one in found.best.regressions):
        said.append(
            "Own log and own power bend with the modality's own weight w: c · log(w + e), c · (w + e) to the power of "
            "−p, beside a straight line in all weights."
        )
    apart = [
        f"{name} ({len(found.mixes) - one.n})"
        for name, one in zip(found.modalities, found.best.regressions, strict=True)
        if one is not None and one.chosen.trained and one.n < len(found.mixes)
    ]
    if apart:
        said.append(
            "Runs that never trained on a modality have a loss of another kind in it, and took no part in its "
            f"regression: {', '.join(apart)}. Mixes without it were not searched."
        )
    return said


def _is_bent(one: Regression) -> bool:
    return one.chosen.form.startswith("own") or one.chosen.form.endswith("own log")


def _show(found: Mixing) -> Block:
    from studies.analysis.charts.mixing import best_shares, own_losses, simplex_map

    figures = []
    if found.best is not None:
        if len(found.modalities) == 3:
            figures.append(Figure("map", "Weighted loss over the simplex", partial(simplex_map, found)))
        figures.append(Figure("shares", "Least weighted loss at each share", partial(best_shares, found)))
    title = "Each modality's loss over its own share"
    if any(0 in mix for mix in found.mixes):
        title += " (crosses: never trained on it)"
    figures.append(Figure("own", title, partial(own_losses, found)))
    tables = [mixing_table(found)]
    if found.best is not None:
        tables.append(regression_table(found))
    return Block(figures, tables)


MIXING = Question(
    key="mixing",
    title="The mix of modalities",
    text=TEXT,
    ask=lambda study, how: mixing(study, how.bootstrap, how.seed, how.values),
    show=_show,
)
