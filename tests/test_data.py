"""The embedded sources: what is built, what is refused, and what tokens decode to."""

from __future__ import annotations

import builtins
import importlib.metadata
import importlib.util
import multiprocessing
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compiler.manifest import load_manifest
from runtime import data
from runtime.data import store
from runtime.data.embedded import audio, codec, image, text, words

NAMES = ("embedded/text", "embedded/image", "embedded/audio")
HERE = Path()


@pytest.fixture(scope="session")
def documents():
    return text.documents()


@pytest.fixture(scope="session")
def cache(documents, tmp_path_factory):
    """All embedded sources, built anew: about half a minute, and a quarter more where `documents` were found twice."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(folder))
        with patch.context() as found:
            found.setattr(text, "documents", lambda: documents)
            for name in NAMES:
                data.build(name, HERE)
        yield folder


@pytest.fixture
def copied(cache, tmp_path, monkeypatch):
    """A cache of one's own to spoil."""
    shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", NAMES)
def test_manifest_describes_what_is_built(cache, name):
    source = data.load(name, HERE)
    manifest = source.manifest
    assert load_manifest(name, HERE) == manifest
    sizes = {vocabulary.name: vocabulary.size for vocabulary in manifest.vocabularies}
    for split, counts in (("train", manifest.train), ("held_out", manifest.held_out)):
        arrays = source.split(split)
        assert store.count(arrays) == counts
        assert arrays.lengths.shape == (counts.sequences, len(manifest.segments))
        assert arrays.lengths.dtype == np.int32
        assert arrays.lengths.min() > 0
        assert arrays.offsets[-1] == len(arrays.tokens)
        for i, segment in enumerate(manifest.segments):
            assert arrays.of_segment(i).max() < sizes[segment.vocabulary]
    for i, segment in enumerate(manifest.segments):
        tokens = source.split("train").of_segment(i)
        assert store.describe(segment.vocabulary, tokens, segment.places) == segment
        assert segment.field_entropy <= segment.entropy <= np.log(sizes[segment.vocabulary])


def test_segments_cut_the_tokens_without_rest(cache):
    split = data.load("embedded/audio", HERE).split("held_out")
    joined = np.concatenate([part for i in range(len(split)) for part in split.segments(i)])
    np.testing.assert_array_equal(joined, split.tokens)


def test_captions_share_the_vocabulary_of_text(cache):
    shared = {data.load(name, HERE).manifest.vocabularies[0] for name in NAMES}
    assert len(shared) == 1


def test_sequences_of_pairs_are_short(cache):
    """Their 96 tokens with the special ones are what small studies are sized for."""
    for name in ("embedded/image", "embedded/audio"):
        manifest = data.load(name, HERE).manifest
        assert max(manifest.train.longest, manifest.held_out.longest) <= 93


def test_building_needs_no_torch():
    code = "import sys, runtime.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Splits


def test_documents_and_their_paragraphs_are_of_one_split(documents):
    paragraphs = {
        name: [line for each in texts for line in each.split("\n") if not text._FIELD.fullmatch(line)]
        for name, texts in documents.items()
    }
    everything = paragraphs["train"] + paragraphs["held_out"]
    assert len(everything) == len(set(everything))


def test_scans_are_of_one_split():
    pixels = {
        name: {scan.tobytes() for scans in by_digit.values() for scan in scans}
        for name, by_digit in image.scans().items()
    }
    assert pixels["train"].isdisjoint(pixels["held_out"])
    assert sum(len(scans) for by_digit in image.scans().values() for scans in by_digit.values()) == 1797


def _captions(name, split):
    source = data.load(name, HERE)
    arrays = source.split(split)
    vocabulary = source.manifest.vocabularies[0]
    return [data.decode(vocabulary, arrays.segments(i)[0]).text for i in range(len(arrays))]


@pytest.mark.parametrize("name", ["embedded/image", "embedded/audio"])
def test_strings_of_digits_are_of_one_split(cache, name):
    train, held_out = (set(_captions(name, split)) for split in ("train", "held_out"))
    assert train & held_out <= set(words.WORDS)
    assert any(" " in caption for caption in held_out)


def test_voices_are_of_one_split():
    used = {name: {u.voice.split("+")[1] for u in audio.utterances() if u.split == name} for name in audio.VOICES}
    assert used["train"].isdisjoint(used["held_out"])
    assert {name: len(voices) for name, voices in used.items()} == {"train": 6, "held_out": 2}


@given(st.integers(2, 4), st.data())
def test_held_out_strings_are_balanced(n, draw):
    """With all digits but one given, a fifth of the ten strings is held out, whichever place is open."""
    place = draw.draw(st.integers(0, n - 1))
    digits = draw.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    held_out = [words.held_out([*digits[:place], digit, *digits[place + 1 :]]) for digit in range(10)]
    assert sum(held_out) == 2


# Decoding


def test_text_decodes_to_what_it_was(cache, documents):
    source = data.load("embedded/text", HERE)
    split = source.split("held_out")
    assert len(split) == len(documents["held_out"])
    for i in range(0, len(split), 25):
        assert data.decode(source.manifest.vocabularies[0], split.segments(i)[0]).text == documents["held_out"][i]


def test_captions_say_what_the_pictures_show(cache):
    said = [words.caption(digits) for digits, _ in image.pictures()["held_out"]]
    assert _captions("embedded/image", "held_out") == said


@given(st.lists(st.integers(0, image.CODES - 1), min_size=4, max_size=64).filter(lambda codes: len(codes) % 4 == 0))
def test_picture_codes_survive_decoding(codes):
    pixels = image.decode(np.array(codes))
    assert pixels.shape == (image.SIDE, len(codes) // 2)
    # Two code vectors may be equal: what they show must be.
    np.testing.assert_array_equal(image.decode(image.encode(pixels)), pixels)


def test_pictures_stay_near_their_pixels(cache):
    errors = [
        np.abs(image.decode(image.encode(pixels)).astype(int) - pixels) for _, pixels in image.pictures()["held_out"]
    ]
    assert np.mean(np.concatenate(errors, axis=1)) < 12


def test_speech_codes_keep_a_tone():
    """A harmonic tone at 150 Hz comes back at its pitch; each token has its field's ids."""
    time = np.arange(codec.RATE) / codec.RATE
    tone = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20))
    codes = codec.encode((tone * 4000).astype(np.int16))
    fields = codes.reshape(-1, codec.FIELDS).astype(int) - codec.OFFSETS
    assert len(fields) == 25
    assert (fields >= 0).all()
    assert (fields < codec.SIZES).all()
    samples = codec.decode(codes)
    assert samples.dtype == np.int16
    assert len(samples) == codec.RATE
    tail = samples[2000:].astype(float)
    lags = [float(tail[lag:] @ tail[: len(tail) - lag]) for lag in range(30, 80)]
    assert 30 + int(np.argmax(lags)) == pytest.approx(codec.RATE / 150, abs=2)


def test_codes_that_are_no_whole_thing_are_refused(cache):
    pictures, speech = (data.load(name, HERE).manifest.vocabularies[1] for name in ("embedded/image", "embedded/audio"))
    with pytest.raises(data.DataError, match="multiple of 4"):
        data.decode(pictures, np.arange(6))
    with pytest.raises(data.DataError, match="whole frames"):
        data.decode(speech, np.array([0, 512, 1024]))
    with pytest.raises(data.DataError, match="order of their fields"):
        data.decode(speech, np.array([512, 0, 1024, 1040]))
    with pytest.raises(data.DataError, match="from 0 to 127"):
        data.decode(pictures, np.array([0, 0, 0, 128]))
    with pytest.raises(data.DataError, match="no decoder"):
        data.decode(msgspec.structs.replace(pictures, fingerprint="other"), np.zeros(4, int))


def test_examples_can_be_opened(cache, tmp_path):
    written = [path for name in NAMES for path in data.show(name, HERE, tmp_path / "examples", n=3)]
    suffixes = sorted(path.suffix for path in written)
    assert suffixes == [".png", *[".txt"] * 3, *[".wav"] * 3]
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert min(picture.size) >= 64
                assert len(picture.getcolors()) > 20
        elif path.suffix == ".wav":
            with wave.open(str(path)) as sound:
                assert sound.getframerate() == codec.RATE
                assert sound.getnframes() > 2000
                assert np.frombuffer(sound.readframes(-1), np.int16).std() > 100
        else:
            assert path.read_text().strip()


# What is refused


@pytest.mark.parametrize("spoil", ["flip", "cut", "remove"])
def test_spoiled_cache_is_named(copied, spoil):
    file = data.build("embedded/image", HERE) / "train.tokens.npy"
    content = bytearray(file.read_bytes())
    if spoil == "remove":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content if spoil == "flip" else content[:5000])
    # A new process: one checks a folder only once.
    code = (
        "import pathlib, runtime.data as d\n"
        "try: d.build('embedded/image', pathlib.Path())\n"
        "except d.DataError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "train." in done.stdout
    assert str(file.parent) in done.stdout
    assert "delete" in done.stdout


def test_own_folder_is_verified_by_its_manifest(cache, tmp_path):
    own = tmp_path / "digits"
    shutil.copytree(data.build("embedded/image", HERE), own)
    manifest = msgspec.json.decode((own / "manifest.json").read_bytes())
    (own / "manifest.json").write_bytes(msgspec.json.encode({**manifest, "name": "digits"}))
    assert len(data.load("digits", tmp_path).split("held_out")) == manifest["held_out"]["sequences"]
    manifest["train"]["tokens"] += 1
    (own / "manifest.json").write_bytes(msgspec.json.encode({**manifest, "name": "digits"}))
    with pytest.raises(data.DataError, match="tokens"):
        data.load("digits", tmp_path)


def test_unknown_source_is_named(cache, tmp_path):
    with pytest.raises(data.DataError, match=r"nowhere: there is no .*embedded/text"):
        data.load("nowhere", tmp_path)


@pytest.mark.parametrize("package", ["espeakng_loader", "pycodec2"])
def test_missing_speech_packages_are_named(tmp_path, monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(data.DataError) as caught:
        data.build("embedded/audio", HERE)
    assert str(caught.value) == "embedded/audio needs espeakng-loader and pycodec2; pip install 'triptych[speech]'"


def test_missing_scikit_learn_is_named(tmp_path, monkeypatch):
    imported = builtins.__import__

    def without(name, *rest):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(data.DataError, match=r"embedded/image needs scikit-learn; pip install 'triptych\[data\]'"):
        data.build("embedded/image", HERE)


def test_other_version_of_a_text_source_is_named(tmp_path, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "scipy" else version(name))
    with pytest.raises(data.DataError, match=r"scipy 1\.0 is installed; pip install scipy==1\.17\.1"):
        data.build("embedded/text", HERE)


def test_other_data_than_the_manifest_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setitem(image._SEEDS, "held_out", 3)
    with pytest.raises(data.DataError, match=r"built other data than the manifest says \(held_out is"):
        data.build("embedded/image", HERE)
    assert not list((tmp_path / "data").glob("image*"))


def test_processes_may_build_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=data.build, args=("embedded/image", HERE)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len([path for path in (tmp_path / "data").iterdir() if path.is_dir()]) == 1
