"""Somebody else's runs: a CSV or Parquet file with a column each of sizes, token counts and losses."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

import polars as pl

from compiler.files import open_plain
from compiler.records import MIX
from specs.errors import Problem, SpecError
from specs.suggest import suggestion

_MOST_PROBLEMS = 10
_LONGEST = 60
"""Letters of a wrong value that are shown."""
_MODALITY = "modality"
_RESULTS = {"id", _MODALITY, "params", "tokens", "nelbo"}
"""Columns by which the `results.parquet` of a study is known."""
_LINE = "\0line"
"""The column of a table as read that says where each row stood; no file's own is called so."""
_GROUPED = re.compile(r"[-+]?\d{1,3}([,.' \u00a0\u202f]\d{3})+([.,]\d+)?|[-+]?\d+,\d+")
"""A number with separators between thousands, or with a decimal comma."""


class Columns(NamedTuple):
    """The columns of a file that hold sizes, tokens, losses and (where there are) FLOPs, and the modality whose rows
    are wanted."""

    n: str = "params"
    d: str = "tokens"
    loss: str = "loss"
    modality: str | None = None
    flops: str | None = None


def read_runs(
    file: str | Path,
    n: str = "params",
    d: str = "tokens",
    loss: str = "loss",
    modality: str | None = None,
    flops: str | None = None,
) -> pl.DataFrame:
    """Runs of `file` as float columns `N`, `D`, `loss` (and `flops`, if given), from the columns named.

    The file is Parquet (.parquet) or else text in UTF-8 with a header, separated by commas, or by semicolons or tabs
    where the header has no comma. Every value must be a positive, finite number.

    `modality` keeps the rows whose column `modality` says so. A study's `results.parquet` has several rows a run: there
    `modality` is "all", the mix, and `loss` is `nelbo`, where nothing else is asked for.

    Raises `SpecError` that names file, line and column; in a Parquet file the line is the row, from 1.
    """
    file = Path(file)
    table = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_text(file)
    if set(table.columns) >= _RESULTS:
        modality = modality or MIX
        loss = "nelbo" if loss == "loss" and loss not in table.columns else loss
    wanted = {"N": (n, "--n"), "D": (d, "--d"), "loss": (loss, "--loss")}
    wanted |= {"flops": (flops, "--flops")} if flops else {}
    columns = [column for column in table.columns if column != _LINE]
    missing = [
        Problem(str(file), 1, column, "there is no such column", _choose(column, option, columns))
        for column, option in wanted.values()
        if column not in columns
    ]
    if missing:
        raise SpecError(missing)
    odd = [
        Problem(str(file), 1, column, f"the column holds {table.schema[column]}, not numbers", "name another column")
        for column, _ in wanted.values()
        if not _is_plain(table.schema[column])
    ]
    if odd:
        raise SpecError(odd)
    if modality is not None:
        table = _of_modality(file, table, modality)
    return _numbers(file, table, {name: column for name, (column, _) in wanted.items()})


def _numbers(file: Path, table: pl.DataFrame, wanted: dict[str, str]) -> pl.DataFrame:
    # strict=False makes null of what is not a number; the text is kept to say what stood there.
    numbers = table.select(
        pl.col(column).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False).alias(name)
        for name, column in wanted.items()
    )
    good = (pl.all().is_finite() & (pl.all() > 0)).fill_null(False)
    bad = numbers.select(~good).with_row_index("row").filter(pl.any_horizontal(pl.exclude("row"))).head(_MOST_PROBLEMS)
    if len(bad):
        raise SpecError(
            Problem(str(file), table[_LINE][row], column, *_complaint(table[column][row], numbers[name][row]))
            for row, *wrong in bad.iter_rows()
            for (name, column), is_wrong in zip(wanted.items(), wrong, strict=True)
            if is_wrong
        )
    return numbers


def _of_modality(file: Path, table: pl.DataFrame, modality: str) -> pl.DataFrame:
    if _MODALITY not in table.columns:
        what, todo = "there is no such column", "leave --modality out, or name a file that has the column"
        raise SpecError([Problem(str(file), 1, _MODALITY, what, todo)])
    names = table[_MODALITY].cast(pl.String)
    if len(table) and modality not in names:
        known = [name for name in names.unique(maintain_order=True) if name is not None]
        what = f"no row is of the modality {modality!r}"
        raise SpecError([Problem(str(file), 1, _MODALITY, what, f"{suggestion(modality, known)} (--modality NAME)")])
    return table.filter(names == modality)


def _is_plain(kind: pl.DataType) -> bool:
    """Whether a column's values are numbers, or text that may say numbers."""
    return kind.is_numeric() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Null)


def _read_parquet(file: Path) -> pl.DataFrame:
    try:
        with open_plain(file) as handle:
            table = pl.read_parquet(handle, hive_partitioning=False)
    except OSError as error:
        raise _unreadable(file, "Parquet", error) from None
    # What is no Parquet may also make polars panic, which is no Exception.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        raise _unreadable(file, "Parquet", error) from None
    return table.with_columns(pl.int_range(1, pl.len() + 1).alias(_LINE))


def _read_text(file: Path) -> pl.DataFrame:
    """All values as text, so that a word among numbers can be named with its line; rows without a value left out."""
    try:
        with open_plain(file) as handle:
            text = handle.read().decode("utf-8-sig")
        header = text.partition("\n")[0]
        tabs = file.suffix.lower() == ".tsv"
        separator = "\t" if tabs else next((each for each in ",;\t" if each in header), ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(file, "CSV", error) from None
    if not rows:
        raise _unreadable(file, "CSV", "it is empty")
    (_, names), *rows = rows
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    for line, fields in rows:
        if any(field.strip() for field in fields[len(names) :]):
            raise _unreadable(file, "CSV", f"line {line} has {len(fields)} values for {len(names)} columns")
    twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if twice:
        todo = "give each column a name of its own"
        raise SpecError(Problem(str(file), 1, name, "the column is there more than once", todo) for name in twice)
    columns = {
        name: pl.Series([fields[k] if k < len(fields) else None for _, fields in rows], dtype=pl.String)
        for k, name in enumerate(names)
    }
    return pl.DataFrame(columns | {_LINE: pl.Series([line for line, _ in rows], dtype=pl.Int64)})


def _unreadable(file: Path, kind: str, why: BaseException | str) -> SpecError:
    if isinstance(why, FileNotFoundError):
        return SpecError([Problem(str(file), 1, "file", "there is no such file", "check the path")])
    what = f"it cannot be read as {kind} ({' '.join(str(why).split())[:200]})"
    return SpecError([Problem(str(file), 1, "file", what, "give a CSV file in UTF-8 with a header, or Parquet")])


def _choose(column: str, option: str, columns: list[str]) -> str:
    return f"{suggestion(column, columns)} (name it by {option} COLUMN)"


def _complaint(value: object, number: float | None) -> tuple[str, str]:
    """What is wrong with a value, and what to do."""
    todo = "give a number above zero, or leave the row out"
    text = "" if value is None else " ".join(str(value).split())
    if not text:
        return "the value is missing", todo
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if number is not None:
        return f"{shown} is not a finite number above zero", todo
    if _GROUPED.fullmatch(text):
        todo = "write it with a decimal point and without separators, such as 1234.5"
    return f"{shown} is not a number", todo
