"""From a study's file to checked sections: the whole study first, its base once for every point of the axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias

from pydantic import ValidationError

from specs import interpolation
from specs.document import COMMAND_LINE, Document, Origin, Parts, override
from specs.errors import Problem, RuleError, SpecError
from specs.interpolation import STUDY, B, InterpolationError, Kind, S
from specs.messages import explain
from specs.reuse import compose
from specs.sampling import SAMPLING, SamplingBase, SamplingStudy
from specs.sections import Sections, Setting
from specs.study import Base, Study

SHORT = ("kind", "steps")
"""What a short form stands for: `noise: linear` is its kind, `warmup: 1000` its steps."""


@dataclass
class Loaded(Generic[S, B]):
    """A study of any kind whose outside is checked."""

    study: S
    document: Document
    kind: Kind[S, B]
    sections: Sections = field(init=False)
    _template: B | None = None
    _varied: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sections = Sections(self.document.data, self.kind)

    def base(self, point: Iterable[Setting] = ()) -> B:
        """The base with a point's values set. Raises SpecError, each problem on the line that caused it."""
        settings: dict[str, list[Setting]] = {}
        for setting in point:
            settings.setdefault(setting.path.partition(".")[0], []).append(setting)
        if self._template is None:
            self._template = self._whole(settings)
            self._varied.update(self.sections.derived)
        self._varied.update(settings)
        try:
            update = {name: self.sections.validated(name, settings) for name in self._varied}
        except (ValidationError, InterpolationError, KeyError):
            return self._whole(settings)  # which says what is wrong, or knows the default of what is not written
        return self._template.model_copy(update=update)

    def check_base(self) -> None:
        """The base as written, without what the axes set: what is wrong there is wrong even where no run has it.

        Raises SpecError. What is missing, and what values are derived from, may come from the axes.
        """
        written = self.document.data["base"]
        try:
            self.kind.base.model_validate(
                {name: written[name] for name in written if name not in self.sections.derived}
            )
        except ValidationError as error:
            found = [one for one in explain(error, self.kind.base) if one[1] not in ("missing", "has too few entries")]
            if found:
                raise SpecError(self._place(parts, what, todo, ()) for parts, what, todo in found) from None

    def problem(self, fault: RuleError, point: Iterable[Setting] = ()) -> Problem:
        """`fault` with its place: of the first of its paths that an axis or the command line set, else its own."""
        settings = tuple(point)
        paths: list[Parts] = [tuple(path.split(".")) for path in (fault.path, *fault.also)]
        chosen = next((parts for parts in paths if self._is_varied(parts, settings)), paths[0])
        return self._place(chosen, fault.what, fault.todo, settings)

    def origin(self, path: str, point: Iterable[Setting] = ()) -> Origin | None:
        """Where the value at `path` (dotted, from `base`) was written; None for a default."""
        parts: Parts = ("base", *path.split("."))
        setting = responsible(parts[1:], tuple(point))
        if setting is not None:
            return self.document.origin(setting.where)
        whole = tuple(int(part) if isinstance(part, str) and part.isdigit() else part for part in parts)
        written = self.document.origins.get(whole)
        if written is None and self._is_short(whole[:-1]):
            return self.document.origins.get(whole[:-1]) if whole[-1] in SHORT else None
        return written

    def _is_short(self, parts: Parts) -> bool:
        """Whether something other than a mapping or list is written at `parts`."""
        here: Any = self.document.data
        for part in parts:
            try:
                here = here[part]
            except (KeyError, IndexError, TypeError):
                return False
        return here is not None and not isinstance(here, dict | list)

    def overridden(self, path: str) -> bool:
        """Whether the command line sets the very value at `path` (dotted, from `base`)."""
        origin = self.document.origins.get(("base", *path.split(".")))
        return origin is not None and origin.file == COMMAND_LINE

    def _whole(self, settings: dict[str, list[Setting]]) -> B:
        """The base with settings (by section), validated at once, so that all that is wrong is told."""
        flat = tuple(setting for some in settings.values() for setting in some)
        data: dict[str, Any] = {}
        for name in dict.fromkeys((*self.document.data["base"], *settings)):
            try:
                data[name] = self.sections.plain(name, settings)
            except KeyError as error:
                setting = settings[name][0]
                what = f"there is no '{error.args[0]}' to set in '{setting.path}'"
                place = self._place(tuple(setting.path.split(".")), what, "write what is around it as a mapping", flat)
                raise SpecError([place]) from None
            except InterpolationError as error:
                what = f"{error.what} (at this point of the axes)" if flat else error.what
                raise SpecError([self._place(error.parts[1:] or (name,), what, error.todo, flat)]) from None
        try:
            return self.kind.base.model_validate(data)
        except ValidationError as error:
            found = explain(error, self.kind.base)
            raise SpecError(self._place(parts, what, todo, flat) for parts, what, todo in found) from None

    def _is_varied(self, parts: Parts, settings: tuple[Setting, ...]) -> bool:
        on_command_line = self.document.origin(("base", *parts)).file == COMMAND_LINE
        return on_command_line or responsible(parts, settings) is not None

    def _place(self, parts: Parts, what: str, todo: str, settings: tuple[Setting, ...]) -> Problem:
        setting = responsible(parts, settings)
        place = self.document.problem(("base", *parts), what, todo)
        if setting is None:
            return place
        origin = self.document.origin(setting.where)
        return Problem(origin.file, origin.line, place.path, what, todo)


LoadedStudy: TypeAlias = Loaded[Study, Base]
AnyLoaded: TypeAlias = Loaded[Any, Any]


def responsible(parts: Parts, settings: tuple[Setting, ...]) -> Setting | None:
    """The setting that wrote the value at `parts` (from `base`), or part of it."""
    for setting in settings:
        path = tuple(setting.path.split("."))
        shared = min(len(path), len(parts))
        if path[:shared] == tuple(map(str, parts[:shared])):
            return setting
    return None


def load_study(path: Path, overrides: Sequence[str] = ()) -> LoadedStudy:
    """Read a study's file and what it includes, set the `key=value` overrides and check all but its base.

    Raises SpecError.
    """
    return _loaded(path, overrides, STUDY)


def load_sampling(path: Path, overrides: Sequence[str] = ()) -> Loaded[SamplingStudy, SamplingBase]:
    """As `load_study`, of a sampling study."""
    return _loaded(path, overrides, SAMPLING)


def _loaded(path: Path, overrides: Sequence[str], kind: Kind[S, B]) -> Loaded[S, B]:
    document = compose(path)
    override(document, overrides)
    data = document.data
    if interpolation.check(document, kind):
        data = interpolation.resolve(data, kind)
    try:
        study = kind.study.model_validate(data)
    except ValidationError as error:
        raise SpecError(document.problem(*one) for one in explain(error, kind.study)) from None
    if data["study"] == "store":
        what, todo = "the name 'store' is taken by the folder of all runs", "choose another name"
        raise SpecError([document.problem(("study",), what, todo)])
    return Loaded(study, document, kind)
