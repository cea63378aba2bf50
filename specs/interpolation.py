"""`${path}` in a study: the value written at `path`, counted from the root.

omegaconf resolves; what it is given has been checked first: only plain paths (no resolvers, so nothing of the
environment or of files can be read), no cycles, and no growth beyond a limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from specs.document import Document, Parts, dotted
from specs.errors import Problem, SpecError

MAX_EXPANDED = 1_000_000
"""Largest size (values and characters) that an interpolated value may come to."""

_REFERENCE = re.compile(r"\$\{\s*([A-Za-z_][\w-]*(?:\.[\w-]+)*)\s*\}")


def interpolated(data: Any, at: Parts = ()) -> Iterator[tuple[Parts, str]]:
    """The path and text of each string in `data` that holds an interpolation."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from interpolated(value, (*at, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from interpolated(value, (*at, index))
    elif isinstance(data, str) and "${" in data:
        yield at, data


def check(document: Document) -> bool:
    """Whether the document interpolates at all. Raises SpecError for what is not a plain path to a value, for cycles
    and for values that would grow too large."""
    problems: list[Problem] = []
    found = list(interpolated(document.data))
    for parts, text in found:
        if text.count("${") != len(_REFERENCE.findall(text)):
            todo = "write ${path}, counted from the root, such as ${base.model.width}"
            problems.append(document.problem(parts, f"'{text[:80]}' is not an interpolation of a plain path", todo))
    if not problems:
        sizes: dict[Parts, int] = {}
        for parts, text in found:
            try:
                _size(document, parts, text, sizes, ())
            except _ResolutionError as error:
                problems.append(document.problem(parts, error.what, error.todo))
    if problems:
        raise SpecError(problems)
    return bool(found)


class _ResolutionError(Exception):
    def __init__(self, what: str, todo: str) -> None:
        super().__init__(what)
        self.what, self.todo = what, todo


def _size(document: Document, parts: Parts, value: Any, sizes: dict[Parts, int], chain: tuple[Parts, ...]) -> int:
    """Values and characters that `value`, found at `parts`, comes to once resolved."""
    if parts in sizes:
        return sizes[parts]
    if parts in chain:
        raise _ResolutionError(
            "the interpolations run in a circle: " + " -> ".join(map(dotted, (*chain, parts))), "cut it"
        )
    if len(chain) > 100:
        raise _ResolutionError("more than 100 interpolations in a chain", "shorten it")
    total = 1
    if isinstance(value, dict):
        total += sum(_size(document, (*parts, key), child, sizes, chain) for key, child in value.items())
    elif isinstance(value, list):
        total += sum(_size(document, (*parts, index), child, sizes, chain) for index, child in enumerate(value))
    elif isinstance(value, str):
        total += len(value)
        for key in _REFERENCE.findall(value):
            target, child = _follow(document, key)
            # A value that contains its own reference is a circle as well.
            if parts[: len(target)] == target:
                raise _ResolutionError(f"'${{{key}}}' contains itself", "refer to another value")
            total += _size(document, target, child, sizes, (*chain, parts))
    if total > MAX_EXPANDED:
        raise _ResolutionError("the interpolations grow too large", "interpolate less")
    sizes[parts] = total
    return total


def _follow(document: Document, key: str) -> tuple[Parts, Any]:
    here: Any = document.data
    parts: Parts = ()
    for word in key.split("."):
        part: str | int = int(word) if isinstance(here, list) and word.isdigit() else word
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            todo = "write a value there (paths count from the root, such as ${base.model.width})"
            raise _ResolutionError(f"'${{{key}}}' leads to nothing", todo) from None
        parts = (*parts, part)
    return parts, here


def resolve(data: dict[str, Any]) -> dict[str, Any]:
    """A copy of checked `data` with each interpolation replaced by the value it names."""
    from omegaconf import OmegaConf

    resolved = OmegaConf.to_container(OmegaConf.create(data), resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
