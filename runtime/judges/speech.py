"""A judge of spoken digits: PocketSphinx, a recogniser of hidden Markov models, with a grammar of digits.

Its generic English model understands half to two thirds of espeak-ng's words behind Codec 2 at 700 bit/s, whatever
its settings: "five" and "six" hardly ever. So its means are adapted to real training speech (`speech_adaptation`): it
then understands voices that it was not adapted to. What the generic model hears is told beside it, as it knows nothing
of the data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from compiler.sampling import Score
from runtime.data import DataError, Decoded, Sound, Source, decode, load
from runtime.data.embedded.words import WORDS
from runtime.data.store import SplitName
from runtime.judges import speech_adaptation
from runtime.judges.base import Sample, need, rate
from runtime.judges.captions import captions, vocabulary

RATE = 16_000
"""Samples a second of what the recogniser takes."""
REAL = 400
"""Held-out utterances that real rates are of, at most."""
PROCESSES = 2
"""That recognise many sounds."""
_FEW = 60
"""So few are recognised sooner by this process alone."""
_LONGEST = 4
"""Words of the longest string that the grammar has."""
_LEVEL, _SILENCE, _NOISE = 12_000, 0.2, 1.0
"""Peak, seconds of silence at both ends, and the standard deviation of noise over all (no digital silence)."""
_SEARCH: dict[str, Any] = {
    **{"beam": 1e-120, "wbeam": 1e-100, "pbeam": 1e-100},
    **{"fwdflat": False, "bestpath": False},
    "wip": 1e-3,
}
"""Wide beams (with such the later passes find nothing), and a penalty on words that was chosen on training speech: of
0.65 to 1e-5, for voices left out of adaptation."""


def hear(sounds: Sequence[Sound]) -> list[str]:
    """The one to four digits, in words, that the adapted model takes each sound for; "" where it takes it for none.

    Raises DataError where PocketSphinx is not installed.
    """
    return _recognised(sounds, _adapted())


def hear_generic(sounds: Sequence[Sound]) -> list[str]:
    """As `hear`, by the generic English model. Raises DataError where PocketSphinx is not installed."""
    return _recognised(sounds, _generic())


def judge_speech(samples: Sequence[Sample], source: Source, real: int = REAL) -> tuple[Score, ...]:
    """Sounds against the transcripts that were asked for.

    `heard`: the whole string is understood; `heard_1` …: strings of so many words; `heard_word`, `heard_word_1` …: the
    words asked for that are heard at their place. `heard_generic`: whole strings, by the model that is not adapted.
    Real values are of `real` held-out utterances at most, as many of each length as there are; those of whole sets are
    for the samples' mix of lengths, None where a length is not held out.

    Raises DataError where a sample is no sound, `source` is no speech, or PocketSphinx is not installed.
    """
    asked = [sample.asked.split() for sample in samples]
    sounds = [sound(sample.made) for sample in samples]
    names = ("heard", "heard_word", "heard_generic")
    found = dict(zip(names, _right(asked, sounds), strict=True))
    known = dict(zip(names, _real(source, real), strict=True))
    return (
        *_rates("heard", found["heard"], known["heard"]),
        *_rates("heard_word", found["heard_word"], known["heard_word"]),
        _rates("heard_generic", found["heard_generic"], known["heard_generic"])[0],
    )


Right = dict[int, list[bool]]
"""What is right and what is not, by the number of words asked for."""


def _right(asked: Sequence[list[str]], sounds: Sequence[Sound]) -> tuple[Right, Right, Right]:
    """Whole strings, words, and whole strings by the generic model."""
    whole: Right = {}
    words: Right = {}
    generic: Right = {}
    for wanted, heard, plain in zip(asked, hear(sounds), hear_generic(sounds), strict=True):
        n, got = len(wanted), heard.split()
        whole.setdefault(n, []).append(got == wanted)
        words.setdefault(n, []).extend(i < len(got) and got[i] == word for i, word in enumerate(wanted))
        generic.setdefault(n, []).append(plain.split() == wanted)
    return whole, words, generic


def _rates(name: str, right: Right, real: Right) -> list[Score]:
    known = {n: float(np.mean(each)) for n, each in real.items()}
    together = [each for n in sorted(right) for each in right[n]]
    mixed = None
    if set(right) <= set(known):
        mixed = sum(known[n] * len(right[n]) for n in right) / len(together)
    return [
        rate(name, together, real=mixed),
        *(rate(f"{name}_{n}", right[n], real=known.get(n)) for n in sorted(right)),
    ]


@cache
def _real(source: Source, limit: int) -> tuple[Right, Right, Right]:
    strings = captions(source, "held_out")
    lengths = [len(each.split()) for each in strings]
    kinds = sorted(set(lengths))
    chosen = [spread([i for i, m in enumerate(lengths) if m == n], limit // len(kinds)) for n in kinds]
    made = spoken(source, "held_out", [i for each in chosen for i in each])
    return _right([asked.split() for asked, _, _ in made], [each for _, each, _ in made])


def spread(items: Sequence[int], n: int) -> list[int]:
    """`n` of `items` at most, evenly spread."""
    if len(items) <= n:
        return list(items)
    return [items[i * len(items) // n] for i in range(n)]


def spoken(source: Source, split: SplitName, which: Sequence[int]) -> list[tuple[str, Sound, NDArray[Any]]]:
    """Transcript, decoded sound and codes of real sequences. Raises DataError where they are no speech."""
    strings, data = captions(source, split), source.split(split)
    codes = [np.asarray(data.segments(i)[-1]) for i in which]
    return [
        (strings[i], sound(decode(vocabulary(source, -1), each)), each) for i, each in zip(which, codes, strict=True)
    ]


def sound(made: Decoded) -> Sound:
    """`made`, which must be sound. Raises DataError where it is not."""
    if not isinstance(made, Sound):
        raise DataError(f"a {type(made).__name__.lower()} is no sound; judge samples of a source of speech")
    return made


@cache
def _shipped() -> Path:
    """The generic English model's folder."""
    need("pocketsphinx", "speech")
    import pocketsphinx

    return Path(pocketsphinx.get_model_path("en-us/en-us"))


@cache
def _plain() -> TemporaryDirectory[str]:
    """A folder with the generic model, `model`, whose front end does not remove noise: there is none, and it takes
    the soft sound that begins a word for some."""
    folder = TemporaryDirectory(prefix="triptych-")
    copied = shutil.copytree(_shipped(), Path(folder.name) / "model")
    options = (copied / "feat.params").read_text().splitlines()
    kept = [line for line in options if not line.startswith("-remove_noise")]
    (copied / "feat.params").write_text("\n".join([*kept, "-remove_noise no", ""]))
    return folder


def _generic() -> Path:
    return Path(_plain().name) / "model"


@cache
def _language() -> TemporaryDirectory[str]:
    """A folder of the grammar and of how its words are pronounced."""
    folder = TemporaryDirectory(prefix="triptych-")
    lines = (_shipped().parent / "cmudict-en-us.dict").read_text().splitlines(keepends=True)
    _dictionary(folder.name).write_text("".join(line for line in lines if line.split()[0].split("(")[0] in WORDS))
    longest = "<w> [" * (_LONGEST - 1) + "<w>" + "]" * (_LONGEST - 1)
    _grammar(folder.name).write_text(
        f"#JSGF V1.0;\ngrammar digits;\npublic <string> = {longest};\n<w> = {' | '.join(WORDS)};\n"
    )
    return folder


def _dictionary(folder: str) -> Path:
    return Path(folder) / "digits.dict"


def _grammar(folder: str) -> Path:
    return Path(folder) / "digits.gram"


@cache
def _models() -> TemporaryDirectory[str]:
    """A folder with the adapted model, `model`."""
    folder = TemporaryDirectory(prefix="triptych-")
    speech_adaptation.adapt(_generic(), Path(folder.name) / "model")
    return folder


def _adapted() -> Path:
    return Path(_models().name) / "model"


def adapt_anew() -> None:
    """Make the adaptation's file from training speech of `embedded/audio`: see `speech_adaptation`."""
    source = load("embedded/audio", Path())
    which = spread(range(len(source.split("train"))), speech_adaptation.UTTERANCES)
    speech = [(said, prepare(each)) for said, each, _ in spoken(source, "train", which)]
    speech_adaptation.make(_generic(), speech, _dictionary(_language().name))


def prepare(sound: Sound) -> NDArray[np.int16]:
    """(samples,) at `RATE`, at one level, between silences."""
    loud = sound.samples / max(1.0, float(np.abs(sound.samples.astype(float)).max(initial=0))) * _LEVEL
    padded = np.pad(resample_poly(loud, RATE, sound.rate), round(RATE * _SILENCE))
    # The same noise for each utterance, so that what is heard does not depend on their order.
    noisy = padded + np.random.default_rng(0).normal(0, _NOISE, len(padded))
    return np.clip(np.rint(noisy), -32768, 32767).astype(np.int16)


def _recognised(sounds: Sequence[Sound], model: Path) -> list[str]:
    waves = [prepare(each) for each in sounds]
    language = _language().name
    if len(waves) < _FEW:
        return recognise(waves, model, _dictionary(language), _grammar(language))
    parts = [waves[k::PROCESSES] for k in range(PROCESSES)]
    heard: list[str] = [""] * len(waves)
    with TemporaryDirectory(prefix="triptych-") as folder:
        workers = [_worker(Path(folder) / f"{k}.npz", part, model, language) for k, part in enumerate(parts)]
        for k, worker in enumerate(workers):
            out, error = worker.communicate()
            if worker.returncode:
                last = (error.strip().splitlines() or ["no message"])[-1]
                raise DataError(f"recognising speech ended with {worker.returncode} ({last}); reinstall pocketsphinx")
            heard[k::PROCESSES] = out.split("\n")[:-1]
    return heard


def _worker(path: Path, waves: Sequence[NDArray[np.int16]], model: Path, language: str) -> subprocess.Popen[str]:
    """A process that recognises `waves`: PocketSphinx keeps the interpreter's lock, so threads are of no use."""
    # Of its own and not multiprocessing's: those run the caller's script once more, or fork its threads.
    np.savez(path, *waves)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, *map(str, (path, model, _dictionary(language), _grammar(language)))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def recognise(waves: Sequence[NDArray[np.int16]], model: Path, dictionary: Path, grammar: Path) -> list[str]:
    """What is heard in each of `waves`, (samples,) at `RATE`."""
    from pocketsphinx import Decoder

    heard = []
    for wave in waves:
        # A new one each time: its state would carry one utterance's mean and noise into the next.
        decoder = Decoder(hmm=str(model), dict=str(dictionary), jsgf=str(grammar), loglevel="FATAL", **_SEARCH)
        decoder.start_utt()
        decoder.process_raw(wave.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        heard.append("" if found is None else found.hypstr)
    return heard


if __name__ == "__main__":
    with np.load(sys.argv[1]) as stored:
        heard = recognise([stored[name] for name in stored.files], *map(Path, sys.argv[2:]))
    print("\n".join(heard))
