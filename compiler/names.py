"""Display names: what of a run differs from the base, such as `width=128,tokens=5M`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from compiler.expand import Budget, Dimension, Point
from specs.sections import Setting

Scalar: TypeAlias = int | float | str | bool | None


class Namer:
    """Names the points of a product, each setting put into words once."""

    def __init__(self, factors: list[Dimension]) -> None:
        self._short = _short_paths(factors)
        # The factors keep their settings, which are known by their identity.
        self._leaves: dict[int, tuple[tuple[str, Scalar], ...]] = {}
        self._words: dict[int, list[str]] = {}

    def values(self, point: Point) -> dict[str, Scalar]:
        """What the axes set, path to value as written: mappings by their keys, lists as JSON."""
        return dict([leaf for setting in point for leaf in self._leaves.get(id(setting)) or self._read(setting)])

    def name(self, point: Point) -> str:
        """A run's name; `base` where nothing differs."""
        words = []
        for setting in point:
            if id(setting) not in self._words:
                self._read(setting)
            words += self._words[id(setting)]
        return ",".join(words) or "base"

    def _read(self, setting: Setting) -> tuple[tuple[str, Scalar], ...]:
        leaves = self._leaves[id(setting)] = tuple(_leaves(setting.path, setting.value))
        if isinstance(setting.value, Budget):
            self._words[id(setting)] = [f"flops={_text(setting.value.flops)}"]
        else:
            short = self._short.get(setting.path)
            inside = ((path.removeprefix(setting.path), value) for path, value in leaves)
            self._words[id(setting)] = [f"{short}{rest}={_text(value)}" for rest, value in inside if short]
        return leaves


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, Budget):
        yield "flops", value.flops
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(f"{path}.{key}", child)
    elif isinstance(value, list):
        yield path, msgspec.json.encode(value).decode()
    else:
        yield path, value


def _short_paths(factors: list[Dimension]) -> dict[str, str]:
    """For each path that the axes set, the fewest of its last words that tell it from the others; none for a seed that
    is always the same."""
    seeds: set[Any] = set()
    paths: dict[str, None] = {}
    for factor in factors:
        for point in factor:
            for setting in point:
                if setting.path == "seed":
                    seeds.add(repr(setting.value))
                elif not isinstance(setting.value, Budget):
                    paths[setting.path] = None
    if len(seeds) > 1:
        paths["seed"] = None
    return {path: _shortest(path, list(paths)) for path in paths}


def _shortest(path: str, others: list[str]) -> str:
    words = path.split(".")
    for count in range(1, len(words)):
        tail = ".".join(words[-count:])
        if sum(other == tail or other.endswith(f".{tail}") for other in others) == 1:
            return tail
    return path


def _text(value: Scalar) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
