"""`${path}` in a study, the value at that path from the root, and `${mul:4,${path}}`, a number computed.

omegaconf resolves, one string at a time; what it is given has been checked first. Only absolute paths and the functions
of `specs.arithmetic` pass, so nothing of the environment or of files can be read, and circles, chains and sizes are
bounded. A path that the study leaves at its default gives the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from specs.arithmetic import FUNCTIONS
from specs.document import Document, Parts, dotted, replaced
from specs.errors import SpecError
from specs.study import Base, Study, keyed_fields
from specs.suggest import suggestion

if TYPE_CHECKING:
    from omegaconf import DictConfig

MAX_EXPANDED = 200_000
"""Most values that the interpolations of a study may come to."""

MAX_LENGTH = 1_000
"""Most characters of a string that interpolates."""

MAX_COMPOSED = 10_000
"""Most characters of what it comes to."""

MAX_CHARACTERS = 10_000
"""Most characters of the different strings of a study that interpolate."""

MAX_PROBLEMS = 20
"""Problems after which a study's remaining interpolations are not looked at."""

MAX_DEPTH = 100
"""Most levels of mappings, lists and interpolations that lead from a value to another."""

_ITSELF = "$"
"""A key that no reference can name."""

Scalar: TypeAlias = int | float | str | bool | None
S = TypeVar("S", bound=BaseModel)
B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True)
class Kind(Generic[S, B]):
    """A kind of study: the section that its file is, and the one that its `base` is at each point of the axes."""

    study: type[S]
    base: type[B]


STUDY = Kind(Study, Base)
AnyKind: TypeAlias = Kind[Any, Any]


class InterpolationError(Exception):
    """An interpolation that cannot be resolved. `parts` is the path, from the root, of the string at fault.

    `varies` says that it hangs on a value that the axes may set: one that is missing, or that a function refuses.
    """

    def __init__(self, what: str, todo: str, parts: Parts = (), *, varies: bool = False) -> None:
        super().__init__(f"{dotted(parts)}: {what}; {todo}")
        self.what, self.todo, self.parts, self.varies = what, todo, parts, varies


# Reading

_PATH = re.compile(r"\s*([A-Za-z_][\w-]*(?:\.[\w-]+)*)\s*\}", re.ASCII)
_CALL = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*:", re.ASCII)
_ARGUMENT = re.compile(r"(['\"]?)[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s?[KMBTkmbt]?\1", re.ASCII)
_SPACE = re.compile(r"\s*")
_PLAIN = "write ${path}, counted from the root, such as ${base.model.width}, or a function of it: ${mul:4,${base.seed}}"


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


def references(text: str) -> frozenset[Parts]:
    """The paths that a string refers to itself, also in a function's arguments; none where it cannot be read."""
    try:
        return frozenset(tuple(int(word) if word.isdigit() else word for word in key.split(".")) for key in _keys(text))
    except InterpolationError:
        return frozenset()


@lru_cache(maxsize=4096)
def _keys(text: str) -> tuple[str, ...]:
    """The dotted paths that `text` refers to, in order. Raises InterpolationError for all that is not allowed."""
    if len(text) > MAX_LENGTH:
        what = f"a string that interpolates is longer than {MAX_LENGTH:,} characters"
        raise InterpolationError(what, "write a shorter one")
    keys: list[str] = []
    at = text.find("${")
    while at >= 0:
        if text[at - 1 : at] in ("\\", "$"):
            raise _unreadable(text, f"leave out the '{text[at - 1]}' before '${{'")
        at = text.find("${", _interpolation(text, at + 2, keys, 0))
    return tuple(keys)


def _interpolation(text: str, at: int, keys: list[str], depth: int) -> int:
    """Read the rest of an interpolation whose `${` ends at `at`; where it ends."""
    if depth > MAX_DEPTH // 4:
        raise _unreadable(text, "nest fewer functions")
    if path := _PATH.match(text, at):
        keys.append(path[1])
        return path.end()
    call = _CALL.match(text, at)
    if call is None:
        raise _unreadable(text, _PLAIN)
    if call[1] not in FUNCTIONS:
        what = f"'{text[:80]}' is not an interpolation of a plain path or function: '{call[1]}' is no function"
        raise InterpolationError(what, suggestion(call[1], FUNCTIONS))
    at = call.end()
    while True:
        at = _past(_SPACE, text, at)
        if text.startswith("${", at):
            at = _interpolation(text, at + 2, keys, depth + 1)
        elif argument := _ARGUMENT.match(text, at):
            at = argument.end()
        else:
            raise _unreadable(text, f"give {call[1]} numbers, quantities such as 20M, or ${{path}}")
        at = _past(_SPACE, text, at)
        if text.startswith("}", at):
            return at + 1
        if not text.startswith(",", at):
            raise _unreadable(text, f"separate the arguments of {call[1]} by commas, and end it with '}}'")
        at += 1


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _unreadable(text: str, todo: str) -> InterpolationError:
    return InterpolationError(f"'{text[:80]}' is not an interpolation of a plain path or function", todo)


# Defaults


@lru_cache(maxsize=64)
def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The plain data of `model` where a study writes nothing, not to be changed: by alias, tuples as lists,
    null as None."""
    found = {}
    for key, field in keyed_fields(model).items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if default is not PydanticUndefined:
            found[key] = to_jsonable_python(default, by_alias=True)
    return found


def _within(hint: Any, part: str | int) -> Any:
    """The type of the value at `part` of a value of type `hint`, None where that is not known."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        field = keyed_fields(hint).get(str(part))
        return field.annotation if field else None
    if get_origin(hint) in (dict, list, tuple):
        return get_args(hint)[-1]
    options = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return next((found for found in (_within(option, part) for option in options) if found is not None), None)


def _default(hint: Any, part: str | int) -> tuple[Any] | None:
    """The default at `part` of a mapping of type `hint`, where it is a section with one."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        found = defaults(hint)
        return (found[str(part)],) if part in found else None
    if get_origin(hint) in (dict, list, tuple):
        return None
    options = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return next((found for found in (_default(option, part) for option in options) if found is not None), None)


# Resolution


class Resolver:
    """Resolves the interpolations of one study, `root` as plain data, at any settings of its values."""

    def __init__(self, root: dict[str, Any], kind: AnyKind = STUDY) -> None:
        self.root, self.kind = root, kind

    def resolve(self, parts: Parts, settings: Mapping[str, Any]) -> Any:
        """The plain value at `parts`, with values set at dotted paths (from the root) for this call only.

        Raises InterpolationError, and KeyError with what cannot hold the key of a setting.
        """
        root: Any = self.root
        for path, value in settings.items():
            root = replaced(root, path.split("."), value)
        return _Resolution(root, self.kind).value(parts)


class _Resolution:
    """One pass over a study, each value that is referred to resolved once."""

    def __init__(self, root: dict[str, Any], kind: AnyKind) -> None:
        self.root, self.kind = root, kind
        self.known: dict[Parts, tuple[Any, int]] = {}
        self.chain: list[Parts] = []
        self.expanded = 0

    def value(self, parts: Parts) -> Any:
        found, at = self._follow(parts)
        return self._plain(found, at, len(at))[0]

    def _plain(self, value: Any, parts: Parts, depth: int) -> tuple[Any, int]:
        """`value`, found at `parts`, resolved, and the number of values in it."""
        if isinstance(value, str) and "${" in value:
            return self._text(value, parts, depth)
        if not isinstance(value, dict | list):
            return value, 1
        if depth > MAX_DEPTH:
            raise InterpolationError("the interpolations nest too deep", "refer to what is written nearer", parts)
        size = 1
        built: Any = {} if isinstance(value, dict) else []
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            resolved, count = self._plain(child, (*parts, key), depth + 1)
            size += count
            if isinstance(built, dict):
                built[key] = resolved
            else:
                built.append(resolved)
        return built, size

    def _text(self, text: str, parts: Parts, depth: int) -> tuple[Any, int]:
        if parts in self.chain:
            circle = " -> ".join(map(dotted, (*self.chain[self.chain.index(parts) :], parts)))
            raise InterpolationError(f"the interpolations run in a circle: {circle}", "cut it", parts)
        if depth > MAX_DEPTH:
            raise InterpolationError("the interpolations make too long a chain", "shorten it", parts)
        self.chain.append(parts)
        try:
            keys = _keys(text)
            values = {key: self._target(key, parts, depth + 1) for key in keys}
            if len(keys) == 1 and text[2:-1].strip() == keys[0]:
                return self._counted(*values[keys[0]])  # as it is, whatever it is
            return self._composed(text, {key: value for key, (value, _) in values.items()}), 1
        except InterpolationError as error:
            if error.parts:
                raise
            raise InterpolationError(error.what, error.todo, parts, varies=error.varies) from None
        finally:
            self.chain.pop()

    def _counted(self, value: Any, size: int) -> tuple[Any, int]:
        """A value that stands in another place as well, within the limit on all of them."""
        self.expanded += size
        if self.expanded > MAX_EXPANDED:
            what = f"the interpolations grow too large: they come to more than {MAX_EXPANDED:,} values"
            raise InterpolationError(what, "interpolate less")
        return value, size

    def _target(self, key: str, parts: Parts, depth: int) -> tuple[Any, int]:
        target = tuple(key.split("."))
        # A value that contains its own reference is a circle as well.
        if tuple(map(str, parts[: len(target)])) == target:
            raise InterpolationError(f"'${{{key}}}' contains itself", "refer to another value")
        if target not in self.known:
            found, at = self._follow(target)
            self.known[target] = self._plain(found, at, depth)
        return self.known[target]

    def _follow(self, parts: Parts) -> tuple[Any, Parts]:
        """What is written at a path, or the default there, and the path with the indices of lists as numbers."""
        here: Any = self.root
        hint: Any = self.kind.study
        at: Parts = ()
        for part in parts:
            default = _default(hint, part) if isinstance(here, dict) and part not in here else None
            if isinstance(here, list) and str(part).isdigit() and int(part) < len(here):
                part = int(part)
                following = here[part]
            elif isinstance(here, dict) and part in here:
                following = here[part]
            elif default is not None:
                [following] = default
            elif isinstance(here, str) and "${" in here:
                what = f"'${{{dotted(parts)}}}' goes through '{dotted(at)}', which is interpolated itself"
                raise InterpolationError(what, "refer to where the value is written")
            else:
                todo = "write a value there (paths count from the root, such as ${base.model.width})"
                raise InterpolationError(f"'${{{dotted(parts)}}}' leads to nothing", todo, varies=True)
            hint = self.kind.base if (at, part) == ((), "base") else _within(hint, part)
            here = following
            at = (*at, part)
        return here, at

    def _composed(self, text: str, values: dict[str, Any]) -> Scalar:
        length = len(text)
        for key, value in values.items():
            if isinstance(value, dict | list):
                what = f"'${{{key}}}' is a {'mapping' if isinstance(value, dict) else 'list'}, of which '{text[:80]}'"
                raise InterpolationError(f"{what} can make nothing", "refer to one of its values")
            length += len(value) * _keys(text).count(key) if isinstance(value, str) else 0
        if length > MAX_COMPOSED:
            what = f"the interpolations grow too large: '{text[:80]}' comes to more than {MAX_COMPOSED:,} characters"
            raise InterpolationError(what, "interpolate less")
        composed = _evaluated(text, tuple((key, type(value), value) for key, value in values.items()))
        if isinstance(composed, str) and "${" in composed:
            raise InterpolationError(f"'{text[:80]}' composes another interpolation", "write it out")
        return composed


@lru_cache(maxsize=4096)
def _evaluated(text: str, values: tuple[tuple[str, type, Scalar], ...]) -> Scalar:
    """A checked string that refers to these plain values, as omegaconf resolves it."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        study = _prepared(text)
        for key, _, value in values:
            *path, last = key.split(".")
            reduce(lambda here, word: here[word], path, study)[last] = value
        resolved: Scalar = study[_ITSELF]
        return resolved
    except OmegaConfBaseException as error:
        refused: BaseException | None = error
        while refused is not None and (isinstance(refused, OmegaConfBaseException) or type(refused) is not ValueError):
            refused = refused.__cause__ or refused.__context__
        if refused is None:
            reason = str(error).partition("\n")[0]
            raise InterpolationError(f"'{text[:80]}' cannot be resolved ({reason})", "write the value out") from None
        what, _, todo = str(refused).partition("; ")
        raise InterpolationError(f"'{text[:80]}': {what}", todo, varies=True) from None


@lru_cache(maxsize=1024)
def _prepared(text: str) -> DictConfig:
    """What omegaconf needs of a study to resolve `text`, the values that it refers to still missing: reading a string
    costs omegaconf a millisecond."""
    from omegaconf import OmegaConf

    _register()
    study: dict[str, Any] = {}
    for key in _keys(text):
        study = replaced(study, key.split("."), None)
    return OmegaConf.create({**study, _ITSELF: text})


@lru_cache(maxsize=1)
def _register() -> None:
    """Make the functions known to omegaconf, under their plain names."""
    from omegaconf import OmegaConf

    for name, function in FUNCTIONS.items():
        OmegaConf.register_resolver(name, function, replace=True)


# A study as a whole


def check(document: Document, kind: AnyKind = STUDY) -> bool:
    """Whether the document interpolates at all. Raises SpecError for what is no plain path to a value and no
    function of the language, for circles, and for what would grow too large.

    In the base of a study with axes, a value that is missing or that a function refuses is left to each point.
    """
    problems: dict[Parts, InterpolationError] = {}
    found = list(interpolated(document.data))
    count = sum(map(len, {text for _, text in found}))
    if count > MAX_CHARACTERS:
        what = f"the strings that interpolate come to {count:,} characters, more than {MAX_CHARACTERS:,}"
        raise SpecError([document.problem(found[0][0], what, "write values out, or make them axes")])
    for parts, text in found:
        try:
            _keys(text)
        except InterpolationError as error:
            problems[parts] = error
    if not problems and found:
        resolution = _Resolution(document.data, kind)
        for parts, _ in found:
            if len(problems) >= MAX_PROBLEMS:
                break
            try:
                resolution.value(parts)
            except InterpolationError as error:
                if not (error.varies and error.parts[:1] == ("base",) and document.data.get("axes")):
                    problems[parts] = error
        if not problems:
            try:
                resolve(document.data, kind)
            except InterpolationError as error:
                problems[error.parts] = error
    if problems:
        raise SpecError(document.problem(parts, error.what, error.todo) for parts, error in problems.items())
    return bool(found)


def resolve(data: dict[str, Any], kind: AnyKind = STUDY) -> dict[str, Any]:
    """`data` with the interpolations outside of `base` resolved; the base's are, at each point of the axes. Raises
    InterpolationError."""
    resolution = _Resolution(data, kind)
    return {key: value if key == "base" else resolution.value((key,)) for key, value in data.items()}
