"""How findings are put in words: tables of plain text, verdicts, and numbers with their intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from studies.analysis.laws.base import Interval

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


def signed(value: float, form: str) -> str:
    """A number with its sign, which zero has not."""
    shown = f"{value:+{form}}".replace("-", "−")
    return shown if shown.strip("+−0.") else shown.lstrip("+−")


def number(value: float | None) -> str:
    """Three significant digits, or `NONE`."""
    return NONE if value is None else f"{value:.3g}"


def nats(value: float) -> str:
    """Four decimals; an infinite loss is a failure."""
    return "failed" if math.isinf(value) else f"{value:.4f}".replace("-", "−")


def estimate(value: float, interval: Interval | None, form: str, together: str = "{} ({})") -> str:
    """A value with its interval."""
    if math.isnan(value):
        return NONE
    shown = finite(value, form)
    if interval is None:
        return shown
    return together.format(shown, f"{finite(interval[0], form)} to {finite(interval[1], form)}")


def together(warnings: Iterable[tuple[str, str]]) -> list[str]:
    """What is said of several modalities in the same words, once: pairs of who and what."""
    whose: dict[str, list[str]] = {}
    for who, what in warnings:
        whose.setdefault(what, []).append(who)
    return [f"{', '.join(dict.fromkeys(names))}: {greek(what)}" for what, names in whose.items()]


def greek(text: str) -> str:
    """Names of exponents as the page and the tables write them."""
    return re.sub(r"\b(alpha|beta)\b", lambda found: {"alpha": "α", "beta": "β"}[found[0]], text)


def stacked(value: float, interval: Interval | None, form: str) -> str:
    """A value and, on a line of its own, its interval."""
    return estimate(value, interval, form, "{}\n{}")


def finite(value: float, form: str) -> str:
    """`value` by a format such as `{:.2f}`, also where it is infinite."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    shown = form.format(value).replace("-", "−")
    return shown if shown.strip("−0.%") else shown.lstrip("−")
