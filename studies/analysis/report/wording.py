"""Numbers as the report writes them."""

from __future__ import annotations

from studies.analysis.views.words import NONE


def nats(value: float | None) -> str:
    """A loss to three decimals."""
    return NONE if value is None else f"{value:.3f}"


def difference(value: float | None, baseline: float | None) -> str:
    """By how much a loss is above or below a baseline."""
    if value is None or baseline is None:
        return NONE
    return f"{'−' if value < baseline else '+'}{abs(value - baseline):.3f}"


def counted(n: int, noun: str) -> str:
    """Such as: 1 run, 2 runs."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def percent(value: float | None) -> str:
    """A share in per cent."""
    return NONE if value is None else f"{100 * value:.1f} %"
