"""Small sources and studies that tests make for themselves."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from compiler.manifest import Manifest, VocabularyManifest
from compiler.plan import RunPlan
from runtime.data.store import count, describe, pack, write

if TYPE_CHECKING:
    from runtime.training.evaluation import NelboValidator


def validator_of(run: RunPlan, folder: Path) -> NelboValidator:
    """What evaluates `run` in one process, its data named relative to `folder`."""
    from runtime.training.evaluation import NelboValidator

    return NelboValidator(
        NelboValidator.Config(run=run, data_root=folder),
        parallel_dims=SimpleNamespace(get_optional_mesh=lambda _: None),
        validation_context=nullcontext,
        dp_world_size=1,
        dp_rank=0,
    )


def write_source(
    folder: Path,
    segments: dict[str, int],
    *,
    sequences: int = 64,
    lengths: tuple[int, int] = (2, 4),
    packed: bool = False,
) -> None:
    """A source of random tokens in `folder`: `segments` maps a vocabulary's name to its size."""
    rng = np.random.default_rng(7)

    def split(rows: int) -> list[list[np.ndarray]]:
        return [
            [rng.integers(0, size, rng.integers(lengths[0], lengths[1] + 1)) for size in segments.values()]
            for _ in range(rows)
        ]

    train, held_out = pack(split(sequences)), pack(split(max(8, sequences // 4)))
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        name=folder.name,
        description="random tokens",
        licence="CC0-1.0",
        packed=packed,
        vocabularies=tuple(
            VocabularyManifest(name=name, size=size, fingerprint=f"{name}-{size}") for name, size in segments.items()
        ),
        segments=tuple(describe(name, train.of_segment(i)) for i, name in enumerate(segments)),
        train=count(train),
        held_out=count(held_out),
    )
    write(folder, {"train": train, "held_out": held_out}, manifest)


STUDY = """\
study: tiny
base:
  model: {width: 16, depth: 1, heads: 2}
  modalities:
    text:  {weight: 2, data: data/text}
    image: {weight: 1, data: data/image, noise: cosine}
  sequence_length: 12
  tokens: 3K
  batch: {physical: 8}
  optimizer: {lr: 1e-2}
  schedule: {warmup: 4}
  evaluation: {sequences: 16}
  checkpoint: {every: 5}
  log_every: 1
axes: []
"""


def write_study(folder: Path, text: str = STUDY) -> Path:
    """A study of two tiny modalities over random tokens; returns its file."""
    write_source(folder / "data/text", {"text": 20}, sequences=80, lengths=(3, 9), packed=True)
    write_source(folder / "data/image", {"text": 20, "image": 8}, sequences=80)
    file = folder / "study.yaml"
    file.write_text(text)
    return file
