"""Two plans compared: which runs were added, removed and changed, and in which values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from compiler.columns import plain
from compiler.files import read_plan
from compiler.plan import RunPlan, StudyPlan, Totals

_MIX = ("modalities.*.weight", "modalities.*.data", "modalities.*.digest", "mix.*")
_SHAPE = ("model.width", "model.depth", "model.heads", "model.ffn", "model.vocabulary")

FOLLOWS: dict[str, tuple[str, ...]] = {
    "name": ("*",),
    "vocabulary.*": ("modalities.*.data", "modalities.*.digest"),
    "model.vocabulary": ("modalities.*.data", "modalities.*.digest"),
    "model.parameters.*": (*_SHAPE, "sequence_length"),
    "modalities.*.share": (*_MIX, "sequence_length"),
    "modalities.*.mean_tokens": ("modalities.*.data", "modalities.*.digest", "sequence_length"),
    "modalities.*.tokens": ("tokens", "modalities.*.weight"),
    "mix.*": ("modalities.*.weight", "modalities.*.data", "modalities.*.digest", "tokens", "sequence_length"),
    "groups.*": ("optimizer.*", *_SHAPE),
    "multipliers.*": _SHAPE,
    "batch.kappa": ("batch.physical", "batch.logical"),
    "batch.critical": ("tokens", "sequence_length"),
    "batch.micro": ("batch.physical", "parallel.*", *_SHAPE, "sequence_length", "dtype", "cluster.*"),
    "batch.accumulation": ("batch.physical", "batch.micro", "parallel.*"),
    "steps": ("tokens", "sequence_length", "batch.physical", *_MIX),
    "schedule.*_steps": ("steps", "batch.kappa", "schedule.kind"),
    "epochs.*": ("tokens", "sequence_length", "batch.physical", *_MIX),
    "memory.*": (*_SHAPE, "batch.physical", "batch.micro", "parallel.*", "sequence_length", "dtype"),
    "flops": ("tokens", *_SHAPE, "sequence_length", "batch.physical", *_MIX),
    "hardware_flops": (
        "flops",
        *_MIX,
        "modalities.*.noise.*",
        "modalities.*.drop_condition",
        "head",
        "time.importance",
        "parallel.activation_checkpoint",
    ),
    "peak_flops": ("dtype", "cluster.*"),
    "device_hours": ("flops", "dtype", "cluster.*"),
    "hours": ("*",),
    "cluster.*": ("cluster.name",),
}
"""Values that people need not read where one of the others has changed too: patterns of paths, derived to causes."""

LISTED = 60
"""Runs of one kind that are shown to people."""


class Change(msgspec.Struct, frozen=True):
    """A value by its dotted path, as in the plan's JSON (a list's members by name or number); null where it is not."""

    path: str
    before: Any
    after: Any


class RunName(msgspec.Struct, frozen=True):
    """A run that only one of the plans has."""

    id: str
    name: str


class RunChange(msgspec.Struct, frozen=True):
    """A run that both plans have, with every value that differs, derived ones too."""

    before: RunName
    after: RunName
    changes: tuple[Change, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a plan. `changed` runs have another id for the same point or name; `recosted` ones have the same
    id, give the same numbers, and differ in what decides none: micro-batch, device-hours or name.

    `study` is what changed in the study beside its runs: its name, cluster, wall time, and points excluded.
    """

    before: Totals
    after: Totals
    study: tuple[Change, ...]
    added: tuple[RunName, ...]
    removed: tuple[RunName, ...]
    changed: tuple[RunChange, ...]
    recosted: tuple[RunChange, ...]

    @property
    def empty(self) -> bool:
        """Whether the plans are alike."""
        return not (self.study or self.added or self.removed or self.changed or self.recosted)


def load_plan(path: Path) -> StudyPlan:
    """The plan in a `plan.json`, or in a study's folder that has one. Raises SpecError where there is none to read."""
    return read_plan(
        path / "plan.json" if path.is_dir() else path,
        msgspec.json.Decoder(StudyPlan),
        absent="give a STUDY.yaml, a file that `triptych plan --json` wrote, or a study's folder such as runs/demo",
        broken="write it again with `triptych plan STUDY.yaml --json`",
    )


def difference(a: StudyPlan, b: StudyPlan) -> Difference:
    """What became of `a` in `b`. Runs are matched by id, what is left by the point that the axes set, then by name."""
    pairs, removed, added = _matched(a.runs, b.runs)
    changed, recosted = [], []
    for before, after in pairs:
        if before.id != after.id:
            changed.append(_changed(before, after))
        elif before != after:
            recosted.append(_changed(before, after))
    return Difference(
        before=a.totals,
        after=b.totals,
        study=_changes(_study(a), _study(b)),
        added=tuple(map(_named, added)),
        removed=tuple(map(_named, removed)),
        changed=tuple(changed),
        recosted=tuple(recosted),
    )


def _matched(
    before: Sequence[RunPlan], after: Sequence[RunPlan]
) -> tuple[list[tuple[RunPlan, RunPlan]], list[RunPlan], list[RunPlan]]:
    """Pairs of runs, and those without a partner on either side."""
    pairs: list[tuple[RunPlan, RunPlan]] = []
    left, right = list(before), list(after)
    keys: tuple[Callable[[RunPlan], Hashable], ...] = (lambda run: run.id, _point, lambda run: run.name)
    for key in keys:
        waiting: dict[Hashable, list[RunPlan]] = {}
        for run in reversed(right):
            waiting.setdefault(key(run), []).append(run)
        unmatched = []
        for run in left:
            partners = waiting.get(key(run))
            if partners:
                pairs.append((run, partners.pop()))
            else:
                unmatched.append(run)
        paired = {id(partner) for _, partner in pairs}
        left, right = unmatched, [run for run in right if id(run) not in paired]
    return pairs, left, right


def _point(run: RunPlan) -> Hashable:
    """The point, `20M` being the same as 2e7."""
    return frozenset((path, plain(value)) for path, value in run.point.items())


def _named(run: RunPlan) -> RunName:
    return RunName(run.id, run.name)


def _changed(before: RunPlan, after: RunPlan) -> RunChange:
    differing = [
        field
        for field in RunPlan.__struct_fields__
        if field != "id" and getattr(before, field) != getattr(after, field)
    ]
    return RunChange(_named(before), _named(after), _changes(_fields(before, differing), _fields(after, differing)))


def _fields(run: RunPlan, fields: Sequence[str]) -> dict[str, Any]:
    return dict(_leaves(msgspec.to_builtins({field: getattr(run, field) for field in fields}), ""))


def _study(plan: StudyPlan) -> dict[str, Any]:
    data = {"study": plan.study, "cluster": plan.cluster, "excluded": plan.excluded, "hours": plan.hours}
    return dict(_leaves(msgspec.to_builtins(data), ""))


def _leaves(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The values in `data` by path. A list of plain values is one."""
    if isinstance(data, list | tuple) and data and isinstance(data[0], dict):
        named = len({member.get("name", index) for index, member in enumerate(data)}) == len(data)
        data = {str(member.get("name", index) if named else index): member for index, member in enumerate(data)}
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, data


def _changes(before: dict[str, Any], after: dict[str, Any]) -> tuple[Change, ...]:
    """What differs, in the order of a plan's fields."""
    paths = sorted(dict.fromkeys([*before, *after]), key=_order)
    pairs = ((path, before.get(path), after.get(path)) for path in paths)
    return tuple(Change(path, old, new) for path, old, new in pairs if old != new)


_FIELDS = {name: index for index, name in enumerate(RunPlan.__struct_fields__)}


def _order(path: str) -> tuple[int, str]:
    return _FIELDS.get(path.partition(".")[0], -1), path


def show_difference(d: Difference, console: Console) -> None:
    """Print `d` for people: + added, - removed, ~ changed. What follows from another change is counted, not listed, and
    what all changed runs have in common is said once."""
    if d.empty:
        console.print(f"no difference: {_runs(d.before.runs)} in both")
        return
    cluster = any(change.path.startswith("cluster.") for change in d.study)
    for change in _told(d.study, beside=bool(d.added or d.removed or d.changed or d.recosted)):
        _print(console, f"~ study: {_words(change)}", "yellow")
    for sign, style, runs in (("-", "red", d.removed), ("+", "green", d.added)):
        for run in runs[:LISTED]:
            _print(console, f"{sign} {run.name} ({run.id})", style)
        if len(runs) > LISTED:
            _print(console, f"{sign} and {len(runs) - LISTED:,} more runs; --json has all", style)
    for title, changed in (("changed", d.changed), ("recosted", d.recosted)):
        _show_changed(title, changed, cluster, console)
    for line in _totals(d):
        _print(console, line, "bold")


def _show_changed(title: str, changed: Sequence[RunChange], cluster: bool, console: Console) -> None:
    if not changed:
        return
    told = [_told(run.changes, cluster=cluster) for run in changed]
    common: list[Change] = []
    if len(changed) > 1:
        others = [{_key(change) for change in changes} for changes in told[1:]]
        common = [change for change in told[0] if all(_key(change) in keys for keys in others)]
    said = {_key(change) for change in common}
    rest = [[change for change in changes if _key(change) not in said] for changes in told]
    note = " (the same numbers)" if title == "recosted" else ""
    count = _runs(len(changed), f"{title} ")
    _print(console, f"~ in all {count}{note}:" if common else f"~ {count}{note}", "yellow")
    for change in common:
        _print(console, f"    {_words(change)}", "yellow")
    # Runs whose numbers are the same are of interest only for what is their own.
    own = [
        (run, changes)
        for run, changes in zip(changed, rest, strict=True)
        if title == "changed" or changes or run.before != run.after or len(changed) == 1
    ]
    for run, changes in own[:LISTED]:
        _print(console, f"  ~ {_title(run)}", "yellow")
        for change in changes:
            _print(console, f"      {_words(change)}", None)
    if len(own) > LISTED:
        _print(console, f"  ~ and {len(own) - LISTED:,} more runs; --json has all", "yellow")
    hidden = sum(len(run.changes) - len(changes) for run, changes in zip(changed, told, strict=True))
    if hidden:
        _print(
            console, f"  {hidden:,} value{'s follow' if hidden != 1 else ' follows'} from these: --json has all", "dim"
        )


def _told(changes: Sequence[Change], *, cluster: bool = False, beside: bool = False) -> list[Change]:
    """The changes that do not follow from others. `cluster`: whether the study's cluster changed too; `beside`: whether
    anything else did."""
    others = ("cluster.name",) * cluster + ("runs",) * beside
    told = _independent(tuple(change.path for change in changes), others)
    return [change for change in changes if change.path in told]


@lru_cache(maxsize=1024)
def _independent(paths: tuple[str, ...], others: tuple[str, ...]) -> frozenset[str]:
    """Those of `paths` that follow from no other path. Runs that changed alike have the same paths."""
    return frozenset(path for path in paths if not _follows(path, (*paths, *others)))


def _follows(path: str, paths: Iterable[str]) -> bool:
    if path.startswith("point."):  # as written; the value itself says it better
        return path.removeprefix("point.") in paths
    causes = [cause for derived, some in FOLLOWS.items() if fnmatchcase(path, derived) for cause in some]
    return any(other != path and any(fnmatchcase(other, cause) for cause in causes) for other in paths)


def _key(change: Change) -> tuple[str, bytes]:
    return change.path, msgspec.json.encode((change.before, change.after))


def _title(run: RunChange) -> str:
    before, after = run.before, run.after
    name = after.name if before.name == after.name else f"{before.name} → {after.name}"
    return f"{name} ({after.id if before.id == after.id else f'{before.id} → {after.id}'})"


def _totals(d: Difference) -> Iterable[str]:
    before, after = d.before, d.after
    yield (
        f"runs {before.runs:,} → {after.runs:,}, tokens {before.tokens:.4g} → {after.tokens:.4g}, "
        f"FLOPs {before.flops:.4g} → {after.flops:.4g}, "
        f"device-hours {before.device_hours:.4g} → {after.device_hours:.4g}"
    )


def _words(change: Change) -> str:
    return f"{change.path} {_value(change.before)} → {_value(change.after)}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _runs(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}run{'s' if count != 1 else ''}"


def _print(console: Console, line: str, style: str | None) -> None:
    console.print(Text(line, style=style or ""), soft_wrap=True)
