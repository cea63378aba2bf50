"""`embedded/image`: pictures of one to four real handwritten digits side by side, with captions in words.

Scans are divided between the splits first and augmented after. All arithmetic on pixels is of integers, so that every
machine gets the same codes.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.manifest import Manifest, VocabularyManifest
from runtime.data.embedded import tokenizer, words
from runtime.data.errors import DataError
from runtime.data.store import Split, SplitName, count, describe, pack

NAME = "embedded/image"
EXTRA = "data"
CODEBOOK = Path(__file__).parent / "artefacts" / "codebook.json"
CODES = 128
SIDE = 8
"""Pixels of a digit's side; a picture is SIDE high."""
PATCH = 2
_PER_COLUMN = SIDE // PATCH
_PICTURES: dict[SplitName, int] = {"train": 12_000, "held_out": 1_200}
_LENGTHS = np.repeat([1, 2, 3, 4], [4, 3, 2, 1])
"""Digits in a picture, as often as they stand here."""
_SEEDS: dict[SplitName, int] = {"train": 1, "held_out": 2}
_AT_ONCE = 1 << 10
"""Scans or patches worked on together, so that the arrays stay in the processor's cache."""
_BORDER = 4
"""Blank pixels around a scan: augmentation reaches no further out."""
_ONE = 1 << 10
"""One, in the fixed-point numbers of the augmentation."""


def make() -> tuple[dict[SplitName, Split], Manifest]:
    """Build the source. Raises DataError where scikit-learn, which carries the scans, is not installed."""
    encoder = tokenizer.load()
    splits: dict[SplitName, Split] = {}
    for name, made in pictures().items():
        captions = encoder.encode_batch([words.caption(digits) for digits, _ in made])
        widths = [pixels.shape[1] for _, pixels in made]
        codes = encode(np.hstack([pixels for _, pixels in made]))
        each = np.split(codes, np.cumsum(widths)[:-1] // PATCH * _PER_COLUMN)
        splits[name] = pack([[text.ids, codes] for text, codes in zip(captions, each, strict=True)])
    manifest = Manifest(
        name=NAME,
        description="Handwritten digits: strings of one to four real 8x8 scans, augmented, with captions in words",
        licence="CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI)",
        packed=False,
        vocabularies=(tokenizer.vocabulary(), vocabulary()),
        segments=(
            describe("text", splits["train"].of_segment(0)),
            describe("image", splits["train"].of_segment(1)),
        ),
        train=count(splits["train"]),
        held_out=count(splits["held_out"]),
        extra=EXTRA,
    )
    return splits, manifest


def vocabulary() -> VocabularyManifest:
    """The codebook's entry in a manifest."""
    fingerprint = hashlib.sha256(codebook().astype("<i4").tobytes()).hexdigest()[:16]
    return VocabularyManifest(name="image", size=CODES, fingerprint=fingerprint)


@cache
def codebook() -> NDArray[np.int32]:
    """(CODES, PATCH²) grey levels, 0 to 255: the committed code vectors."""
    return np.array(json.loads(CODEBOOK.read_text()), dtype=np.int32)


def patches(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(SIDE, width) pixels to (patches, PATCH²).

    Column after column, each from top to bottom: a picture of any width starts with the same places, and each digit's
    codes lie together.
    """
    columns = pixels.shape[1] // PATCH
    blocks = pixels.reshape(_PER_COLUMN, PATCH, columns, PATCH).transpose(2, 0, 1, 3)
    vectors: NDArray[np.int32] = blocks.reshape(-1, PATCH * PATCH).astype(np.int32)
    return vectors


def encode(pixels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Codes of a picture (SIDE, width): for each patch the nearest code vector, the first of equals."""
    vectors = patches(pixels)
    codes = np.empty(len(vectors), dtype=np.intp)
    for start in range(0, len(vectors), _AT_ONCE):
        chunk = vectors[start : start + _AT_ONCE]
        distances = np.zeros((len(chunk), CODES), dtype=np.int32)
        for place in range(PATCH * PATCH):
            distances += np.square(chunk[:, place, None] - codebook()[:, place])
        codes[start : start + _AT_ONCE] = distances.argmin(1)
    return codes


def decode(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Codes back to (SIDE, width) pixels. Raises DataError where they do not fill whole columns of patches."""
    if len(codes) == 0 or len(codes) % _PER_COLUMN:
        raise DataError(
            f"{len(codes)} image codes are not a picture: a picture has a multiple of {_PER_COLUMN}; check where the "
            "codes were cut"
        )
    blocks = codebook()[np.asarray(codes, dtype=np.intp)].reshape(-1, _PER_COLUMN, PATCH, PATCH)
    pixels: NDArray[np.uint8] = blocks.transpose(1, 2, 0, 3).reshape(SIDE, -1).astype(np.uint8)
    return pixels


def scans() -> dict[SplitName, dict[int, list[NDArray[np.int64]]]]:
    """The scans of each split, by digit: (SIDE, SIDE) grey levels, 0 to 255. Divided by a hash of the pixels, so that
    equal scans go together."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"{NAME} needs scikit-learn; pip install 'triptych[{EXTRA}]'") from error
    digits = load_digits()
    by_split: dict[SplitName, dict[int, list[NDArray[np.int64]]]] = {
        name: {digit: [] for digit in range(10)} for name in ("train", "held_out")
    }
    for levels, digit in zip(digits.images.astype(np.int64), digits.target, strict=True):
        held_out = hashlib.sha256(levels.astype(np.uint8).tobytes()).digest()[0] % 7 == 0
        by_split["held_out" if held_out else "train"][int(digit)].append(levels * 255 // 16)
    return by_split


def pictures() -> dict[SplitName, list[tuple[list[int], NDArray[np.uint8]]]]:
    """Digits and (SIDE, SIDE · digits) pixels of every picture of each split.

    Strings of two and more digits are of one split only (`words.held_out`).
    """
    made: dict[SplitName, list[tuple[list[int], NDArray[np.uint8]]]] = {}
    for name, by_digit in scans().items():
        rng = np.random.default_rng(_SEEDS[name])
        strings: list[list[int]] = []
        while len(strings) < _PICTURES[name]:
            n = int(rng.choice(_LENGTHS))
            digits = [int(digit) for digit in rng.integers(10, size=n)]
            if n == 1 or words.held_out(digits) == (name == "held_out"):
                strings.append(digits)
        said = [digit for digits in strings for digit in digits]
        chosen = np.stack([by_digit[digit][int(rng.integers(len(by_digit[digit])))] for digit in said])
        ends = np.cumsum([len(digits) for digits in strings])
        parts = [augment(chosen[start : start + _AT_ONCE], rng) for start in range(0, len(chosen), _AT_ONCE)]
        each = np.split(np.concatenate(parts), ends[:-1])
        made[name] = [(digits, np.hstack(list(pixels))) for digits, pixels in zip(strings, each, strict=True)]
    return made


def augment(scans: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Scans (n, SIDE, SIDE), each turned by up to 6 degrees, scaled by up to 5 % and moved by up to a quarter pixel."""
    n = len(scans)
    turns, scales = rng.integers(-6, 7, size=n), rng.integers(61, 68, size=n)
    down, right = rng.integers(-1, 2, size=(2, n, 1, 1)) * (_ONE // 4)
    cosine, sine = (
        np.array(
            [round(part(math.radians(turn)) * 64 / scale * _ONE) for turn, scale in zip(turns, scales, strict=True)]
        )
        for part in (math.cos, math.sin)
    )
    cosine, sine = cosine[:, None, None], sine[:, None, None]
    # Where in the scan each pixel comes from, in units of 1 / _ONE; the middle is at 3.5.
    middle = (SIDE - 1) * _ONE // 2
    y, x = np.mgrid[:SIDE, :SIDE] * _ONE - middle
    y, x = y - down, x - right
    from_y = (cosine * y + sine * x) // _ONE + middle
    from_x = (cosine * x - sine * y) // _ONE + middle
    # Bilinear, with blank paper around the scan.
    padded = np.pad(scans, ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER)))
    which, row, column = np.arange(n)[:, None, None], from_y // _ONE + _BORDER, from_x // _ONE + _BORDER
    below, beside = from_y % _ONE, from_x % _ONE
    total = (
        padded[which, row, column] * (_ONE - below) * (_ONE - beside)
        + padded[which, row, column + 1] * (_ONE - below) * beside
        + padded[which, row + 1, column] * below * (_ONE - beside)
        + padded[which, row + 1, column + 1] * below * beside
    )
    pixels: NDArray[np.uint8] = ((total + _ONE * _ONE // 2) // (_ONE * _ONE)).astype(np.uint8)
    return pixels


def train_codebook() -> None:
    """Fit the codebook to the training pictures by k-means and write it to `CODEBOOK`."""
    from sklearn.cluster import KMeans

    vectors = patches(np.hstack([pixels for _, pixels in pictures()["train"]]))
    fitted = KMeans(CODES, n_init=1, max_iter=100, random_state=0).fit(vectors)
    levels = sorted(np.rint(fitted.cluster_centers_).astype(int).tolist(), key=lambda vector: (sum(vector), vector))
    CODEBOOK.write_text("[\n" + ",\n".join(json.dumps(vector) for vector in levels) + "\n]\n")
    codebook.cache_clear()
