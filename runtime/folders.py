"""The folders of a study and of its runs, written before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import yaml  # type: ignore[import-untyped]

from compiler.compile import Compiled
from compiler.files import write_atomically
from compiler.plan import StudyPlan
from compiler.records import store_folder, study_folder
from compiler.source import Source
from runtime.data import build


def build_sources(plan: StudyPlan, data_root: Path) -> None:
    """Build and check every source of a plan. Raises runtime.data.DataError."""
    for source in sorted({modality.data for run in plan.runs for modality in run.modalities.values()}):
        build(source, data_root)


def prepare(
    compiled: Compiled,
    study_file: Path,
    overrides: Sequence[str],
    out: Path,
    launcher: Literal["run", "submit"] = "run",
) -> None:
    """Write the study's folder, and a folder for each of its runs in the store. What runs have left there stays, also
    of runs that the plan no longer has."""
    plan, document = compiled.plan, compiled.loaded.document
    folder = study_folder(out, plan.study)
    links = folder / "runs"
    links.mkdir(parents=True, exist_ok=True)
    text = study_file.read_bytes()
    if overrides or len(document.files) > 1:
        # What includes and the command line brought is written in, so that the folder says it all.
        text = yaml.safe_dump(document.data, sort_keys=False, allow_unicode=True).encode()
    write_atomically(folder / "study.yaml", text)
    source = Source(file=str(study_file.resolve()), overrides=tuple(overrides), digest=plan.digest, launcher=launcher)
    write_atomically(folder / "source.json", msgspec.json.encode(source))
    write_atomically(folder / "plan.json", msgspec.json.encode(plan))
    for run in plan.runs:
        home = store_folder(out, run.id)
        home.mkdir(parents=True, exist_ok=True)
        # Written anew by whoever trains the study, so that it need not survive all.
        write_atomically(home / "run.json", msgspec.json.encode(run), durably=False)
        link = links / run.id
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(home, links))
