"""Lines of `metrics.jsonl` as tables of numbers, as fast as their text can be decoded."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from studies.analysis.lines import decode_lines

Array = NDArray[np.float64]

BANDS = 4
"""Quarters of t in (0, 1] that the loss is split by."""
MEASURED = ("loss", "tokens_per_second", "padding", "data_wait", "mfu")
"""Numbers of a row beside its step, tokens and seconds, its losses by modality and its bands."""

_SCALARS = ("step", "tokens", "seconds", *MEASURED)
_NUMBER = 0xCB
"""MessagePack's first byte of a number, of which eight more follow; a null is one byte, another."""


@dataclass(frozen=True)
class _Layout:
    """Where numbers stand in MessagePack of rows that have nulls in the same places."""

    width: int
    dtype: np.dtype[np.void]
    numbers: list[int]
    marks: list[int]


class RowReader:
    """Makes tables (rows, numbers) of lines: of each row `step`, `tokens`, `seconds` and `MEASURED`, then the loss of
    each of `modalities` and the bands, NaN where it has none."""

    def __init__(self, modalities: Sequence[str]) -> None:
        self.width = len(_SCALARS) + len(modalities) + BANDS
        self._modalities = len(modalities)
        self._losses = _numbers("Losses", {f"m{k}": name for k, name in enumerate(modalities)})
        self._bands = _numbers("Bands", {f"b{k}": f"b{k}" for k in range(BANDS)}, array_like=True)
        # A struct of just these fields: its decoder steps over all others without making anything of them.
        self._row = msgspec.defstruct(
            "Row",
            [
                ("step", float),
                *((name, float | None, math.nan) for name in _SCALARS[1:]),
                ("losses", self._losses | None, self._losses()),
                ("bands", self._bands | None, self._bands()),
            ],
            gc=False,
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._row)
        self._layouts: dict[tuple[bool, ...], _Layout] = {}

    def read(self, block: bytes) -> tuple[Array, int]:
        """The table of a block of lines, and how many of them are no rows."""
        rows, skipped = decode_lines(self._decoder, block)
        table = self._at_once(rows) if rows else None
        if table is None:
            table = np.array([self._flat(row) for row in rows], dtype=np.float64).reshape(len(rows), self.width)
        return table, skipped

    def _flat(self, row: Any) -> tuple[float | None, ...]:
        *scalars, losses, bands = msgspec.structs.astuple(row)
        by_modality, by_band = losses or self._losses(), bands or self._bands()
        return (*scalars, *msgspec.structs.astuple(by_modality), *msgspec.structs.astuple(by_band))

    def _at_once(self, rows: list[Any]) -> Array | None:
        """The table of rows that have nulls in the same places, None of others. Numpy takes the numbers from where they
        stand in MessagePack, in a third of the time that tuples take."""
        first = rows[0]
        if first.losses is None or first.bands is None:
            return None
        nulls = tuple(number is None for number in self._flat(first))
        layout = self._layouts.get(nulls)
        if layout is None:
            layout = self._layouts[nulls] = self._layout(nulls)
        encoded = msgspec.msgpack.encode(rows)
        header = 1 if len(rows) < 1 << 4 else 3 if len(rows) < 1 << 16 else 5
        if len(encoded) != header + len(rows) * layout.width:
            return None
        if any(nulls):
            # Rows with as many nulls in other places are as long; the first of those lacks a number that is expected.
            marks = np.frombuffer(encoded, np.uint8, offset=header).reshape(len(rows), layout.width)[:, layout.marks]
            if not (marks == _NUMBER).all():
                return None
        found = np.frombuffer(encoded, layout.dtype, offset=header)
        table = np.full((len(rows), self.width), math.nan)
        for k in layout.numbers:
            table[:, k] = found[str(k)]
        return table

    def _layout(self, nulls: tuple[bool, ...]) -> _Layout:
        # Numbers that no text has inside: the bytes of each are found once.
        values = [None if null else math.pi + k for k, null in enumerate(nulls)]
        split = len(_SCALARS), len(_SCALARS) + self._modalities
        losses, bands = self._losses(*values[split[0] : split[1]]), self._bands(*values[split[1] :])
        encoded = msgspec.msgpack.encode(self._row(*values[: split[0]], losses, bands))
        numbers = [k for k, null in enumerate(nulls) if not null]
        places = [encoded.index(bytes([_NUMBER]) + struct.pack(">d", values[k])) for k in numbers]
        dtype = np.dtype(
            {
                "names": [str(k) for k in numbers],
                "formats": [">f8"] * len(numbers),
                "offsets": [place + 1 for place in places],
                "itemsize": len(encoded),
            }
        )
        return _Layout(len(encoded), dtype, numbers, places)


def _numbers(kind: str, named: dict[str, str], array_like: bool = False) -> type[msgspec.Struct]:
    fields = [(field, float | None, math.nan) for field in named]
    return msgspec.defstruct(kind, fields, rename=named, array_like=array_like, frozen=True, gc=False)
