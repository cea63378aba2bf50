"""What to run next, as study files: the compute-optimal run for a budget, and the runs that would narrow the law most.

A study written here keeps all of the one that it comes from but its model, tokens, mix and batch; comments say where
each number comes from. Each is compiled before it stands under its name.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml  # type: ignore[import-untyped]

from compiler.compile import compile_study
from compiler.plan import RunPlan, StudyPlan
from compiler.source import launcher_of
from specs.errors import Problem, SpecError, printable
from specs.load import load_study
from specs.quantities import SUFFIXES
from studies.analysis.design import Design, NoDesignError
from studies.analysis.fits import COUNTED, Count
from studies.analysis.laws.base import Interval
from studies.analysis.laws.repeats import MOST_EPOCHS
from studies.analysis.prescription import (
    Advisor,
    Prescription,
    Spending,
    design_budget,
)
from studies.analysis.questions.base import base_modalities
from studies.analysis.results import Study
from studies.analysis.settings import is_weight

NAME_LENGTH = 100
DIGITS = 4
"""Significant digits of prescribed tokens, rounded down: a thousandth of the budget at most."""
_TOO_LARGE = 100.0
"""A shape so many times the optimum's is no answer to data that are too few."""
FEW_BATCHES = 8.0
"""A physical batch so many times from the logical one is worth a word."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What the compiler makes of the prescription: whole steps, exact FLOPs, the batch in sequences, passes over each
    source, and device-hours on the study's cluster."""

    steps: int
    tokens: float
    flops: float
    logical: float
    physical: int
    kappa: float
    critical: float | None
    epochs: dict[str, float]
    device_hours: float


class DesignRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a design, once for each of its `seeds`: its shape, `N` as the law counts, and `flops` of one seed."""

    model: dict[str, int]
    N: float
    tokens: float
    seeds: tuple[int, ...]
    flops: float


class DesignStudy(msgspec.Struct, frozen=True, kw_only=True):
    """The runs that would narrow the law most at the prescription, as the study `file`.

    `told` says where its budget comes from; `grid` is the even grid that it is compared with. `loss_after` and
    `N_after` are what the prescription's intervals would become: the more cautious of what the linear law and the
    samples say.
    """

    file: str
    told: str
    runs: tuple[DesignRun, ...]
    grid: tuple[DesignRun, ...]
    loss_after: Interval | None
    N_after: Interval | None
    design: Design


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """The prescription, the study `file` of it and what that compiles to. `fresh` is the best use of the budget that
    sees no source more than 4 times, where the prescription does. `design` is None where there is none: `no_design`
    then says why."""

    file: str
    prescription: Prescription
    run: Run
    fresh: Spending | None
    design: DesignStudy | None
    no_design: str
    warnings: tuple[str, ...]


class Template(NamedTuple):
    """The study that results are of: its file's `data`, where the file lay, and the keys of `model` that it sets."""

    study: Study
    data: dict[str, Any]
    file: Path
    keys: tuple[str, ...]

    @property
    def embedded(self) -> bool:
        """Whether all of its data ship with the project, so that its file may lie anywhere."""
        return all(
            plan.data.startswith("embedded/") for run in self.study.plan.runs for plan in run.modalities.values()
        )

    def named(self, suffix: str) -> str:
        """A study's name made of this one's."""
        return self.study.plan.study[: NAME_LENGTH - len(suffix)] + suffix


def template_of(study: Study) -> Template:
    """The study's file as its folder keeps it. Raises SpecError where it cannot be read any more."""
    data = load_study(study.folder / "study.yaml").document.data
    model = data["base"].get("model")
    keys = dict.fromkeys(model if isinstance(model, dict) else ())
    keys |= dict.fromkeys(
        path.removeprefix("model.") for run in study.plan.runs for path in run.point if path.startswith("model.")
    )
    try:
        file = Path(launcher_of(study.folder).file)
    except SpecError:  # a folder from elsewhere: only what lies beside it is at hand
        file = study.folder / "study.yaml"
    return Template(study, data, file, tuple(keys))


def advise(
    study: Study,
    budget: float,
    *,
    values: Mapping[str, float] | None = None,
    out: Path | None = None,
    runs: int = 12,
    design_flops: float | None = None,
    count: Count = "non_embedding",
    bootstrap: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
) -> Next:
    """Prescribe the optimum for `budget` FLOPs and write it as a study to `out`, and a design of at most `runs` runs
    (0: none) within `design_flops` beside it, as NAME-design.yaml.

    Without `out` the file is NAME-next.yaml in the current folder, or beside the study's own file where that names data
    folders, which are looked for there. Without `design_flops` a design costs at most a tenth of the budget, or what
    the study has cost. Raises PrescriptionError and its kinds, and SpecError where a file exists already
    (unless `overwrite`), cannot be written or does not plan.
    """
    template = template_of(study)
    base = base_modalities(study)
    total = math.fsum(one.weight for one in base.values())
    mix = {name: one.weight / total for name, one in base.items()} if total > 0 else {}
    advisor = Advisor(study, template.keys, mix, values, count, bootstrap, seed)
    found = advisor.prescribe(budget)
    file = out or (Path() if template.embedded else template.file.parent) / f"{template.named('-next')}.yaml"
    beside = file.with_name(f"{file.stem.removesuffix('-next')}-design.yaml")
    for path in (file, beside) if runs > 0 else (file,):
        _refuse_existing(path, overwrite)

    carried, told = _carried(template, found, advisor.largest)
    plan = _written(file, _next_text(template, found, carried), template, overwrite)
    [run] = plan.runs
    compiled = _run(run)
    most = max(run.epochs.values(), default=0.0)
    fresh = advisor.within(budget, found.best.tokens * MOST_EPOCHS / most) if most > MOST_EPOCHS else None
    design, missing = None, "none was asked for"
    if runs > 0:
        allowed = design_budget(budget, advisor.spent) if design_flops is None else design_flops
        said = "as asked" if design_flops is not None else _told_budget(allowed, budget)
        try:
            design = _design(template, advisor, found, carried, allowed, said, runs, beside, overwrite)
        except NoDesignError as error:
            missing = str(error)
    return Next(
        file=str(file),
        prescription=found,
        run=compiled,
        fresh=fresh,
        design=design,
        no_design="" if design else missing,
        warnings=(
            *found.warnings,
            *told,
            *_told_run(found, compiled, fresh),
            *(_told_design(found, design) if design else ()),
        ),
    )


def _design(
    template: Template,
    advisor: Advisor,
    found: Prescription,
    carried: dict[str, Any],
    allowed: float,
    told: str,
    runs: int,
    file: Path,
    overwrite: bool,
) -> DesignStudy:
    made, candidates = advisor.design(found, allowed, runs)
    chosen, grid = (
        _design_runs(template, [candidates[place] for place in places], carried) for places in (made.chosen, made.grid)
    )
    cautious = [
        max(linear, sampled or 0.0)
        for linear, sampled in (
            (made.narrowed.loss, made.narrowed.loss_sampled),
            (made.narrowed.optimum, made.narrowed.optimum_sampled),
        )
    ]
    study = DesignStudy(
        file=str(file),
        told=told,
        runs=chosen,
        grid=grid,
        loss_after=_shrunk(found.loss_interval, found.best.loss, cautious[0]),
        N_after=_shrunk(found.N_interval, found.best.N, cautious[1]),
        design=made,
    )
    _written(file, _design_text(template, found, study, carried), template, overwrite)
    return study


def _design_runs(template: Template, runs: Sequence[Spending], carried: Mapping[str, Any]) -> tuple[DesignRun, ...]:
    """Runs of a design by size and tokens, equal ones as so many seeds that the study has not had there."""
    had: dict[tuple[int, int, float], set[int]] = {}
    for run in template.study.plan.runs:
        had.setdefault((run.model.width, run.model.depth, run.tokens), set()).add(run.seed)
    first = carried.get("seed", 0)
    times = Counter((one.width, one.depth, one.tokens) for one in runs)
    by_place = {(one.width, one.depth, one.tokens): one for one in runs}
    found = []
    for place, one in sorted(by_place.items(), key=lambda entry: (entry[1].N, entry[1].tokens)):
        free = (
            seed for seed in itertools.count(first if isinstance(first, int) else 0) if seed not in had.get(place, ())
        )
        seeds = tuple(itertools.islice(free, times[place]))
        found.append(DesignRun(model=one.model, N=one.N, tokens=one.tokens, seeds=seeds, flops=one.flops))
    return tuple(found)


def _shrunk(interval: Interval | None, value: float, share: float) -> Interval | None:
    """An interval about `value` with its ends nearer by `share`, in logarithms."""
    if interval is None:
        return None
    low, high = (value * (end / value) ** share for end in interval)
    return low, high


def _carried(template: Template, found: Prescription, tuned: RunPlan) -> tuple[dict[str, Any], list[str]]:
    """The base as written, with what the axes set to one value throughout, and where it has none what they set for the
    run `tuned`; and what is to be said of that."""
    base = copy.deepcopy(template.data["base"])
    runs = template.study.plan.runs
    said = []
    for path in dict.fromkeys(path for run in runs for path in run.point):
        if path in ("tokens", "seed", "flops") or path.startswith("model.") or is_weight(path):
            continue
        varied = len({json.dumps(run.point.get(path)) for run in runs}) > 1
        own = _has(base, path.split("."))
        if not varied or not own:
            _set(base, path.split("."), tuned.point.get(path))
        if varied and not (path == "batch.logical" and found.batch.logical is not None):
            kept = "the base's value" if own else f"{tuned.point.get(path)}, as in the largest run"
            said.append(f"the study varies {path}: kept is {kept}")
    return base, said


def _has(data: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True


def _set(data: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    for part in parts[:-1]:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    if isinstance(value, str) and value.startswith("["):  # plans keep lists as JSON
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    data[parts[-1]] = value


def _next_text(template: Template, found: Prescription, carried: dict[str, Any]) -> str:
    base, best = copy.deepcopy(carried), found.best
    base["model"] = best.model
    base["tokens"] = _quantity(best.tokens, DIGITS)
    reach = f" (90 % of resamples: {_span(found.N_interval)})" if found.N_interval else ""
    beyond = found.beyond
    notes = {
        "model": f"{best.N:.4g} {COUNTED[found.count]}{reach}, {beyond.N:.3g} times the largest run's. "
        f"Family: {found.family}.",
        "tokens": f"What {found.budget:.4g} FLOPs pay for at this size, by the exact count, in {DIGITS} digits"
        + (f" (90 %: {_span(found.tokens_interval)})" if found.tokens_interval else "")
        + f"; {beyond.tokens:.3g} times the most of any run.",
    }
    if found.mix.chosen:
        for name, weight in found.mix.weights.items():
            _set(base, ("modalities", name, "weight"), round(weight, 4))
        notes["modalities"] = f"Weights: {found.mix.source}" + "".join(
            f"; {name} 90 %: {_span(interval)}" for name, interval in found.mix.intervals.items()
        )
    batch = found.batch
    if batch.logical is not None:
        around = base["batch"] if isinstance(base.get("batch"), dict) else {}
        base["batch"] = {**around, "logical": float(f"{batch.logical:.4g}")}
    gamma = f", γ = {batch.gamma:.3g}" if batch.gamma is not None else ""
    notes["batch"] = f"Logical batch: {batch.source}{gamma}. Physical batch: as the study's."
    head = [
        f"The compute-optimal run for {found.budget:.4g} FLOPs, by `triptych next` from {found.runs} finished runs of "
        f"{found.study}. All that has no comment is as in {template.file}.",
        _law_words(found),
        f"Expected {found.objective}: {best.loss:.4f} nats per token"
        + (f" (90 %: {found.loss_interval[0]:.4f} to {found.loss_interval[1]:.4f})." if found.loss_interval else "."),
        *(f"Beware: {warning}." for warning in found.warnings),
    ]
    return _text(template, template.named("-next"), head, base, notes, [])


def _design_text(template: Template, found: Prescription, made: DesignStudy, carried: dict[str, Any]) -> str:
    base = copy.deepcopy(carried)
    base.setdefault("tokens", _quantity(found.best.tokens, DIGITS))
    base.setdefault("model", found.best.model)
    if any(is_weight(path) for run in template.study.plan.runs for path in run.point):
        for name, weight in found.law_mix.items():  # the law is of runs with this mix
            _set(base, ("modalities", name, "weight"), round(weight, 6))
    design = made.design
    narrowed, grid, best = design.narrowed, design.grid_narrowed, found.best
    head = [
        f"The runs that would most narrow the law of {found.study} at its optimum for {found.budget:.4g} FLOPs "
        f"({best.N:.4g} parameters, {best.tokens:.4g} tokens), by `triptych next` from {found.runs} finished runs. "
        f"All but the axes is as in {template.file}.",
        f"{narrowed.runs} runs of {narrowed.flops:.3g} FLOPs in all; allowed were {design.budget:.3g}, {made.told}.",
        f"Expected: the interval of log loss there becomes {narrowed.loss:.0%} of what it is, that of log N "
        f"{narrowed.optimum:.0%}; an even grid of {grid.runs} runs and {grid.flops:.3g} FLOPs would leave "
        f"{grid.loss:.0%} and {grid.optimum:.0%}.",
    ]
    points = [
        {**{f"model.{key}": value for key, value in one.model.items()}, "tokens": _quantity(one.tokens), "seed": seed}
        for one in made.runs
        for seed in one.seeds
    ]
    return _text(template, template.named("-design"), head, base, {}, [{"list": points}])


def _law_words(found: Prescription) -> str:
    law = found.law
    terms = f"{law['A']:.4g} / N^{law['alpha']:.3g} + {law['B']:.4g} / D^{law['beta']:.3g}"
    return f"L(N, D) = {law['E']:.4g} + {terms}, of the {found.objective}; N: {COUNTED[found.count]}."


def _text(
    template: Template,
    name: str,
    head: Sequence[str],
    base: Mapping[str, Any],
    notes: Mapping[str, str],
    axes: list[dict[str, Any]],
) -> str:
    lines = [line for said in head for line in _comment(said, "")]
    lines += [f"study: {name}", "base:"]
    for key, value in base.items():
        lines += _comment(notes[key], "  ") if key in notes else []
        lines += [f"  {line}" for line in _yaml({key: value})]
    rest = {key: value for key, value in template.data.items() if key not in ("study", "base", "axes")}
    lines += _yaml({"axes": axes})
    lines += _yaml(rest) if rest else []
    return "\n".join(lines) + "\n"


def _comment(said: str, indent: str) -> list[str]:
    words = printable(said).replace("\t", " ")
    return [f"{indent}# {line}" for line in textwrap.wrap(words, 116 - len(indent), break_long_words=False)]


def _yaml(data: Mapping[str, Any]) -> list[str]:
    """A mapping in lines, each key on one of its own, what has no more inside it in braces."""
    lines: list[str] = []
    for key, value in data.items():
        if isinstance(value, dict | list):
            text = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=116)
            lines += text.splitlines()
        else:  # alone, PyYAML would put the key into braces too
            text = yaml.safe_dump([value], allow_unicode=True, default_flow_style=True, width=math.inf)
            lines.append(f"{key}: {text.strip()[1:-1]}")
    return lines


def _quantity(value: float, digits: int = 3) -> str | int | float:
    """`value` rounded down to so many significant digits, as people write it."""
    unit = 10 ** (math.floor(math.log10(value)) - digits + 1)
    whole = math.floor(value / unit * (1 + 1e-12)) * unit
    suffix = next((one for one in ("T", "B", "M", "K") if whole >= SUFFIXES[one]), "")
    scaled = f"{whole / SUFFIXES[suffix]:.{digits}g}"
    return f"{scaled}{suffix}" if suffix and "e" not in scaled else float(f"{whole:.{digits}g}")


def _span(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.is_dir() or (path.exists() and not overwrite):
        todo = "give another with --out, or remove it" if path.is_dir() else "give another with --out, or --overwrite"
        raise SpecError([Problem(str(path), 1, "--out", "there is a file or folder of this name already", todo)])


def _written(path: Path, text: str, template: Template, overwrite: bool) -> StudyPlan:
    """Write a study to `path` once it has planned beside it; its plan."""
    _refuse_existing(path, overwrite)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        plan = compile_study(temporary)
        os.replace(temporary, path)
        return plan
    except OSError as error:
        reason, todo = error.strerror or str(error), "give a path that can be written with --out"
        problem = Problem(str(path), 1, "--out", f"the file cannot be written ({reason})", todo)
        raise SpecError([problem]) from None
    except SpecError as error:
        raise SpecError([_unplanned(path, template, error.problems[0])]) from None
    finally:
        temporary.unlink(missing_ok=True)


def _unplanned(path: Path, template: Template, first: Problem) -> Problem:
    what = f"the study would not plan ({first.path}: {first.what})"
    if first.path.endswith(".data"):
        return Problem(str(path), 1, "--out", what, f"write it beside the data, such as into {template.file.parent}")
    return Problem(str(path), 1, first.path, what, first.todo)


def _run(run: RunPlan) -> Run:
    return Run(
        steps=run.steps,
        tokens=run.tokens,
        flops=run.flops,
        logical=run.batch.logical,
        physical=run.batch.physical,
        kappa=run.batch.kappa,
        critical=run.batch.critical,
        epochs=run.epochs,
        device_hours=run.device_hours,
    )


def _told_budget(allowed: float, budget: float) -> str:
    return "a tenth of the budget" if math.isclose(allowed, 0.1 * budget) else "as much as the study has cost so far"


def _told_run(found: Prescription, run: Run, fresh: Spending | None) -> list[str]:
    said = []
    often = {source: epochs for source, epochs in run.epochs.items() if epochs > MOST_EPOCHS}
    if often:
        most_tokens = run.tokens * MOST_EPOCHS / max(often.values())
        told = ", ".join(f"{source} {epochs:.3g} times" for source, epochs in often.items())
        other = f"the data are too few for this budget: {MOST_EPOCHS:g} passes are {most_tokens:.3g} tokens"
        if fresh is not None and fresh.N <= _TOO_LARGE * found.best.N:
            other = (
                f"with {MOST_EPOCHS:g} at most, the best is {fresh.tokens:.3g} tokens at {fresh.N:.3g} parameters, "
                f"with a loss of {fresh.loss:.4f}"
            )
        said.append(
            f"it sees {told}: beyond {MOST_EPOCHS:g} passes tokens are worth less than the law has it, which counts "
            f"each as new (arXiv 2305.16264); {other}"
        )
    if run.kappa < 1 / FEW_BATCHES:
        said.append(
            f"the physical batch, {run.physical}, is as the study has it; the logical one is {run.logical:.3g} "
            f"(κ = {run.kappa:.2g}): a larger batch.physical takes fewer steps"
        )
    if run.kappa > FEW_BATCHES:
        said.append(f"the physical batch, {run.physical}, is {run.kappa:.3g} times the logical one: give a smaller one")
    return said


def _told_design(found: Prescription, made: DesignStudy) -> list[str]:
    if found.loss_interval is None:
        return []
    low, high = found.loss_interval
    sampled = math.log(high / low) / (2 * 1.645)
    ratio = sampled / made.design.loss_deviation if made.design.loss_deviation > 0 else math.inf
    if 1 / 2 < ratio < 2:
        return []
    return [
        f"the law is far from linear where it is needed (resamples spread {ratio:.2g} times as much as the linear law "
        "has it): take what the design is expected to do as rough"
    ]
