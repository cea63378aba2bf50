"""A sampling study: every point drawn, judged and written, those that are there already left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from compiler.files import decode, write_atomically
from compiler.records import study_folder
from compiler.sampling import JUDGED, PLAN, POINTS, Judged, SamplingPlan, SamplingPoint
from runtime.sampling.files import write
from runtime.sampling.generate import Made, Studio
from runtime.sampling.trained import Trained, load_trained

SHOWN = 32
"""Samples of a point that are kept to look at."""
HEARD = 8
"""Sounds of a point that are kept."""

_JUDGED = msgspec.json.Decoder(Judged)


def run_sampling(plan: SamplingPlan, study_file: Path, out: Path, console: Console) -> list[Judged]:
    """Draw and judge the points of a compiled sampling study that are not done, and write `OUT/STUDY`. Returns what was
    found of all points, in the plan's order.

    Raises SpecError, RuleError or DataError where a run, its data or a judge are not to be had.
    """
    folder = study_folder(out, plan.study)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "study.yaml", study_file.read_bytes())
    write_atomically(folder / PLAN, msgspec.json.encode(plan))
    waiting = [point for point in plan.points if not is_judged(folder, point)]
    if len(waiting) < len(plan.points):
        console.print(f"{len(plan.points) - len(waiting)} of {len(plan.points)} points are done already")
    bar = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(TextColumn("{task.description}"), *bar, TimeRemainingColumn(), console=console) as progress:
        every = progress.add_task(escape(plan.study), total=len(plan.points), note="points")
        progress.advance(every, len(plan.points) - len(waiting))
        # Points of one run and task after each other: the run is loaded, and its data read, once.
        for point in sorted(waiting, key=lambda point: (point.run, point.task)):
            task = progress.add_task(f"  {escape(point.name)}", total=None, note="drawing")
            judged = run_point(point, Path(plan.runs[point.run]), folder, partial(_note, progress, task))
            progress.remove_task(task)
            progress.advance(every)
            first = judged.scores[0]
            told = f"{first.name} {first.value:.3f}, {judged.calls:.0f} calls, {judged.seconds:.1f} s"
            progress.console.print(f"[green]done[/]  {escape(point.name)}  {told}", soft_wrap=True)
    return [_found(folder, point) for point in plan.points]


def _note(progress: Progress, task: TaskID, note: str) -> None:
    progress.update(task, note=note)


def is_judged(folder: Path, point: SamplingPoint) -> bool:
    """Whether what was found of a point is there and can be read."""
    try:
        return _found(folder, point).id == point.id
    except (OSError, msgspec.MsgspecError):
        return False


def _found(folder: Path, point: SamplingPoint) -> Judged:
    return decode(folder / POINTS / point.id / JUDGED, _JUDGED)


def run_point(point: SamplingPoint, home: Path, folder: Path, note: Callable[[str], None]) -> Judged:
    """Draw and judge one point of a run in folder `home`, and write it into the study's `folder`."""
    studio = _studio(home, point.task)

    def drawn(control: str | None) -> Made:
        asks = studio.asks(point.n, point.sampler, seed=point.seed, control=control)
        return studio.make(asks, point.sampler, seed=point.seed, control=control)

    made = drawn(None)
    note("judging")
    scores = studio.judge(made.samples)
    controls = {}
    for control in point.controls:
        note(f"control: {control}")
        controls[control] = studio.judge(drawn(control).samples)
    home = folder / POINTS / point.id
    shutil.rmtree(home, ignore_errors=True)
    examples = write(made.samples[:SHOWN], home, point.task, most_sounds=HEARD)
    judged = Judged(
        id=point.id,
        run=point.run,
        name=point.name,
        task=point.task,
        sampler=point.sampler,
        n=point.n,
        seed=point.seed,
        calls=made.calls,
        tokens=made.tokens,
        seconds=made.seconds,
        quality=scores[0].name,
        scores=scores,
        controls=controls,
        examples=tuple(path.name for path in examples),
    )
    # Last: a point is done where it is there.
    write_atomically(home / JUDGED, msgspec.json.encode(judged))
    return judged


@lru_cache(maxsize=1)
def _studio(home: Path, task: str) -> Studio:
    return Studio(_trained(home), task)


@lru_cache(maxsize=1)
def _trained(home: Path) -> Trained:
    return load_trained(home)
