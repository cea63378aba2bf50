"""`triptych fit` and `report` of sampling studies, as functions that print and give back an exit code.

A user's mistakes are `SpecError`s, which the command line says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from studies.analysis.cli import FAILED, WELL, print_found
from studies.analysis.report.wording import counted
from studies.analysis.sampling.defaults import write_defaults
from studies.analysis.sampling.front import fronts
from studies.analysis.sampling.results import SamplingStudy, read_sampling
from studies.analysis.sampling.show import fit_table


def run_sampling_fit(folder: Path, as_json: bool = False, write: Path | None = None) -> int:
    """`triptych fit DIR` of a sampling study: quality against network calls, and the default of each task.

    `write` is a file of defaults to put them into (`defaults`). Prints tables, or JSON as one object on one line:
    {"study", "judged": points, "missing": [name], "broken": [reason], "tasks": [`front.TaskFront`], "defaults": {task:
    sampler}, "written": path or null}. Exit codes: 1 where no point has a result. Raises `SpecError` for bad input.
    """
    study = read_sampling(folder)
    found = fronts(study)
    if write is not None and found:
        write_defaults(write, found, study.plan.study)
    written = str(write) if write is not None and found else None
    if as_json:
        _print_json(
            {
                "study": study.plan.study,
                "judged": len(study.points),
                "missing": [point.name or point.id for point in study.missing],
                "broken": study.broken,
                "tasks": found,
                "defaults": {front.task: front.choice.setting.sampler for front in found},
                "written": written,
            }
        )
    else:
        for front in found:
            print_found(fit_table(front))
        _print_lines([*_state(study), *([f"Defaults written: {written}"] if written else [])])
    return WELL if found else FAILED


def run_sampling_report(folder: Path, as_json: bool = False) -> int:
    """`triptych report DIR` of a sampling study: write `report.html` and `results.parquet` into it; print its path."""
    # Altair takes half a second to import, which `fit` need not wait for.
    from studies.analysis.sampling.report import write_sampling_report

    written = write_sampling_report(folder)
    if as_json:
        _print_json({"report": str(written), "results": str(written.with_name("results.parquet"))})
    else:
        print(written)
    return WELL


def _state(study: SamplingStudy) -> list[str]:
    """How far the study is, a line each."""
    said = []
    if study.missing:
        of = counted(len(study.plan.points), "point")
        said.append(f"No results yet for {len(study.missing)} of {of}.")
    return [*said, *(f"Left out: {reason}" for reason in study.broken)]


def _print_lines(lines: list[str]) -> None:
    console = Console(highlight=False, markup=False)
    for line in lines:
        console.print(line)


def _print_json(value: dict[str, Any]) -> None:
    print(msgspec.json.encode(value).decode())
