"""Axes to points: each axis is a list of alternatives, and the points are their product."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from pydantic import BaseModel

from compiler import ranges
from specs.document import Parts
from specs.errors import Problem, RuleError, SpecError
from specs.expression import Condition, ExpressionError, check_path, compile_condition
from specs.interpolation import interpolated, references
from specs.load import AnyLoaded
from specs.messages import known_keys, section_at, type_at
from specs.sections import Setting
from specs.study import Axis, LogSpec, RangeSpec
from specs.suggest import suggestion

LIMIT = 1_000_000
"""Largest number of points that a study may expand to, unless more is asked for."""

FEW = 10_000
"""Values that are made at once, to be counted."""

SomeRange = TypeVar("SomeRange", bound=RangeSpec)
Point: TypeAlias = tuple[Setting, ...]
Dimension: TypeAlias = list[Point]
"""The alternatives of one factor of the product."""


class Budget(NamedTuple):
    """A value of `tokens` still to be found: as many as `flops` training FLOPs allow."""

    flops: float


class Filter:
    """One condition of `exclude` or `only`, written at `where`, on what a point becomes: a `struct`."""

    def __init__(self, text: str, keeps: bool, where: Parts, struct: type[msgspec.Struct]) -> None:
        self.text, self.keeps, self.where = text, keeps, where
        self.condition: Condition = compile_condition(text, lambda path: check_path(struct, path))
        self.taken = 0

    def drops(self, found: msgspec.Struct) -> bool:
        """Whether the condition takes `found` out. Raises ExpressionError."""
        dropped = self.condition(found) != self.keeps
        self.taken += dropped
        return dropped

    def __str__(self) -> str:
        return f"'{self.text}' ({'only' if self.keeps else 'exclude'})"


class Factor(NamedTuple):
    """A factor of the product before it is expanded: `make` gives its `size` alternatives."""

    size: int
    make: Callable[[], Iterable[Point]]


def factors_of(loaded: AnyLoaded, limit: int = LIMIT) -> list[Factor]:
    """The factors of a study's product of axes, in the order written, none of them expanded.

    Raises SpecError for what an axis cannot be, such as a zip of unequal lengths, and for more than `limit` points.
    """
    factors: list[Factor] = []
    problems: list[Problem] = []
    for index, axis in enumerate(loaded.study.axes):
        at: Parts = ("axes", index)
        try:
            factors += _factors(loaded, axis, at)
        except RuleError as fault:
            inside = (int(part) if part.isdigit() else part for part in fault.path.split("."))
            problems.append(loaded.document.problem((*at, *inside), fault.what, fault.todo))
    if problems:
        raise SpecError(problems)
    count = math.prod(factor.size for factor in factors)
    if count > limit:
        what = f"the product of the axes is {count:,} points, more than {limit:,}"
        todo = "give fewer values, or several studies (or allow more with --limit)"
        raise SpecError([loaded.document.problem(("axes",), what, todo)])
    return factors


def filters_of(loaded: AnyLoaded, struct: type[msgspec.Struct]) -> list[Filter]:
    """A study's conditions, on what its points become. Raises SpecError where one cannot be read."""
    filters, problems = [], []
    for index, axis in enumerate(loaded.study.axes):
        for kind, conditions in (("exclude", axis.exclude), ("only", axis.only)):
            for number, text in enumerate(conditions or ()):
                where: Parts = ("axes", index, kind, number)
                try:
                    filters.append(Filter(text, kind == "only", where, struct))
                except ExpressionError as error:
                    problems.append(loaded.document.problem(where, error.what, error.todo))
    if problems:
        raise SpecError(problems)
    return filters


def dimensions(loaded: AnyLoaded, factors: Sequence[Factor], most: int = sys.maxsize) -> list[Dimension]:
    """The first `most` alternatives of each factor. Raises SpecError for unknown or doubly set paths."""
    made = [list(itertools.islice(factor.make(), most)) for factor in factors]
    problems = list(_bad_paths(loaded, made))
    if problems:
        raise SpecError(problems)
    return made


def points(factors: list[Dimension]) -> Iterator[Point]:
    """The product of the factors; the last varies fastest."""
    for combination in itertools.product(*factors):
        yield tuple(itertools.chain.from_iterable(combination))


def _factors(loaded: AnyLoaded, axis: Axis, at: Parts) -> Iterator[Factor]:
    """The factors that one axis stands for. Raises RuleError, its path counted from the axis."""
    base = loaded.kind.base
    if axis.grid is not None:
        for path, values in axis.grid.items():
            yield _column(path, values, (*at, "grid", path))
    elif axis.log is not None:
        for path, spec in axis.log.items():
            yield _log(path, _whole(base, path, spec), (*at, "log", path))
    elif axis.zip is not None:
        yield _zip(axis.zip, (*at, "zip"))
    elif axis.named is not None:
        yield Factor(len(axis.named), lambda: _named(axis.named or [], (*at, "list")))
    elif axis.sample is not None:
        where: Parts = (*at, "sample")
        kinds = {
            path: one if isinstance(one, list) else _whole(base, path, one) for path, one in axis.sample.ranges.items()
        }
        sample = axis.sample.model_copy(update={"ranges": kinds})
        yield Factor(
            sample.points,
            lambda: [
                tuple(Setting(path, value, (*where, "ranges", path)) for path, value in one.items())
                for one in ranges.sample_values(sample)
            ],
        )
    elif axis.simplex is not None:
        simplex, where = axis.simplex, (*at, "simplex")
        modalities = loaded.document.data["base"].get("modalities")
        names = list(modalities) if isinstance(modalities, dict) else []
        yield Factor(
            ranges.simplex_size(simplex, names),
            lambda: [
                tuple(Setting(f"modalities.{name}.weight", weight, where) for name, weight in mix.items())
                for mix in ranges.simplex_mixes(simplex, names)
            ],
        )
    elif axis.isoflop is not None:
        isoflop, where = axis.isoflop, (*at, "isoflop")
        sizes = isoflop.sizes or [{}]
        if any("tokens" in size for size in sizes):
            raise RuleError("isoflop.sizes", "'tokens' is set here and by the budgets", "leave it out of the sizes")
        yield Factor(
            len(isoflop.flops) * len(sizes),
            lambda: [
                (Setting("tokens", Budget(flops), (*where, "flops", i)), *size)
                for i, flops in enumerate(isoflop.flops)
                for size in _named(sizes, (*where, "sizes"))
            ],
        )
    elif axis.seeds is not None:
        yield _seeds(loaded, axis.seeds, (*at, "seeds"))


def _log(path: str, spec: LogSpec, where: Parts) -> Factor:
    if spec.points > FEW:  # the limit is for before anything is made
        return Factor(spec.points, lambda: _column(path, ranges.log_values(spec), where).make())
    return _column(path, ranges.log_values(spec), where)


def _whole(base: type[BaseModel], path: str, spec: SomeRange) -> SomeRange:
    """`spec`, rounded to whole numbers where `path` takes no others."""
    whole = spec.multiple is None and type_at(base, tuple(path.split("."))) is int
    return spec.model_copy(update={"multiple": 1}) if whole else spec


def _column(path: str, values: list[Any], where: Parts) -> Factor:
    return Factor(len(values), lambda: ((Setting(path, value, (*where, i)),) for i, value in enumerate(values)))


def _named(entries: list[dict[str, Any]], where: Parts) -> Dimension:
    return [
        tuple(Setting(path, value, (*where, i, path)) for path, value in entry.items())
        for i, entry in enumerate(entries)
    ]


def _zip(table: dict[str, list[Any]], where: Parts) -> Factor:
    lengths = {path: len(values) for path, values in table.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{path}: {length}" for path, length in lengths.items())
        raise RuleError("zip", f"lists of unequal length ({told})", "give each path as many values as the others")
    return Factor(
        next(iter(lengths.values())),
        lambda: list(
            zip(
                *(
                    [Setting(path, value, (*where, path, i)) for i, value in enumerate(values)]
                    for path, values in table.items()
                ),
                strict=True,
            )
        ),
    )


def _seeds(loaded: AnyLoaded, seeds: Any, where: Parts) -> Factor:
    """`seeds: n` are n seeds from the base's on; a list is taken as it is."""
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        first = loaded.document.data["base"].get("seed", 0)
        first = first if isinstance(first, int) else 0
        return Factor(seeds, lambda: ((Setting("seed", first + i, where),) for i in range(seeds)))
    if isinstance(seeds, list) and seeds:
        return _column("seed", seeds, where)
    raise RuleError("seeds", f"{seeds!r} is neither a number of seeds nor a list of them", "write 2, or [0, 1]")


def _bad_paths(loaded: AnyLoaded, factors: list[Dimension]) -> Iterator[Problem]:
    taken: dict[str, None] = {}
    for factor in factors:
        found: dict[str, Setting] = {}
        for point in factor:
            for setting in point:
                found.setdefault(setting.path, setting)
        for path, setting in found.items():
            # Without the index of the value: the complaint is of the path.
            where = setting.where[:-1] if isinstance(setting.where[-1], int) else setting.where
            complaint = _unknown(loaded.kind.base, path, loaded.document.data["base"])
            if complaint:
                yield loaded.document.problem(where, *complaint)
            for other in (*taken, *(one for one in found if one < path)):
                if f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}."):
                    by = "by another axis" if other in taken else "on the same axis"
                    what = f"'{path}' is set here and as '{other}' {by}"
                    yield loaded.document.problem(where, what, "set it in one of them")
        taken |= dict.fromkeys(found)
    yield from _stale(loaded, list(taken))


def _stale(loaded: AnyLoaded, taken: list[str]) -> Iterator[Problem]:
    """Interpolations on the axes, which are resolved once, of what an axis sets."""
    for parts, text in interpolated(loaded.document.data.get("axes"), ("axes",)):
        for named in references(text):
            path = ".".join(map(str, named[1:]))
            if named[:1] == ("base",) and any(f"{path}.".startswith(f"{one}.") for one in taken):
                what = (
                    f"'{path}' is set by an axis, and interpolations on axes are resolved once, with the base's values"
                )
                yield loaded.document.problem(parts, what, "write the interpolation in the base instead")


def _unknown(base: type[BaseModel], path: str, data: Any) -> tuple[str, str] | None:
    """What is wrong with an axis' path and what to do; None where it leads to a value of the base."""
    parts = path.split(".")
    for depth, part in enumerate(parts):
        around = tuple(parts[:depth])
        section = section_at(base, around)
        if isinstance(data, list):
            names = [str(i) for i in range(len(data))]
        else:
            names = known_keys(base, around) if section else list(data) if isinstance(data, dict) else []
        last_of_mapping = section is None and depth == len(parts) - 1 and isinstance(data, dict)
        if part not in names and not last_of_mapping:
            if depth == 0 and part == "base":
                return f"unknown path '{path}'", "axes start at base: leave 'base.' out"
            return f"unknown path '{path}': no '{part}'", suggestion(part, names)
        data = _child(data, part)
    return None


def _child(data: Any, part: str) -> Any:
    if isinstance(data, list):
        return data[int(part)]
    return data.get(part) if isinstance(data, dict) else None
