"""From what people give to tokens: text, a picture's file, a recording's file."""

from __future__ import annotations

import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy.signal import resample_poly

from compiler.manifest import VocabularyManifest
from runtime.data.errors import DataError


def encode(vocabulary: VocabularyManifest, given: str) -> NDArray[np.int64]:
    """The tokens of `given`, ids of `vocabulary`: of the text itself, or of the picture or sound in the file of that
    name. Pictures are dark on white, of any size; sounds of one or two channels of 16 bits, at any rate.

    Raises DataError where nothing encodes that vocabulary, or the file cannot be read.
    """
    match vocabulary.name:
        case "text":
            from runtime.data.embedded import tokenizer

            _same(vocabulary, tokenizer.vocabulary())
            return np.array(tokenizer.load().encode(given).ids, dtype=np.int64)
        case "image":
            from runtime.data.embedded import image

            _same(vocabulary, image.vocabulary())
            return image.encode(_pixels(Path(given), image.SIDE, image.PATCH)).astype(np.int64)
        case "audio":
            from runtime.data.embedded import codec

            _same(vocabulary, codec.vocabulary())
            return codec.encode(_samples(Path(given), codec.RATE)).astype(np.int64)
    raise DataError(f"vocabulary {vocabulary.name} has no encoder here; leave the prompt out to use held-out data")


def _same(asked: VocabularyManifest, here: VocabularyManifest) -> None:
    if asked != here:
        what = f"vocabulary {asked.name} ({asked.fingerprint}) is not the one that is encoded here ({here.fingerprint})"
        raise DataError(f"{what}; leave the prompt out to use held-out data")


def _pixels(path: Path, side: int, patch: int) -> NDArray[np.uint8]:
    """(side, width) ink, 0 to 255, whole patches wide."""
    try:
        with Image.open(path) as opened:
            picture = opened.convert("L")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); give a PNG file") from error
    width = max(patch, round(picture.width * side / picture.height / patch) * patch)
    small = picture.resize((width, side), Image.Resampling.BOX)
    return np.asarray(255 - np.asarray(small), dtype=np.uint8)


def _samples(path: Path, rate: int) -> NDArray[np.int16]:
    """(samples,) at `rate`."""
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2:
                raise DataError(f"{path}: has {8 * file.getsampwidth()} bits a sample; give a WAV file of 16")
            channels, own = file.getnchannels(), file.getframerate()
            raw: NDArray[Any] = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"{path}: cannot be read as a sound ({error}); give a WAV file") from error
    if not len(raw):
        raise DataError(f"{path}: has no samples; give a WAV file with some")
    sound = raw.reshape(-1, channels).mean(axis=1)
    if own != rate:
        common = math.gcd(own, rate)
        sound = resample_poly(sound, rate // common, own // common)
    return np.clip(np.rint(sound), -32768, 32767).astype(np.int16)
