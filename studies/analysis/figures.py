"""A figure taken apart: its Vega-Lite spec, and the tables that it draws from.

Pages, CSV files and images are all made of this, so that a figure's data are what is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import altair as alt
import msgspec
import polars as pl

DIGITS = 7
"""Significant digits that pages keep of a number; files written by `export` keep all."""
_FORMULA = r"^[=+\-@\t\r]"


@dataclass(frozen=True)
class Drawn:
    """`spec` names its tables (`data: {"name": …}`) and holds no rows; `tables` has them in the order of the spec."""

    spec: dict[str, Any]
    tables: dict[str, pl.DataFrame]


def drawn(made: alt.TopLevelMixin, description: str = "") -> Drawn:
    """Take `made` apart; `description` is what a screen reader says of it where the chart does not say itself.

    Equal tables have equal names, also over several figures.
    """
    found: dict[str, pl.DataFrame] = {}

    def keep(data: Any) -> Any:
        if not isinstance(data, pl.DataFrame):
            return alt.to_values(data)
        name = f"rows-{hashlib.sha256(encoded(data)).hexdigest()[:16]}"
        found[name] = data
        return {"name": name}

    alt.data_transformers.register("triptych", keep)
    with alt.data_transformers.enable("triptych"):
        # Charts are checked where they are tested; to check each again would take most of a report's time.
        spec: dict[str, Any] = made.to_dict(validate=False)
    # The page's theme, or the file's, gives all of the looks; Altair's default config would override it.
    spec.pop("config", None)
    for name, rows in spec.pop("datasets", {}).items():
        found[name] = pl.DataFrame(rows)
    if description:
        spec.setdefault("description", description)
    used = dict.fromkeys(name for name in _names(spec) if name in found)
    return Drawn(spec, {name: found[name] for name in used})


def encoded(table: pl.DataFrame) -> bytes:
    """A table as JSON by columns, `{"rows", "columns": {name: values}}`; text that repeats is `{"of", "at"}`: its
    distinct values, and which of them stands in each row. Numbers that are not finite are null."""
    columns = {column.name: _encoded(column) for column in table.iter_columns()}
    return msgspec.json.encode({"rows": len(table), "columns": columns})


def inlined(figure: Drawn, width: int) -> dict[str, Any]:
    """The spec with its rows inside, `width` pixels wide where it would fill its place."""
    spec = {**figure.spec, "datasets": {name: _plain(table).to_dicts() for name, table in figure.tables.items()}}
    if spec.get("width") == "container":
        spec["width"] = width
    return spec


def one_table(figure: Drawn) -> pl.DataFrame:
    """All of a figure's data as one table; with several, a first column `table` counts them, and columns that one of
    them lacks are empty there."""
    tables = [flat(table) for table in figure.tables.values()]
    if not tables:
        return pl.DataFrame()
    if len(tables) == 1:
        return tables[0]
    number = "table"
    while any(number in table.columns for table in tables):
        number += "_"
    numbered = [table.select(pl.lit(k).alias(number), pl.all()) for k, table in enumerate(tables, 1)]
    return pl.concat(numbered, how="diagonal_relaxed")


def flat(table: pl.DataFrame) -> pl.DataFrame:
    """`table` fit for CSV: nested values as JSON, and text that a spreadsheet would run as a formula behind a `'`."""
    changed = []
    for name, kind in table.schema.items():
        column = pl.col(name)
        if kind.is_nested() or kind == pl.Object:
            changed.append(column.map_elements(_json, return_dtype=pl.String))
        elif kind in (pl.String, pl.Categorical) or isinstance(kind, pl.Enum):
            text = column.cast(pl.String)
            changed.append(pl.when(text.str.contains(_FORMULA)).then("'" + text).otherwise(text).alias(name))
    return table.with_columns(changed)


def _json(value: Any) -> str:
    if isinstance(value, pl.Series):
        value = value.to_list()
    return msgspec.json.encode(value).decode()


def _names(node: Any) -> Iterator[str]:
    """The tables that a spec draws from, in its order."""
    if isinstance(node, dict):
        data = node.get("data")
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            yield data["name"]
        for value in node.values():
            yield from _names(value)
    elif isinstance(node, list):
        for value in node:
            yield from _names(value)


def _encoded(column: pl.Series) -> Any:
    if column.dtype.is_float():
        return column.round_sig_figs(DIGITS).to_list()
    if column.dtype == pl.String and len(column) > 1:
        distinct = column.unique(maintain_order=True)
        if 2 * len(distinct) <= len(column):
            places = {value: k for k, value in enumerate(distinct.to_list())}
            return {"of": list(places), "at": [places[value] for value in column.to_list()]}
    return _plain(column.to_frame()).to_series().to_list()


def _plain(table: pl.DataFrame) -> pl.DataFrame:
    """Numbers that are not finite as null, which is what JSON can say."""
    floats = [name for name, kind in table.schema.items() if kind.is_float()]
    return table.with_columns(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats)
