"""A sampling study's file to its plan: every point of its axes on every one of its finished runs."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, get_args

import msgspec
from pydantic import ValidationError

from compiler.compile import MAX_PROBLEMS
from compiler.difference import load_plan
from compiler.expand import LIMIT, Dimension, Filter, Point, dimensions, factors_of, filters_of, points
from compiler.names import Namer
from compiler.plan import RunPlan, StudyPlan
from compiler.records import is_done, read_status, store_folder, study_folder
from compiler.sampling import SAMPLING_NUMERICS, Sampler, SamplingPlan, SamplingPoint
from compiler.single import find_run
from specs.document import plain
from specs.errors import Problem, RuleError, SpecError
from specs.expression import ExpressionError
from specs.load import Loaded, load_sampling
from specs.messages import explain
from specs.sampling import (
    JOINED,
    TO,
    Control,
    SamplerSpec,
    SamplingBase,
    SamplingStudy,
    default_sampler,
    spoken,
)
from specs.suggest import suggestion

INFILL = "infill"

Place: TypeAlias = tuple[str, str, str]
LoadedSampling: TypeAlias = Loaded[SamplingStudy, SamplingBase]

_encoder = msgspec.json.Encoder(order="deterministic")


class Written(NamedTuple):
    """A point of the axes: what its names are, and what it says of any run."""

    name: str
    values: dict[str, int | float | str | bool | None]
    point: Point
    base: SamplingBase


def compile_sampling(path: Path, overrides: Sequence[str], out: Path, *, limit: int = LIMIT) -> SamplingPlan:
    """Compile the sampling study at `path`, with `key=value` overrides, on runs finished under `out`.

    It has at most `limit` points. Raises SpecError with all that is wrong in it, such as runs that are not done.
    """
    loaded = load_sampling(path, overrides)
    filters = filters_of(loaded, SamplingPoint)
    factors = dimensions(loaded, factors_of(loaded, limit))
    loaded.check_base()
    runs, told = _runs(loaded, out)
    count = math.prod(map(len, factors)) * len(runs)
    if count > limit:
        what = f"the axes' points on {len(runs):,} runs are {count:,} points, more than {limit:,}"
        raise SpecError([loaded.document.problem(("axes",), what, "give fewer values or runs")])
    found = _kept(loaded, _points(loaded, runs, list(_written(loaded, factors))), filters)
    idle = [f"{one} takes no point out" for one in filters if not one.taken]
    used = {point.run for point in found}
    return SamplingPlan(
        study=loaded.study.study,
        digest=hashlib.sha256(_encoder.encode(found)).hexdigest()[:16],
        warnings=(*told, *_warnings(runs, found), *idle),
        runs={run.id: str(store_folder(out, run.id)) for run in runs.values() if run.id in used},
        names={run.id: name for name, run in runs.items() if run.id in used},
        points=found,
    )


def tasks_of(run: RunPlan) -> dict[str, Place]:
    """Every task that `run` can do: its modality, condition segment ("" without one) and target segment.

    SEGMENT for sequences of one segment, A-to-B for each other, conditioned on all segments but B (A+B-to-C where these
    are several). `speech` stands for `audio`, which does too. `infill`, whose places are all "", any modality does.

    Of modalities with the same segments, one is meant whose noise has schedules of their own for segments of the
    condition, and none for the target: it learns the target from it. Of several, and where none has, the first.
    """
    found: dict[str, list[Place]] = {}
    for modality, plan in run.modalities.items():
        for index, target in enumerate(plan.segments):
            condition = JOINED.join((*plan.segments[:index], *plan.segments[index + 1 :]))
            task = f"{condition}{TO}{target}" if condition else target
            found.setdefault(task, []).append((modality, condition, target))
    own = {task: max(places, key=lambda place: _is_learned(run, place)) for task, places in found.items()}
    return {spoken(task): place for task, place in own.items()} | own | {INFILL: ("", "", "")}


def _controls(control: str, condition: str) -> bool:
    """Whether a control means something for a condition: all are about one, and what is looked up goes by its words."""
    return condition == "text" if control == "lookup" else bool(condition)


def _is_learned(run: RunPlan, place: Place) -> bool:
    """Whether a modality's noise is made for learning the target from its condition."""
    modality, _, target = place
    segments = run.modalities[modality].noise.segments
    return bool(segments) and target not in segments


def sampler_of(task: str, given: Mapping[str, str] | Sequence[str] = ()) -> Sampler:
    """The sampler of `task` with some of its settings `given`, by name or as `key=value`, values as in YAML.

    Raises RuleError for a key that is none and a value that is not in its range.
    """
    settings = dict(given) if isinstance(given, Mapping) else dict(map(_assignment, given))
    try:
        spec = SamplerSpec.model_validate({name: plain(value) for name, value in settings.items()})
    except ValidationError as error:
        parts, what, todo = explain(error, SamplerSpec)[0]
        raise RuleError(".".join(map(str, parts)), what, todo) from None
    return _sampler(task, spec)


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise RuleError(text, f"'{text}' sets nothing", "write key=value, such as steps=16")
    return key.strip(), value.strip()


def _sampler(task: str, spec: SamplerSpec) -> Sampler:
    return Sampler(**(default_sampler(task) | spec.written()))


# Runs


def _runs(loaded: LoadedSampling, out: Path) -> tuple[dict[str, RunPlan], list[str]]:
    """The study's runs by their names, with their study's where two share one; and what is to be said of them.

    Raises SpecError where one is not there or not done.
    """
    found: dict[str, tuple[str, RunPlan]] = {}
    problems: list[Problem] = []
    told: list[str] = []
    for index, word in enumerate(loaded.study.runs):
        study, _, name = word.partition("/")
        try:
            plan = _plan(study, out)
            runs = [_done_run(plan, name, out)] if name else _done_runs(plan, out)
        except RuleError as fault:
            problems.append(loaded.document.problem(("runs", index), fault.what, fault.todo))
            continue
        if not name and len(runs) < len(plan.runs):
            told.append(
                f"{len(plan.runs) - len(runs):,} of {len(plan.runs):,} runs of '{study}' are not done: left out"
            )
        for run in runs:
            found.setdefault(run.id, (study, run))
    own = loaded.study.study
    if (study_folder(out, own) / "plan.json").exists():
        what, todo = f"'{own}' is the name of a study of training under {out}", "choose another name"
        problems.append(loaded.document.problem(("study",), what, todo))
    if problems:
        raise SpecError(problems)
    names = Counter(run.name for _, run in found.values())
    return {run.name if names[run.name] == 1 else f"{study}/{run.name}": run for study, run in found.values()}, told


def _plan(study: str, out: Path) -> StudyPlan:
    folder = study_folder(out, study)
    if (folder / "plan.json").exists():
        try:
            return load_plan(folder)
        except SpecError as error:
            raise RuleError("runs", f"{folder}: {error.problems[0].what}", error.problems[0].todo) from None
    known = sorted(place.parent.name for place in out.glob("*/plan.json"))
    todo = suggestion(study, known) if known else "train its runs first with `triptych run`, or give their --out"
    raise RuleError("runs", f"there is no study '{study}' under {out}", todo)


def _done_runs(plan: StudyPlan, out: Path) -> list[RunPlan]:
    done = [run for run in plan.runs if is_done(store_folder(out, run.id))]
    if not done:
        todo = f"finish one first; `triptych status {study_folder(out, plan.study)}` says where they stand"
        raise RuleError("runs", f"no run of '{plan.study}' is done", todo)
    return done


def _done_run(plan: StudyPlan, name: str, out: Path) -> RunPlan:
    run = find_run(plan, name)
    folder = store_folder(out, run.id)
    if not is_done(folder):
        state = read_status(folder).state
        reason = "its rows are not those that it wrote" if state == "done" else state
        todo = "finish it first with `triptych run`, or name another run"
        raise RuleError("runs", f"run '{run.name}' of '{plan.study}' is not done ({reason})", todo)
    return run


# Points


def _written(loaded: LoadedSampling, factors: list[Dimension]) -> Iterator[Written]:
    """What the axes' points say. Raises SpecError with what is wrong in them, up to a limit."""
    namer = Namer(factors)
    problems: dict[Problem, None] = {}
    for point in points(factors):
        try:
            yield Written(namer.name(point), namer.values(point), point, loaded.base(point))
        except SpecError as error:
            problems |= dict.fromkeys(error.problems)
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise SpecError(problems)


def _points(loaded: LoadedSampling, runs: dict[str, RunPlan], some: list[Written]) -> list[SamplingPoint]:
    """Every point on every run. Raises SpecError where a run cannot do what a point says."""
    found: list[SamplingPoint] = []
    problems: dict[Problem, None] = {}
    for name, run in runs.items():
        tasks = tasks_of(run)
        for written in some:
            try:
                found.append(_point(written, name if len(runs) > 1 else "", run, tasks))
            except RuleError as fault:
                problems[loaded.problem(fault, written.point)] = None
    if problems:
        raise SpecError(list(problems)[:MAX_PROBLEMS])
    return found


def _point(written: Written, prefix: str, run: RunPlan, tasks: dict[str, Place]) -> SamplingPoint:
    base = written.base
    if base.task not in tasks:
        raise RuleError("task", f"run '{run.name}' has no task '{base.task}'", suggestion(base.task, tasks))
    other = spoken(base.task)
    task = other if tasks.get(other) == tasks[base.task] else base.task
    sampler = _sampler(task, base.sampler)
    controls = tuple(one for one in get_args(Control) if one in base.controls and _controls(one, tasks[task][1]))
    deciding = (SAMPLING_NUMERICS, run.id, task, base.n, base.seed, sampler, controls)
    return SamplingPoint(
        id=hashlib.sha256(_encoder.encode(deciding)).hexdigest()[:16],
        name=f"{prefix}/{written.name}" if prefix else written.name,
        run=run.id,
        task=task,
        n=base.n,
        seed=base.seed,
        sampler=sampler,
        controls=controls,
        point=written.values,
    )


def _kept(loaded: LoadedSampling, every: Iterable[SamplingPoint], filters: list[Filter]) -> tuple[SamplingPoint, ...]:
    """The points that the filters keep, each once. Raises SpecError where these are none."""
    kept: dict[str, SamplingPoint] = {}
    for point in every:
        drops = [_drops(loaded, one, point) for one in filters]  # each of them counts what it drops
        if not any(drops):
            kept.setdefault(point.id, point)
    if not kept:
        what, todo = "the filters take out all points", "loosen a condition"
        raise SpecError([loaded.document.problem(filters[-1].where, what, todo)])
    return tuple(kept.values())


def _drops(loaded: LoadedSampling, one: Filter, point: SamplingPoint) -> bool:
    try:
        return one.drops(point)
    except ExpressionError as error:
        what = f"{error.what} (in '{point.name}')"
        raise SpecError([loaded.document.problem(one.where, what, error.todo)]) from None


def _warnings(runs: dict[str, RunPlan], found: Iterable[SamplingPoint]) -> Iterator[str]:
    """Guidance where there is no condition, or none that training ever left out."""
    by_id = {run.id: run for run in runs.values()}
    told: dict[tuple[str, str], None] = {
        (point.run, point.task): None for point in found if point.sampler.guidance != 1 and point.task != INFILL
    }
    for run_id, task in told:
        run = by_id[run_id]
        modality, condition, target = tasks_of(run)[task]
        plan = run.modalities[modality]
        if not condition:
            yield f"guidance does nothing in '{task}' of run '{run.name}': it has no condition"
        elif not plan.drop_condition or target != plan.segments[-1]:
            yield (
                f"guidance in '{task}' of run '{run.name}', which never saw it without its condition "
                "(drop_condition): sampler.guidance: 1 is without"
            )
