"""Judges of pictures, text and captions, and the baseline that copies training data."""

from __future__ import annotations

import pydoc_data.topics
import sys
from pathlib import Path

import numpy as np
import pytest

from compiler.manifest import Manifest, VocabularyManifest
from runtime import data
from runtime.data import Picture, Sound, Text
from runtime.data.embedded import codec, image, tokenizer, words
from runtime.data.store import count, describe, pack, write
from runtime.judges.base import Sample
from runtime.judges.captions import captions, judge_captions
from runtime.judges.frechet import frechet
from runtime.judges.lookup import lookup
from runtime.judges.pictures import judge_pictures, read
from runtime.judges.texts import judge_texts

SIDE = image.SIDE


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """`embedded/image`, built anew in a few seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load(image.NAME, Path())


@pytest.fixture(scope="module")
def real(digits):
    """All held-out pictures, as samples that are as good as can be."""
    split = digits.split("held_out")
    codes = [split.segments(i)[1] for i in range(len(split))]
    return [
        Sample(asked=caption, made=Picture(image.decode(tokens)), tokens=tokens)
        for caption, tokens in zip(captions(digits, "held_out"), codes, strict=True)
    ]


def source_of(
    folder: Path, vocabularies: list[VocabularyManifest], train: list[list[list[int]]], held_out: list[list[list[int]]]
) -> data.Source:
    """A source of given sequences, each of segments of these vocabularies."""
    splits = {"train": pack(train), "held_out": pack(held_out)}
    manifest = Manifest(
        name=folder.name,
        description="",
        licence="",
        packed=False,
        vocabularies=tuple(vocabularies),
        segments=tuple(describe(each.name, splits["train"].of_segment(i)) for i, each in enumerate(vocabularies)),
        train=count(splits["train"]),
        held_out=count(splits["held_out"]),
    )
    folder.mkdir(parents=True)
    write(folder, splits, manifest)
    return data.load(folder.name, folder.parent)


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    """English prose that comes with Python; every tenth document is held out."""
    encodings = tokenizer.load().encode_batch([" ".join(text.split()) for text in pydoc_data.topics.topics.values()])
    documents = [[encoding.ids] for encoding in encodings]
    held_out = [document for i, document in enumerate(documents) if i % 10 == 0]
    train = [document for i, document in enumerate(documents) if i % 10]
    return source_of(tmp_path_factory.mktemp("prose") / "prose", [tokenizer.vocabulary()], train, held_out)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Transcripts and codes; the first energy tells the sequences apart."""
    said = ["one", "two", "two", "one two"]
    rows = [[tokenizer.load().encode(said[i]).ids, frames(i)] for i in range(len(said))]
    vocabularies = [tokenizer.vocabulary(), codec.vocabulary()]
    return source_of(tmp_path_factory.mktemp("speech") / "speech", vocabularies, rows, rows)


def frames(number: int) -> list[int]:
    return [offset + number for offset in codec.OFFSETS] * 2


def by_name(scores):
    return {score.name: score for score in scores}


def passages(source: data.Source, split: str = "held_out", n: int = 100, length: int = 80) -> list[np.ndarray]:
    tokens = np.asarray(source.split(split).tokens)
    return [tokens[start : start + length] for start in np.linspace(0, len(tokens) - length, n).astype(int)]


def texts(rows) -> list[Sample]:
    return [Sample(asked="", made=data.decode(tokenizer.vocabulary(), row), tokens=np.asarray(row)) for row in rows]


def test_distance_of_a_set_to_itself_is_nothing():
    features = np.random.default_rng(0).normal(size=(300, 5)) @ np.random.default_rng(1).normal(size=(5, 5))
    assert frechet(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet(features, features + 3) == pytest.approx(5 * 3**2)
    assert frechet(features[:, :1], features[:, :1] + 3) == pytest.approx(3**2)
    with pytest.raises(ValueError, match="two rows"):
        frechet(features, features[:1])


def test_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    mean, first, second = np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0])
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    a = rng.normal(size=(200_000, 3)) * first @ turn
    b = (rng.normal(size=(200_000, 3)) * second + mean) @ turn
    expected = (mean**2).sum() + ((first - second) ** 2).sum()
    assert frechet(a, b) == pytest.approx(expected, rel=0.02)
    assert frechet(a, b) == pytest.approx(frechet(b, a))


def test_distance_of_what_does_not_fill_the_space():
    line = np.outer(np.arange(10.0), [1, 0, 0])
    other = np.outer(np.arange(10.0), [0, 1, 0])
    variance = np.var(np.arange(10.0), ddof=1)
    assert frechet(line, other) == pytest.approx(2 * 4.5**2 + 2 * variance)


def test_held_out_pictures_are_read(digits, real):
    scores = by_name(judge_pictures(real, digits))
    assert next(iter(scores)) == "read"
    assert scores["read_digit"].value > 0.98
    assert scores["read"].value > 0.97
    for n in (1, 2, 3, 4):
        assert scores[f"read_{n}"].value > 0.93
        assert scores[f"read_{n}"].n == sum(len(sample.asked.split()) == n for sample in real)
    # Judged whole, they are their own measure.
    for name in ("read", "read_2", "read_digit", "frechet", "diversity", "nearest", "copied", "duplicates"):
        assert scores[name].value == pytest.approx(scores[name].real)
    assert scores["diversity"].value == pytest.approx(1, abs=0.05)
    assert scores["copied"].value < 0.01


def test_real_value_of_whole_strings_is_for_the_lengths_asked(digits, real):
    pairs = [sample for sample in real if len(sample.asked.split()) == 2]
    scores = by_name(judge_pictures(pairs[:40], digits))
    assert "read_1" not in scores
    assert (
        scores["read"].real
        == scores["read_2"].real
        == np.mean(
            [read([sample.made])[0] == [words.WORDS.index(word) for word in sample.asked.split()] for sample in pairs]
        )
    )


def test_pictures_of_other_captions_are_read_at_chance(digits, real):
    order = np.random.default_rng(0).permutation(len(real))
    shuffled = [
        Sample(asked=real[i].asked, made=sample.made, tokens=sample.tokens)
        for i, sample in zip(order, real, strict=True)
    ]
    scores = by_name(judge_pictures(shuffled, digits))
    assert scores["read_1"].high < 0.15
    assert scores["read_2"].value < 0.05
    # The digits of a class are now of all classes, further apart than a class's own.
    assert scores["diversity"].value > 1.15


def test_blank_pictures_fail(digits, real):
    blank = [
        Sample(asked=sample.asked, made=Picture(np.zeros_like(sample.made.pixels)), tokens=np.zeros_like(sample.tokens))
        for sample in real[:200]
    ]
    scores = by_name(judge_pictures(blank, digits))
    assert scores["read"].high < 0.25
    assert scores["read_digit"].high < 0.25
    assert scores["diversity"].value == 0
    assert scores["frechet"].value > 20 * scores["frechet"].real
    assert scores["nearest"].value > 2 * scores["nearest"].real
    assert scores["duplicates"].value > 0.95


def test_pictures_drawn_to_their_mean_are_less_diverse(digits, real):
    classes = {word: [s.made.pixels.astype(float) for s in real if s.asked == word] for word in words.WORDS}
    means = {word: np.mean(pictures, axis=0) for word, pictures in classes.items()}
    drawn = [
        Sample(
            asked=sample.asked,
            made=Picture((0.5 * sample.made.pixels + 0.5 * means[sample.asked]).astype(np.uint8)),
            tokens=sample.tokens,
        )
        for sample in real
        if sample.asked in means
    ]
    scores = by_name(judge_pictures(drawn, digits))
    assert scores["read"].value > 0.9
    assert scores["diversity"].value == pytest.approx(0.5 * scores["diversity"].real, abs=0.05)
    assert scores["frechet"].value > 3 * scores["frechet"].real


def test_a_picture_of_another_number_of_digits_is_wrong(digits, real):
    pair = next(sample for sample in real if len(sample.asked.split()) == 2 and _is_read(sample))
    first = pair.asked.split()[0]
    pixels = pair.made.pixels
    for asked, shown, right in (
        (pair.asked, pixels, (1, 1)),
        (first, pixels, (0, 1)),
        (first, pixels[:, : SIDE + 2], (0, 1)),
        (pair.asked, pixels[:, :SIDE], (0, 0.5)),
        (first, pixels[:, :4], (0, 0)),
    ):
        scores = by_name(judge_pictures([Sample(asked=asked, made=Picture(shown), tokens=pair.tokens)], digits))
        assert (scores["read"].value, scores["read_digit"].value) == right
        assert ("nearest" in scores) == (right == (1, 1))


def _is_read(sample: Sample) -> bool:
    return read([sample.made]) == [[words.WORDS.index(word) for word in sample.asked.split()]]


def test_reading_keeps_pictures_apart(real):
    three = real[:3]
    together = read([sample.made for sample in three])
    assert together == [read([sample.made])[0] for sample in three]
    assert [len(digits) for digits in together] == [sample.made.pixels.shape[1] // SIDE for sample in three]
    assert read([Picture(np.zeros((SIDE, 2), np.uint8))]) == [[]]
    assert read([]) == []


def test_pictures_need_captions_of_digits(digits, real):
    with pytest.raises(data.DataError, match="'one hat' is no string of digits"):
        judge_pictures([Sample(asked="one hat", made=real[0].made, tokens=real[0].tokens)], digits)
    with pytest.raises(data.DataError, match="no picture"):
        judge_pictures([Sample(asked="one", made=Text("one"), tokens=np.zeros(1))], digits)


def test_lookup_is_read_but_not_new(digits, real):
    asked = [sample.asked for sample in real[:500]]
    made = lookup(asked, digits, seed=0)
    assert [sample.asked for sample in made] == asked
    scores = by_name(judge_pictures(made, digits))
    assert scores["read"].value > 0.98
    assert scores["diversity"].value > 0.95
    assert scores["nearest"].value == 0
    assert scores["nearest"].real > 10
    single = [sample for sample in made if " " not in sample.asked]
    assert by_name(judge_pictures(single, digits))["copied"].value == 1
    seen = lookup(list(captions(digits, "train")[:200]), digits, seed=0)
    assert by_name(judge_pictures(seen, digits))["copied"].value == 1


def test_lookup_copies_or_joins(speech):
    rows = {i: frames(i) for i in range(4)}
    (whole,) = lookup(["one two"], speech, seed=0)
    assert whole.tokens.tolist() == rows[3]
    assert isinstance(whole.made, Sound)
    assert len(whole.made.samples) == 2 * codec.FRAME
    joined = {tuple(sample.tokens) for sample in lookup(["two one"] * 20, speech, seed=0)}
    assert joined == {tuple(rows[1] + rows[0]), tuple(rows[2] + rows[0])}
    many = [[sample.tokens.tolist() for sample in lookup(["two"] * 20, speech, seed)] for seed in (1, 1, 2)]
    assert many[0] == many[1] != many[2]
    with pytest.raises(data.DataError, match="'three'"):
        lookup(["two three"], speech, seed=0)


def test_real_text_is_likelier_than_noise(prose):
    rng = np.random.default_rng(0)
    rows = passages(prose)
    real, shuffled, noise = (
        by_name(judge_texts(texts(each), prose))
        for each in (
            rows,
            [rng.permutation(row) for row in rows],
            rng.integers(tokenizer.SIZE, size=(len(rows), len(rows[0]))),
        )
    )
    assert next(iter(real)) == "perplexity"
    assert real["perplexity"].value < 0.1 * shuffled["perplexity"].value
    assert shuffled["perplexity"].value < 0.5 * noise["perplexity"].value < np.inf
    assert real["perplexity"].value == pytest.approx(real["perplexity"].real, rel=0.3)
    assert real["copied"].value > shuffled["copied"].value == 0


def test_training_text_is_found_to_be_copied(prose):
    copied = by_name(judge_texts(texts(passages(prose, "train")), prose))
    assert copied["copied"].value > 0.7 > 2 * copied["copied"].real
    assert copied["perplexity"].value < 0.8 * copied["perplexity"].real


def test_repeated_text_is_likely_and_not_diverse(prose):
    text = tokenizer.load().encode("The value of the name is the value of the object.").ids
    scores = by_name(judge_texts(texts([text] * 20), prose))
    assert scores["perplexity"].value < scores["perplexity"].real
    assert scores["self_bleu"].value == pytest.approx(1)
    assert scores["self_bleu"].real < 0.3
    # "the", "value" and "of" come again, and the pairs "value of" and "of the".
    assert scores["distinct_1"].value == pytest.approx(7 / (11 * 20))
    assert scores["distinct_2"].value == pytest.approx(8 / (10 * 20))
    assert scores["distinct_1"].real > 5 * scores["distinct_1"].value


def test_real_texts_are_as_many_and_as_long(prose):
    few = by_name(judge_texts(texts(passages(prose, n=20)), prose))
    many = by_name(judge_texts(texts(passages(prose, n=200)), prose))
    assert few["distinct_1"].real > many["distinct_1"].real
    one = by_name(judge_texts(texts([[70]]), prose))
    assert set(one) == {"perplexity", "distinct_1"}
    # More tokens than any held-out document has: nothing real is so long.
    longest = int(prose.split("held_out").lengths.max())
    alone = by_name(judge_texts(texts([np.full(longest + 1, 70)]), prose))
    assert alone["perplexity"].real is None


@pytest.mark.parametrize(
    ("pairs", "right", "error"),
    [
        ([("one two", "one two"), ("three", " three ")], 1, 0),
        ([("one two", "one three"), ("three", "three")], 0.5, 1 / 3),
        ([("one two", "one two three"), ("three", "")], 0, 2 / 3),
        ([("one two", "two"), ("three", "four five six")], 0, 4 / 3),
    ],
)
def test_captions_are_compared_by_words(speech, pairs, right, error):
    samples = [Sample(asked=asked, made=Text(made), tokens=np.zeros(1)) for asked, made in pairs]
    scores = by_name(judge_captions(samples, speech))
    assert list(scores) == ["right", "right_1", "right_2", "word_error"]
    assert scores["right"].value == right
    assert scores["right_1"].n == scores["right_2"].n == 1
    assert scores["word_error"].value == pytest.approx(error)
    assert scores["word_error"].real is None


def test_what_is_no_text_is_refused(speech, prose):
    sample = Sample(asked="one", made=Picture(np.zeros((8, 8), np.uint8)), tokens=np.zeros(16))
    for judge, source in ((judge_captions, speech), (judge_texts, prose)):
        with pytest.raises(data.DataError, match="picture is no text"):
            judge([sample], source)


@pytest.mark.parametrize(
    ("package", "judge"),
    [
        ("sklearn", lambda digits, speech: read([])),
        ("sklearn", lambda digits, speech: judge_pictures([], digits)),
        ("nltk", lambda digits, speech: judge_texts([], speech)),
        ("nltk", lambda digits, speech: judge_captions([Sample("one", Text("one"), np.zeros(1))], speech)),
    ],
)
def test_a_missing_package_names_the_extra(digits, speech, monkeypatch, package, judge):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(data.DataError, match=r"pip install 'triptych\[judges\]'"):
        judge(digits, speech)
