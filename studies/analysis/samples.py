"""What runs have sampled: the text, images and sound in their folders `samples/`, so much as a page can hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compiler.files import open_plain
from studies.analysis.results import Study, run_folder

MOST_FILES = 60
"""Samples of one study that are kept."""
MOST_BYTES = 2_000_000
"""Bytes that they may have together."""
LARGEST = 400_000
"""Bytes that one may have; text is cut there."""

MAGIC = {".txt": b"", ".png": b"\x89PNG\r\n\x1a\n", ".wav": b"RIFF"}
"""Kinds of samples, by how their files' names end, and what the files begin with."""


@dataclass(frozen=True)
class Sample:
    """One file: the `run` that made it, its `name`, its kind (`.txt`, `.png` or `.wav`) and its bytes."""

    run: str
    name: str
    kind: str
    data: bytes


def read_samples(study: Study) -> tuple[list[Sample], list[str]]:
    """The samples of all runs, in the plan's order and by name, and what was left out and why.

    The files of runs take turns, so that the bound leaves something of each. Links are not followed.
    """
    kept: list[Sample] = []
    out: list[str] = []
    room, over = MOST_BYTES, 0
    for run, path in _in_turns(study):
        if len(kept) >= MOST_FILES or room <= 0:
            over += 1
            continue
        found = read_sample(path)
        if isinstance(found, str):
            out.append(f"{run}: {path.name}: {found}")
        elif len(found) > room:
            over += 1
        else:
            kept.append(Sample(run, path.name, path.suffix.lower(), found))
            room -= len(found)
    if over:
        out.append(f"{over} more: a page holds {MOST_FILES} samples of {MOST_BYTES / 1e6:g} MB in all")
    order = {run: place for place, (run, _) in enumerate(_names(study))}
    kept.sort(key=lambda sample: (order[sample.run], sample.name))
    return kept, out


def _names(study: Study) -> Iterator[tuple[str, str]]:
    """Each run's name, and its id."""
    return ((run.name or run.id, run.id) for run in study.plan.runs)


def _in_turns(study: Study) -> Iterator[tuple[str, Path]]:
    """The first file of every run, then the second of every run, and so on."""
    queues = [(name, _files(run_folder(study.folder, run_id) / "samples")) for name, run_id in _names(study)]
    for turn in range(max((len(files) for _, files in queues), default=0)):
        yield from ((name, files[turn]) for name, files in queues if turn < len(files))


def _files(folder: Path) -> list[Path]:
    try:
        found = [Path(entry.path) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(path for path in found if path.suffix.lower() in MAGIC)


def read_sample(path: Path) -> bytes | str:
    """The bytes of a sample's file, of a kind in `MAGIC`, or why there are none; text is cut."""
    kind = path.suffix.lower()
    try:
        with open_plain(path) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if kind == ".txt":
        return data[:LARGEST]
    if len(data) > LARGEST:
        return f"larger than {LARGEST / 1e3:g} kB"
    if not data.startswith(MAGIC[kind]) or (kind == ".wav" and data[8:12] != b"WAVE"):
        return f"is no {kind[1:].upper()} file"
    return data
