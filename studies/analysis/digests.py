"""What a report needs of `metrics.jsonl`, in a few hundred rows a run, however many it logged.

A digest holds, for each stretch of equal length in log tokens (`STRETCHES` to a doubling), the sum and the count of
every measured value: stretches can be put together, and means over them are means over all the rows that were logged.
Files are read in bounded blocks and only the fields that are summed are decoded, by as many processes as there are
cores. Where much was read, the digests are kept beside the study for the next time; a run whose file has changed since
is read again.

This module, which worker processes import, needs numpy and msgspec only.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from compiler.files import PLAN, decode, write_atomically
from studies.analysis.lines import blocks
from studies.analysis.rows import BANDS, MEASURED, Array, RowReader

STRETCHES = 12
"""Stretches of log tokens to a doubling: each is 6 % longer than the one before."""
_PLACED = ("stretch", "rows", "step", "seen", "seconds", "tokens")
_VERSION = 1
_WORTH = 1 << 26
"""Bytes of rows above which other processes help, and the digests are kept."""

Key = tuple[int, int, int]
"""What tells whether a file has changed: bytes, nanoseconds of the last change, inode."""


class Digest(msgspec.Struct, frozen=True):
    """One run's rows. `values` is a table of float64 by rows, a row a stretch, with the columns that `columns` names;
    `skipped` counts lines that could not be read."""

    key: Key
    skipped: int
    values: bytes

    def table(self, modalities: Sequence[str]) -> Array:
        """The table (stretches, columns)."""
        return np.frombuffer(self.values).reshape(-1, len(columns(modalities)))


class _Kept(msgspec.Struct, frozen=True):
    version: int
    modalities: list[str]
    runs: dict[str, Digest]


class _Job(msgspec.Struct, frozen=True):
    modalities: list[str]
    files: dict[str, str]


_KEPT = msgspec.json.Decoder(_Kept)
_JOBS = msgspec.json.Decoder(_Job)
_DIGESTS = msgspec.json.Decoder(dict[str, Digest])


def columns(modalities: Sequence[str]) -> list[str]:
    """Names of a digest's columns: `stretch` (its number), `rows` in it, the last row's `step`, tokens `seen` and
    `seconds`, the sum of `tokens`; then `sum:VALUE` and `count:VALUE` of `MEASURED`, `loss:MODALITY` and `band:1` to
    `band:4`."""
    measured = [*MEASURED, *(f"loss:{name}" for name in modalities), *(f"band:{k + 1}" for k in range(BANDS))]
    return [*_PLACED, *(f"sum:{name}" for name in measured), *(f"count:{name}" for name in measured)]


def digest_runs(files: dict[str, Path], modalities: Sequence[str], kept: Path | None = None) -> dict[str, Digest]:
    """The digest of each of `files`, by the same key; a missing file's is empty.

    `kept` is the file that holds the digests of an earlier time, and is written anew where much had to be read; that
    it cannot be read or written does no harm.
    """
    names = list(modalities)
    before = _read_kept(kept, names)
    keys = {name: _key(path) for name, path in files.items()}
    found = {name: before[name] for name, key in keys.items() if name in before and before[name].key == key}
    fresh = {name: path for name, path in files.items() if name not in found}
    weight = sum(keys[name][0] for name in fresh)
    found |= _share(fresh, names, _cores()) if weight > _WORTH else _digest_all(fresh, names)
    if kept is not None and weight > _WORTH:
        with contextlib.suppress(OSError):
            data = msgspec.json.encode(_Kept(_VERSION, names, found))
            write_atomically(kept, data, durably=False)
    return {name: found[name] for name in files}


def digest_file(path: Path, modalities: Sequence[str]) -> Digest:
    """The digest of one `metrics.jsonl`. Steps that were logged twice count once, as last written."""
    key = _key(path)
    reader = RowReader(modalities)
    parts, skipped = [], 0
    for block in blocks(path):
        part, lost = reader.read(block)
        parts.append(part)
        skipped += lost
    rows = np.concatenate([np.empty((0, reader.width)), *parts])
    return Digest(key, skipped, _sums(_once(rows)).tobytes())


def _once(rows: Array) -> Array:
    """Rows in the order of their steps (the first column), each step once, as it stands last."""
    steps = rows[:, 0]
    if np.all(np.diff(steps) > 0):
        return rows
    _, last = np.unique(steps[::-1], return_index=True)
    return rows[len(rows) - 1 - last]


def _sums(rows: Array) -> Array:
    """The digest's table of rows (step, tokens, seconds, then what is summed)."""
    tokens = rows[:, 1]
    stretch = np.floor(STRETCHES * np.log2(np.maximum(np.nan_to_num(tokens), 1.0)))
    order = np.argsort(stretch, kind="stable")
    rows, stretch = rows[order], stretch[order]
    starts = np.flatnonzero(np.diff(stretch, prepend=-1.0))
    if not len(starts):
        return np.empty((0, len(_PLACED) + 2 * (rows.shape[1] - 3)))
    ends = np.append(starts[1:], len(rows))
    there = np.isfinite(rows)
    sums = np.add.reduceat(np.where(there, rows, 0.0), starts)
    counts = np.add.reduceat(there.astype(float), starts)
    last = rows[ends - 1]
    placed = np.column_stack([stretch[starts], ends - starts, last[:, :3], sums[:, 1]])
    return np.hstack([placed, sums[:, 3:], counts[:, 3:]])


def _digest_all(files: dict[str, Path], modalities: list[str]) -> dict[str, Digest]:
    collects = gc.isenabled()
    gc.disable()  # Millions of rows are made and dropped, none of them in a cycle.
    try:
        return {name: digest_file(path, modalities) for name, path in files.items()}
    finally:
        if collects:
            gc.enable()


def _share(files: dict[str, Path], modalities: list[str], cores: int) -> dict[str, Digest]:
    """As `_digest_all`, by so many processes, this one among them."""
    # Processes of their own and not multiprocessing's: those run the caller's script once more, or fork its threads.
    names = list(files)
    parts = [{name: files[name] for name in names[k::cores]} for k in range(cores)]
    workers = [_Worker(part, modalities) for part in parts[1:] if part]
    try:
        found = _digest_all(parts[0], modalities)
        for worker in workers:
            found |= worker.result()
    finally:
        for worker in workers:
            worker.end()
    return found


class _Worker:
    """A process that digests some files."""

    def __init__(self, files: dict[str, Path], modalities: list[str]) -> None:
        self.files, self.modalities = files, modalities
        # It finds what this process finds, and nothing else that lies in the current folder.
        command = [sys.executable, "-P", "-m", "studies.analysis.digests"]
        paths = os.pathsep.join(map(os.path.abspath, sys.path))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths},
        )
        job = _Job(modalities, {name: str(path) for name, path in files.items()})
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stdin:
            stdin.write(msgspec.json.encode(job))

    def result(self) -> dict[str, Digest]:
        """What it found; what it did not is read here."""
        assert self.process.stdout is not None
        said = self.process.stdout.read()
        try:
            return _DIGESTS.decode(said)
        except msgspec.MsgspecError:
            return _digest_all(self.files, self.modalities)

    def end(self) -> None:
        """Leave no process behind."""
        assert self.process.stdout is not None
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()


def _read_kept(path: Path | None, modalities: list[str]) -> dict[str, Digest]:
    if path is None:
        return {}
    try:
        kept = decode(path, _KEPT, PLAN)
    except (OSError, msgspec.MsgspecError):
        return {}
    width = 8 * len(columns(modalities))
    if (kept.version, kept.modalities) != (_VERSION, modalities):
        return {}
    return {name: digest for name, digest in kept.runs.items() if len(digest.values) % width == 0}


def _key(path: Path) -> Key:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """A worker: a job on standard input, its digests on standard output."""
    job = _JOBS.decode(sys.stdin.buffer.read())
    found = _digest_all({name: Path(path) for name, path in job.files.items()}, job.modalities)
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
