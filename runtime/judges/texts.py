"""Judges of text: how likely is it under an n-gram model of the same training data, how diverse is it, is it copied?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compiler.sampling import Score
from runtime.data import Source, decode
from runtime.judges.base import Sample, Z, need
from runtime.judges.captions import captions, vocabulary, words

if TYPE_CHECKING:
    from nltk.lm import WittenBellInterpolated

ORDER = 4
"""Tokens of the model's longest n-grams."""
COPIED = 8
"""Words of a passage that counts as copied where it occurs in training."""
BLEU_TEXTS = 100
"""Texts that self-BLEU is taken of, at most: its time grows with their square."""

Words = list[str]
"""A text, cut at spaces."""


def judge_texts(samples: Sequence[Sample], source: Source) -> tuple[Score, ...]:
    """Texts against the training split of `source`; what was asked for does not matter.

    Real values are of held-out passages of the same numbers of tokens, each from one document, as many as there are
    samples or as can be cut. Where there are fewer passages than samples, the scores that depend on the number of texts
    (distinct, self-BLEU) are of so many samples only. What no text is long enough for is missing.

    `perplexity`: per token, under a 4-gram model of tokens (ids of the vocabulary) with interpolated Witten-Bell
    smoothing (Chen and Goodman 1999), each id counted once more than it occurs; the first tokens of a text have a
    shorter context. Text that is likelier than real text repeats itself, and noise is the most diverse: read the two
    together.

    `distinct_1` to `distinct_3`: different n-grams of words over all n-grams (arXiv 1510.03055). `self_bleu`: BLEU-4 of
    a text with all others as references, missing n-grams counted as 0.1, averaged (arXiv 1802.01886). `copied`: the
    share of passages of eight words that occur in training.

    Raises DataError where a sample is no text or nltk is not installed.
    """
    need("nltk", "words")
    real = _real(source, tuple(len(sample.tokens) for sample in samples))
    return _scores(
        [sample.tokens for sample in samples],
        [words(sample.made) for sample in samples],
        source,
        {score.name: score for score in real},
    )


@cache
def _real(source: Source, lengths: tuple[int, ...]) -> tuple[Score, ...]:
    """The scores of held-out passages of so many tokens."""
    passages = list(_passages(source, lengths))
    texts = [words(decode(vocabulary(source, 0), tokens)) for tokens in passages]
    return _scores(passages, texts, source, {})


def _passages(source: Source, lengths: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Passages of held-out documents of these lengths in turn, until the documents are used up."""
    split = source.split("held_out")
    documents = iter(np.random.default_rng(0).permutation(len(split)))
    rest: NDArray[Any] = np.empty(0, np.int64)
    for length in lengths:
        while len(rest) < length:
            if (document := next(documents, None)) is None:
                return
            rest = split.segments(int(document))[0]
        yield rest[:length]
        rest = rest[length:]


def _scores(
    tokens: Sequence[NDArray[Any]], texts: Sequence[Words], source: Source, real: dict[str, Score]
) -> tuple[Score, ...]:
    if not texts:
        return ()
    as_many = texts[: real["perplexity"].n] if real else texts
    found = [(f"distinct_{n}", "higher", _distinct(as_many, n), len(as_many)) for n in (1, 2, 3)]
    found += [("self_bleu", "lower", _self_bleu(as_many[:BLEU_TEXTS]), len(as_many[:BLEU_TEXTS]))]
    found += [("copied", "lower", _copied(texts, source), len(texts))]
    known = {name: score.value for name, score in real.items()}
    others = [
        Score(name=name, value=value, n=n, better=better, real=known.get(name))
        for name, better, value, n in found
        if value is not None
    ]
    return _perplexity(tokens, source, known.get("perplexity")), *others


def _perplexity(texts: Sequence[NDArray[Any]], source: Source, real: float | None) -> Score:
    """With a 90 % interval: the error over texts of a sum of nats, divided by the fixed number of tokens."""
    nats = np.array([_nats(text, source) for text in texts])
    lengths = np.array([len(text) for text in texts])
    each = float(nats.sum() / lengths.sum())
    n = len(texts)
    spread = np.sqrt(n / max(n - 1, 1) * np.square(nats - each * lengths).sum()) / lengths.sum()
    value, low, high = (float(np.exp(each + z * spread)) for z in (0, -Z, Z))
    return Score(name="perplexity", value=value, n=n, better="lower", low=low, high=high, real=real)


def _nats(text: NDArray[Any], source: Source) -> float:
    """-log p of a text under the n-gram model."""
    ids, model = [_names(source)[token] for token in text], _model(source)
    bits = sum(model.logscore(one, ids[max(0, at + 1 - ORDER) : at]) for at, one in enumerate(ids))
    return -float(np.log(2) * bits)


@cache
def _model(source: Source) -> WittenBellInterpolated:
    from nltk.lm import NgramCounter, Vocabulary, WittenBellInterpolated
    from nltk.util import everygrams

    names, split = _names(source), source.split("train")
    documents = ([names[token] for token in split.segments(i)[0]] for i in range(len(split)))
    # Each id once more: one that never occurs would make a text impossible.
    once = [(name,) for name in names]
    counts = NgramCounter(chain([once], (everygrams(document, max_len=ORDER) for document in documents)))
    return WittenBellInterpolated(ORDER, vocabulary=Vocabulary(names), counter=counts)


@cache
def _names(source: Source) -> list[str]:
    """The ids as the model's words."""
    return [str(token) for token in range(vocabulary(source, 0).size)]


def _distinct(texts: Sequence[Words], n: int) -> float | None:
    grams = list(_ngrams(texts, n))
    return len(set(grams)) / len(grams) if grams else None


def _self_bleu(texts: Sequence[Words]) -> float | None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    if len(texts) < 2:
        return None
    smoothing = SmoothingFunction().method1
    each = [
        sentence_bleu([*texts[:i], *texts[i + 1 :]], text, smoothing_function=smoothing) for i, text in enumerate(texts)
    ]
    return float(np.mean(each))


def _copied(texts: Sequence[Words], source: Source) -> float | None:
    grams = list(_ngrams(texts, COPIED))
    seen = set(grams).intersection(_ngrams(_training_texts(source), COPIED))
    return sum(gram in seen for gram in grams) / len(grams) if grams else None


@cache
def _training_texts(source: Source) -> list[Words]:
    return [caption.split() for caption in captions(source, "train")]


def _ngrams(texts: Sequence[Words], n: int) -> Iterator[tuple[str, ...]]:
    from nltk.util import ngrams

    return chain.from_iterable(ngrams(text, n) for text in texts)
