"""The coordinate check in words and figures."""

from __future__ import annotations

from functools import partial

from studies.analysis.questions.coordinates import FIRST, FLAT, Sweep, coordinate_check
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Cell, Found, Verdict, signed

TEXT = (
    f"Root mean square of activations at up to {FIRST} of the first logged steps, while width or depth grows and "
    "the rest stays: where the parameterization holds they stay too. Numbers are slopes in log-log with their "
    "standard error, over all runs and seeds. "
    f"Flat is a slope within ±{FLAT:g} at the last of these steps; “range” is the largest over the smallest size "
    "there. Charts have the same span up as across, so that a slope of 1 is the diagonal. Steps at which an "
    "activation is zero everywhere (the logits before the first update) are left out."
)


def coordinates_table(sweep: Sweep) -> Found:
    """Slopes at the first and the last step of each kind of activation, and whether it is flat."""
    rows: list[tuple[Cell, ...]] = []
    for kind in sweep.rms:
        slopes = sweep.of(kind)
        if not slopes:
            rows.append((kind, *[NONE] * 4))
            continue
        first = next((slope for slope in slopes if slope.step == sweep.steps[0]), None)
        last = slopes[-1]
        verdict = Verdict("flat" if sweep.flat[kind] else "not flat", sweep.flat[kind])
        at_first = NONE if first is None else _slope(first.slope)
        rows.append((kind, at_first, _slope(last.slope, last.standard_error), _times(last.factor), verdict))
    lasts = [sweep.of(kind)[-1].step for kind in sweep.flat]
    ends = (sweep.steps[0], max(lasts, default=sweep.steps[-1])) if sweep.steps else (NONE, NONE)
    header = ("activation", *(f"step {end}" for end in ends), "range", "verdict")
    return Found(sweep_title(sweep), header, tuple(rows), warned=_warned(sweep))


def _warned(sweep: Sweep) -> tuple[str, ...]:
    if not sweep.silent:
        return ()
    said = (
        f"{sweep.silent} of {sweep.silent + sweep.runs} trained runs logged no activations, as where they were trained "
        "before activations were monitored: they are left out"
    )
    return (said,) if sweep.steps else (said, "what is left is not two sizes to compare")


def sweep_title(sweep: Sweep) -> str:
    """Such as: Over width at depth 2, with CompleteP."""
    other = "depth" if sweep.along == "width" else "width"
    return in_words(f"Over {sweep.along} at {other} {sweep.other}", sweep.rule, sweep.setting)


def _slope(value: float | None, error: float | None = None) -> str:
    if value is None:
        return "not finite"
    return signed(value, ".3f") + ("" if error is None else f" ± {error:.3f}")


def _times(factor: float | None) -> str:
    return NONE if factor is None else f"×{factor:.3g}"


def _show(sweep: Sweep) -> Block:
    from studies.analysis.charts.coordinates import activations

    figures = [Figure(kind, kind, partial(activations, sweep, kind)) for kind in sweep.rms]
    return Block(figures, [coordinates_table(sweep)], small=True)


COORDINATES = Question(
    key="coordinates",
    title="Coordinate check",
    text=TEXT,
    ask=lambda study, how: coordinate_check(study),
    show=_show,
)
