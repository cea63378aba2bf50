"""YAML as plain data that remembers on which line each value was written.

Safe for a stranger's file: no tags, bounded size, depth and aliases. Scalars are read as in YAML 1.2 (`1e9` and `3e-3`
are numbers; `on`, `off`, `yes` and `no` are words), which PyYAML's own resolver does not do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml  # type: ignore[import-untyped]

from specs.errors import Problem, SpecError

Parts: TypeAlias = tuple[str | int, ...]
"""A path from a document's root: keys and list indices."""

COMMAND_LINE = "command line"
MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 100_000

_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
_VALUES = {yaml.ScalarEvent, yaml.AliasEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent, *_ENDS}
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Origin(NamedTuple):
    """Where a value was written. On the command line, `line` is the number of the override."""

    file: str
    line: int


@dataclass
class Document:
    """A study as written: `data`, and the origin of each of its values by path. `files` are all that were read."""

    data: dict[str, Any]
    file: str
    origins: dict[Parts, Origin] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def origin(self, parts: Parts) -> Origin:
        """Where the value at `parts` was written, or else the nearest value around it."""
        for length in range(len(parts), -1, -1):
            if parts[:length] in self.origins:
                return self.origins[parts[:length]]
        return Origin(self.file, 1)

    def problem(self, parts: Parts, what: str, todo: str) -> Problem:
        """A problem with the value at `parts`."""
        origin = self.origin(parts)
        return Problem(origin.file, origin.line, dotted(parts) or "study", what, todo)


def dotted(parts: Parts) -> str:
    """A path as people write it."""
    return ".".join(map(str, parts))


def read_document(path: Path) -> Document:
    """Read the study file at `path`. Raises SpecError where it cannot be read or is not a YAML mapping."""
    text = _read(path)
    document = Document({}, str(path), files=(path,))
    data = parse(text, document.file, document.origins)
    if not isinstance(data, dict):
        what = "the file is empty" if data is None else "the file is not a mapping of keys to values"
        raise SpecError([Problem(document.file, 1, "file", what, "start it with 'study: NAME'")])
    document.data = data
    return document


def _read(path: Path) -> str:
    def refuse(what: str, todo: str) -> SpecError:
        return SpecError([Problem(str(path), 1, "file", what, todo)])

    try:
        if path.stat().st_size > MAX_BYTES:
            raise refuse(f"the file is larger than {MAX_BYTES} bytes", "give a study file")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise refuse("there is no such file", "give the path of a study's YAML file") from None
    except IsADirectoryError:
        inside = [name.name for name in sorted(path.glob("*.y*ml"))]
        raise refuse("this is a folder", f"give the file in it: {', '.join(inside) or 'it has no YAML file'}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = Problem(str(path), line, "file", f"byte {error.start} is not UTF-8", "save the file as UTF-8")
        raise SpecError([problem]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise refuse(f"the file cannot be read ({reason})", "give a readable file") from None


def parse(text: str, file: str, origins: dict[Parts, Origin], at: Parts = (), line: int | None = None) -> Any:
    """Plain data of the YAML `text`, its origins filed under `at` in `origins`.

    Lines are those of the text, or all `line` where that is given (an override). Raises SpecError.
    """
    reader = _Reader(file, origins, line)
    try:
        reader.scan(text, at)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = "YAML syntax: " + " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise reader.refuse(mark, at, what, "mend the YAML on this line or just above it") from None
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise reader.refuse(None, at, f"YAML syntax: {what}", "remove the character") from None
    return reader.build(0, at)[0] if reader.events else None


class _Reader:
    """Builds data from YAML's events, recording origins, within the limits."""

    def __init__(self, file: str, origins: dict[Parts, Origin], line: int | None) -> None:
        self.file, self.origins, self.line, self.nodes = file, origins, line, 0
        self.events: list[Any] = []
        self.aliased: dict[int, int] = {}

    def refuse(self, mark: yaml.Mark | None, path: Parts, what: str, todo: str) -> SpecError:
        return SpecError([Problem(self.file, self._line(mark), dotted(path) or "file", what, todo)])

    def scan(self, text: str, at: Parts) -> None:
        """Collect the events of values, and which one each alias stands for. Tags, deep nesting and a second document
        are refused before any recursion."""
        depth, documents = 0, 0
        anchors: dict[str, int] = {}
        for event in yaml.parse(text, Loader=_Loader):
            kind, mark = type(event), event.start_mark
            if kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise self.refuse(mark, at, "there is a second YAML document", "keep one document in a file")
            if kind not in _VALUES:
                continue
            if kind is yaml.AliasEvent:
                if event.anchor not in anchors:
                    what = f"'*{event.anchor}' stands for nothing"
                    raise self.refuse(mark, at, f"YAML syntax: {what}", f"write '&{event.anchor}' at a value before it")
                self.aliased[len(self.events)] = anchors[event.anchor]
            elif kind in _ENDS:
                depth -= 1
            else:
                if event.tag is not None:
                    raise self.refuse(mark, at, f"YAML tag '{event.tag}' is refused", "write a plain value")
                if event.anchor is not None:
                    anchors[event.anchor] = len(self.events)
                if kind is not yaml.ScalarEvent:
                    depth += 1
                    if depth > MAX_DEPTH:
                        raise self.refuse(mark, at, f"nested deeper than {MAX_DEPTH} levels", "flatten it")
            self.events.append(event)
            if len(self.events) > 2 * MAX_NODES:  # each value has a key, or an end
                raise self._crowded(mark, at)

    def build(self, index: int, path: Parts) -> tuple[Any, int]:
        """The value whose events start at `index`, and the index after them."""
        event = self.events[index]
        self.nodes += 1
        if len(path) > 2 * MAX_DEPTH:  # an alias within what it stands for
            raise self.refuse(event.start_mark, path[:2], "aliases nest too deep", "write the values out")
        if self.nodes > MAX_NODES:
            raise self._crowded(event.start_mark, path)
        kind = type(event)
        if kind is yaml.AliasEvent:
            value, _ = self.build(self.aliased[index], path)
            return value, index + 1
        self.origins[path] = Origin(self.file, self._line(event.start_mark))
        if kind is yaml.ScalarEvent:
            return (event.value if event.style else plain(event.value)), index + 1
        if kind is yaml.MappingStartEvent:
            return self._mapping(index + 1, path)
        items: list[Any] = []
        index += 1
        while type(self.events[index]) is not yaml.SequenceEndEvent:
            value, index = self.build(index, (*path, len(items)))
            items.append(value)
        return items, index + 1

    def _mapping(self, index: int, path: Parts) -> tuple[dict[str, Any], int]:
        items: dict[str, Any] = {}
        while type(key := self.events[index]) is not yaml.MappingEndEvent:
            mark = key.start_mark
            if type(key) is yaml.AliasEvent:
                key = self.events[self.aliased[index]]
            name = key.value if type(key) is yaml.ScalarEvent else ""
            if not name:
                raise self.refuse(mark, path, "a key is not a word", "write 'name: value'")
            if name in items:
                raise self.refuse(mark, (*path, name), "the key is written twice", "keep one of them")
            items[name], index = self.build(index + 1, (*path, name))
            # A missing or misspelt value is looked for at its key, which may stand above a long block.
            self.origins[(*path, name)] = Origin(self.file, self._line(mark))
        return items, index + 1

    def _crowded(self, mark: yaml.Mark, path: Parts) -> SpecError:
        what = f"more than {MAX_NODES:,} values, aliases expanded"
        return self.refuse(mark, path, what, "write fewer values or aliases")

    def _line(self, mark: yaml.Mark | None) -> int:
        if self.line is not None:
            return self.line
        return 1 if mark is None else mark.line + 1


def plain(text: str) -> Any:
    """An unquoted YAML 1.2 scalar: null, boolean, integer, float or else the string itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 64:
        return text
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    if _INFINITE.fullmatch(text):
        return float(text.lower().replace(".", ""))
    return text


def override(document: Document, assignments: Sequence[str]) -> None:
    """Set `key=value` assignments, keys dotted from the root, values as in YAML. Raises SpecError."""
    problems: list[Problem] = []
    for number, assignment in enumerate(assignments, 1):
        try:
            _assign(document, assignment, number)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)


def _assign(document: Document, assignment: str, number: int) -> None:
    key, equals, text = assignment.partition("=")
    parts: Parts = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))

    def refuse(what: str, todo: str) -> SpecError:
        return SpecError([Problem(COMMAND_LINE, number, key.strip() or "override", what, todo)])

    if not equals or "" in parts:
        raise refuse(f"'{assignment}' is not an override", "write key=value, such as base.batch.physical=32")
    origins: dict[Parts, Origin] = {}
    value = parse(text, COMMAND_LINE, origins, parts, number)
    origins.setdefault(parts, Origin(COMMAND_LINE, number))
    try:
        assign(document.data, parts, value)
    except KeyError as error:
        raise refuse(f"{error.args[0]} holds no keys", "set the whole of it") from None
    except IndexError as error:
        raise refuse(f"{error.args[0]} has no such index", "use an index that the list has") from None
    for stale in [path for path in document.origins if path[: len(parts)] == parts]:
        del document.origins[stale]
    document.origins.update(origins)


def replaced(data: Any, parts: Sequence[str | int], value: Any) -> Any:
    """`data` with `value` at `parts`, sharing what it leaves alone, and making mappings that are missing.

    Raises KeyError with the part that does not exist and cannot be made.
    """
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    if isinstance(data, list):
        index = int(part) if str(part).isdigit() else len(data)
        if index >= len(data):
            raise KeyError(part)
        return [*data[:index], replaced(data[index], rest, value), *data[index + 1 :]]
    if data is not None and not isinstance(data, dict):
        raise KeyError(part)
    held = data or {}
    return held | {str(part): replaced(held.get(str(part)), rest, value)}


def assign(data: dict[str, Any], parts: Parts, value: Any) -> None:
    """Set `value` at `parts` in nested `data`, in place, making mappings that are missing.

    Raises KeyError with the path of what is neither mapping nor list, IndexError with that of a list too short.
    """
    here: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            if not isinstance(part, int) or part >= len(here):
                raise IndexError(dotted(parts[:depth]))
            here[part] = value if last else here[part]
        elif isinstance(here, dict):
            part = str(part)
            if last:
                here[part] = value
            elif here.get(part) is None:
                here[part] = {}
        else:
            raise KeyError(dotted(parts[:depth]))
        here = here[part]
