"""The columns of a plan: what can be listed, sorted by and written as CSV, and how the table prints it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TextIO, TypeAlias

from compiler.plan import RunPlan, StudyPlan
from specs.errors import RuleError
from specs.quantities import format_quantity as short
from specs.quantities import parse_quantity
from specs.suggest import suggestion

Value: TypeAlias = int | float | str | bool | None


class Column(NamedTuple):
    """A quantity of each run, by its name in the plan's JSON (`batch.physical`); None where a run has none."""

    name: str
    value: Callable[[RunPlan], Value]


class Shown(NamedTuple):
    """A column of the table for people: its heading, how a run's cell is printed, and the column it is sorted by."""

    heading: str
    column: str
    printed: Callable[[RunPlan], str]


def format_bytes(count: float) -> str:
    """`count` bytes in decimal units: 29.3GB."""
    return f"{short(count).replace('B', 'G')}B"


def _betas(index: int) -> Callable[[RunPlan], Value]:
    return lambda run: run.optimizer.betas[index]


_FIELDS = (
    "id", "name", "seed", "dtype",
    "model.width", "model.depth", "model.heads", "model.ffn", "model.vocabulary",
    "model.parameters.total", "model.parameters.non_embedding",
    "sequence_length", "tokens", "steps",
    "batch.logical", "batch.physical", "batch.micro", "batch.accumulation", "batch.kappa", "batch.critical",
    "batch.profile",
    "optimizer.lr", "optimizer.betas.0", "optimizer.betas.1", "optimizer.eps", "optimizer.weight_decay", "clip",
    "multipliers.residual", "multipliers.head", "multipliers.embedding", "multipliers.attention",
    "schedule.kind", "schedule.warmup_steps", "schedule.decay_steps", "schedule.final",
    "time.sampling", "time.importance", "head",
    "parallel.shard", "parallel.replicate", "parallel.tensor", "parallel.ranks", "parallel.activation_checkpoint",
    "parallel.compile",
    "flops", "hardware_flops", "memory.per_rank", "device_hours",
)  # fmt: skip

FIELDS = tuple(Column(name, _betas(int(name[-1])) if ".betas." in name else attrgetter(name)) for name in _FIELDS)
"""The columns that every plan has."""


def _shape(run: RunPlan) -> str:
    return f"{run.model.width}x{run.model.depth}x{run.model.heads}"


def _batch(run: RunPlan) -> str:
    batch = run.batch
    several = f" = {batch.accumulation}x{batch.micro}" if batch.accumulation > 1 else ""
    return f"{batch.physical}{several}"


SHOWN = (
    Shown("run", "name", lambda run: run.name),
    Shown("shape", "model.width", _shape),
    Shown("parameters", "model.parameters.total", lambda run: short(run.model.parameters.total)),
    Shown("non-emb.", "model.parameters.non_embedding", lambda run: short(run.model.parameters.non_embedding)),
    Shown("tokens", "tokens", lambda run: short(run.tokens)),
    Shown("logical", "batch.logical", lambda run: f"{run.batch.logical:.4g}"),
    Shown("batch", "batch.physical", _batch),
    Shown("steps", "steps", lambda run: f"{run.steps:,}"),
    Shown("FLOPs", "flops", lambda run: f"{run.flops:.3g}"),
    Shown("hours", "device_hours", lambda run: f"{run.device_hours:.3g}"),
    Shown("memory", "memory.per_rank", lambda run: format_bytes(run.memory.per_rank)),
    Shown("κ", "batch.kappa", lambda run: f"{run.batch.kappa:.3g}"),
    Shown("lr", "optimizer.lr", lambda run: f"{run.optimizer.lr:.3g}"),
    Shown("id", "id", lambda run: run.id),
)
"""The table's columns. Shape is width x depth x heads; `batch` is physical, with accumulation x micro-batch where it
takes several; `hours` are device-hours."""


def columns(plan: StudyPlan) -> tuple[Column, ...]:
    """All columns of `plan`: the axes' paths as the study wrote them (`point.PATH`), the fields, and the weight of each
    modality and the epochs of each source that any run has."""
    return (
        *(Column(f"point.{path}", _point(path)) for path in axis_paths(plan.runs)),
        *FIELDS,
        *(Column(f"modalities.{name}.weight", _weight(name)) for name in _keys(run.modalities for run in plan.runs)),
        *(Column(f"epochs.{source}", _epochs(source)) for source in _keys(run.epochs for run in plan.runs)),
    )


def axis_paths(runs: Iterable[RunPlan]) -> list[str]:
    """The paths that axes set, in the order in which the runs have them."""
    return _keys(run.point for run in runs)


def _keys(mappings: Iterable[Iterable[str]]) -> list[str]:
    keys: dict[str, None] = {}
    for mapping in mappings:
        keys.update(dict.fromkeys(mapping))
    return list(keys)


def _point(path: str) -> Callable[[RunPlan], Value]:
    return lambda run: plain(run.point.get(path))


def _weight(name: str) -> Callable[[RunPlan], Value]:
    return lambda run: run.modalities[name].weight if name in run.modalities else None


def _epochs(source: str) -> Callable[[RunPlan], Value]:
    return lambda run: run.epochs.get(source)


def plain(value: Value) -> Value:
    """`value` as a number where it is a quantity such as `20M`, else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_quantity(value)
    except ValueError:
        return value


def format_value(value: Any) -> str:
    """`value` as a study would have it: true, null, 1e+12, [0.9, 0.95]."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(format_value, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def match(word: str, names: Iterable[str]) -> str | None:
    """The one of dotted `names` that `word` is, or else whose last words it is; None where none or several are."""
    known = list(dict.fromkeys(names))
    if word in known:
        return word
    folded = word.casefold()
    same = [name for name in known if name.casefold() == folded]
    ending = same or [name for name in known if name.casefold().endswith(f".{folded}")]
    return ending[0] if len(ending) == 1 else None


def find_column(plan: StudyPlan, word: str) -> Column:
    """The column that `word` names: a name, a heading of the table, or the last words of a name.

    Raises RuleError for any other word.
    """
    every = {column.name: column for column in columns(plan)}
    headings = {shown.heading: shown.column for shown in SHOWN}
    known = [*every, *(heading for heading in headings if heading not in every)]
    # A heading before the last words of a name: `batch` is what the table shows as such.
    name = match(word, known)
    if name is not None:
        return every[headings.get(name, name)]
    several = [one for one in every if one.endswith(f".{word}")]
    if several:
        raise RuleError("--sort", f"'{word}' may be any of {len(several)} columns", f"use one of: {', '.join(several)}")
    short_names = {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
    raise RuleError("--sort", f"there is no column '{word}'", suggestion(word, short_names))


def sorted_runs(runs: Sequence[RunPlan], column: Column, descending: bool) -> list[RunPlan]:
    """`runs` by `column`, equal ones in their order. Numbers come before words, and runs without a value last."""
    present = [(run, value) for run in runs if (value := column.value(run)) is not None]
    absent = [run for run in runs if column.value(run) is None]
    present.sort(key=lambda pair: _order(pair[1]), reverse=descending)
    return [run for run, _ in present] + absent


def _order(value: Value) -> tuple[bool, float, str]:
    words = isinstance(value, str)
    return (
        words,
        0.0 if isinstance(value, str) or value is None else float(value),
        value if isinstance(value, str) else "",
    )


def write_csv(plan: StudyPlan, file: TextIO) -> None:
    """Write a row a run with all `columns` (RFC 4180): numbers without suffixes, nothing where a run has no value."""
    every = columns(plan)
    writer = csv.writer(file)
    writer.writerow([column.name for column in every])
    values = [column.value for column in every]
    writer.writerows([_cell(value(run)) for value in values] for run in plan.runs)


def _cell(value: Value) -> Value:
    return str(value).lower() if isinstance(value, bool) else value
