"""Judges of pictures of digits: does a picture show what its caption says, does it look real, and is it new?

The reader is a support vector machine with an RBF kernel, fitted to real training pictures both as scanned and as the
quantiser leaves them; it sees no model of ours. It reads 0.99 of real held-out digits, of both kinds, where perceptrons
of one and two layers read 0.94 to 0.98.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.sampling import Score
from runtime.data import DataError, Decoded, Picture, Source, decode
from runtime.data.embedded import image, words
from runtime.data.store import SplitName
from runtime.judges.base import Sample, need, rate
from runtime.judges.captions import captions, vocabulary
from runtime.judges.frechet import frechet

PICTURES = 6_000
"""Training pictures that the reader is fitted to, 11,470 digits. Of twice as many it reads 0.002 better, in three times
the time."""
COST, GAMMA = 10.0, 0.2
"""The support vector machine's, and the RBF kernel's, on pixels from 0 to 1."""
FEATURES = 64
"""Dimensions of the feature space: few, since the Fréchet distance of few samples grows with them."""


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Pictures, the digits that each was asked for, and its codes as bytes."""

    pictures: list[Picture]
    asked: list[list[int]]
    codes: list[bytes]

    @cached_property
    def read(self) -> list[list[int]]:
        return read(self.pictures)

    @cached_property
    def whole(self) -> list[bool]:
        """Whether the picture has as many digits as asked, and nothing more."""
        widths = (picture.pixels.shape[1] for picture in self.pictures)
        return [width == image.SIDE * len(asked) for width, asked in zip(widths, self.asked, strict=True)]

    @cached_property
    def right(self) -> list[bool]:
        """Whether the picture is read as asked."""
        return [whole and read == asked for whole, read, asked in zip(self.whole, self.read, self.asked, strict=True)]

    @cached_property
    def right_digits(self) -> list[bool]:
        """Whether each digit asked for is read in its place."""
        return [
            place < len(read) and read[place] == digit
            for read, asked in zip(self.read, self.asked, strict=True)
            for place, digit in enumerate(asked)
        ]

    @cached_property
    def digits(self) -> NDArray[np.uint8]:
        """(digits, SIDE²) grey levels of the digits of pictures that have as many as asked."""
        return _crops([picture for picture, whole in zip(self.pictures, self.whole, strict=True) if whole])

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """(digits,): what each of `digits` was asked to be."""
        return np.array(
            [digit for asked, whole in zip(self.asked, self.whole, strict=True) if whole for digit in asked]
        )

    @cached_property
    def spread(self) -> float | None:
        """Root mean square distance of a digit to its class's mean, averaged; None where no class has two."""
        classes = [self.digits[self.classes == digit] for digit in np.unique(self.classes)]
        spreads = [float(np.sqrt(each.var(0, ddof=1).sum())) for each in classes if len(each) > 1]
        return float(np.mean(spreads)) if spreads else None


@cache
def _real(source: Source, split: SplitName) -> _Pictures:
    """The pictures of a split, as the quantiser leaves them."""
    data = source.split(split)
    codes = [data.segments(i)[-1] for i in range(len(data))]
    return _Pictures(
        pictures=[_picture(decode(vocabulary(source, -1), each)) for each in codes],
        asked=[_asked(caption) for caption in captions(source, split)],
        codes=[_key(each) for each in codes],
    )


def read(pictures: Sequence[Picture]) -> list[list[int]]:
    """The digits of each picture from left to right, one for each SIDE pixels of its width; what is left over is not
    read. Raises DataError where scikit-learn is not installed."""
    need("sklearn", "pictures", "scikit-learn")
    crops = _crops(pictures)
    found = _reader().predict(crops / 255) if len(crops) else np.empty(0, np.int64)
    ends = np.cumsum([picture.pixels.shape[1] // image.SIDE for picture in pictures])
    return [each.tolist() for each in np.split(found, ends)[: len(pictures)]]


def judge_pictures(samples: Sequence[Sample], source: Source) -> tuple[Score, ...]:
    """Pictures against the captions that were asked for, and against the real pictures of `source`.

    `read`: pictures of which every digit is read as asked; one with another number of digits is wrong. `read_1` …:
    those of so many digits; `read_digit`: single digits. The real value of `read` is for the same mix of lengths.

    Of the digits of pictures that have as many as asked (without two of them these scores are missing):
    `frechet`: Fréchet distance to the training digits in the feature space of the reader's kernel, by Nyström's method
    (Williams and Seeger, NeurIPS 2000); the real value is of as many held-out digits, or of all where there are fewer.
    `diversity`: root mean square distance of a digit to the mean of its class (as asked), averaged over classes, over
    that of the training digits. `nearest`: root mean square difference, in grey levels, between the pixels of a digit
    and of the nearest training digit, averaged.

    `copied`: pictures whose codes are those of a training picture. `duplicates`: pictures whose codes are those of an
    earlier sample; the real value is of as many held-out pictures.

    Raises DataError where a caption is no string of digits, a sample is no picture, or scikit-learn is not installed.
    """
    need("sklearn", "pictures", "scikit-learn")
    made = _Pictures(
        pictures=[_picture(sample.made) for sample in samples],
        asked=[_asked(sample.asked) for sample in samples],
        codes=[_key(sample.tokens) for sample in samples],
    )
    return (*_readings(made, source), *_likeness(made, source), *_novelty(made, source))


def _readings(made: _Pictures, source: Source) -> tuple[Score, ...]:
    real = _real(source, "held_out")
    lengths = sorted({len(asked) for asked in made.asked})
    right = {n: _of_length(made, n) for n in lengths}
    real_rates = {n: float(np.mean(each)) for n in lengths if (each := _of_length(real, n))}
    mixed = sum(real_rates.get(n, np.nan) * len(right[n]) for n in lengths) / len(made.asked)
    return (
        rate("read", made.right, real=None if np.isnan(mixed) else float(mixed)),
        *(rate(f"read_{n}", right[n], real=real_rates.get(n)) for n in lengths),
        rate("read_digit", made.right_digits, real=float(np.mean(real.right_digits))),
    )


def _of_length(pictures: _Pictures, n: int) -> list[bool]:
    return [right for asked, right in zip(pictures.asked, pictures.right, strict=True) if len(asked) == n]


def _likeness(made: _Pictures, source: Source) -> tuple[Score, ...]:
    if len(made.digits) < 2:
        return ()
    train, real, n = _real(source, "train"), _real(source, "held_out"), len(made.digits)
    as_many = real.digits[np.random.default_rng(0).permutation(len(real.digits))[:n]]

    def score(name: str, better: str, value: float, real: float) -> Score:
        return Score(name=name, value=value, n=n, better=better, real=real)

    scores = [score("frechet", "lower", _distance(made.digits, source), _distance(as_many, source))]
    if made.spread is not None and real.spread is not None and train.spread is not None:
        scores.append(score("diversity", "higher", made.spread / train.spread, real.spread / train.spread))
    scores.append(score("nearest", "real", _nearest(made.digits, source), _nearest_of_held_out(source)))
    return tuple(scores)


def _distance(digits: NDArray[np.uint8], source: Source) -> float:
    features, of_training = _feature_space(source)
    return frechet(features(digits / 255), of_training)


def _nearest(digits: NDArray[np.uint8], source: Source) -> float:
    from sklearn.metrics import pairwise_distances_argmin_min

    # Of whole numbers in float64, so that a copy is at 0 exactly.
    _, distances = pairwise_distances_argmin_min(digits.astype(float), _real(source, "train").digits.astype(float))
    return float(distances.mean() / image.SIDE)


@cache
def _nearest_of_held_out(source: Source) -> float:
    return _nearest(_real(source, "held_out").digits, source)


def _novelty(made: _Pictures, source: Source) -> tuple[Score, ...]:
    train, real = set(_real(source, "train").codes), _real(source, "held_out").codes
    copied_real = float(np.mean([codes in train for codes in real]))
    duplicates_real = float(np.mean(_repeated(real[: len(made.codes)])))
    return (
        rate("copied", [codes in train for codes in made.codes], real=copied_real, better="lower"),
        rate("duplicates", _repeated(made.codes), real=duplicates_real, better="lower"),
    )


def _repeated(codes: Sequence[bytes]) -> list[bool]:
    first: dict[bytes, int] = {}
    return [first.setdefault(each, i) < i for i, each in enumerate(codes)]


@cache
def _reader() -> Any:
    """The support vector machine, fitted in a few seconds."""
    from sklearn.svm import SVC

    drawn = image.pictures()["train"][:PICTURES]
    pixels = [picture for _, picture in drawn]
    quantised = [image.decode(image.encode(each)) for each in pixels]
    crops = _crops([Picture(each) for each in pixels + quantised])
    digits = [digit for string, _ in drawn for digit in string]
    return SVC(C=COST, gamma=GAMMA).fit(crops / 255, digits + digits)


@cache
def _feature_space(source: Source) -> tuple[Callable[[NDArray[Any]], NDArray[Any]], NDArray[Any]]:
    """The map from pixels to features, and the features of the training digits."""
    from sklearn.kernel_approximation import Nystroem

    pixels = _real(source, "train").digits / 255
    fitted = Nystroem(gamma=GAMMA, n_components=FEATURES, random_state=0).fit(pixels)
    return fitted.transform, fitted.transform(pixels)


def _crops(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
    """(digits, SIDE²): each SIDE pixels of width of each picture."""
    side = image.SIDE
    parts = [picture.pixels[:, : picture.pixels.shape[1] // side * side] for picture in pictures]
    joined = np.hstack(parts) if parts else np.empty((side, 0), np.uint8)
    return joined.reshape(side, -1, side).transpose(1, 0, 2).reshape(-1, side * side)


def _picture(made: Decoded) -> Picture:
    if not isinstance(made, Picture):
        raise DataError(f"a {type(made).__name__.lower()} is no picture; judge samples of a source of pictures")
    return made


def _asked(caption: str) -> list[int]:
    if unknown := set(caption.split()) - set(words.WORDS):
        raise DataError(f"{caption!r} is no string of digits ({', '.join(sorted(unknown))}); ask for digits in words")
    return [words.WORDS.index(word) for word in caption.split()]


def _key(codes: NDArray[Any]) -> bytes:
    return np.asarray(codes, dtype=np.int64).tobytes()
