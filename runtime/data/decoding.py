"""From tokens back to what they are of: text, pictures, speech."""

from __future__ import annotations

import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compiler.manifest import VocabularyManifest
from runtime.data.errors import DataError

_ENLARGED = 8
"""Saved pixels a pixel's side: the pictures are small."""


@dataclass(frozen=True)
class Text:
    """Decoded text."""

    text: str

    def save(self, stem: Path) -> Path:
        """Write `STEM.txt`, in UTF-8."""
        path = stem.with_name(f"{stem.name}.txt")
        path.write_text(self.text + "\n", encoding="utf-8")
        return path


@dataclass(frozen=True)
class Picture:
    """A decoded picture: (height, width) grey levels, 0 (paper) to 255 (ink)."""

    pixels: NDArray[np.uint8]

    def image(self) -> Image.Image:
        """The picture, enlarged, dark ink on white."""
        return Image.fromarray((255 - self.pixels).repeat(_ENLARGED, 0).repeat(_ENLARGED, 1))

    def save(self, stem: Path) -> Path:
        """Write `STEM.png`."""
        path = stem.with_name(f"{stem.name}.png")
        self.image().save(path)
        return path


@dataclass(frozen=True)
class Sound:
    """Decoded sound: (samples,) int16, `rate` a second."""

    samples: NDArray[np.int16]
    rate: int

    def save(self, stem: Path) -> Path:
        """Write `STEM.wav`: one channel of 16 bits."""
        path = stem.with_name(f"{stem.name}.wav")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(self.samples.astype("<i2").tobytes())
        return path


Decoded = Text | Picture | Sound


def decode(vocabulary: VocabularyManifest, tokens: NDArray[Any]) -> Decoded:
    """What the `tokens` (1-D ids of `vocabulary`) of one segment stand for.

    Raises DataError where nothing decodes that vocabulary, a token is outside of it, or the tokens are no whole thing.
    """
    decoder = _DECODERS.get(vocabulary.name)
    if decoder is None or decoder[0]() != vocabulary:
        raise DataError(
            f"vocabulary {vocabulary.name} ({vocabulary.fingerprint}) has no decoder here; "
            "decode it with the tool that made it"
        )
    if len(tokens) and not 0 <= int(np.min(tokens)) <= int(np.max(tokens)) < vocabulary.size:
        raise DataError(
            f"tokens of {vocabulary.name} must be from 0 to {vocabulary.size - 1}; "
            "subtract the offset of the vocabulary first"
        )
    return decoder[1](tokens)


def _text_vocabulary() -> VocabularyManifest:
    from runtime.data.embedded import tokenizer

    return tokenizer.vocabulary()


def _text(tokens: NDArray[Any]) -> Text:
    from runtime.data.embedded import tokenizer

    return Text(tokenizer.load().decode(np.asarray(tokens).tolist()))


def _image_vocabulary() -> VocabularyManifest:
    from runtime.data.embedded import image

    return image.vocabulary()


def _picture(tokens: NDArray[Any]) -> Picture:
    from runtime.data.embedded import image

    return Picture(image.decode(tokens))


def _audio_vocabulary() -> VocabularyManifest:
    from runtime.data.embedded import codec

    return codec.vocabulary()


def _sound(tokens: NDArray[Any]) -> Sound:
    from runtime.data.embedded import codec

    return Sound(codec.decode(tokens), codec.RATE)


_DECODERS: dict[str, tuple[Callable[[], VocabularyManifest], Callable[[NDArray[Any]], Decoded]]] = {
    "text": (_text_vocabulary, _text),
    "image": (_image_vocabulary, _picture),
    "audio": (_audio_vocabulary, _sound),
}
