"""From a study's file to checked sections: the whole study first, its base once for every point of the axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from specs import interpolation
from specs.document import COMMAND_LINE, Document, Parts, assign, override, read_document
from specs.errors import Problem, RuleError, SpecError
from specs.messages import explain
from specs.study import Base, Study


class Setting(NamedTuple):
    """A value that an axis gives to `path` (dotted, from `base`), written at `where` in the document."""

    path: str
    value: Any
    where: Parts


@dataclass(frozen=True)
class LoadedStudy:
    """A study whose outside is checked. `interpolates`: its base holds interpolations, resolved anew at each point."""

    study: Study
    document: Document
    interpolates: bool

    def base(self, point: Iterable[Setting] = ()) -> Base:
        """The base with a point's values set. Raises SpecError, each problem on the line that caused it."""
        settings = tuple(point)
        data = self.document.data["base"]
        for setting in settings:
            data = self._set(data, setting, settings)
        if self.interpolates:
            data = self._resolve(data, settings)
        try:
            return Base.model_validate(data)
        except ValidationError as error:
            found = explain(error, Base)
            raise SpecError(self._place(parts, what, todo, settings) for parts, what, todo in found) from None

    def problem(self, fault: RuleError, point: Iterable[Setting] = ()) -> Problem:
        """`fault` with its place: of the first of its paths that an axis or the command line set, else its own."""
        settings = tuple(point)
        paths: list[Parts] = [tuple(path.split(".")) for path in (fault.path, *fault.also)]
        chosen = next((parts for parts in paths if self._is_varied(parts, settings)), paths[0])
        return self._place(chosen, fault.what, fault.todo, settings)

    def overridden(self, path: str) -> bool:
        """Whether the command line sets the very value at `path` (dotted, from `base`)."""
        origin = self.document.origins.get(("base", *path.split(".")))
        return origin is not None and origin.file == COMMAND_LINE

    def _is_varied(self, parts: Parts, settings: tuple[Setting, ...]) -> bool:
        on_command_line = self.document.origin(("base", *parts)).file == COMMAND_LINE
        return on_command_line or _responsible(parts, settings) is not None

    def _place(self, parts: Parts, what: str, todo: str, settings: tuple[Setting, ...]) -> Problem:
        setting = _responsible(parts, settings)
        place = self.document.problem(("base", *parts), what, todo)
        if setting is None:
            return place
        origin = self.document.origin(setting.where)
        return Problem(origin.file, origin.line, place.path, what, todo)

    def _set(self, data: Any, setting: Setting, settings: tuple[Setting, ...]) -> Any:
        """`data` with the setting, sharing what it leaves alone."""
        parts = tuple(setting.path.split("."))
        copy = dict(data)
        here = copy
        for part in parts[:-1]:
            child = here.get(part)
            if isinstance(child, dict):
                here[part] = dict(child)
                here = here[part]
        try:
            assign(copy, parts, setting.value)
        except (KeyError, IndexError) as error:
            what = f"'{error.args[0]}' holds no keys, so '{setting.path}' cannot be set"
            problem = self._place(parts, what, f"write '{error.args[0]}' as a mapping", settings)
            raise SpecError([problem]) from None
        return copy

    def _resolve(self, data: dict[str, Any], settings: tuple[Setting, ...]) -> dict[str, Any]:
        from omegaconf.errors import OmegaConfBaseException

        root = {key: value for key, value in self.document.data.items() if key != "axes"} | {"base": data}
        try:
            base: dict[str, Any] = interpolation.resolve(root)["base"]
        except OmegaConfBaseException as error:
            what = f"an interpolation fails at this point of the axes ({str(error).splitlines()[0]})"
            parts: Parts = tuple(settings[0].path.split(".")) if settings else ()
            raise SpecError([self._place(parts, what, "interpolate a value that every point has", settings)]) from None
        return base


def _responsible(parts: Parts, settings: tuple[Setting, ...]) -> Setting | None:
    """The setting that wrote the value at `parts`, or part of it."""
    for setting in settings:
        path = tuple(setting.path.split("."))
        shared = min(len(path), len(parts))
        if path[:shared] == tuple(map(str, parts[:shared])):
            return setting
    return None


def load_study(path: Path, overrides: Sequence[str] = ()) -> LoadedStudy:
    """Read a study's file, set the `key=value` overrides and check all but its base. Raises SpecError."""
    document = read_document(path)
    override(document, overrides)
    data = document.data
    interpolates = interpolation.check(document)
    if interpolates:
        data = interpolation.resolve(data)
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        raise SpecError(document.problem(*one) for one in explain(error, Study)) from None
    if study.study == "store":
        what, todo = "the name 'store' is taken by the folder of all runs", "choose another name"
        raise SpecError([document.problem(("study",), what, todo)])
    return LoadedStudy(study, document, any(interpolation.interpolated(document.data["base"])))
