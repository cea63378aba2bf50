"""JSON-lines files that may be written meanwhile, as blocks of whole lines: no file is held in memory at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from compiler.files import open_plain

BLOCK = 1 << 16
"""Bytes that are read at a time: what a core's own cache holds, which makes decoding a third faster than of 1 MB."""
LONGEST = 1 << 20
"""Bytes that a line may have; a row has some hundreds."""


def blocks(path: Path) -> Iterator[bytes]:
    """The file's lines in blocks of some `BLOCK` bytes; the last may lack its line break, as it does while it is
    written.

    A line of more than `LONGEST` bytes comes as a broken one. A missing file, or what is no plain file, has none.
    """
    try:
        file = open_plain(path)
    except OSError:
        return
    with file:
        rest, dropping = b"", False
        while data := file.read(BLOCK):
            if dropping:
                _, end, data = data.partition(b"\n")
                dropping = not end
            whole, end, tail = data.rpartition(b"\n")
            if end:
                yield rest + whole + end
                rest = tail
            else:
                rest += tail
            if len(rest) > LONGEST:
                yield b"{\n"
                rest, dropping = b"", True
        if rest:
            yield rest


def decode_lines(decoder: msgspec.json.Decoder[Any], block: bytes) -> tuple[list[Any], int]:
    """What a block's lines say, and how many say nothing that `decoder` knows."""
    with contextlib.suppress(*_BROKEN):
        return decoder.decode_lines(block), 0
    # A line is broken (its writer was killed, or is at it): take the block line by line.
    said, skipped = [], 0
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        try:
            said.append(decoder.decode(line))
        except _BROKEN:
            skipped += 1
    return said, skipped


def size_of(path: Path) -> int:
    """A file's bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
