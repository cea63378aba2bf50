"""One run of a plan, shown whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compiler import cost
from compiler.columns import format_bytes, format_value
from compiler.layout import modules, shape_of, table
from compiler.plan import Memory, Noise, RunPlan, StudyPlan
from compiler.show import duration, print_table
from specs.errors import RuleError
from specs.quantities import format_quantity as short

LISTED = 5
"""Runs that an error names."""


COMPARED = 10_000
"""Runs whose names are searched for one like a wrong name: half a second."""


def find_run(plan: StudyPlan, word: str) -> RunPlan:
    """The run of `plan` with the name, id, first characters of one id, or `#` and number (from 0) that `word` is.

    Raises RuleError where that is no run or several.
    """
    runs = plan.runs
    exact = next((run for run in runs if word in (run.name, run.id)), None)
    if exact is not None:
        return exact
    range_ = f"#0 to #{len(runs) - 1}" if len(runs) > 1 else "#0"
    if not word:
        raise RuleError("RUN", f"the study has {len(runs):,} runs", f"name one, or give an id or {range_}")
    if word[0] == "#":
        number = int(word[1:]) if word[1:].isdecimal() and len(word) < 20 else len(runs)
        if number < len(runs):
            return runs[number]
        raise RuleError("RUN", f"there is no run '{word}'", f"runs are numbered {range_}")
    starting = [run for run in runs if run.id.startswith(word)]
    if len(starting) == 1:
        return starting[0]
    if starting:
        ids = ", ".join(run.id for run in starting[:LISTED])
        raise RuleError("RUN", f"the ids of {len(starting):,} runs start with '{word}'", f"give more of {ids}")
    near = get_close_matches(word, [run.name for run in runs[:COMPARED]], n=1)
    names = ", ".join(f"'{run.name}'" for run in runs[:LISTED])
    more = f" (`triptych plan` lists all {len(runs):,})" if len(runs) > LISTED else ""
    todo = f"did you mean '{near[0]}'?" if near else f"use one of: {names}{more}"
    raise RuleError("RUN", f"there is no run '{word}'", todo)


def show_run(run: RunPlan, console: Console) -> None:
    """Print everything that `run` is. Where the output is not a terminal, lines are as wide as they need to be."""
    _line(console, f"{run.name} ({run.id})", "bold")
    point = ", ".join(f"{path} = {format_value(value)}" for path, value in run.point.items())
    _lines(console, [("axes", point or "none"), ("seed", str(run.seed)), ("dtype", run.dtype)])
    _heading(console, "model")
    _lines(console, _model(run))
    _table(console, ("parameter", "shape", "copies", "values", "group", "starts at"), _parameters(run))
    _heading(console, "batch")
    _lines(console, _batch(run))
    _heading(console, "optimizer")
    _lines(console, _optimizer(run))
    _table(console, ("group", "values", "lr", "betas", "eps", "decay", "init std"), _groups(run))
    _heading(console, "data")
    headings = ("modality", "weight", "of sequences", "tokens", "mean length", "condition dropped", "noise", "data")
    _table(console, headings, _modalities(run))
    _lines(console, [("times", f"{run.time.sampling}, importance {run.time.importance}"), ("head", run.head)])
    _lines(console, [(f"epochs of {source}", f"{epochs:.3g}") for source, epochs in run.epochs.items()])
    if len(run.mix) > 1:
        _line(console, "the mix changes:")
        _table(console, ("from sequence", "of the run", *run.modalities), _mix(run))
    _heading(console, "cost")
    _lines(console, _cost(run))
    _table(console, ("memory on a rank", "bytes", "share"), _memory(run.memory))


def _model(run: RunPlan) -> Iterator[tuple[str, str]]:
    model, factors = run.model, run.multipliers
    yield (
        "shape",
        f"width {model.width}, depth {model.depth}, {model.heads} head{'s' if model.heads != 1 else ''} "
        f"of {model.head_dim}, ffn {model.ffn}, vocabulary {model.vocabulary:,}, "
        f"sequence length {run.sequence_length:,}",
    )
    total, inner = model.parameters.total, model.parameters.non_embedding
    yield "parameters", f"{total:,}, of which {inner:,} non-embedding ({inner / total:.1%})"
    yield (
        "multipliers",
        f"residual {factors.residual:.6g}, head {factors.head:.6g}, embedding {factors.embedding:.6g}, "
        f"attention {factors.attention:.6g}",
    )


def _parameters(run: RunPlan) -> Iterator[Sequence[str]]:
    """A row for each kind of parameter and group that it is in."""
    rows = {row.name: row for row in table(run)}
    for module in modules(shape_of(run)):
        groups: dict[str, list[str]] = {}
        for name in module.names(run.model.depth):
            groups.setdefault(rows[name].group, []).append(name)
        for group, members in groups.items():
            start = _start(rows[members[0]].init_std)
            shape = "x".join(map(str, module.shape))
            yield module.name, shape, str(len(members)), f"{module.size * len(members):,}", group, start


def _start(std: float | None) -> str:
    return "1" if std is None else f"N(0, {std:.4g}²)" if std else "0"


def _batch(run: RunPlan) -> Iterator[tuple[str, str]]:
    batch, ranks = run.batch, run.parallel.data_ranks
    yield (
        "physical",
        f"B = {batch.physical:,} sequences = {ranks} rank{'s' if ranks != 1 else ''} x {batch.accumulation} "
        f"accumulated x {batch.micro}" + (f", fitted to {batch.profile}" if batch.profile else ""),
    )
    yield "logical", f"B~ = {batch.logical:.6g} sequences"
    yield "kappa", f"κ = B / B~ = {batch.kappa:.6g}"
    critical = "not given" if batch.critical is None else f"{batch.critical:.6g} sequences"
    yield "critical", critical
    positions = run.steps * batch.physical * run.sequence_length
    mean = sum(plan.share * plan.mean_tokens for plan in run.modalities.values())
    yield "tokens", f"D = {run.tokens:,.0f}, without padding"
    yield (
        "steps",
        f"S = {run.steps:,} of B · L = {batch.physical * run.sequence_length:,} positions: {positions:,} in all, "
        f"{1 - mean / run.sequence_length:.1%} padding; logical steps S · κ = {run.steps * batch.kappa:,.1f}",
    )


def _optimizer(run: RunPlan) -> Iterator[tuple[str, str]]:
    adam, schedule = run.optimizer, run.schedule
    yield (
        "AdamW",
        f"lr {adam.lr:.6g}, betas {_betas(adam.betas)}, eps {adam.eps:.4g}, weight decay {adam.weight_decay:.6g}, "
        f"clip {'off' if run.clip is None else f'{run.clip:.4g}'} (after batch and tokens, before width and depth)",
    )
    parts = [f"warm-up over {schedule.warmup_steps:,} steps ({schedule.warmup_steps / run.steps:.1%}) to {adam.lr:.6g}"]
    if schedule.kind == "wsd":
        stable = run.steps - schedule.warmup_steps - schedule.decay_steps
        parts.append(f"constant for {stable:,}, decay over the last {schedule.decay_steps:,}")
    if schedule.kind != "constant":
        parts.append(f"down to {schedule.final * adam.lr:.6g} ({schedule.final:g} of the peak) at step {run.steps:,}")
    yield "schedule", f"{schedule.kind}: {', '.join(parts)}"


def _groups(run: RunPlan) -> Iterator[Sequence[str]]:
    kinds = {module.name: module.size for module in modules(shape_of(run))}
    sizes: dict[str, int] = {}
    for name, _, copies, _, group, _ in _parameters(run):
        sizes[group] = sizes.get(group, 0) + kinds[name] * int(copies)
    for one in run.groups:
        std = "ones" if one.init_std is None else f"{one.init_std:.6g}"
        numbers = (f"{one.lr:.6g}", _betas(one.betas), f"{one.eps:.4g}", f"{one.weight_decay:.6g}", std)
        yield one.name, f"{sizes.get(one.name, 0):,}", *numbers


def _betas(betas: tuple[float, float]) -> str:
    return " ".join(f"{beta:.6g}" for beta in betas)


def _modalities(run: RunPlan) -> Iterator[Sequence[str]]:
    for name, plan in run.modalities.items():
        length = f"{plan.mean_tokens:.4g}{' packed' if plan.packed else ''}"
        numbers = (f"{plan.weight:.4g}", f"{plan.share:.4g}", short(plan.tokens), length)
        noise = "; ".join([_noise(plan.noise), *(f"{part} {_noise(own)}" for part, own in plan.noise.segments.items())])
        yield name, *numbers, f"{plan.drop_condition:g}", noise, plan.data


def _noise(noise: Noise) -> str:
    match noise.kind:
        case "polynomial":
            return f"polynomial, power {noise.power:g}"
        case "log-linear":
            return f"log-linear, eps {noise.eps:g}"
        case "table":
            return f"table of {len(noise.alpha)} points"
        case _:
            return noise.kind


def _mix(run: RunPlan) -> Iterator[Sequence[str]]:
    sequences = run.steps * run.batch.physical
    for stage in run.mix:
        weights = (f"{stage.weights.get(name, 0):.4g}" for name in run.modalities)
        yield f"{stage.start:,}", f"{stage.start / sequences:.1%}", *weights


def _cost(run: RunPlan) -> Iterator[tuple[str, str]]:
    shape, parallel = shape_of(run), run.parallel
    model = cost.position_flops(shape)
    positions = run.steps * run.batch.physical * run.sequence_length
    everywhere = cost.hardware_flops(shape, 1.0, parallel.activation_checkpoint) * positions
    saved = everywhere - run.hardware_flops
    yield "FLOPs", f"{run.flops:.6g} of the model, {model.head / model.total:.1%} in the head"
    yield (
        "executed",
        f"{run.hardware_flops:.6g}: heads at masked positions only save {saved:.4g} ({saved / everywhere:.1%}), "
        f"recomputation costs {everywhere - run.flops:.4g}",
    )
    ranks = f"{parallel.ranks} rank{'s' if parallel.ranks != 1 else ''}"
    layout = f"shard {parallel.shard} x replicate {parallel.replicate} x tensor {parallel.tensor}"
    compiled = ", compiled" if parallel.compile else ""
    yield "processes", f"{ranks} ({layout}), activation checkpointing {parallel.activation_checkpoint}{compiled}"
    yield "time", f"{run.device_hours:.4g} device-hours, about {duration(run.device_hours / parallel.ranks)} on {ranks}"
    evaluation, checkpoint = run.evaluation, run.checkpoint
    yield "evaluation", f"{evaluation.sequences:,} sequences of each modality, {_every(evaluation.every)}"
    kept = f", and one every {checkpoint.keep_every:,.0f} tokens" if checkpoint.keep_every else ""
    yield "checkpoints", f"{_every(checkpoint.every)}, the newest {checkpoint.keep} kept{kept}"


def _every(steps: int) -> str:
    return f"every {steps:,} steps and at the end" if steps else "at the end"


def _memory(memory: Memory) -> Iterator[Sequence[str]]:
    for part in ("parameters", "gradients", "optimizer", "activations", "gathered", "per_rank"):
        size = getattr(memory, part)
        yield "all" if part == "per_rank" else part, format_bytes(size), f"{size / memory.per_rank:.1%}"


def _heading(console: Console, text: str) -> None:
    console.print()
    _line(console, text, "bold")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _lines(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        _line(console, f"{name:<{width}}  {text}")


def _table(console: Console, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Words to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    words = {headings[0], "group", "noise", "data", "starts at"}
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    print_table(table, console)
