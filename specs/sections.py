"""A base's sections, each validated once for each combination of the settings that decide it.

A study of many points has few distinct sections: points share all that their axes leave alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from specs.document import Parts, replaced
from specs.interpolation import STUDY, AnyKind, Resolver, interpolated, references


class Setting(NamedTuple):
    """A value that an axis gives to `path` (dotted, from `base`), written at `where` in the document."""

    path: str
    value: Any
    where: Parts


@lru_cache(maxsize=64)
def _adapter(base: type[BaseModel], section: str) -> TypeAdapter[Any]:
    field = base.model_fields[section]
    kind: Any = field.annotation
    return TypeAdapter(Annotated[(kind, *field.metadata)] if field.metadata else kind)


class Sections:
    """The sections of a study's base, at its points.

    A section that interpolates is decided by the settings of all sections that it refers to as well.
    """

    def __init__(self, root: dict[str, Any], kind: AnyKind = STUDY) -> None:
        self.root, self.kind = root, kind
        self._base: type[BaseModel] = kind.base
        self.data: dict[str, Any] = root["base"]
        self._resolver: Resolver | None = None
        # What the axes set is resolved already: only the base interpolates.
        self._links = {name: self._reached(name) for name, value in self.data.items() if any(interpolated(value))}
        # The settings are kept: they are known by their identity.
        self._validated: dict[tuple[object, ...], tuple[Any, Sequence[Setting]]] = {}

    @property
    def derived(self) -> Iterable[str]:
        """The sections that interpolate."""
        return self._links

    def validated(self, name: str, settings: dict[str, list[Setting]]) -> Any:
        """Section `name` with a point's settings (by section). Raises pydantic.ValidationError, or as `plain` does."""
        deciding = list(self._deciding(name, settings))
        key = (name, *map(id, deciding))
        known = self._validated.get(key)
        if known is not None:
            return known[0]
        value = _adapter(self._base, name).validate_python(self.plain(name, settings))
        self._validated[key] = (value, deciding)
        return value

    def plain(self, name: str, settings: dict[str, list[Setting]]) -> Any:
        """Section `name` as plain data, settings applied and interpolations resolved. Raises KeyError with the path of
        what cannot hold keys."""
        if name in self._links:
            if self._resolver is None:
                self._resolver = Resolver({key: value for key, value in self.root.items() if key != "axes"}, self.kind)
            values = {f"base.{setting.path}": setting.value for setting in self._deciding(name, settings)}
            return self._resolver.resolve(("base", name), values)
        data: Any = {name: self.data[name]} if name in self.data else {}
        for setting in settings.get(name, ()):
            data = replaced(data, setting.path.split("."), setting.value)
        return data[name]

    def _deciding(self, name: str, settings: dict[str, list[Setting]]) -> Iterator[Setting]:
        yield from settings.get(name, ())
        for other in self._links.get(name, ()):
            yield from settings.get(other, ())

    def _reached(self, name: str) -> frozenset[str]:
        """The other sections that section `name` refers to, and those that they refer to."""
        reached: set[str] = set()
        waiting = [name]
        while waiting:
            for _, text in interpolated(self.data.get(waiting.pop())):
                found = {str(parts[1]) for parts in references(text) if len(parts) > 1 and parts[0] == "base"}
                waiting += found - reached
                reached |= found
        return frozenset(reached - {name})
