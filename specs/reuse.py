"""A study of several files: `include` in any mapping, `defaults` at the root of a file.

Merged as omegaconf does, mappings deep and everything else whole, while each value keeps the file and line where it was
written. Files are named relative to the file that names them and stay in the folder tree of the study's file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs.document import MAX_BYTES, MAX_DEPTH, MAX_NODES, Document, Origin, Parts, dotted, read_document
from specs.errors import Problem, SpecError

MAX_FILES = 100
"""Most files that a study may be made of, each counted as often as it is included."""

INCLUDE = "include"
DEFAULTS = "defaults"
SELF = "_self_"
_NOTHING = object()


@dataclass(slots=True)
class _Node:
    """A value with its origin: a mapping or list of nodes, or a plain scalar."""

    value: Any
    origin: Origin


@dataclass(frozen=True)
class _Place:
    """A file that is being merged: as read, its path, the files that led to it, and where it comes to stand."""

    document: Document
    path: Path
    chain: tuple[Path, ...]
    at: Parts

    def refuse(self, parts: Parts, what: str, todo: str) -> SpecError:
        """A problem with the value at `parts` of the file, told by its path in the study."""
        origin = self.document.origin(parts)
        return SpecError([Problem(origin.file, origin.line, dotted((*self.at, *parts)) or "study", what, todo)])


def compose(path: Path) -> Document:
    """Read the study at `path` with all that it includes, merged. Raises SpecError.

    `include` and `defaults` are worked out and gone; interpolations stay as written, to be resolved after it.
    """
    document = read_document(path)
    if not any(parts and parts[-1] in (INCLUDE, DEFAULTS) for parts in document.origins):
        return document
    composer = _Composer(path)
    root = composer.file(document, path, (path.resolve(),), ())
    composed = Document({}, document.file, {}, tuple(composer.files))
    composed.data = _data(root, composed.origins)
    return composed


class _Composer:
    """Reads and merges, within limits on files, bytes, values and depth."""

    def __init__(self, study: Path) -> None:
        self.folder = study.parent
        self.tree = study.parent.resolve()
        self.files: dict[Path, None] = {study: None}
        self.read = 1
        self.nodes = 0
        self.bytes = study.stat().st_size

    def file(self, document: Document, path: Path, chain: tuple[Path, ...], at: Parts) -> _Node:
        """The content of a file whose values come to stand at `at`; `chain` are the files that led here, resolved."""
        place = _Place(document, path, chain, at)
        self.nodes += len(document.origins)
        if self.nodes > MAX_NODES:
            what = f"more than {MAX_NODES:,} values, those of included files among them"
            raise place.refuse((), what, "write fewer values or include fewer files")
        listed = document.data.pop(DEFAULTS, _NOTHING)
        own = self._included(document.data, (), place)
        if listed is _NOTHING:
            return own
        names = _names(listed, (DEFAULTS,))
        selves = [name for name, _ in names].count(SELF)
        if selves > 1:
            raise place.refuse((DEFAULTS,), f"'{SELF}' is listed twice", "keep one of them")
        if not selves:
            names.append((SELF, ()))
        merged = _Node({}, document.origin(()))
        for name, parts in names:
            _merge(merged, own if name == SELF else self._named(name, parts, place, at))
        return merged

    def _included(self, value: Any, parts: Parts, place: _Place) -> _Node:
        """The value at `parts` of a file, with the files merged that its mappings include."""
        document = place.document
        origin = document.origin(parts)
        if len(place.at) + len(parts) > MAX_DEPTH:
            what = f"nested deeper than {MAX_DEPTH} levels, included files among them"
            raise place.refuse(parts, what, "flatten it")
        if isinstance(value, list):
            items = [self._included(child, (*parts, index), place) for index, child in enumerate(value)]
            return _Node(items, origin)
        if not isinstance(value, dict):
            return _Node(value, origin)
        merged = _Node({}, origin)
        if INCLUDE in value:
            for name, written in _names(value[INCLUDE], (*parts, INCLUDE)):
                _merge(merged, self._named(name, written, place, (*place.at, *parts)))
        own = {key: self._included(child, (*parts, key), place) for key, child in value.items() if key != INCLUDE}
        _merge(merged, _Node(own, origin))
        return merged

    def _named(self, name: Any, parts: Parts, place: _Place, at: Parts) -> _Node:
        """The file that `name` says, written at `parts` of a file, for `at` in the study."""
        found = self._locate(name, parts, place)
        if found in place.chain:
            circle = " -> ".join(map(self._shown, (*place.chain[place.chain.index(found) :], found)))
            raise place.refuse(parts, f"the files include one another in a circle: {circle}", "cut it")
        self.read += 1
        if self.read > MAX_FILES:
            raise place.refuse(parts, f"more than {MAX_FILES} files are included", "include fewer")
        self.bytes += found.stat().st_size
        if self.bytes > MAX_BYTES:
            what = f"the study and its files are larger than {MAX_BYTES:,} bytes"
            raise place.refuse(parts, what, "include less")
        shown = Path(self._shown(found))
        self.files[shown] = None
        return self.file(read_document(shown), shown, (*place.chain, found), at)

    def _locate(self, written: Any, parts: Parts, place: _Place) -> Path:
        """The file that is meant, with symbolic links resolved."""

        def refuse(what: str, todo: str) -> SpecError:
            return place.refuse(parts, what, todo)

        if not isinstance(written, str) or not written.strip():
            raise refuse(
                "this is not the path of a file", "write a path relative to this file, such as sizes/small.yaml"
            )
        if "${" in written:
            raise refuse(f"'{written[:80]}' cannot be interpolated: files are merged first", "write the path out")
        if Path(written).is_absolute():
            raise refuse(f"'{written[:200]}' is an absolute path", "write a path relative to this file")
        full = written if written.endswith((".yaml", ".yml")) else f"{written}.yaml"
        try:
            found = (place.path.parent / full).resolve()
            inside = found.is_relative_to(self.tree)
            there = inside and found.is_file()
        except (OSError, ValueError, RuntimeError):  # a name too long, a null byte, links in a circle
            inside, there = True, False
        if not inside:
            todo = "keep the file in the study's folder or below it"
            raise refuse(f"'{written[:200]}' lies outside the study's folder", todo)
        if not there:
            raise refuse(f"there is no file '{full[:200]}'", "give the path of a YAML file relative to this one")
        return found

    def _shown(self, found: Path) -> str:
        """A file of the tree as a path from where the study's own path starts."""
        return (
            os.path.join(self.folder, found.relative_to(self.tree)) if found.is_relative_to(self.tree) else str(found)
        )


def _names(listed: Any, parts: Parts) -> list[tuple[Any, Parts]]:
    """The files of `include` or `defaults`, each with where it is written."""
    if isinstance(listed, list):
        return [(name, (*parts, index)) for index, name in enumerate(listed)]
    return [(listed, parts)]


def _merge(into: _Node, node: _Node) -> None:
    """Merge `node` into mapping `into`, in place: of what both hold, mappings merge and else `node`'s value stands."""
    for key, child in node.value.items():
        held: _Node | None = into.value.get(key)
        if held is not None and isinstance(held.value, dict) and isinstance(child.value, dict):
            held.origin = child.origin
            _merge(held, child)
        else:
            into.value[key] = child


def _data(root: _Node, origins: dict[Parts, Origin]) -> Any:
    """Plain data of the tree, origins filed by path."""

    def build(node: _Node, parts: Parts) -> Any:
        origins[parts] = node.origin
        if isinstance(node.value, dict):
            return {key: build(child, (*parts, key)) for key, child in node.value.items()}
        if isinstance(node.value, list):
            return [build(child, (*parts, index)) for index, child in enumerate(node.value)]
        return node.value

    return build(root, ())
