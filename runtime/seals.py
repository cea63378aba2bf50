"""Checksums of a checkpoint's files: each rank that wrote it seals its own when they are all on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from compiler.files import decode, open_plain, write_atomically


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """`seal-RANK.json`: how many ranks wrote the checkpoint, and the SHA-256 sums of this rank's files by name."""

    ranks: int
    files: dict[str, str]


_SEALS = msgspec.json.Decoder(Seal)


def seal(folder: Path, rank: int, ranks: int, names: Iterable[str]) -> None:
    """Seal these files of `folder` as those that `rank` of `ranks` wrote."""
    sealed = Seal(ranks=ranks, files={name: _sum(folder / name) for name in names})
    write_atomically(folder / f"seal-{rank}.json", msgspec.json.encode(sealed))


def _seals(folder: Path) -> list[Seal]:
    """The seals of all ranks that wrote a checkpoint. Raises OSError or msgspec.MsgspecError where one is missing."""
    first = decode(folder / "seal-0.json", _SEALS)
    return [first, *(decode(folder / f"seal-{rank}.json", _SEALS) for rank in range(1, first.ranks))]


def is_sealed(folder: Path) -> bool:
    """Whether all ranks have sealed a checkpoint; their files are not looked at."""
    try:
        return bool(_seals(folder))
    except (OSError, msgspec.MsgspecError):
        return False


def differing(folder: Path, reader: int = 0, readers: int = 1) -> str:
    """What of a checkpoint is not as it was sealed, in words; empty where it is whole. Of many readers each looks at a
    share of the files."""
    try:
        files = {name: digest for seal in _seals(folder) for name, digest in seal.files.items()}
        for name in sorted(files)[reader::readers]:
            if "/" in name or _sum(folder / name) != files[name]:
                return f"{name} differs from its checksum"
    except (OSError, msgspec.MsgspecError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _sum(path: Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
