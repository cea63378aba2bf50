"""Judges of speech: real speech is understood, and nothing else is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import data
from runtime.data import Picture, Sound
from runtime.data.embedded import audio
from runtime.judges import speech, speech_adaptation, speech_features
from runtime.judges.base import Sample
from runtime.judges.speech import hear, hear_generic, judge_speech
from runtime.judges.speech_features import judge_speech_features

ONE, TWO = 20, 10


@pytest.fixture(scope="module")
def source():
    return data.load(audio.NAME, Path())


def drawn(source, split, one, two):
    """So many real utterances of one word and of two, evenly spread over a split."""
    lengths = [len(caption.split()) for caption in speech.captions(source, split)]
    which = [
        i
        for words, n in ((1, one), (2, two))
        for i in speech.spread([i for i, length in enumerate(lengths) if length == words], n)
    ]
    return [Sample(asked=asked, made=made, tokens=codes) for asked, made, codes in speech.spoken(source, split, which)]


@pytest.fixture(scope="module")
def real(source):
    """Held-out speech: voices and strings that neither judge was fitted to."""
    return drawn(source, "held_out", ONE, TWO)


@pytest.fixture(scope="module")
def heard(real):
    return hear([sample.made for sample in real])


@pytest.fixture(scope="module", autouse=True)
def small():
    """Fit the second judge to fewer utterances: quicker, and good enough to be told from chance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech_features, "TRAINING", 900)
        yield


def by_name(scores):
    return {score.name: score for score in scores}


def shuffled(samples):
    """The same sounds, each asked to be what another was."""
    asked = [sample.asked for sample in samples]
    return [
        Sample(asked=other, made=sample.made, tokens=sample.tokens)
        for sample, other in zip(samples, asked[7:] + asked[:7], strict=True)
    ]


def test_voices_that_the_model_was_not_adapted_to_are_understood(real, heard):
    right = [sample.asked == each for sample, each in zip(real, heard, strict=True)]

    assert np.mean(right[:ONE]) >= 0.9
    assert np.mean(right[ONE:]) >= 0.75


def test_adapting_the_model_is_what_makes_it_understand(real, heard):
    right = sum(sample.asked == each for sample, each in zip(real, heard, strict=True))
    generic = hear_generic([sample.made for sample in real])

    assert right - sum(sample.asked == each for sample, each in zip(real, generic, strict=True)) >= len(real) // 5


def test_what_is_heard_depends_on_neither_order_nor_company(real, heard):
    backwards = hear([sample.made for sample in real[::-1]])
    alone = hear([real[-1].made])

    assert backwards[::-1] == heard
    assert alone == heard[-1:]


def test_many_sounds_are_heard_by_processes_as_by_one(real, heard, monkeypatch):
    monkeypatch.setattr(speech, "_FEW", 0)

    assert hear([sample.made for sample in real]) == heard


def test_strings_longer_than_training_ones_are_heard(real):
    """Four words, each spoken alone, one after the other."""
    words = real[:4]
    joined = Sound(np.concatenate([sample.made.samples for sample in words]), words[0].made.rate)

    found = hear([joined])[0].split()

    assert len(found) == 4
    assert sum(word == sample.asked for word, sample in zip(found, words, strict=True)) >= 3


def test_scores_of_real_speech_stand_beside_real_values(source, real):
    scores = by_name(judge_speech(real, source, real=24))

    assert next(iter(scores)) == "heard"
    assert set(scores) == {"heard", "heard_1", "heard_2", "heard_word", "heard_word_1", "heard_word_2", "heard_generic"}
    assert scores["heard"].value >= 0.85
    assert scores["heard_word"].value >= 0.85
    assert scores["heard"].real == pytest.approx(scores["heard"].value, abs=0.15)
    assert scores["heard_1"].n == ONE
    assert scores["heard_word_2"].n == 2 * TWO
    assert scores["heard_1"].real * ONE + scores["heard_2"].real * TWO == pytest.approx(
        scores["heard"].real * (ONE + TWO)
    )


def test_wrong_transcripts_score_at_chance(source, real):
    wrong = shuffled(real)

    assert by_name(judge_speech(wrong, source, real=24))["heard"].value <= 0.3
    told = by_name(judge_speech_features(wrong, source))
    assert told["told"].value <= 0.3
    assert told["told"].real >= 0.8


def test_silence_and_noise_are_not_speech(source, real):
    rng = np.random.default_rng(0)
    for level in (0, 3_000):
        samples = [
            Sample(
                asked=sample.asked,
                made=Sound((level * rng.standard_normal(len(sample.made.samples))).astype(np.int16), 8_000),
                tokens=sample.tokens,
            )
            for sample in real[::2]
        ]
        assert by_name(judge_speech(samples, source, real=24))["heard"].value <= 0.3
        features = by_name(judge_speech_features(samples, source))
        assert features["told"].value <= 0.3
        assert features["speech_frechet"].value > 2 * features["speech_frechet"].real


def test_half_an_utterance_is_understood_less(source, real):
    halves = [
        Sample(
            asked=sample.asked,
            made=Sound(sample.made.samples[: len(sample.made.samples) // 2], sample.made.rate),
            tokens=sample.tokens,
        )
        for sample in real
    ]

    scores = by_name(judge_speech(halves, source, real=24))

    assert scores["heard"].value <= scores["heard"].real - 0.2


def test_the_second_judge_does_not_see_duration(real):
    """A tone is the same whatever its length."""
    tones = [Sound((8_000 * np.sin(np.arange(n) * np.pi / 8)).astype(np.int16), 8_000) for n in (3_200, 6_400)]
    short, long = (speech_features.cepstra(tone) for tone in tones)

    assert short.shape == long.shape
    assert np.abs(short[2:-2] - long[2:-2]).max() < 0.05 * np.abs(speech_features.cepstra(real[0].made)).max()


def test_copies_are_found_and_one_voice_is_less_varied(source, real):
    copies = drawn(source, "train", 20, 5)
    known = by_name(judge_speech_features(copies, source))
    one = next(sample for sample in real if sample.asked == "five")
    same = by_name(judge_speech_features([one] * 5, source))
    held_out = by_name(judge_speech_features(real, source))

    assert known["speech_copied"].value == 1
    assert held_out["speech_copied"].value == 0
    assert known["speech_nearest"].value < held_out["speech_nearest"].value
    assert same["speech_diversity"].value < 0.05
    assert held_out["speech_diversity"].value > 0.3
    assert held_out["told"].value >= 0.85


@pytest.mark.parametrize(
    ("package", "judge", "message"),
    [
        ("pocketsphinx", "speech", "judging speech needs pocketsphinx; pip install 'triptych[judges]'"),
        ("sklearn", "features", "judging speech needs scikit-learn; pip install 'triptych[judges]'"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(source, real, monkeypatch, package, judge, message):
    for cached in (speech._shipped, speech._plain, speech._models, speech._language):
        monkeypatch.setattr(speech, cached.__name__, cached.__wrapped__)
    for cached in (speech_features._classifiers, speech_features._projection):
        monkeypatch.setattr(speech_features, cached.__name__, cached.__wrapped__)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(data.DataError) as caught:
        (judge_speech if judge == "speech" else judge_speech_features)(real[:2], source)

    assert str(caught.value) == message


def test_another_model_than_the_adapted_one_is_refused(tmp_path):
    generic = tmp_path / "model"
    generic.mkdir()
    (generic / "means").write_bytes(b"s3\nendhdr\n")

    with pytest.raises(data.DataError, match=r"is not the model that was adapted; install pocketsphinx 5\.1"):
        speech_adaptation.adapt(generic, tmp_path / "adapted")


def test_a_picture_is_no_sound(source):
    sample = Sample(asked="one", made=Picture(np.zeros((8, 8), np.uint8)), tokens=np.zeros(4, np.int64))

    for judge in (judge_speech, judge_speech_features):
        with pytest.raises(data.DataError, match="a picture is no sound"):
            judge([sample], source)
