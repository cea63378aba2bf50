"""Quantities as people write them: `20M`, `13B`, `6.4T`, `1e9`."""

from __future__ import annotations

import math
import re

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_QUANTITY = re.compile(r"([0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?\s*([KMBT]?)", re.IGNORECASE)


def parse_quantity(value: object) -> float:
    """A count as a float: numbers as they are, strings with an optional suffix K, M, B (10^9) or T (10^12).

    Raises ValueError, worded for the user, for anything else, and for what is negative or not finite.
    """
    number = _number(value)
    if number is None or not math.isfinite(number) or number < 0:
        raise ValueError(f"{value!r} is not a quantity; write a number such as 20M, 6.4T or 1e9")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return None
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= 64 else None
    if match is None:
        return None
    digits, exponent, suffix = match.groups()
    return float(digits.replace("_", "") + (exponent or "")) * SUFFIXES[suffix.upper()]


def format_quantity(number: float) -> str:
    """`number` with a suffix and at most three significant digits: 20M, 1.28B."""
    if not math.isfinite(number):
        return str(number)
    for suffix in ("T", "B", "M", "K"):
        if abs(number) >= 0.9995 * SUFFIXES[suffix]:
            scaled = number / SUFFIXES[suffix]
            return f"{scaled:.3g}{suffix}" if abs(scaled) < 999.5 else f"{number:.3g}"
    return f"{number:.3g}"
