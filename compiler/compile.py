"""A study's file to its plan."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from compiler.catalogue import Catalogue
from compiler.clusters import UnknownClusterError, find_cluster
from compiler.expand import LIMIT, Dimension, Point, dimensions, factors_of, filters_of, points
from compiler.identity import plan_digest
from compiler.names import Namer
from compiler.plan import ClusterPlan, RunPlan, StudyPlan, Totals
from compiler.run import Compiler
from compiler.timeline import study_hours, timeline
from compiler.warnings import warnings
from specs.errors import Problem, RuleError, SpecError
from specs.expression import ExpressionError
from specs.load import LoadedStudy, load_study

MAX_PROBLEMS = 20
"""Distinct problems after which a study's remaining points are not looked at."""

MAX_FAILURES = 200
"""Points that fail after which the remaining ones are not looked at."""

PROBED = 5000
"""Points of a product from which on each alternative is tried alone first: one bad value of many is then found at
once."""


@dataclass(frozen=True)
class Compiled:
    """A plan and what it came from: the study as read, and the point of each run."""

    plan: StudyPlan
    loaded: LoadedStudy
    points: tuple[Point, ...]


def compile_study(path: Path, overrides: Sequence[str] = (), *, limit: int = LIMIT) -> StudyPlan:
    """Compile the study at `path` with `key=value` overrides (keys from the root), of at most `limit` points.

    The same study gives the same plan, byte for byte. Raises SpecError with all that is wrong in the study.
    """
    return compile_whole(path, overrides, limit=limit).plan


def compile_whole(path: Path, overrides: Sequence[str] = (), *, limit: int = LIMIT) -> Compiled:
    """As `compile_study`, with what the plan came from."""
    with _without_collection():
        loaded = load_study(path, overrides)
        try:
            cluster = find_cluster(loaded.study.cluster)
        except UnknownClusterError as error:
            raise SpecError([loaded.document.problem(("cluster",), error.what, error.todo)]) from None
        return _Compilation(loaded, path.parent, cluster, limit).result()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Plans are trees: looking for circles among 100,000 runs would take most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Compilation:
    def __init__(self, loaded: LoadedStudy, folder: Path, cluster: ClusterPlan, limit: int) -> None:
        self.loaded, self.cluster = loaded, cluster
        self.problems: dict[Problem, None] = {}
        self.namer: Namer | None = None
        self.filters = filters_of(loaded, RunPlan)
        self.unexpanded = factors_of(loaded, limit)
        # One factor is tried as it is expanded; of several, so many alternatives are tried alone before that.
        self.factors = dimensions(loaded, self.unexpanded, PROBED if len(self.unexpanded) > 1 else sys.maxsize)
        loaded.check_base()
        self.compiler = Compiler(loaded, Catalogue(folder), cluster)

    def result(self) -> Compiled:
        if len(self.factors) > 1 and math.prod(map(len, self.factors)) >= PROBED:
            self._each(_alone(self.factors), lambda point, run: None)
        if any(len(made) < factor.size for made, factor in zip(self.factors, self.unexpanded, strict=True)):
            self.factors = dimensions(self.loaded, self.unexpanded)
        self.namer = Namer(self.factors)
        every: list[RunPlan] = []
        first: dict[str, tuple[RunPlan, Point]] = {}
        excluded = 0

        def take(point: Point, run: RunPlan) -> None:
            nonlocal excluded
            if sum(one.drops(run) for one in self.filters):  # each of them counts what it drops
                excluded += 1
                return
            every.append(run)
            first.setdefault(run.id, (run, point))

        self._each(points(self.factors), take)
        if not every:
            where = self.filters[-1].where
            todo = "loosen a condition"
            raise SpecError([self.loaded.document.problem(where, f"the filters take out all {excluded} points", todo)])
        runs = tuple(run for run, _ in first.values())
        totals = Totals(
            runs=len(runs),
            tokens=math.fsum(run.tokens for run in runs),
            flops=math.fsum(run.flops for run in runs),
            device_hours=math.fsum(run.device_hours for run in runs),
        )
        idle = [one for one in self.filters if not one.taken]
        told = [f"{one} takes no point out" for one in idle]
        plan = StudyPlan(
            study=self.loaded.study.study,
            digest=plan_digest(totals, runs),
            warnings=(*warnings(self.loaded, every, runs, self.cluster), *told),
            cluster=self.cluster,
            excluded=excluded,
            hours=study_hours(timeline(runs, self.cluster)),
            totals=totals,
            runs=runs,
        )
        return Compiled(plan, self.loaded, tuple(point for _, point in first.values()))

    def _each(self, some: Iterable[Point], take: Callable[[Point, RunPlan], None]) -> None:
        """Resolve `some` points. Raises SpecError with all that is wrong in them, up to a limit.

        What a rule finds at one place in several points is told once.
        """
        failures = 0
        faults: dict[tuple[str, int, str], list[tuple[Problem, Point]]] = {}
        for point in some:
            try:
                take(point, self._resolved(point))
                continue
            except SpecError as error:
                self.problems |= dict.fromkeys(error.problems)
            except RuleError as fault:
                problem = self.loaded.problem(fault, point)
                faults.setdefault((problem.file, problem.line, problem.path), []).append((problem, point))
            except ExpressionError as error:
                self.problems[self._expression_problem(error, point)] = None
                break  # it would fail at the others too
            failures += 1
            if len(self.problems) + len(faults) >= MAX_PROBLEMS or failures >= MAX_FAILURES:
                break
        self.problems |= dict.fromkeys(self._told(*found) for found in faults.values())
        if self.problems:
            raise SpecError(self.problems)

    def _told(self, first: tuple[Problem, Point], *others: tuple[Problem, Point]) -> Problem:
        """A problem with the name of the first point that has it."""
        problem, point = first
        if math.prod(map(len, self.factors)) == 1:
            return problem
        name = (self.namer or Namer(self.factors)).name(point)
        least = "at least " if len(others) + 1 == MAX_FAILURES else ""
        more = f" and {least}{len(others):,} more" if others else ""
        return replace(problem, what=f"{problem.what} (in '{name}'{more})")

    def _resolved(self, point: Point) -> RunPlan:
        if self.namer is None:
            return self.compiler.resolve(point, "", {})
        return self.compiler.resolve(point, self.namer.name(point), self.namer.values(point))

    def _expression_problem(self, error: ExpressionError, point: Point) -> Problem:
        """A condition that fails at a point: on the condition's line."""
        run = self._resolved(point)
        for one in self.filters:
            try:
                one.condition(run)
            except ExpressionError:
                what = f"{error.what} (in '{run.name}')"
                return self.loaded.document.problem(one.where, what, error.todo)
        raise error


def _alone(factors: list[Dimension]) -> Iterator[Point]:
    """Points that try each alternative of each factor beside the first ones of the others."""
    firsts = [factor[0] for factor in factors]
    for index, factor in enumerate(factors):
        for alternative in factor:
            yield tuple(setting for one in (*firsts[:index], alternative, *firsts[index + 1 :]) for setting in one)
