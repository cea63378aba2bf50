"""Arithmetic that studies may use, in interpolations (`${mul:4,${base.model.width}}`) and in conditions (`tokens / 2`).

Arguments are numbers, or quantities as text (`20M`, `-5K`). Results are finite, and whole ones below 2^53 are integers,
so that a computed width is as good as a written one. Costs are bounded: no integer grows beyond what a float holds.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import TypeAlias

from specs.quantities import parse_quantity

Number: TypeAlias = int | float

EXACT = 2**53
"""Below it every whole number is a float too."""

_LARGEST = 1024
"""Bits of the largest float."""


def number(value: object) -> Number:
    """`value` as a finite number; text is read as a quantity. Raises ValueError, worded for the user."""
    if type(value) is int and -EXACT < value < EXACT:
        return value
    if isinstance(value, str):
        text = value.strip()
        sign = -1 if text.startswith("-") else 1
        return _finite(sign * parse_quantity(text[1:] if text[:1] in ("-", "+") else text))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{_told(value)} is not a number; give a number or a quantity such as 20M")
    return _finite(value)


def _told(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)[:80]


def _finite(value: object) -> Number:
    """A result: finite, and an integer where it is whole and below 2^53."""
    if isinstance(value, complex):
        raise ValueError("the result is not a real number; give the power a base that is not negative")
    assert isinstance(value, int | float)
    if (isinstance(value, int) and value.bit_length() >= _LARGEST) or not math.isfinite(value):
        raise ValueError("the result is not a finite number; compute with smaller numbers")
    if abs(value) < EXACT:
        return int(value) if value == int(value) else value
    return float(value)


def _checked(name: str, least: int, most: float, compute: Callable[..., object]) -> Callable[..., Number]:
    """`compute` over `least` to `most` numbers, with all that can go wrong worded for the user."""

    def call(*values: object) -> Number:
        if not least <= len(values) <= most:
            count = f"{least}" if least == most else f"{least} or more" if most == math.inf else f"{least} or {most}"
            raise ValueError(f"{name} takes {count} numbers, here are {len(values)}; give it that many")
        numbers = [number(value) for value in values]
        try:
            return _finite(compute(*numbers))
        except ZeroDivisionError:
            raise ValueError("division by zero; divide by another number") from None
        except OverflowError:
            raise ValueError("the result is not a finite number; compute with smaller numbers") from None
        except ValueError as error:
            if "; " in str(error):
                raise
            told = ", ".join(map(str, numbers))
            raise ValueError(f"{name} is not defined at {told}; give it a number where it is") from None

    call.__name__ = name
    return call


def _power(base: Number, exponent: Number) -> object:
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if whole and abs(base) > 1 and base.bit_length() * exponent > 2 * _LARGEST:  # type: ignore[union-attr]
        raise OverflowError  # found before it is computed
    return base**exponent


def _rounded(value: Number, digits: Number = 0) -> Number:
    return round(value, int(max(-400, min(400, digits))))


FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    name: _checked(name, least, most, compute)
    for name, least, most, compute in (
        ("add", 2, math.inf, lambda *values: sum(values)),
        ("sub", 2, 2, operator.sub),
        ("mul", 2, math.inf, lambda *values: math.prod(values)),
        ("div", 2, 2, operator.truediv),
        ("pow", 2, 2, _power),
        ("min", 1, math.inf, lambda *values: min(values)),
        ("max", 1, math.inf, lambda *values: max(values)),
        ("abs", 1, 1, abs),
        ("round", 1, 2, _rounded),
        ("floor", 1, 1, math.floor),
        ("ceil", 1, 1, math.ceil),
        ("sqrt", 1, 1, math.sqrt),
        ("log", 1, 1, math.log),
        ("log2", 1, 1, math.log2),
        ("log10", 1, 1, math.log10),
        ("quantity", 1, 1, lambda value: value),
    )
}
"""The functions by the names that studies call them by. Each raises ValueError, worded `what; what to do`."""

OPERATORS: Mapping[str, Callable[[object, object], Number]] = {
    "+": FUNCTIONS["add"],
    "-": FUNCTIONS["sub"],
    "*": FUNCTIONS["mul"],
    "/": FUNCTIONS["div"],
    "%": _checked("%", 2, 2, operator.mod),
    "**": FUNCTIONS["pow"],
}
"""The operators of conditions."""
