"""`triptych sample`: samples of a run, written to look at and to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from compiler.files import write_atomically
from compiler.sampled import sampler_of
from compiler.sampling import Sampler, Score
from runtime.data import Text
from runtime.sampling.files import write
from runtime.sampling.generate import Studio
from runtime.sampling.trained import load_trained
from specs.sampling import TO


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """What `triptych sample` has made: `asked` and, where it is text, `made` for each sample, and the `files`. `calls`
    is how often the network evaluated a sequence for one sample; `tokens` were generated in `seconds`; `scores` are
    those of judges where they were asked."""

    run: str
    id: str
    step: int
    task: str
    sampler: Sampler
    seed: int
    asked: tuple[str, ...]
    made: tuple[str, ...]
    calls: float
    tokens: int
    seconds: float
    files: tuple[str, ...]
    scores: tuple[Score, ...]


class Wanted(NamedTuple):
    """What the command line asks for. `settings` are `key=value` of the sampler; `out` is None for the run's own folder
    `samples`."""

    task: str
    n: int
    prompts: Sequence[str]
    settings: Sequence[str]
    seed: int
    modality: str | None
    judged: bool
    out: Path | None


def sample(folder: Path, wanted: Wanted, console: Console) -> Sampled:
    """Sample from the run in `folder` and write text, a contact sheet or sounds, and TASK.json beside them.

    Raises SpecError, RuleError or DataError for what does not fit.
    """
    sampler = sampler_of(wanted.task, wanted.settings)
    with console.status("loading the run"):
        trained = load_trained(folder)
        studio = Studio(trained, wanted.task, wanted.modality)
        asks = studio.asks(wanted.n, sampler, seed=wanted.seed, prompts=wanted.prompts)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        bar = progress.add_task(escape(wanted.task), total=len(asks))
        made = studio.make(asks, sampler, seed=wanted.seed, advance=lambda done: progress.advance(bar, done))
    out = wanted.out or trained.folder / "samples"
    files = write(made.samples, out, wanted.task)
    scores: tuple[Score, ...] = ()
    if wanted.judged:
        with console.status("judging"):
            scores = studio.judge(made.samples)
    sampled = Sampled(
        run=trained.run.name,
        id=trained.run.id,
        step=trained.step,
        task=wanted.task,
        sampler=sampler,
        seed=wanted.seed,
        asked=tuple(one.asked for one in made.samples),
        made=tuple(one.made.text if isinstance(one.made, Text) else "" for one in made.samples),
        calls=made.calls,
        tokens=made.tokens,
        seconds=made.seconds,
        files=tuple(str(path) for path in files),
        scores=scores,
    )
    write_atomically(out / f"{wanted.task}.json", msgspec.json.format(msgspec.json.encode(sampled)))
    return sampled


def show(sampled: Sampled, console: Console) -> None:
    """Say what was made and where it is; texts themselves."""
    rate = sampled.tokens / max(sampled.seconds, 1e-9)
    told = f"{len(sampled.asked)} samples of {sampled.run or sampled.id}, {sampled.calls:.0f} network calls each"
    console.print(f"{told}, {rate:,.0f} tokens/s", highlight=False)
    for asked, made in zip(sampled.asked, sampled.made, strict=True):
        if made:
            given = f"[dim]{escape(asked)}:[/dim] " if TO in sampled.task else ""  # else it is a part of what was made
            console.print(f"{given}{escape(made)}", highlight=False)
    if sampled.scores:
        console.print(scores_table(sampled.scores))
    for path in sampled.files:
        print(path)


def scores_table(scores: Sequence[Score]) -> Table:
    """What judges say, beside what they say of real data."""
    table = Table("score", "samples", "90 %", "real data", "better", box=None)
    for score in scores:
        interval = "" if score.low is None or score.high is None else f"{score.low:.3g} to {score.high:.3g}"
        real = "" if score.real is None else f"{score.real:.3g}"
        table.add_row(score.name, f"{score.value:.3g}", interval, real, score.better)
    return table
