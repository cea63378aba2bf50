"""`triptych fit` and `triptych report`: what the commands do, as functions that print and give back an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from specs.errors import Problem, SpecError
from specs.quantities import format_quantity
from studies.analysis.asked import answers, summary
from studies.analysis.fits import COLUMN, Count, fit_results
from studies.analysis.laws.chinchilla import NAMES, Fit, UnidentifiedError, fit
from studies.analysis.results import modality_title, read_study
from studies.analysis.tables import read_runs
from studies.analysis.views.question import How
from studies.analysis.views.words import Found, Verdict

WELL, FAILED, USER = 0, 1, 2
"""Exit codes: well, something failed while working, the user's input."""

_SYMBOLS = dict(zip(NAMES, ("E", "A", "B", "α", "β"), strict=True))


def run_fit(
    path: Path,
    n: str = "params",
    d: str = "tokens",
    loss: str = "loss",
    bootstrap: int = 1000,
    count: Count = "non_embedding",
    seed: int = 0,
    as_json: bool = False,
) -> int:
    """`triptych fit PATH`: the Chinchilla law of a study's folder, or of a CSV or Parquet file by its columns.

    `n`, `d` and `loss` name a file's columns; `count` says which parameters are N for a folder. Prints a table, or JSON
    as one object on one line: for a file the fit itself, for a folder {"study", "n", "fits": {modality: fit},
    "missing": {modality: reason}} and, where the study makes these experiments, "coordinates", "learning_rate",
    "invariance" and "gamma" (`studies.analysis.asked`; numbers that are not finite are null). Exit codes: 1 where
    no modality of a study can be fitted and no experiment has a result yet, 2 for bad input.
    """
    try:
        if path.is_dir():
            return _fit_study(path, bootstrap, count, seed, as_json)
        return _fit_file(path, n, d, loss, bootstrap, seed, as_json)
    except SpecError as error:
        print(error, file=sys.stderr)
        return USER


def run_report(path: Path, bootstrap: int = 1000, count: Count = "non_embedding", as_json: bool = False) -> int:
    """`triptych report DIR`: write `report.html` and `results.parquet` into the study's folder; print its path."""
    # Altair takes half a second to import, which `fit` need not wait for.
    from studies.analysis.report import write_report

    try:
        written = write_report(path, count, bootstrap)
    except SpecError as error:
        print(error, file=sys.stderr)
        return USER
    if as_json:
        _print_json({"report": str(written), "results": str(written.with_name("results.parquet"))})
    else:
        print(written)
    return WELL


def _fit_file(path: Path, n: str, d: str, loss: str, bootstrap: int, seed: int, as_json: bool) -> int:
    runs = read_runs(path, n, d, loss)
    try:
        fitted = fit(runs["N"], runs["D"], runs["loss"], bootstrap, seed)
    except UnidentifiedError as error:
        todo = "add runs, or check the columns named by --n and --d"
        raise SpecError([Problem(str(path), 1, f"{n}, {d}", str(error), todo)]) from None
    if as_json:
        _print_json(fitted.summary())
    else:
        _print_fits(str(path), {path.stem: fitted}, {})
    return WELL


def _fit_study(path: Path, bootstrap: int, count: Count, seed: int, as_json: bool) -> int:
    study = read_study(path)
    fits = fit_results(study.results(), count, bootstrap, seed)
    found = answers(study, How(count, bootstrap, seed))
    if as_json:
        _print_json(
            {
                "study": study.plan.study,
                "n": COLUMN[count],
                "fits": {modality: fitted.summary() for modality, fitted in fits.fits.items()},
                "missing": fits.missing,
                **summary(found),
            }
        )
    else:
        for block in (block for answer in found for block in answer.blocks()):
            for each in block.tables:
                _print_found(each)
        if fits.fits or not found:
            _print_fits(f"{study.plan.study}, N = {COLUMN[count]}", fits.fits, fits.missing)
    return WELL if fits.fits or found else FAILED


def _print_json(value: dict[str, Any]) -> None:
    print(msgspec.json.encode(value).decode())


def _print_fits(title: str, fits: dict[str, Fit], missing: dict[str, str]) -> None:
    console = Console(highlight=False, markup=False)
    if fits:
        # Narrow enough for 80 columns.
        table = Table(
            title=f"L(N, D) = E + A/N^α + B/D^β   {title}", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0)
        )
        table.add_column("", no_wrap=True)
        for heading in (*_SYMBOLS.values(), "runs", "rms"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, fitted in fits.items():
            cells = [
                f"{getattr(fitted.law, parameter):.4g}"
                + (f"\n{_short(low)}–{_short(high)}" if fitted.intervals else "")
                for parameter in NAMES
                for low, high in [fitted.intervals.get(parameter, (0.0, 0.0))]
            ]
            table.add_row(modality_title(name), *cells, str(fitted.n), f"{100 * fitted.residual:.2g} %")
        console.print(table)
        if any(fitted.intervals for fitted in fits.values()):
            console.print("Below each estimate: the central 90 % of a bootstrap over runs. rms: of log-loss residuals.")
    for name, fitted in fits.items():
        for said in fitted.warnings:
            console.print(f"{modality_title(name)}: {said}")
    for name, why in missing.items():
        console.print(f"{modality_title(name)}: not fitted: {why}")


def _print_found(found: Found) -> None:
    console = Console(highlight=False, markup=False)
    made = Table(title=found.title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for k, heading in enumerate(found.header):
        made.add_column(heading, justify="right" if k else "left")
    for row in found.rows:
        made.add_row(*(cell.text if isinstance(cell, Verdict) else cell for cell in row))
    console.print(made)
    for said in (*found.said, *found.warned):
        console.print(said)


def _short(value: float) -> str:
    return format_quantity(float(f"{value:.2g}"))
