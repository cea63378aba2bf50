"""What the experiments found, in words and plain tables: the report and the command line print the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

from specs.quantities import format_quantity
from studies.analysis.coordinates import Sweep
from studies.analysis.experiments import Experiments
from studies.analysis.gamma import Gamma, Interval
from studies.analysis.invariance import AIM, Invariance, Losses
from studies.analysis.learning_rate import Curve, Transfer
from studies.analysis.results import modality_title

NONE = "–"


@dataclass(frozen=True)
class Verdict:
    """A cell that says whether what was hoped for holds."""

    text: str
    good: bool


Cell = str | Verdict


@dataclass(frozen=True)
class Found:
    """A table of plain text under a title, what is to be said of it, and where it is weak.

    A cell's second line explains its first.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    said: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()


def tables(found: Experiments) -> list[Found]:
    """A table for each thing found, in the order of the experiments."""
    return [
        *map(coordinates_table, found.coordinates),
        *map(learning_rate_table, found.learning_rate),
        *map(invariance_table, found.invariance),
        *map(gamma_table, found.gamma),
    ]


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
    header = ("activation", f"step {sweep.steps[0]}", f"step {max(lasts, default=sweep.steps[-1])}", "range", "verdict")
    return Found(sweep_title(sweep), header, tuple(rows))


def sweep_title(sweep: Sweep) -> str:
    """Such as: Over width at depth 2, with CompleteP."""
    other = "depth" if sweep.along == "width" else "width"
    return _joined(f"Over {sweep.along} at {other} {sweep.other}", sweep.rule, sweep.setting)


def learning_rate_table(transfer: Transfer) -> Found:
    """The best learning rate of each shape (width × depth) against that of the base shape."""
    return Found(
        transfer_title(transfer),
        ("shape", "best lr", "vertex", "grid steps", "regret, nats", "failed", "verdict"),
        tuple(_curve_row(curve) for curve in transfer.curves),
    )


def transfer_title(transfer: Transfer) -> str:
    """Such as: Learning rates, with CompleteP."""
    return _joined("Learning rates", transfer.rule, transfer.setting)


def _curve_row(curve: Curve) -> tuple[Cell, ...]:
    if curve.within is None:
        verdict: Cell = NONE
    elif curve.is_base:
        verdict = "base"
    else:
        verdict = Verdict("transfers" if curve.within else "moved", curve.within)
    return (
        f"{curve.width}\u00a0×\u00a0{curve.depth}",
        _number(curve.best) + (" (edge)" if curve.edge else ""),
        _number(curve.vertex),
        NONE if curve.steps is None else _signed(curve.steps, "d"),
        NONE if curve.regret is None else _nats(curve.regret),
        f"{sum(curve.failed)} of {curve.runs}" if sum(curve.failed) else "0",
        verdict,
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
                NONE if ratio is None else _stacked(ratio, found.ratio_interval.get(modality), "{:.2f}"),
                NONE if scaled.noise_spread is None else _nats(scaled.noise_spread),
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
        warned.append("not run without the reparameterization: there is nothing to compare the spread with")
    if any(losses.seed_noise is None for losses in found.scaled.values()):
        warned.append("one seed: neither intervals, nor where it breaks, can be told")
    return Found(invariance_title(found), header, tuple(rows), tuple(said), tuple(warned))


def invariance_title(found: Invariance) -> str:
    """Such as: Logical batch 16, 5M tokens, 64 × 2."""
    shape = f"{found.width} × {found.depth}"
    return _joined(
        f"Logical batch {found.logical:.4g}", f"{format_quantity(found.tokens)} tokens", shape, found.setting
    )


def _breaks(losses: Losses) -> str:
    if losses.seed_noise is None:
        return NONE
    return f"> {losses.batches[-1]}" if losses.breaks is None else str(losses.breaks)


def _spread(losses: Losses) -> str:
    return _stacked(losses.spread, losses.spread_interval, "{:.3f}")


def gamma_table(found: Gamma) -> Found:
    """The best logical batch of each horizon beside the law's, γ, and what following it costs."""
    rows = []
    for horizon in found.horizons:
        role = found.role(horizon)
        rows.append(
            (
                format_quantity(horizon.tokens) + ("" if role == "fitted" else f"\n{role}"),
                NONE if horizon.best is None else _stacked(horizon.best, horizon.interval, "{:.3g}"),
                NONE if found.gamma is None else f"{found.law(horizon.tokens):.3g}",
                f"{horizon.runs}" + (f" ({horizon.failed} failed)" if horizon.failed else ""),
                _nats(horizon.residual) if horizon.curve else NONE,
                f"{horizon.flops:.2e}",
            )
        )
    header = ("tokens", "best batch", "by γ", "runs", "residual, nats", "FLOPs")
    return Found(gamma_title(found), header, tuple(rows), tuple(_gamma_said(found)), found.warnings)


def gamma_title(found: Gamma) -> str:
    """Such as: γ = 0.41 (0.32 to 0.50), 64 × 2."""
    return _joined(
        f"γ = {_estimate(found.gamma, found.interval, '{:.2f}')}" if found.gamma is not None else "γ not fitted",
        f"{found.width} × {found.depth}",
        found.setting,
    )


def _gamma_said(found: Gamma) -> list[str]:
    said = []
    if found.study_gamma is not None and found.gamma is not None:
        low, high = found.interval or (found.gamma, found.gamma)
        inside = "inside" if low <= found.study_gamma <= high else "outside"
        said.append(f"The study's own transfer has γ = {found.study_gamma:g}, {inside} the interval.")
    held = found.held_out
    if held is None:
        return said
    tokens = format_quantity(held.tokens)
    longest = max(horizon.tokens for horizon in found.horizons if found.role(horizon) == "fitted")
    batch = _estimate(held.transferred, held.transferred_interval, "{:.3g}")
    regret = _estimate(held.regret, held.regret_interval, "{:.4f}")
    said.append(
        f"At {tokens} tokens, {held.tokens / longest:.3g} times the longest that was fitted, γ gives a batch of "
        f"{batch}; re-tuned it is {held.retuned:.3g}. Regret: {regret} "
        f"nats on the curve, {_nats(held.nearest_regret)} at the nearest batch of the grid, {held.nearest:.3g}."
    )
    if held.outside:
        said.append("The transferred batch lies outside the batches around that optimum: its regret is extrapolated.")
    verb = "saved" if held.saved >= 0 else "more"
    said.append(
        f"Re-tuning there costs {held.sweep_flops:.2e} FLOPs a seed; the shorter sweeps and one run there cost "
        f"{held.transfer_flops:.2e}: {abs(held.saved):.2e} {verb}, {100 * abs(held.saved_share):.0f} %."
    )
    if held.study_regret is not None and held.study_batch is not None:
        said.append(
            f"The study's own γ gives a batch of {held.study_batch:.3g} there, with a regret of "
            f"{_nats(held.study_regret)} nats at the nearest batch of the grid."
        )
    return said


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _slope(value: float | None, error: float | None = None) -> str:
    if value is None:
        return "not finite"
    return _signed(value, ".3f") + ("" if error is None else f" ± {error:.3f}")


def _signed(value: float, form: str) -> str:
    shown = f"{value:+{form}}".replace("-", "−")
    return shown if shown.strip("+−0.") else shown.lstrip("+−")


def _times(factor: float | None) -> str:
    return NONE if factor is None else f"×{factor:.3g}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def _nats(value: float) -> str:
    return "failed" if math.isinf(value) else f"{value:.4f}".replace("-", "−")


def _estimate(value: float, interval: Interval | None, form: str, together: str = "{} ({})") -> str:
    """A value with its interval."""
    if math.isnan(value):
        return NONE
    shown = _finite(value, form)
    if interval is None:
        return shown
    return together.format(shown, f"{_finite(interval[0], form)} to {_finite(interval[1], form)}")


def _stacked(value: float, interval: Interval | None, form: str) -> str:
    """A value and, on a line of its own, its interval."""
    return _estimate(value, interval, form, "{}\n{}")


def _finite(value: float, form: str) -> str:
    return "∞" if math.isinf(value) else form.format(value).replace("-", "−")
