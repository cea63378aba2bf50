"""A data source on disk: `manifest.json`, and for each split its tokens and the lengths of its sequences.

SPLIT.tokens.npy    (tokens,) unsigned: content tokens of all sequences one after the other; each is an id in the
                    vocabulary of its segment
SPLIT.lengths.npy   (sequences, segments) int32: tokens in each segment of each sequence
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from compiler.manifest import Manifest, Segment
from compiler.manifest import Split as Counts
from runtime.data.errors import DataError

SplitName = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")


@dataclass(frozen=True)
class Split:
    """One split's arrays. `tokens` (tokens,), `lengths` (sequences, segments) int32."""

    tokens: NDArray[np.unsignedinteger[Any]]
    lengths: NDArray[np.int32]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(sequences + 1,): sequence i is `tokens[offsets[i]:offsets[i + 1]]`, its segments in order."""
        return np.concatenate([[0], np.cumsum(self.lengths.sum(1, dtype=np.int64))])

    def __len__(self) -> int:
        return len(self.lengths)

    def segments(self, sequence: int) -> list[NDArray[np.unsignedinteger[Any]]]:
        """Tokens of one sequence, an array per segment."""
        start, end = self.offsets[sequence : sequence + 2]
        return np.split(self.tokens[start:end], np.cumsum(self.lengths[sequence])[:-1])

    def of_segment(self, segment: int) -> NDArray[np.unsignedinteger[Any]]:
        """All tokens of one segment, sequence after sequence."""
        which = np.tile(np.arange(self.lengths.shape[1]), len(self))
        chosen: NDArray[np.unsignedinteger[Any]] = self.tokens[np.repeat(which, self.lengths.ravel()) == segment]
        return chosen


@dataclass(frozen=True)
class Source:
    """A verified data source, memory-mapped."""

    manifest: Manifest
    folder: Path

    def split(self, name: SplitName) -> Split:
        """The arrays of one split, read-only."""
        return Split(
            tokens=np.load(_tokens(self.folder, name), mmap_mode="r"),
            lengths=np.load(_lengths(self.folder, name), mmap_mode="r"),
        )


def _tokens(folder: Path, split: SplitName) -> Path:
    return folder / f"{split}.tokens.npy"


def _lengths(folder: Path, split: SplitName) -> Path:
    return folder / f"{split}.lengths.npy"


def pack(sequences: Sequence[Sequence[Sequence[int] | NDArray[Any]]]) -> Split:
    """Arrays of `sequences`, each a sequence of segments, each a sequence of token ids below 65536."""
    lengths = np.array([[len(segment) for segment in segments] for segments in sequences], dtype=np.int32)
    parts = [np.asarray(segment, dtype=np.uint16) for segments in sequences for segment in segments]
    return Split(tokens=np.concatenate(parts), lengths=lengths)


def write(folder: Path, splits: dict[SplitName, Split], manifest: Manifest) -> None:
    """Write a source into the existing `folder`."""
    for name, split in splits.items():
        np.save(_tokens(folder, name), split.tokens)
        np.save(_lengths(folder, name), split.lengths)
    (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def digest(split: Split) -> str:
    """SHA-256 of the tokens and lengths as stored, little-endian."""
    hashed = hashlib.sha256()
    for array in (split.tokens, split.lengths):
        hashed.update(f"{array.dtype.kind}{array.dtype.itemsize}{array.shape}".encode())
        hashed.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
    return hashed.hexdigest()


def count(split: Split) -> Counts:
    """The manifest's entry for `split`."""
    return Counts(
        sequences=len(split),
        tokens=len(split.tokens),
        longest=int(split.lengths.sum(1).max()),
        digest=digest(split),
    )


def describe(vocabulary: str, tokens: NDArray[Any], places: tuple[tuple[int, int], ...] = ()) -> Segment:
    """The manifest's entry for a segment whose training tokens are `tokens`, frame after frame where a frame has
    `places` for several."""
    fields = max(1, len(places))
    by_field = [_entropy(tokens[field::fields]) for field in range(fields)]
    return Segment(
        vocabulary=vocabulary,
        tokens=len(tokens),
        entropy=_rounded(_entropy(tokens)),
        field_entropy=_rounded(sum(by_field) / fields),
        fields=fields,
        places=places,
    )


def _entropy(tokens: NDArray[Any]) -> float:
    counts = np.bincount(tokens)
    shares = counts[counts > 0] / len(tokens)
    return float(-(shares * np.log(shares)).sum())


def _rounded(nats: float) -> float:
    """To a size that does not depend on the order of summation."""
    return round(nats, 6)


def verify(folder: Path, manifest: Manifest) -> None:
    """Check that `folder` holds just what `manifest` says. Raises DataError naming the file that differs."""
    for name, expected in (("train", manifest.train), ("held_out", manifest.held_out)):
        assert name in SPLITS
        try:
            split = Source(manifest, folder).split(name)
        except (OSError, ValueError, EOFError) as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            file = getattr(error, "filename", None) or folder / f"{name}.*.npy"
            raise DataError(f"{file}: {reason}; {_remedy(folder, manifest)}") from error
        if split.lengths.ndim != 2 or split.lengths.shape[1] != len(manifest.segments):
            raise DataError(
                f"{_lengths(folder, name)}: has shape {split.lengths.shape}, but the manifest names "
                f"{len(manifest.segments)} segments; {_remedy(folder, manifest)}"
            )
        found = count(split)
        if found != expected:
            raise DataError(
                f"{_tokens(folder, name)}, {_lengths(folder, name).name}: SHA-256 is {found.digest[:12]}… "
                f"({found.sequences} sequences, {found.tokens} tokens), the manifest says {expected.digest[:12]}… "
                f"({expected.sequences}, {expected.tokens}); {_remedy(folder, manifest)}"
            )


def _remedy(folder: Path, manifest: Manifest) -> str:
    if manifest.name.startswith("embedded/"):
        return f"delete {folder} and build {manifest.name} again"
    return f"restore the files that {folder / 'manifest.json'} was written for, or write it anew"
