"""Where a run's values come from: what was written, on which line, and what the compiler made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compiler.columns import format_value
from compiler.compile import Compiled
from compiler.expand import Budget, Point
from compiler.plan import RunPlan
from compiler.show import print_table
from specs.errors import RuleError
from specs.interpolation import interpolated
from specs.suggest import suggestion

PLANNED = {
    "optimizer.clip": "clip",
    "schedule.warmup.steps": "schedule.warmup_steps",
    "schedule.warmup.tokens": "schedule.warmup_steps",
    "mix": "",
}
"""Where the plan has another name for what a study writes."""

RULES = {
    "optimizer.lr": "η √κ",
    "optimizer.betas": "1 - κ (1 - β)",
    "optimizer.eps": "ε / √κ",
    "optimizer.weight_decay": "λ √κ",
    "optimizer.clip": "clip / √κ",
    "batch.logical": "B_base (D / D_base)^γ, or the physical batch without a transfer",
    "batch.physical": "the largest that is subcritical, divides over the ranks and fits the profile's memory",
    "batch.micro": "the largest divisor that fits the cluster's accelerator",
    "schedule.warmup_steps": "physical steps: logical ones / κ, or tokens / tokens a step, at most warmup_cap of all",
    "model.width": "128 · depth where not given",
    "model.heads": "head dimension 64 or near it where not given",
    "model.ffn": "8/3 · width, in multiples of 16, where not given",
}
"""How the plan's value follows from the written one (arXiv 2602.21472, 2205.10287)."""

CHOSEN = ("batch.physical", "batch.micro", "batch.logical", "model.width", "model.heads", "model.ffn")
"""What the compiler chooses only where the study does not."""

GROUPED = ("lr", "betas", "eps", "weight_decay")


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a run. `written` is as in the file, `value` after interpolation, `planned` what the run gets (None
    where the plan has no such field); `origin` is FILE:LINE, `default` or `derived`."""

    path: str
    written: Any
    value: Any
    origin: str
    planned: Any
    rule: str
    groups: dict[str, Any]
    """The optimizer groups' values, after width and depth; empty for other paths."""


def explain(compiled: Compiled, run: RunPlan, path: str | None) -> list[Explanation]:
    """The values of `run` at `path` (from `base`, or of the plan) and below it; all without `path`.

    Raises RuleError where there is no such path.
    """
    point = compiled.points[[one.id for one in compiled.plan.runs].index(run.id)]
    settings = tuple(setting for setting in point if not isinstance(setting.value, Budget))
    base = compiled.loaded.base(
        (*settings, *(setting._replace(value=run.tokens) for setting in point if isinstance(setting.value, Budget)))
    )
    values = dict(_leaves(base.model_dump(by_alias=True), ""))
    planned = dict(_leaves(msgspec.to_builtins(run), ""))
    chosen = [one for one in values if path is None or one == path or one.startswith(f"{path}.")]
    if chosen:
        return [_explained(compiled, run, point, one, values[one], planned) for one in chosen]
    only = [one for one in planned if path is not None and (one == path or one.startswith(f"{path}."))]
    if not only:
        todo = suggestion(path or "", [*values, *planned])
        raise RuleError("--path", f"a run has no value at '{path}'", todo)
    return [
        Explanation(
            path=one,
            written=None,
            value=None,
            origin="derived",
            planned=planned[one],
            rule=RULES.get(one, ""),
            groups={},
        )
        for one in only
    ]


def _explained(
    compiled: Compiled, run: RunPlan, point: Point, path: str, value: Any, planned: dict[str, Any]
) -> Explanation:
    loaded = compiled.loaded
    origin = loaded.origin(path, point)
    written = _written(compiled, point, path) if origin else None
    budget = next((one.value for one in point if isinstance(one.value, Budget) and path == one.path), None)
    name = PLANNED.get(path, path)
    chosen = path in CHOSEN and value is not None
    rule = "" if chosen else RULES.get(path) or RULES.get(name, "")
    if budget is not None:
        written, rule = f"{budget.flops:g} FLOPs", "tokens = FLOPs / FLOPs per token, exactly counted"
    elif isinstance(written, str) and any(interpolated(written)):
        rule = f"interpolated; {rule}" if rule else "interpolated"
    word = path.removeprefix("optimizer.")
    return Explanation(
        path=path,
        written=written,
        value=value,
        origin=f"{origin.file}:{origin.line}" if origin else "default",
        planned=None if value is None and path.startswith("schedule.warmup.") else planned.get(name),
        rule=rule,
        groups={group.name: getattr(group, word) for group in run.groups} if word in GROUPED else {},
    )


def _written(compiled: Compiled, point: Point, path: str) -> Any:
    """The value at `path` before interpolation."""
    parts = path.split(".")
    data: Any = compiled.loaded.document.data["base"]
    for setting in point:
        own = setting.path.split(".")
        if own == parts[: len(own)]:
            data, parts = setting.value, parts[len(own) :]
            break
    for part in parts:
        if isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        elif isinstance(data, dict) and part in data:
            data = data[part]
        else:
            break  # a short form, such as `noise: linear`
    return data


def _leaves(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, data


def show_explanations(explanations: list[Explanation], run: RunPlan, console: Console) -> None:
    """Print where values of `run` come from."""
    console.print(Text(f"{run.name} ({run.id}), κ = {run.batch.kappa:.4g}", style="bold"), soft_wrap=True)
    if len(explanations) == 1:
        _show_one(explanations[0], console)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("path", "value", "in the plan", "from"):
        table.add_column(column, overflow="fold")
    for one in explanations:
        planned = "" if one.planned is None or one.planned == one.value else format_value(one.planned)
        value = "auto" if one.value is None and one.written == "auto" else one.value
        table.add_row(Text(one.path), Text(format_value(value)), Text(planned), Text(one.origin))
    print_table(table, console)


def _show_one(one: Explanation, console: Console) -> None:
    rows = [("path", one.path)]
    if one.origin != "derived":
        rows.append(
            ("written", f"{format_value(one.written)}   {one.origin}" if one.origin != "default" else "not; a default")
        )
        if format_value(one.value) != format_value(one.written):
            rows.append(("value", format_value(one.value)))
    if one.planned is not None:
        rows.append(("planned", format_value(one.planned)))
    if one.rule:
        rows.append(("rule", one.rule))
    if one.groups:
        rows.append(("groups", "after CompleteP in width and depth, times the factors of optimizer.modules"))
    rows += [(f"  {name}", format_value(value)) for name, value in one.groups.items()]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        console.print(Text(f"{name:<{width}}  {text}"), soft_wrap=True)
