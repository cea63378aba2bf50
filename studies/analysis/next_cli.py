"""`triptych next`: what the command does, as a function that prints and gives back an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from specs.errors import Problem, SpecError
from specs.quantities import parse_quantity
from studies.analysis.cli import FAILED, USER, WELL, print_found
from studies.analysis.fits import Count
from studies.analysis.how import values_of
from studies.analysis.next_study import advise
from studies.analysis.prescription import BudgetError, UnreadyError, ValuesError
from studies.analysis.results import read_study
from studies.analysis.views.next import next_tables


def run_next(
    folder: Path,
    budget: str | float,
    values: Sequence[str] = (),
    out: Path | None = None,
    runs: int = 12,
    design_flops: str | float | None = None,
    bootstrap: int = 1000,
    count: Count = "non_embedding",
    seed: int = 0,
    overwrite: bool = False,
    as_json: bool = False,
) -> int:
    """`triptych next DIR --budget FLOPS`: the best use of a budget by a study's results, as a study ready to plan, and
    at most `runs` further runs that would narrow its law most, as another.

    `values` are such as `text=1`: what a nat of each modality counts for. Prints tables, or JSON as one object on one
    line (`next_study.Next`; numbers that are not finite are null). Exit codes: 1 where the study's results do not
    determine a law, 2 for bad input.
    """
    try:
        worth = values_of(values)
        flops = _flops(budget, "--budget")
        allowed = None if design_flops is None else _flops(design_flops, "--design-budget")
        if runs < 0:
            raise _mistake("--runs", f"{runs} is no number of runs", "give 0 for no design, or 12")
        study = read_study(folder)
        try:
            found = advise(
                study,
                flops,
                values=worth,
                out=out,
                runs=runs,
                design_flops=allowed,
                count=count,
                bootstrap=bootstrap,
                seed=seed,
                overwrite=overwrite,
            )
        except BudgetError as error:
            raise _mistake("--budget", error.what, error.todo) from None
        except ValuesError as error:
            raise _mistake("--value", error.what, error.todo) from None
        except UnreadyError as error:
            problem = Problem(str(folder), 1, "results", error.what, error.todo)
            return _told(SpecError([problem]), FAILED, as_json)
    except SpecError as error:
        return _told(error, USER, as_json)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        for table in next_tables(found):
            print_found(table)
    return WELL


def _told(error: SpecError, code: int, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"errors": error.to_json()}))
    else:
        print(error, file=sys.stderr)
    return code


def _mistake(path: str, what: str, todo: str) -> SpecError:
    return SpecError([Problem("command line", 1, path, what, todo)])


def _flops(given: str | float, option: str) -> float:
    try:
        flops = parse_quantity(given)
    except ValueError:
        raise _mistake(option, f"{given!r} is no number of FLOPs", "give one above zero, such as 1e21") from None
    if flops <= 0:
        raise _mistake(option, f"{given!r} is no budget", "give FLOPs above zero, such as 1e21")
    return flops
