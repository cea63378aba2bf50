"""A second judge of spoken digits, which cannot use duration: classifiers of spectra of a fixed number of frames.

It is fitted to real training speech behind the codec, and measures how like real speech, how varied and how new
samples are. Real speech it knows almost without fail, so it is the weaker evidence of what is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.signal import stft

from compiler.sampling import Score
from runtime.data import Sound, Source
from runtime.data.store import SplitName
from runtime.judges.base import Sample, need, rate
from runtime.judges.captions import captions
from runtime.judges.frechet import frechet
from runtime.judges.speech import sound, spoken, spread

TRAINING = 3_000
"""Training utterances that it is fitted to, at most."""
FRAMES = 16
"""To which every utterance's spectra are resampled."""
FEATURES = 24
"""Dimensions of the feature space: few, since the Fréchet distance of few samples grows with them."""
_LONGEST = 2
"""Words of the longest strings that there are classifiers for."""
_BANDS, _CEPSTRA = 26, 13
_WINDOW = 200
_LOWEST, _HIGHEST = 100.0, 3_800.0
_COST, _GAMMA = 10.0, "scale"
"""The support vector machines'."""

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class _Speech:
    """Utterances: the words that each was `asked` for, their `cepstra` (n, FRAMES · _CEPSTRA) and codes as bytes."""

    asked: list[tuple[str, ...]]
    cepstra: Array
    codes: list[bytes]

    @cached_property
    def classes(self) -> Array:
        """(n,): the string asked for, as one value."""
        return np.array([" ".join(each) for each in self.asked])


def judge_speech_features(samples: Sequence[Sample], source: Source) -> tuple[Score, ...]:
    """Sounds against the transcripts that were asked for, and against the real speech of `source`.

    `told`: strings of one and two words that are told whole from all others of their number of words; `told_word`: the
    words at their places. Missing where no sample has so few words. Real values are for the samples' mix of lengths.

    In the feature space (principal components of training speech's resampled cepstra): `speech_frechet`, the Fréchet
    distance to training speech; the real value is of as many held-out utterances, or of all where there are fewer.
    `speech_diversity`: root mean square distance of an utterance to the mean of its string, averaged over strings, over
    that of training speech for the same strings' number of words. `speech_nearest`: distance to the nearest training
    utterance, averaged. With fewer than two samples these are missing.

    `speech_copied`: sounds whose codes are those of a training utterance, of all there are.

    Raises DataError where a sample is no sound, `source` is no speech or scikit-learn is not installed.
    """
    made = _speech([(sample.asked, sound(sample.made), sample.tokens) for sample in samples])
    return (*_told(made, source), *_likeness(made, source), _copied(made, source))


def cepstra(heard: Sound) -> NDArray[np.float64]:
    """(FRAMES, coefficients): mel cepstra, their mean over time removed, the time axis resampled to FRAMES."""
    wave = heard.samples.astype(float)
    wave = np.pad(wave, (0, max(0, 2 * _WINDOW - len(wave))))
    _, _, spectra = stft(wave, heard.rate, nperseg=_WINDOW, noverlap=_WINDOW * 3 // 5)
    logs = np.log(_mel(heard.rate) @ np.abs(spectra) ** 2 + 1e-2)
    found = dct(logs, axis=0, norm="ortho")[:_CEPSTRA].T
    found -= found.mean(0)
    # Frames between frames by linear interpolation: an utterance's length is lost.
    places = np.linspace(0, len(found) - 1, FRAMES)
    return np.stack([np.interp(places, np.arange(len(found)), each) for each in found.T], axis=1)


@cache
def _mel(rate: int) -> Array:
    """(_BANDS, frequencies): triangular filters, evenly spaced in mel."""
    edges = 700 * np.expm1(np.linspace(np.log1p(_LOWEST / 700), np.log1p(_HIGHEST / 700), _BANDS + 2))
    frequencies = np.linspace(0, rate / 2, _WINDOW // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    filters: Array = np.minimum(rising, falling).clip(0)
    return filters


def _speech(utterances: Sequence[tuple[str, Sound, Array]]) -> _Speech:
    return _Speech(
        asked=[tuple(asked.split()) for asked, _, _ in utterances],
        cepstra=np.stack([cepstra(each).ravel() for _, each, _ in utterances]),
        codes=[_key(codes) for _, _, codes in utterances],
    )


@cache
def _real(source: Source, split: SplitName) -> _Speech:
    """Real speech, evenly spread over a split."""
    return _speech(spoken(source, split, spread(range(len(captions(source, split))), TRAINING)))


@cache
def _classifiers(source: Source, n: int) -> list[Any]:
    """For strings of `n` words, a classifier of the word at each place; none where training has fewer than two."""
    need("sklearn", "speech", "scikit-learn")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    train = _real(source, "train")
    chosen = [i for i, asked in enumerate(train.asked) if len(asked) == n]
    places = [[train.asked[i][place] for i in chosen] for place in range(n)]
    if any(len(set(words)) < 2 for words in places):
        return []
    return [
        make_pipeline(StandardScaler(), SVC(C=_COST, gamma=_GAMMA)).fit(train.cepstra[chosen], words)
        for words in places
    ]


def _right(speech: _Speech, source: Source, n: int) -> NDArray[np.bool_]:
    """(utterances, n): whether each word of strings of `n` words is told."""
    chosen = [i for i, asked in enumerate(speech.asked) if len(asked) == n]
    classifiers = _classifiers(source, n)
    if not chosen or not classifiers:
        return np.empty((0, n), bool)
    told = np.stack([each.predict(speech.cepstra[chosen]) for each in classifiers], axis=1)
    right: NDArray[np.bool_] = told == np.array([speech.asked[i] for i in chosen])
    return right


def _told(made: _Speech, source: Source) -> tuple[Score, ...]:
    right = {n: found for n in range(1, _LONGEST + 1) if len(found := _right(made, source, n))}
    if not right:
        return ()
    known = {n: found for n in right if len(found := _right(_real(source, "held_out"), source, n))}

    def mixed(each_word: bool) -> float | None:
        if len(known) < len(right):
            return None
        rates = {n: float(found.mean() if each_word else found.all(1).mean()) for n, found in known.items()}
        sizes = {n: found.size if each_word else len(found) for n, found in right.items()}
        return sum(rates[n] * sizes[n] for n in right) / sum(sizes.values())

    whole = [bool(each) for found in right.values() for each in np.atleast_1d(found.all(1))]
    words = [bool(each) for found in right.values() for each in found.ravel()]
    return rate("told", whole, real=mixed(False)), rate("told_word", words, real=mixed(True))


def _likeness(made: _Speech, source: Source) -> tuple[Score, ...]:
    n = len(made.codes)
    if n < 2:
        return ()
    held_out = _real(source, "held_out")
    as_many = np.random.default_rng(0).permutation(len(held_out.codes))[:n]
    project = _projection(source)
    train, real, ours = (project(each.cepstra) for each in (_real(source, "train"), held_out, made))
    scores = [
        Score(
            name="speech_frechet",
            value=frechet(ours, train),
            n=n,
            better="lower",
            real=frechet(real[as_many], train) if len(as_many) > 1 else None,
        )
    ]
    spreads = [_spread(made, ours, source), _spread(held_out, real, source)]
    if spreads[0] is not None:
        scores.append(Score(name="speech_diversity", value=spreads[0], n=n, better="higher", real=spreads[1]))
    scores.append(
        Score(name="speech_nearest", value=_nearest(ours, train), n=n, better="real", real=_nearest(real, train))
    )
    return tuple(scores)


def _spread(speech: _Speech, features: Array, source: Source) -> float | None:
    """Root mean square distance of utterances to the mean of their string, over strings that have two or more, as a
    ratio to the mean of training strings of as many words; None where no string has two."""
    own = _spreads(speech, features)
    train = _real(source, "train")
    known = _spreads(train, _projection(source)(train.cepstra))
    by_words: dict[int, list[float]] = {}
    for string, found in known.items():
        by_words.setdefault(len(string.split()), []).append(found)
    ratios = [
        found / float(np.mean(by_words[words]))
        for string, found in own.items()
        if (words := len(string.split())) in by_words
    ]
    return float(np.mean(ratios)) if ratios else None


def _spreads(speech: _Speech, features: Array) -> dict[str, float]:
    classes = speech.classes
    of_string = {str(string): features[classes == string] for string in np.unique(classes)}
    return {string: float(np.sqrt(each.var(0, ddof=1).sum())) for string, each in of_string.items() if len(each) > 1}


def _nearest(features: Array, train: Array) -> float:
    from sklearn.metrics import pairwise_distances_argmin_min

    return float(pairwise_distances_argmin_min(features, train)[1].mean())


def _copied(made: _Speech, source: Source) -> Score:
    known = _codes(source)
    real = float(np.mean([codes in known for codes in _real(source, "held_out").codes]))
    return rate("speech_copied", [codes in known for codes in made.codes], real=real, better="lower")


@cache
def _codes(source: Source) -> frozenset[bytes]:
    """The codes of every training utterance."""
    data = source.split("train")
    return frozenset(_key(data.segments(i)[-1]) for i in range(len(data)))


@cache
def _projection(source: Source) -> Any:
    """From cepstra to the feature space: (n, FRAMES · _CEPSTRA) to (n, FEATURES)."""
    need("sklearn", "speech", "scikit-learn")
    from sklearn.decomposition import PCA

    train = _real(source, "train").cepstra
    return PCA(min(FEATURES, *train.shape), svd_solver="full").fit(train).transform


def _key(codes: Array) -> bytes:
    return np.asarray(codes, dtype=np.int64).tobytes()
