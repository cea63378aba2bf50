"""PocketSphinx's English model, its Gaussians' means moved towards real training speech of `embedded/audio`.

As for a new speaker or channel, means are adapted a posteriori (MAP, Gauvain and Lee 1994) on transcribed speech, by
one pass of SphinxTrain's Baum-Welch. Variances, weights, phones and the front end stay the generic model's. `FILE` has
how far the means move; the means themselves come with PocketSphinx.

To make `FILE` anew (another `embedded/audio` or PocketSphinx), with Debian's `sphinxtrain`, `sphinxbase-utils` and
`pocketsphinx` installed:

    PATH=$PATH:/usr/lib/sphinxtrain python -m runtime.judges.speech_adaptation
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.data.errors import DataError

FILE = Path(__file__).parent / "artefacts" / "speech_means.npz"
"""`books` (phones,): codebooks that move; `shift` (phones, streams, Gaussians, dimensions) float16: how far; `of`:
SHA-256 of the file of generic means."""
UTTERANCES = 600
"""Training utterances, evenly spread over the split, that the model is adapted to."""
_ORDER = 0x11223344
_LOG_BASE, _SHIFT = 1.0001, 10
"""Stored mixture weights are -log(weight), to this base, in units of 2^10."""


@dataclass(frozen=True)
class _Values:
    """A Sphinx-3 file's array: `shape` as in its header, `values` flat."""

    shape: tuple[int, ...]
    values: NDArray[np.float32]


def adapt(generic: Path, into: Path) -> None:
    """Write the model in the folder `generic`, adapted, into the new folder `into`. Raises DataError where it is not
    the model that `FILE` was made for."""
    with np.load(FILE) as stored:
        books, shift, of = stored["books"], stored["shift"], str(stored["of"])
    if _digest(generic / "means") != of:
        raise DataError(f"{generic} is not the model that was adapted; install pocketsphinx 5.1.1, or adapt it anew")
    means = _read(generic / "means")
    moved = means.values.reshape(means.shape).copy()
    moved[books] += shift
    shutil.copytree(generic, into)
    _write(into / "means", moved, [*moved.shape[:3], *[moved.shape[3]] * moved.shape[1]])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> _Values:
    """Means: (codebooks, streams, Gaussians, dimensions)."""
    content = path.read_bytes()
    start = content.index(b"endhdr\n") + len(b"endhdr\n")
    order, books, streams, gaussians, size = np.frombuffer(content, "<u4", 5, start).tolist()
    shape = (books, streams, gaussians, size)
    if order != _ORDER:
        raise DataError(f"{path} is no file of a Sphinx model; reinstall pocketsphinx")
    return _Values(shape, np.frombuffer(content, "<f4", int(np.prod(shape)), start + 4 * (5 + streams)))


def _write(path: Path, values: NDArray[Any], header: Sequence[int]) -> None:
    """A Sphinx-3 file with a checksum, which SphinxTrain wants."""
    body = np.array([*header, values.size], "<u4").tobytes() + values.astype("<f4").tobytes()
    checksum = 0
    for word in np.frombuffer(body, "<u4").tolist():
        checksum = (((checksum << 20) & 0xFFFFFFFF | checksum >> 12) + word) & 0xFFFFFFFF
    start = b"s3\nversion 1.0\nchksum0 yes\nendhdr\n" + np.array([_ORDER], "<u4").tobytes()
    path.write_bytes(start + body + np.array([checksum], "<u4").tobytes())


def make(generic: Path, speech: Sequence[tuple[str, NDArray[np.int16]]], dictionary: Path) -> None:
    """Write `FILE`, with SphinxTrain: `generic` adapted to `speech` (transcript, and samples at 16 kHz)."""
    with TemporaryDirectory(prefix="triptych-") as name:
        folder = Path(name)
        for k, (_, samples) in enumerate(speech):
            samples.astype("<i2").tofile(folder / f"{k}.raw")
        (folder / "ids").write_text("".join(f"{k}\n" for k in range(len(speech))))
        (folder / "said").write_text("".join(f"<s> {said} </s> ({k})\n" for k, (said, _) in enumerate(speech)))
        (folder / "fillers").write_text("<s> SIL\n</s> SIL\n<sil> SIL\n")
        _write_weights(generic / "sendump", _read(generic / "means").shape, folder / "weights")
        options = dict(line[1:].split(maxsplit=1) for line in (generic / "feat.params").read_text().splitlines())
        _tool("pocketsphinx_mdef_convert", "-text", generic / "mdef", folder / "mdef")
        front = ("lowerf", "upperf", "nfilt", "transform", "lifter", "remove_noise")
        _tool(
            *("sphinx_fe", "-samprate", 16_000, "-raw", "yes", "-input_endian", "little", "-remove_silence", "no"),
            *(part for option in front for part in (f"-{option}", options[option])),
            *("-c", folder / "ids", "-di", folder, "-ei", "raw", "-do", folder, "-eo", "mfc"),
        )
        model = (
            *("-moddeffn", folder / "mdef", "-ts2cbfn", ".ptm.", "-meanfn", generic / "means"),
            *("-varfn", generic / "variances", "-mixwfn", folder / "weights"),
            *("-tmatfn", generic / "transition_matrices", "-accumdir", folder),
        )
        normal = ("-feat", options["feat"], "-svspec", options["svspec"], "-cmn", "current", "-agc", "none")
        said = ("-dictfn", dictionary, "-fdictfn", folder / "fillers", "-ctlfn", folder / "ids")
        _tool("bw", *model, *normal, *said, "-lsnfn", folder / "said", "-cepdir", folder, "-cepext", "mfc")
        _tool("map_adapt", *model, "-mapmeanfn", folder / "means")
        before, after = _read(generic / "means"), _read(folder / "means")
    shift = (after.values - before.values).reshape(before.shape)
    books = np.flatnonzero(np.abs(shift).max((1, 2, 3)) > 0)
    FILE.parent.mkdir(exist_ok=True)
    moved = shift[books].astype(np.float16)
    np.savez_compressed(FILE, books=books.astype(np.uint8), shift=moved, of=_digest(generic / "means"))


def _write_weights(dump: Path, means: tuple[int, ...], path: Path) -> None:
    """Mixture weights as SphinxTrain reads them, of PocketSphinx's dump, which must not be clustered."""
    content = dump.read_bytes()
    at = 0
    while length := int(np.frombuffer(content, "<i4", 1, at)[0]):  # the strings of the header
        at += 4 + length
    streams = means[1]
    gaussians, senones = np.frombuffer(content, "<i4", 2, at + 4).tolist()
    stored = np.frombuffer(content, np.uint8, streams * gaussians * senones, at + 12)
    logs = stored.reshape(streams, gaussians, senones).transpose(2, 0, 1) * float(-(1 << _SHIFT))
    weights = _LOG_BASE**logs
    _write(path, weights / weights.sum(-1, keepdims=True), weights.shape)


def _tool(name: str, *arguments: object) -> None:
    done = subprocess.run([name, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"{name} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


if __name__ == "__main__":
    from runtime.judges import speech

    speech.adapt_anew()
