"""Rows of `metrics.jsonl` and `eval.jsonl` as polars tables, also while they are written.

Half-written lines, and whatever else is no row, are skipped and counted; a step that was logged twice, by a run that
was resumed, stands once, as last written.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from compiler.records import MIX
from studies.analysis.lines import blocks, decode_lines

Schema = dict[str, Any]
"""Polars data types by column."""

_SIZE = 1 << 22
"""Bytes that polars is given at a time."""

_METRICS: Schema = {
    "step": pl.Int64,
    "tokens": pl.Int64,
    "loss": pl.Float64,
    "lr": pl.Float64,
    "grad_norm": pl.Float64,
    "tokens_per_second": pl.Float64,
    "padding": pl.Float64,
    "seconds": pl.Float64,
    "bands": pl.List(pl.Float64),
    "parameter_norm": pl.Float64,
    "update_norm": pl.Float64,
    "data_wait": pl.Float64,
    "mfu": pl.Float64,
}
_EVALUATIONS: Schema = {
    "step": pl.Int64,
    "tokens": pl.Int64,
    "modality": pl.String,
    "nelbo": pl.Float64,
    "standard_error": pl.Float64,
    "conditional": pl.Float64,
    "scored_tokens": pl.Int64,
    "sequences": pl.Int64,
}


class _Stepped(msgspec.Struct):
    """What every row has."""

    step: float


_ROWS = msgspec.json.Decoder(_Stepped)


class Layout:
    """How a study's rows lie in columns: `modalities`, then the blocks of its deepest model, and the parts that tokens
    are of."""

    def __init__(self, modalities: Sequence[str], depth: int, parts: Sequence[str]) -> None:
        self.modalities, self.parts = list(modalities), list(parts)
        self.places = ["embedding", *(f"block.{i}" for i in range(depth)), "final", "logits"]

    @cached_property
    def _nested(self) -> dict[str, pl.Expr]:
        """Columns of numbers that lie inside a field of `_kinds`."""
        losses, activations, noise = map(pl.col, self._kinds)
        return {
            **{f"loss:{name}": losses.struct.field(name) for name in self.modalities},
            **{
                f"{field}:{name}": noise.struct.field(name).struct.field(field)
                for name in [*self.modalities, MIX]
                for field in ("signal", "noise")
            },
            **{f"activation:{name}": activations.struct.field(name) for name in self.places},
        }

    @cached_property
    def _kinds(self) -> Schema:
        noise = pl.Struct({"signal": pl.Float64, "noise": pl.Float64})
        return {
            "losses": _struct(self.modalities),
            "activations": _struct(self.places),
            "gradient_noise": pl.Struct(dict.fromkeys([*self.modalities, MIX], noise)),
        }

    @property
    def metrics(self) -> Schema:
        """Columns of a run's metrics as `read_metrics` gives them."""
        return {"id": pl.String, **_METRICS, **dict.fromkeys(self._nested, pl.Float64)}

    def read_metrics(self, run: str, path: Path, wanted: Collection[str] | None = None) -> tuple[pl.DataFrame, int]:
        """A run's `metrics.jsonl` in the order of its steps, and the number of lines that could not be read.

        Of the columns `metrics` only those `wanted` are there, and id and step: the others are not decoded.
        """
        columns = [name for name in self.metrics if wanted is None or name in wanted or name in ("id", "step")]
        nested = {name: self._nested[name] for name in columns if name in self._nested}
        needed = {name for expression in nested.values() for name in expression.meta.root_names()}
        schema = {name: kind for name, kind in _METRICS.items() if name in columns}
        rows, skipped = read_rows(path, schema | {name: kind for name, kind in self._kinds.items() if name in needed})
        wide = rows.with_columns(pl.lit(run).alias("id"), **nested).select(columns)
        return wide.unique("step", keep="last", maintain_order=True).sort("step"), skipped

    def read_evaluations(self, files: dict[str, Path]) -> tuple[pl.DataFrame, int]:
        """The `eval.jsonl` of runs, by id, together in the order of steps, and the number of lines that could not be
        read."""
        schema: Schema = {**_EVALUATIONS, "by_token_modality": _struct(self.parts)}
        read = [read_rows(path, schema) for path in files.values()]
        rows = pl.concat([pl.DataFrame(schema=schema), *(frame for frame, _ in read)])
        wide = rows.select(
            repeated(list(files), [len(frame) for frame, _ in read]),
            pl.exclude("by_token_modality"),
            *(pl.col("by_token_modality").struct.field(name).alias(f"nelbo:{name}") for name in self.parts),
        )
        whole = wide.unique(["id", "step", "modality"], keep="last", maintain_order=True)
        return whole.sort("step", maintain_order=True), sum(skipped for _, skipped in read)


def repeated(ids: Sequence[str], times: Sequence[int]) -> pl.Series:
    """A column `id` in which each id stands so many times."""
    return pl.Series("id", ids, pl.String).gather(np.repeat(np.arange(len(ids)), times))


def scan_metrics(files: Iterable[tuple[dict[str, str], Layout, str, Path]]) -> pl.LazyFrame:
    """The metrics of many runs as one lazy table: a run's file is read when its turn comes, and then let go.

    Each of `files` is a run's: columns to set before its rows, the layout that it is read by, its id, and where it
    lies. Columns that a run does not have are null.
    """
    runs = list(files)
    front = dict.fromkeys((name for added, *_ in runs for name in added), pl.String)
    schema: Schema = {**front, "id": pl.String, **_METRICS}
    for layout in {id(layout): layout for _, layout, _, _ in runs}.values():
        schema |= layout.metrics
    missing = pl.DataFrame(schema=schema)

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, most: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        asked = None if predicate is None else predicate.meta.root_names()
        wanted = None if columns is None else {*columns, *(asked or ())}
        for added, layout, run, path in runs:
            rows, _ = layout.read_metrics(run, path, wanted)
            rows = pl.concat([missing, rows.with_columns(pl.lit(v).alias(k) for k, v in added.items())], how="diagonal")
            if most is not None:
                rows = rows.head(most)
                most -= len(rows)
            if predicate is not None:
                rows = rows.filter(predicate)
            yield rows if columns is None else rows.select(columns)
            if most == 0:
                return

    return register_io_source(read, schema=schema, is_pure=False)


def read_rows(path: Path, schema: Schema) -> tuple[pl.DataFrame, int]:
    """The rows of a JSON-lines file with the columns of `schema`, and how many lines could not be read.

    `schema` has a column `step`, without which a line is no row. A missing file, or what is no plain file, is an empty
    table; a missing field is null; fields that the schema does not name are dropped.
    """
    frames, skipped = [pl.DataFrame(schema=schema)], 0
    for block in _joined(blocks(path)):
        frame, lost = _read_block(block, schema)
        frames.append(frame)
        skipped += lost
    return pl.concat(frames), skipped


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    joined, size = [], 0
    for part in parts:
        joined.append(part)
        size += len(part)
        if size >= _SIZE:
            yield b"".join(joined)
            joined, size = [], 0
    yield b"".join(joined)


def _read_block(block: bytes, schema: Schema) -> tuple[pl.DataFrame, int]:
    if not block.strip():
        return pl.DataFrame(schema=schema), 0
    try:
        rows = pl.read_ndjson(io.BytesIO(block), schema=schema)
    except pl.exceptions.PolarsError:
        return _read_each(block.split(b"\n"), schema)
    whole = rows.filter(pl.col("step").is_not_null())
    return whole, len(rows) - len(whole)


def _read_each(lines: list[bytes], schema: Schema) -> tuple[pl.DataFrame, int]:
    """As `_read_block`, of lines among which some are broken."""
    filled = [line for line in lines if line.strip()]
    whole = [line for line in filled if decode_lines(_ROWS, line)[0]]
    frames, skipped = [pl.DataFrame(schema=schema)], len(filled) - len(whole)
    try:
        frames.append(pl.read_ndjson(io.BytesIO(b"\n".join(whole)), schema=schema) if whole else frames[0])
    except pl.exceptions.PolarsError:
        # A number is out of all range, or the like: find which line it is.
        for line in whole:
            try:
                frames.append(pl.read_ndjson(io.BytesIO(line), schema=schema))
            except pl.exceptions.PolarsError:
                skipped += 1
    return pl.concat(frames), skipped


def _struct(names: Sequence[str]) -> pl.Struct:
    return pl.Struct(dict.fromkeys(names, pl.Float64()))
