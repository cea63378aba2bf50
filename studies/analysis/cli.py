"""`triptych fit`, `report` and `export`: what the commands do, as functions that print and give back an exit code.

A user's mistakes are `SpecError`s, which the command line says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from compiler.show import print_table
from specs.errors import Problem, SpecError
from studies.analysis.asked import answers, laws_of, summary
from studies.analysis.fits import COLUMN, Fits, fit_results
from studies.analysis.how import How
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.chinchilla import fit
from studies.analysis.many import read_studies
from studies.analysis.questions.scaling import Scaling, scale
from studies.analysis.results import read_study
from studies.analysis.tables import Columns, read_runs
from studies.analysis.views.law import law_table
from studies.analysis.views.scaling import SCALING
from studies.analysis.views.words import Found, Verdict

WELL, FAILED, USER = 0, 1, 2
"""Exit codes: well, something failed while working, the user's input."""


def run_fit(
    sources: Sequence[Path],
    columns: Columns = Columns(),  # noqa: B008
    how: How = How(),  # noqa: B008
    approaches: bool = False,
    as_json: bool = False,
) -> int:
    """`triptych fit SOURCE...`: what a study's folder asks, the laws of several folders together, or of one file.

    Prints tables, or JSON as one object on one line. For a CSV or Parquet file, by its `columns`: the Chinchilla law,
    and with `approaches` also "scaling" (approaches 1 and 2, and what the law predicts of runs left out). For a folder
    {"study", "n", "fits": {modality: law}, "missing": {modality: reason}} and what else the study asks, by the keys of
    `studies.analysis.asked.QUESTIONS` (numbers that are not finite are null). For several, or one that holds several
    studies: {"studies", "n", "fits", "missing", "scaling"}. Exit codes: 1 where no law can be fitted and nothing else
    has a result yet. Raises `SpecError` for bad input.
    """
    if len(sources) == 1 and sources[0].is_dir() and (sources[0] / "plan.json").exists():
        return _fit_study(sources[0], how, as_json)
    if all(source.is_dir() for source in sources):
        return _fit_studies(sources, how, as_json)
    if len(sources) > 1:
        what = "several sources are given, and not all are folders"
        raise SpecError([Problem("command line", 1, "SOURCE", what, "give folders of studies, or one file")])
    return _fit_file(sources[0], columns, how, approaches, as_json)


def run_report(folder: Path, how: How = How(), as_json: bool = False) -> int:  # noqa: B008
    """`triptych report DIR`: write `report.html` and `results.parquet` into the study's folder; print its path."""
    # Altair takes half a second to import, which `fit` need not wait for.
    from studies.analysis.report.write import write_report

    written = write_report(folder, how)
    if as_json:
        _print_json({"report": str(written), "results": str(written.with_name("results.parquet"))})
    else:
        print(written)
    return WELL


def run_serve(folder: Path, port: int, how: How, as_json: bool = False) -> int:
    """`triptych report DIR --watch`: a live page on localhost until Ctrl-C; its address is printed first."""
    from studies.analysis.serve import serve

    def ready(address: str) -> None:
        print(
            msgspec.json.encode({"address": address}).decode() if as_json else f"{address} (Ctrl-C ends it)", flush=True
        )

    serve(folder, port, how, on_ready=ready)
    return WELL


def run_export(folder: Path, out: Path | None, formats: Sequence[str], how: How, as_json: bool = False) -> int:
    """`triptych export DIR`: results and every figure of the report as files."""
    from studies.analysis.export import export

    console = Console(stderr=True)
    with console.status("reading") as status:
        paths = export(
            folder, out, formats, how, on_progress=lambda done, of, name: status.update(f"{done} of {of}  {name}")
        )
    if as_json:
        _print_json({"paths": [str(path) for path in paths]})
    else:
        print(*paths, sep="\n")
    return WELL


def _fit_file(file: Path, columns: Columns, how: How, approaches: bool, as_json: bool) -> int:
    runs = read_runs(file, *columns)
    try:
        fitted = fit(runs["N"], runs["D"], runs["loss"], how.bootstrap, how.seed, by=how.by)
    except UnidentifiedError as error:
        todo = "add runs, or check the columns named by --n and --d"
        raise SpecError([Problem(str(file), 1, f"{columns.n}, {columns.d}", str(error), todo)]) from None
    found = scale(_as_results(runs, file.stem), how) if approaches else None
    if as_json:
        _print_json(fitted.summary() | ({"scaling": found.plain()} if found else {}))
    else:
        print_found(law_table(Fits(count=None, fits={file.stem: fitted}, missing={})))
        if found:
            _print_all(SCALING.show(found).tables)
    return WELL


def _as_results(runs: pl.DataFrame, name: str) -> pl.DataFrame:
    """Somebody's runs as a table of results of one modality, each run a configuration of its own but for seeds."""
    N, D = pl.col("N"), pl.col("D")
    return runs.with_row_index("id").select(
        id=pl.col("id").cast(pl.String),
        name=pl.lit(name),
        modality=pl.lit(name),
        point=pl.struct(N, D).rank("dense").cast(pl.UInt32),
        params=N,
        params_non_embedding=N,
        tokens=D,
        flops=pl.col("flops") if "flops" in runs.columns else 6 * N * D,
        nelbo=pl.col("loss"),
        standard_error=pl.lit(None, pl.Float64),
        epochs=pl.lit(0.0),
    )


def _fit_study(folder: Path, how: How, as_json: bool) -> int:
    study = read_study(folder)
    found = answers(study, how)
    laws = laws_of(found)
    fits = laws.fits if laws else fit_results(study.results(), how.count, how.bootstrap, how.seed, how.by)
    if as_json:
        _print_json({"study": study.plan.study, **_laws(fits, how), **summary(found)})
    else:
        if fits.fits or not found:
            print_found(law_table(fits, f"{study.plan.study}: L(N, D) = E + A/N^α + B/D^β"))
        _print_all(table for answer in found for block in answer.blocks() for table in block.tables)
    return WELL if fits.fits or found else FAILED


def _fit_studies(folders: Sequence[Path], how: How, as_json: bool) -> int:
    studies = read_studies(folders)
    found: Scaling = scale(studies.results(), how)
    if as_json:
        _print_json({"studies": list(studies.by_name), **_laws(found.fits, how), "scaling": [found.plain()]})
    else:
        print_found(law_table(found.fits, f"{', '.join(studies.by_name)}: L(N, D) = E + A/N^α + B/D^β"))
        _print_all(SCALING.show(found).tables)
    return WELL if found.fits.fits else FAILED


def _laws(fits: Fits, how: How) -> dict[str, Any]:
    return {
        "n": COLUMN[how.count],
        "fits": {modality: fitted.summary() for modality, fitted in fits.fits.items()},
        "missing": fits.missing,
    }


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _print_all(tables: Iterable[Found]) -> None:
    for found in tables:
        print_found(found)


def print_found(found: Found) -> None:
    """Print one table, and what is to be said of it."""
    console = Console(highlight=False, markup=False)
    # Narrow enough for 80 columns.
    made = Table(title=found.title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for k, heading in enumerate(found.header):
        made.add_column(heading, justify="right" if k else "left")
    for row in found.rows:
        made.add_row(*(cell.text if isinstance(cell, Verdict) else cell for cell in row))
    print_table(made, console)
    for said in (*found.said, *found.warned):
        console.print(said)
