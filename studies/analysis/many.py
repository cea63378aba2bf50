"""Several studies as one: each run once, whichever of them it is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from specs.errors import Problem, SpecError
from studies.analysis.reading import scan_metrics
from studies.analysis.results import Study, configurations, read_study

_BEST_FIRST = ("done", "running", "preempted", "failed", "cancelled", "pending")


@dataclass(frozen=True)
class Studies:
    """Some studies as read, by name: a study's own, or its folder where two have one name.

    A run that several studies share, by its id, stands once in every table: as the first of those has it in which it
    has come furthest. The tables are those of `Study` with two more columns: `study`, the name of that one, and
    `studies`, the names of all. `point` numbers the configurations of all together.
    """

    by_name: dict[str, Study]

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """By run id, the studies that have it, the one that tells of it first."""
        states: dict[str, list[tuple[int, str]]] = {}
        for name, study in self.by_name.items():
            for run, state in study.runs.select("id", "state").iter_rows():
                states.setdefault(run, []).append((_BEST_FIRST.index(state), name))
        return {run: [name for _, name in sorted(found, key=lambda each: each[0])] for run, found in states.items()}

    @cached_property
    def runs(self) -> pl.DataFrame:
        """A row per run: `Study.runs`."""
        return self._together({name: study.runs for name, study in self.by_name.items()})

    @cached_property
    def _results(self) -> pl.DataFrame:
        return self._together({name: study.results() for name, study in self.by_name.items()})

    def results(self) -> pl.DataFrame:
        """A row per finished run and modality: `Study.results`."""
        return self._results

    def curves(self) -> pl.DataFrame:
        """A row per evaluation, run and modality: `Study.curves`."""
        return self._together({name: study.curves() for name, study in self.by_name.items()})

    def scan_metrics(self) -> pl.LazyFrame:
        """A row per logged step, lazily: `Study.scan_metrics`, with the column `study`."""
        return scan_metrics(
            ({"study": name}, study.logs.layout, run, path)
            for name, study in self.by_name.items()
            for run, path in study.logs.files.items()
            if self._names[run][0] == name
        )

    @property
    def modalities(self) -> list[str]:
        """Every modality of any study."""
        return list(dict.fromkeys(name for study in self.by_name.values() for name in study.modalities))

    @property
    def skipped(self) -> int:
        """Lines that could not be read."""
        return sum(study.skipped for study in self.by_name.values())

    def _together(self, tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
        points = configurations(run for study in self.by_name.values() for run in study.plan.runs)
        names = self._names
        about = pl.DataFrame(
            [(run, points[run], found[0], found) for run, found in names.items()],
            schema={"id": pl.String, "point": pl.UInt32, "study": pl.String, "studies": pl.List(pl.String)},
            orient="row",
        )
        own = [
            table.drop("point").join(about.filter(study=name), on="id", maintain_order="left")
            for name, table in tables.items()
        ]
        return pl.concat(own, how="diagonal_relaxed").select("study", pl.exclude("study"))


def read_studies(folders: Iterable[str | Path]) -> Studies:
    """Read the studies in `folders`, each a study's or one that holds several, such as `runs`.

    Raises `SpecError` where a folder holds no study, or one that cannot be read, with all such folders.
    """
    problems: list[Problem] = []
    found: dict[Path, Study] = {}
    for folder in folders:
        for each in _study_folders(Path(folder)):
            if each.resolve() in found:
                continue
            try:
                found[each.resolve()] = read_study(each)
            except SpecError as error:
                problems += error.problems
    if problems:
        raise SpecError(problems)
    return Studies(_named(list(found.values())))


def _study_folders(folder: Path) -> list[Path]:
    """The folders of the studies in `folder`; itself where it has no others, so that what is lacking is named."""
    if (folder / "plan.json").exists():
        return [folder]
    return sorted(plan.parent for plan in folder.glob("*/plan.json")) or [folder]


def _named(studies: Sequence[Study]) -> dict[str, Study]:
    names = [study.plan.study for study in studies]
    return {
        name if names.count(name) == 1 else str(study.folder): study for name, study in zip(names, studies, strict=True)
    }
