"""Samples as files: text, a contact sheet of pictures, sounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from runtime.data import Picture, Text, contact_sheet
from runtime.judges.base import Sample


def write(samples: Sequence[Sample], folder: Path, name: str, most_sounds: int | None = None) -> list[Path]:
    """Write samples as `NAME.txt`, `NAME.png` (a contact sheet) or a `NAME.NUMBER.ASKED.wav` each, into `folder`, in
    place of what samples of that name were there; returns what was written. Of sounds at most `most_sounds`."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}.*"):
        if old.is_file() and old.suffix in (".txt", ".png", ".wav"):
            old.unlink()
    pictures = [sample.made for sample in samples if isinstance(sample.made, Picture)]
    if pictures:
        path = folder / f"{name}.png"
        contact_sheet(pictures, [sample.asked for sample in samples]).save(path)
        return [path]
    texts = [_told(sample.asked, sample.made.text) for sample in samples if isinstance(sample.made, Text)]
    if texts:
        return [Text("\n\n".join(texts)).save(folder / name)]
    digits = len(str(len(samples) - 1))
    return [
        sample.made.save(folder / f"{name}.{number:0{digits}}.{_word(sample.asked)}")
        for number, sample in enumerate(samples[:most_sounds])
    ]


def _told(asked: str, text: str) -> str:
    """A text, under what was asked for."""
    return f"[{asked}]\n{text}" if asked else text


def _word(asked: str) -> str:
    """What was asked for, as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", asked).strip("-")[:60] or "sample"
