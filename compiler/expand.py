"""Axes to points: each axis is a list of alternatives, and the points are their product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

from specs.document import Parts
from specs.errors import Problem, RuleError, SpecError
from specs.load import LoadedStudy, Setting
from specs.messages import known_keys, section_at
from specs.study import Base
from specs.suggest import suggestion

LIMIT = 1_000_000
"""Largest number of points that a study may expand to."""

Point: TypeAlias = tuple[Setting, ...]
Dimension: TypeAlias = list[Point]
"""The alternatives of one factor of the product."""


def dimensions(loaded: LoadedStudy) -> list[Dimension]:
    """The factors of a study's product of axes, in the order written. Raises SpecError for unknown or doubly set paths,
    unequal lengths in a zip, and more than `LIMIT` points: before any of them is made."""
    factors: list[Dimension] = []
    problems: list[Problem] = []
    for index, axis in enumerate(loaded.study.axes):
        at: Parts = ("axes", index)
        if axis.grid is not None:
            for path, values in axis.grid.items():
                where: Parts = (*at, "grid", path)
                factors.append([(Setting(path, value, (*where, i)),) for i, value in enumerate(values)])
        elif axis.zip is not None:
            columns = [
                [Setting(path, value, (*at, "zip", path, i)) for i, value in enumerate(values)]
                for path, values in axis.zip.items()
            ]
            if len(set(map(len, columns))) > 1:
                lengths = ", ".join(f"{path}: {len(values)}" for path, values in axis.zip.items())
                todo = "give each path as many values as the others"
                problems.append(loaded.document.problem((*at, "zip"), f"lists of unequal length ({lengths})", todo))
            factors.append(list(zip(*columns, strict=False)))
        else:
            try:
                factors.append(_seeds(loaded, axis.seeds, (*at, "seeds")))
            except RuleError as fault:
                problems.append(loaded.document.problem((*at, "seeds"), fault.what, fault.todo))
    problems += _bad_paths(loaded, factors)
    if problems:
        raise SpecError(problems)
    count = math.prod(map(len, factors))
    if count > LIMIT:
        what = f"the product of the axes is {count:,} points, more than {LIMIT:,}"
        raise SpecError([loaded.document.problem(("axes",), what, "give fewer values, or several studies")])
    return factors


def points(factors: list[Dimension]) -> Iterator[Point]:
    """The product of the factors; the last varies fastest."""
    for combination in itertools.product(*factors):
        yield tuple(itertools.chain.from_iterable(combination))


def _seeds(loaded: LoadedStudy, seeds: Any, where: Parts) -> Dimension:
    """`seeds: n` are n seeds from the base's on; a list is taken as it is."""
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        if seeds > LIMIT:
            raise RuleError("seed", f"{seeds:,} seeds are more than {LIMIT:,}", "give fewer")
        first = loaded.document.data["base"].get("seed", 0)
        first = first if isinstance(first, int) else 0
        return [(Setting("seed", first + i, where),) for i in range(seeds)]
    if isinstance(seeds, list) and seeds:
        return [(Setting("seed", value, (*where, i)),) for i, value in enumerate(seeds)]
    raise RuleError("seed", f"{seeds!r} is neither a number of seeds nor a list of them", "write 2, or [0, 1]")


def _bad_paths(loaded: LoadedStudy, factors: list[Dimension]) -> Iterator[Problem]:
    taken: dict[str, Setting] = {}
    for factor in factors:
        for setting in factor[0] if factor else ():
            # Without the index of the value: the complaint is of the path.
            where = setting.where[:-1] if isinstance(setting.where[-1], int) else setting.where
            complaint = _unknown(setting.path, loaded.document.data["base"])
            if complaint:
                yield loaded.document.problem(where, *complaint)
            for other in taken:
                if f"{setting.path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{setting.path}."):
                    what = f"'{setting.path}' is set here and as '{other}' by another axis"
                    yield loaded.document.problem(where, what, "set it in one of them")
            taken[setting.path] = setting


def _unknown(path: str, data: Any) -> tuple[str, str] | None:
    """What is wrong with an axis' path and what to do; None where it leads to a value of the base."""
    parts = path.split(".")
    for depth, part in enumerate(parts):
        around = tuple(parts[:depth])
        section = section_at(Base, around)
        names = known_keys(Base, around) if section else list(data) if isinstance(data, dict) else []
        last_of_mapping = section is None and depth == len(parts) - 1 and isinstance(data, dict)
        if part not in names and not last_of_mapping:
            if depth == 0 and part == "base":
                return f"unknown path '{path}'", "axes start at base: leave 'base.' out"
            return f"unknown path '{path}': no '{part}'", suggestion(part, names)
        data = data.get(part) if isinstance(data, dict) else None
    return None
