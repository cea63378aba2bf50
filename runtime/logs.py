"""`triptych logs`: what a run has printed, and what its scheduler's job has."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TextIO

from compiler.difference import load_plan
from compiler.files import open_plain
from compiler.records import read_status, read_submission
from compiler.single import find_run
from compiler.source import studies_of
from specs.errors import Problem, SpecError, printable


def locate(where: Path, run: str | None) -> tuple[Path, Path | None]:
    """The folder of a run, and of its study where that is known: given the run's folder, or the study's and the run's
    name, id or number. Raises SpecError or RuleError where there is none."""
    if run is not None or (where / "plan.json").is_file():
        return where / "runs" / find_run(load_plan(where), run or "").id, where
    if (where / "run.json").is_file():
        return where, None
    todo = "give a run's folder such as runs/demo/runs/ID, or a study's folder and a run's name"
    raise SpecError([Problem(str(where), 1, "run.json", "this is not the folder of a run or a study", todo)])


def log_files(folder: Path, study: Path | None) -> list[Path]:
    """The files of the run in `folder`: its log, and the output of the job that it was last submitted as, which is kept
    in its study's folder. Those that are not there are left out."""
    files = [folder / "log.txt"]
    submission = read_submission(folder)
    if submission is not None:
        for place in [study] if study is not None else studies_of(folder.resolve()):
            files += sorted((place / "slurm").glob(f"{submission.job}_*_log.*"))
    return [file for file in files if file.is_file()]


def print_logs(files: list[Path], lines: int, to: TextIO) -> None:
    """Print the last `lines` lines of each file, 0 for all, under its name."""
    for file in files:
        print(f"==> {file}", file=to)
        for line in tail(file, lines):
            print(printable(line), file=to)


def tail(file: Path, lines: int) -> list[str]:
    """The last `lines` lines of a file, 0 for all."""
    with open_plain(file) as opened:
        return opened.read().decode(errors="replace").splitlines()[-lines:]


def logs_json(files: list[Path], lines: int) -> str:
    """The same as one JSON object, lines by file."""
    return json.dumps({"files": {str(file): tail(file, lines) for file in files}})


def follow(folder: Path, to: TextIO) -> None:
    """Print what comes to a run's log, until the run is neither pending nor running, or Ctrl-C."""
    log, place = folder / "log.txt", 0
    place = log.stat().st_size if log.exists() else 0
    try:
        while True:
            going = read_status(folder).state in ("pending", "running")
            if log.exists():
                with log.open(errors="replace") as file:
                    file.seek(place)
                    for line in file.read().splitlines():
                        print(printable(line), file=to, flush=True)
                    place = file.tell()
            if not going:
                return
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
