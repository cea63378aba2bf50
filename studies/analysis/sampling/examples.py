"""Pictures, sounds and text that points have left, so much as a page can hold."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from compiler.plan import Id
from compiler.sampling import POINTS, Judged
from studies.analysis.samples import MAGIC, MOST_BYTES, MOST_FILES, Sample, read_sample


def read_examples(folder: Path, points: Iterable[Judged]) -> tuple[dict[Id, list[Sample]], list[str]]:
    """The examples of `points` of the study in `folder` by the point's id, and what was left out and why.

    Points take turns, so that the bound leaves something of each. Links are not followed.
    """
    kept: dict[Id, list[Sample]] = {}
    out: list[str] = []
    room, over = MOST_BYTES, 0
    for point, name in _in_turns(list(points)):
        if sum(map(len, kept.values())) >= MOST_FILES or room <= 0:
            over += 1
            continue
        found = _read(folder / POINTS / point.id, name)
        if isinstance(found, str):
            out.append(f"{point.name or point.id}: {name}: {found}")
        elif len(found) > room:
            over += 1
        else:
            kind = PurePosixPath(name).suffix.lower()
            kept.setdefault(point.id, []).append(Sample(point.id, name, kind, found))
            room -= len(found)
    if over:
        out.append(f"{over} more: a page holds {MOST_FILES} examples of {MOST_BYTES / 1e6:g} MB in all")
    return kept, out


def _in_turns(points: list[Judged]) -> Iterable[tuple[Judged, str]]:
    """The first example of every point, then the second of every point, and so on."""
    for names in zip_longest(*(point.examples for point in points)):
        yield from ((point, name) for point, name in zip(points, names, strict=True) if name is not None)


def _read(folder: Path, name: str) -> bytes | str:
    """The bytes of an example, or why there are none; text is cut."""
    kind = PurePosixPath(name).suffix.lower()
    if kind not in MAGIC:
        return "is no text, picture or sound"
    if PurePosixPath(name).name != name or "\0" in name:
        return "is not the name of a file in the point's folder"
    path = folder / name
    if path.is_symlink():
        return "is a link"
    return read_sample(path)
