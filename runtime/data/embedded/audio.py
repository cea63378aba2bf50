"""`embedded/audio`: one or two spoken digits as Codec 2 codes, with transcripts in words.

Voices, speeds and pitches vary; whole voices and whole strings of digits are held out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compiler.manifest import Manifest
from runtime.data.embedded import codec, tokenizer, words
from runtime.data.errors import DataError
from runtime.data.store import Split, SplitName, count, describe, pack

if TYPE_CHECKING:
    from runtime.data.embedded.espeak import Speaker

NAME = "embedded/audio"
EXTRA = "speech"
FRAGILE = Path(__file__).parent / "artefacts" / "fragile.json"
"""Utterances left out, by number, as `fragile` found them."""
VOICES: dict[SplitName, list[str]] = {
    "train": ["m1", "m2", "m3", "m4", "m5", "m8"],
    "held_out": ["m6", "m7"],
}
"""espeak-ng's male voices, which differ in formants. Of its other variants those with breath must not be used: that is
noise seeded by the clock."""
_UTTERANCES: dict[SplitName, int] = {"train": 9_000, "held_out": 900}
_SEEDS: dict[SplitName, int] = {"train": 1, "held_out": 2}
_LONGEST = 85
"""Content tokens: with task, boundary and end tokens a sequence of 88 holds every utterance."""
_SPEEDS = {1: (140, 171), 2: (190, 221)}
"""Words a minute, by number of digits: slow enough to understand, quick enough for `_LONGEST`."""
_PITCHES = (35, 66)
_TAPS = 64


@dataclass(frozen=True)
class Utterance:
    """What is said and how. `number` counts the utterances of both splits."""

    number: int
    split: SplitName
    digits: tuple[int, ...]
    voice: str
    speed: int
    pitch: int


def make() -> tuple[dict[SplitName, Split], Manifest]:
    """Build the source. Raises DataError where espeakng-loader or pycodec2 is not installed."""
    missing = [name for name in ("espeakng_loader", "pycodec2") if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"{NAME} needs espeakng-loader and pycodec2; pip install 'triptych[{EXTRA}]'")
    sequences: dict[SplitName, list[list[NDArray[np.uint16]]]] = {"train": [], "held_out": []}
    encoder = tokenizer.load()
    fragile = set(json.loads(FRAGILE.read_text()))
    for utterance, codes in zip(utterances(), spoken(), strict=True):
        caption = np.array(encoder.encode(words.caption(utterance.digits)).ids, dtype=np.uint16)
        if utterance.number not in fragile and len(caption) + len(codes) <= _LONGEST:
            sequences[utterance.split].append([caption, codes])
    splits = {name: pack(made) for name, made in sequences.items()}
    manifest = Manifest(
        name=NAME,
        description="Synthetic speech: one or two digits by espeak-ng, as Codec 2 700C codes, with transcripts",
        licence="Made by espeak-ng (GPL-3.0-or-later) and Codec 2 (LGPL-2.1)",
        packed=False,
        vocabularies=(tokenizer.vocabulary(), codec.vocabulary()),
        segments=(
            describe("text", splits["train"].of_segment(0)),
            describe("audio", splits["train"].of_segment(1), places=codec.PLACES),
        ),
        train=count(splits["train"]),
        held_out=count(splits["held_out"]),
        extra=EXTRA,
    )
    return splits, manifest


def utterances() -> list[Utterance]:
    """Every utterance of both splits, in the order in which they are spoken."""
    made: list[Utterance] = []
    for split, voices in VOICES.items():
        rng = np.random.default_rng(_SEEDS[split])
        wanted = len(made) + _UTTERANCES[split]
        while len(made) < wanted:
            n = int(rng.choice([1, 1, 2]))
            digits = tuple(int(digit) for digit in rng.integers(10, size=n))
            voice = f"en-us+{voices[int(rng.integers(len(voices)))]}"
            speed, pitch = int(rng.integers(*_SPEEDS[n])), int(rng.integers(*_PITCHES))
            if n == 1 or words.held_out(digits) == (split == "held_out"):
                made.append(Utterance(len(made), split, digits, voice, speed, pitch))
    return made


def spoken(environment: dict[str, str] | None = None) -> list[NDArray[np.uint16]]:
    """The codes of all `utterances`, made in a process of its own, with `environment` added to this one's.

    Raises DataError where that process fails.
    """
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
        path = Path(folder) / "codes.npz"
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(f"{NAME}: speaking ended with {done.returncode} ({last}); reinstall triptych[{EXTRA}]")
        with np.load(path) as arrays:
            return list(np.split(arrays["codes"], np.cumsum(arrays["lengths"])[:-1]))


def speak(path: Path) -> None:
    """Write the codes of all `utterances` to the file `path`; for a process of its own (see `espeak`)."""
    from runtime.data.embedded.espeak import Speaker

    speaker = Speaker()
    codes = [codec.encode(recording(speaker, utterance)) for utterance in utterances()]
    np.savez(path, codes=np.concatenate(codes), lengths=np.array([len(each) for each in codes]))


def recording(speaker: Speaker, utterance: Utterance) -> NDArray[np.int16]:
    """(samples,) at the codec's rate, without the silence at both ends."""
    wave = speaker.say(words.caption(utterance.digits), utterance.voice, utterance.speed, utterance.pitch)
    samples = resample(wave)
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) * 50 > np.abs(samples.astype(np.int32)).max())
    return samples[loud[0] : loud[-1] + 1]


def resample(wave: NDArray[np.int16]) -> NDArray[np.int16]:
    """From espeak-ng's 22050 samples a second to the codec's 8000, by an integer windowed-sinc filter."""
    up, down = 160, 441
    filters = _filters(up, down)
    position = np.arange(len(wave) * up // down) * down
    padded = np.pad(wave.astype(np.int64), _TAPS)
    first = position // up + _TAPS - _TAPS // 2 + 1
    samples = (padded[first[:, None] + np.arange(_TAPS)] * filters[position % up]).sum(1)
    rounded: NDArray[np.int16] = np.clip((samples + (1 << 14)) >> 15, -32768, 32767).astype(np.int16)
    return rounded


@cache
def _filters(up: int, down: int) -> NDArray[np.int64]:
    """(up, _TAPS): for each phase the taps of a low-pass filter at the new rate's limit, in units of 2^-15."""
    away = np.arange(_TAPS) - _TAPS // 2 + 1 - np.arange(up)[:, None] / up
    cutoff = 0.95 * up / down
    window = np.cos(np.pi * away / _TAPS) ** 2
    taps: NDArray[np.int64] = np.rint(cutoff * np.sinc(cutoff * away) * window * (1 << 15)).astype(np.int64)
    return taps


if __name__ == "__main__":
    speak(Path(sys.argv[1]))
