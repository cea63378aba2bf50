"""A judge of captions and transcripts that a model wrote: is it what was asked for, and how many words are wrong?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from compiler.manifest import VocabularyManifest
from compiler.sampling import Score
from runtime.data import DataError, Decoded, Source, Text, decode
from runtime.data.store import SplitName
from runtime.judges.base import Sample, need, rate


def vocabulary(source: Source, segment: int) -> VocabularyManifest:
    """The vocabulary of a segment of `source`, by its place."""
    name = source.manifest.segments[segment].vocabulary
    return next(each for each in source.manifest.vocabularies if each.name == name)


@cache
def captions(source: Source, split: SplitName) -> tuple[str, ...]:
    """The caption of each sequence of a split: its first segment, its words one space apart. Raises DataError where
    that is no text."""
    data = source.split(split)
    return tuple(" ".join(words(decode(vocabulary(source, 0), data.segments(i)[0]))) for i in range(len(data)))


def words(made: Decoded) -> list[str]:
    """The words of a decoded text. Raises DataError where `made` is no text."""
    if not isinstance(made, Text):
        raise DataError(f"a {type(made).__name__.lower()} is no text; judge it as what it is")
    return made.text.split()


def judge_captions(samples: Sequence[Sample], source: Source) -> tuple[Score, ...]:
    """Written captions against the true ones that were asked for; spaces do not count.

    `right`: the whole string; `right_1` …: strings of so many words; `word_error`: the least substitutions, insertions
    and deletions of words that mend all, over the true words. Raises DataError where `source` has no captions, a sample
    is no text, or nltk is not installed.
    """
    captions(source, "held_out")
    pairs = [(sample.asked.split(), words(sample.made)) for sample in samples]
    by_length = {
        n: [made == asked for asked, made in pairs if len(asked) == n] for n in sorted({len(a) for a, _ in pairs})
    }
    return (
        rate("right", [made == asked for asked, made in pairs]),
        *(rate(f"right_{n}", right) for n, right in by_length.items()),
        _word_error(pairs),
    )


def _word_error(pairs: Sequence[tuple[list[str], list[str]]]) -> Score:
    need("nltk", "words")
    from nltk.metrics.distance import edit_distance

    wrong = sum(edit_distance(made, asked) for asked, made in pairs)
    return Score(name="word_error", value=wrong / sum(len(asked) for asked, _ in pairs), n=len(pairs), better="lower")
