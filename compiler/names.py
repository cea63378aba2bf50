"""Display names: what of a run differs from the base, such as `width=128,tokens=5M`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from compiler.expand import Dimension, Point

Scalar: TypeAlias = int | float | str | bool | None


def flatten(point: Point) -> dict[str, Scalar]:
    """What the axes set, path to value as written: mappings by their keys, lists as JSON."""
    return {path: value for setting in point for path, value in _leaves(setting.path, setting.value)}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(f"{path}.{key}", child)
    elif isinstance(value, list):
        yield path, msgspec.json.encode(value).decode()
    else:
        yield path, value


def short_paths(factors: list[Dimension]) -> dict[str, str]:
    """For each path that takes several values, the fewest of its last words that tell it from the others."""
    values: dict[str, set[str]] = {}
    for factor in factors:
        for point in factor:
            for path, value in flatten(point).items():
                values.setdefault(path, set()).add(repr(value))
    varying = [path for path, seen in values.items() if len(seen) > 1 or path != "seed"]
    return {path: _shortest(path, varying) for path in varying}


def _shortest(path: str, others: list[str]) -> str:
    words = path.split(".")
    for count in range(1, len(words)):
        tail = ".".join(words[-count:])
        if sum(other == tail or other.endswith(f".{tail}") for other in others) == 1:
            return tail
    return path


def display_name(values: dict[str, Scalar], short: dict[str, str]) -> str:
    """A run's name; `base` where nothing differs."""
    parts = [f"{short[path]}={_text(value)}" for path, value in values.items() if path in short]
    return ",".join(parts) or "base"


def _text(value: Scalar) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
