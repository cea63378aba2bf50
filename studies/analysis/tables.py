"""Somebody else's runs: a CSV or Parquet file with a column each of sizes, token counts and losses."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl

from specs.errors import Problem, SpecError
from specs.suggest import suggestion

_MOST_PROBLEMS = 10


def read_runs(file: str | Path, n: str = "params", d: str = "tokens", loss: str = "loss") -> pl.DataFrame:
    """Runs of `file` (.parquet, or else CSV; .tsv by tabs) as float columns `N`, `D`, `loss`, from the columns named.

    Every value must be a positive, finite number. Raises `SpecError` that names file, line and column; in a Parquet
    file the line is the row, from 1.
    """
    file = Path(file)
    table = _read(file)
    wanted = {"N": (n, "--n"), "D": (d, "--d"), "loss": (loss, "--loss")}
    missing = [
        Problem(str(file), 1, column, "there is no such column", _choose(column, option, table.columns))
        for column, option in wanted.values()
        if column not in table.columns
    ]
    if missing:
        raise SpecError(missing)
    # strict=False makes null of what is not a number; the text is kept to say what stood there.
    numbers = table.select(
        pl.col(column).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False).alias(name)
        for name, (column, _) in wanted.items()
    )
    bad = numbers.select(~(pl.all().is_finite() & (pl.all() > 0)).fill_null(False))
    rows = bad.with_row_index("row").filter(pl.any_horizontal(pl.exclude("row"))).head(_MOST_PROBLEMS)
    if len(rows):
        lines = _lines(file, set(rows["row"].to_list()))
        todo = "give a number above zero, or leave the row out"
        raise SpecError(
            Problem(str(file), lines[k], column, _complaint(table[column][k], numbers[name][k]), todo)
            for k, row in zip(rows["row"], rows.iter_rows(named=True), strict=True)
            for name, (column, _) in wanted.items()
            if row[name]
        )
    return numbers


def _read(file: Path) -> pl.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pl.read_parquet(file)
        # Everything as text first, so that a word among numbers can be named with its line.
        table = pl.read_csv(file, infer_schema=False, separator="\t" if file.suffix == ".tsv" else ",")
        return table.filter(~pl.all_horizontal(pl.all().is_null()))
    except FileNotFoundError:
        raise SpecError([Problem(str(file), 1, "file", "there is no such file", "check the path")]) from None
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        kind = "Parquet" if file.suffix == ".parquet" else "CSV"
        what = f"it cannot be read as {kind} ({' '.join(str(error).split())[:200]})"
        raise SpecError([Problem(str(file), 1, "file", what, "give a CSV file with a header, or Parquet")]) from None


def _choose(column: str, option: str, columns: list[str]) -> str:
    return f"{suggestion(column, columns)} (name it by {option} COLUMN)"


def _complaint(text: object, number: float | None) -> str:
    if text is None or not str(text).strip():
        return "the value is missing"
    return f"{text!s} is not {'a finite number above zero' if number is not None else 'a number'}"


def _lines(file: Path, rows: set[int]) -> dict[int, int]:
    """The line on which each of `rows` ends: quoted fields may hold line breaks, empty rows do not count."""
    if file.suffix == ".parquet":
        return {row: row + 1 for row in rows}
    with file.open(newline="", encoding="utf-8", errors="replace") as handle:
        reader = csv.reader(handle, delimiter="\t" if file.suffix == ".tsv" else ",")
        filled = (reader.line_num for record in reader if any(record))
        next(filled)
        return {row: line for row, line in enumerate(filled) if row in rows}
