"""Manifests: what planning knows of a data source without reading it.

A manifest is a small JSON file, committed or built beside the data. `embedded/…` names those that ship with this
package; any other name is a folder, relative to the study file, that holds a `manifest.json`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

SHIPPED = Path(__file__).parent / "manifests"


class VocabularyManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A tokenizer's vocabulary. Sources that share a vocabulary share its `name` and `fingerprint`."""

    name: str
    size: int
    fingerprint: str


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A part of every sequence, tokens all of one vocabulary (a caption, an image's codes).

    `tokens` counts the training split. `entropy` is the unigram entropy of the training tokens, in nats per token;
    `field_entropy` the same with the place inside a frame of `fields` interleaved codes known (equal where fields = 1).
    `places` are the ids [first, last) that each place inside a frame may hold; empty where each may hold all.
    """

    vocabulary: str
    tokens: int
    entropy: float
    field_entropy: float
    fields: int = 1
    places: tuple[tuple[int, int], ...] = ()


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one split. `longest` is the content tokens of its longest sequence; `digest` the SHA-256 of its tokens
    and lengths as stored."""

    sequences: int
    tokens: int
    longest: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A data source. Content tokens only: the special tokens around them are the compiler's.

    `packed`: sequences are documents to be joined and cut to length; otherwise each is padded. `extra` names the
    optional dependency group that building needs.
    """

    name: str
    description: str
    licence: str
    packed: bool
    vocabularies: tuple[VocabularyManifest, ...]
    segments: tuple[Segment, ...]
    train: Split
    held_out: Split
    extra: str | None = None

    @property
    def digest(self) -> str:
        """Fingerprint of the data: what a run's id takes from it."""
        import hashlib

        parts = [self.train.digest, self.held_out.digest, *(v.fingerprint for v in self.vocabularies)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def manifest_path(data: str, folder: Path) -> Path:
    """Where the manifest of source `data` lies, for a study in `folder`."""
    return SHIPPED / f"{data}.json" if data.startswith("embedded/") else folder / data / "manifest.json"


def load_manifest(data: str, folder: Path) -> Manifest:
    """Read a manifest. Raises FileNotFoundError, or msgspec.ValidationError where the file is not a manifest."""
    return msgspec.json.decode(manifest_path(data, folder).read_bytes(), type=Manifest)
