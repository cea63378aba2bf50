"""`triptych sample`, and sampling studies, as a user runs them, on a small run trained on the embedded data."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from compiler.plan import RunPlan
from runtime.data import DataError, Picture, decode, load
from runtime.data.encoding import encode
from triptych import app

STUDY = """\
study: small
base:
  model: {width: 32, depth: 2, heads: 2}
  modalities:
    text:  {data: embedded/text}
    image: {weight: 2, data: embedded/image, drop_condition: 0.1}
    audio: {weight: 2, data: embedded/audio, drop_condition: 0.1}
  sequence_length: 88
  tokens: 40K
  batch: {physical: 8}
  optimizer: {lr: 4e-3}
  schedule: {warmup: 4}
  evaluation: {sequences: 8}
  head: modality
"""
SWEEP = """\
study: sweep
runs: [small]
base: {task: text-to-image, n: 24, controls: [condition-masked, other-length, one-length, lookup]}
axes:
  - grid: {task: [text-to-image, image-to-text], sampler.steps: [2, 4]}
"""


PLAIN = ("kind=ancestral", "steps=4")
"""As many steps whatever the network says."""


def triptych(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs, with one that is trained."""
    folder = tmp_path_factory.mktemp("sampling")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "sweep.yaml").write_text(SWEEP)
    code, _, told = triptych("run", folder / "study.yaml", "--out", folder / "runs")
    assert code == 0, told
    return folder / "runs"


@pytest.fixture(scope="module")
def run(out: Path) -> Path:
    return next((out / "small" / "runs").iterdir())


def sample(run: Path, folder: Path, *arguments: object) -> dict[str, Any]:
    code, printed, told = triptych("sample", run, *arguments, "--out", folder, "--json")
    assert code == 0, told
    made: dict[str, Any] = json.loads(printed)
    assert made["id"] == run.name
    return made


def test_pictures_are_as_wide_as_their_captions_say(run: Path, tmp_path: Path) -> None:
    prompts = ("--prompt", "three", "--prompt", "one two three four")
    made = sample(run, tmp_path, "--task", "text-to-image", *prompts, "--n", 4, *PLAIN, "guidance=2")
    assert made["asked"] == ["three", "one two three four"] * 2
    assert made["calls"] == 8  # guided steps count twice
    (path,) = map(Path, made["files"])
    sheet = Image.open(path)
    assert sheet.width > 4 * 4 * 8 * 8  # four to a row, each with room for four digits of 8 pixels, enlarged 8 times
    assert len(set(np.asarray(sheet).ravel().tolist())) > 10
    assert json.loads((tmp_path / "text-to-image.json").read_text()) == made


def test_samples_are_the_seeds_own(run: Path, tmp_path: Path) -> None:
    def codes(seed: int) -> bytes:
        made = sample(run, tmp_path, "--task", "text-to-image", "--n", 3, "--seed", seed, "steps=4")
        return Path(made["files"][0]).read_bytes()

    assert codes(1) == codes(1)
    assert codes(1) != codes(2)


def test_speech_is_sound_of_whole_frames(run: Path, tmp_path: Path) -> None:
    made = sample(run, tmp_path, "--task", "text-to-speech", "--prompt", "seven", "--n", 2, "steps=4")
    assert [Path(path).name for path in made["files"]] == ["text-to-speech.0.seven.wav", "text-to-speech.1.seven.wav"]
    for path in made["files"]:
        with wave.open(path) as file:
            assert (file.getframerate(), file.getsampwidth()) == (8000, 2)
            assert file.getnframes() % 320 == 0
            assert file.getnframes() >= 320 * 3


def test_fewer_samples_leave_none_of_the_old_ones(run: Path, tmp_path: Path) -> None:
    for n in (3, 1):
        sample(run, tmp_path, "--task", "text-to-speech", "--n", n, "steps=1")
        assert len(list(tmp_path.glob("*.wav"))) == n


def test_pictures_and_sounds_can_be_prompts(run: Path, tmp_path: Path) -> None:
    spoken = sample(run, tmp_path, "--task", "text-to-speech", "--prompt", "two", "--n", 1, "steps=2")
    heard = sample(run, tmp_path, "--task", "speech-to-text", "--prompt", spoken["files"][0], "--n", 2, "lengths=2")
    picture = Picture(np.full((8, 16), 128, np.uint8)).save(tmp_path / "grey")
    read = sample(run, tmp_path, "--task", "image-to-text", "--prompt", picture, "--n", 2)
    assert all(text.strip() for text in (*heard["made"], *read["made"]))


def test_text_goes_on_and_fills_holes(run: Path, tmp_path: Path) -> None:
    made = sample(run, tmp_path, "--task", "text", "--prompt", "The array", "--n", 2, "steps=8")
    assert all(text.startswith("The array") and len(text) > 40 for text in made["made"])
    made = sample(run, tmp_path, "--task", "infill", "--prompt", "The [[6]] of an array", "--n", 2)
    assert all(text.startswith("The") and text.endswith(" of an array") for text in made["made"])
    assert made["tokens"] == 12
    made = sample(run, tmp_path, "--task", "infill", "--modality", "image", "--n", 2)
    assert Path(made["files"][0]).suffix == ".png"


def test_samples_lie_in_the_runs_folder_where_reports_find_them(run: Path) -> None:
    code, printed, _ = triptych("sample", run, "--task", "text-to-image", "--n", 2, *PLAIN, "guidance=1")
    assert code == 0
    assert (run / "samples" / "text-to-image.png").is_file()
    assert str(run / "samples" / "text-to-image.png") in printed
    assert "4 network calls each" in printed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--task", "text-to-video"], "--task: the run cannot do 'text-to-video'; "),
        (["--task", "text-to-image", "stepz=4"], "unknown key 'stepz'; did you mean 'steps'?"),
        (["--task", "text-to-image", "steps=0"], "steps: 0 is out of range"),
        (["--task", "infill", "--prompt", "no hole here"], "has no hole; write such as"),
        (["--task", "infill", "--prompt", "[[5000]]"], "has room for 87; make it shorter"),
        (["--task", "infill", "--modality", "video"], "--modality: the run has no 'video'"),
        (["--task", "text-to-image", "--prompt", ""], "has no tokens; give something to go by"),
        (["--task", "text-to-speech", "--prompt", "seven " * 60], "the run's 88 tokens; give a shorter one"),
    ],
)
def test_mistakes_are_one_clear_line(run: Path, arguments: list[str], told: str) -> None:
    code, _, error = triptych("sample", run, *arguments)
    assert code == 2
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_files_that_are_no_prompts_are_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    for task, name in (("image-to-text", "no.png"), ("speech-to-text", "no.wav")):
        code, _, error = triptych("sample", run, "--task", task, "--prompt", tmp_path / name)
        assert code == 1
        assert f"{name}: cannot be read" in error


def test_folders_that_cannot_be_sampled_are_told(run: Path, out: Path, tmp_path: Path) -> None:
    code, _, error = triptych("sample", tmp_path)
    assert (code, "this is no run's folder" in error) == (2, True)
    copy = out / "store" / "copy"
    shutil.copytree(run, copy)
    (out / "small" / "runs" / "copy").symlink_to(copy)
    try:
        newest = next((copy / "checkpoint").iterdir())
        with next(newest.glob("*.distcp")).open("r+b") as file:
            file.write(b"\x00\x01\x02\x03")
        code, _, error = triptych("sample", out / "small" / "runs" / "copy")
        assert (code, "no whole checkpoint" in error) == (2, True)
    finally:
        (out / "small" / "runs" / "copy").unlink()
        shutil.rmtree(copy)


def test_a_sampling_study_is_planned_run_once_judged_and_reported(out: Path) -> None:
    sweep = out.parent / "sweep.yaml"
    code, printed, _ = triptych("plan", sweep, "--out", out)
    assert (code, "4 points" in printed) == (0, True)
    code, printed, told = triptych("run", sweep, "--out", out, "--json")
    assert code == 0, told
    points = json.loads(printed)
    assert [point["task"] for point in points] == ["text-to-image"] * 2 + ["image-to-text"] * 2
    first = points[0]
    scores = {score["name"]: score for score in first["scores"]}
    assert first["quality"] == "read"
    assert scores["read"]["real"] > 0.9
    assert scores["copied"]["value"] <= 0.2
    assert "lookup" not in points[2]["controls"]
    assert set(first["controls"]) == {"condition-masked", "other-length", "one-length", "lookup"}
    looked_up = {score["name"]: score["value"] for score in first["controls"]["lookup"]}
    assert looked_up["read"] > 0.9
    assert looked_up["nearest"] < 0.1 < scores["nearest"]["value"]
    # Run again, nothing is drawn; a point whose file is damaged is drawn anew, and comes out the same.
    judged = sorted((out / "sweep" / "points").glob("*/judged.json"))
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in judged]
    judged[0].write_text("{")
    code, printed, told = triptych("run", sweep, "--out", out)
    assert "3 of 4 points are done already" in printed + told
    assert [path.stat().st_mtime_ns for path in judged[1:]] == [time for time, _ in before[1:]]
    again, was = json.loads(judged[0].read_text()), json.loads(before[0][1])
    assert again["scores"] == was["scores"]
    code, printed, _ = triptych("fit", out / "sweep", "--json")
    assert set(json.loads(printed)["defaults"]) == {"text-to-image", "image-to-text"}
    code, printed, _ = triptych("report", out / "sweep")
    assert code == 0
    for arguments, told in (
        (("fit", out / "small", out / "sweep"), "a sampling study is fitted by itself; give that folder alone"),
        (("fit", out / "small", "--write", out / "x.yaml"), "--write: only a sampling study finds defaults"),
        (("report", out / "sweep", "--watch"), "--watch: a sampling study has no live page"),
        (("plan", sweep, "--out", out, "--csv"), "a sampling study is only listed; give no --sort"),
        (("run", sweep, "--out", out, "--workers", 2), "--workers: a sampling study draws in one process"),
    ):
        code, _, error = triptych(*arguments)
        assert (code, told in error, len(error.strip().splitlines())) == (2, True, 1)
    assert (out / "sweep" / "report.html").stat().st_size > 100_000


def test_a_saved_picture_comes_back_as_the_same_codes(tmp_path: Path, run: Path) -> None:
    source = load("embedded/image", tmp_path)
    vocabulary = source.manifest.vocabularies[1]
    for number in range(20):
        codes = source.split("held_out").segments(number)[1]
        picture = decode(vocabulary, codes)
        saved = picture.save(tmp_path / "picture")
        again = decode(vocabulary, encode(vocabulary, str(saved)))
        assert isinstance(picture, Picture)
        assert isinstance(again, Picture)
        assert (again.pixels == picture.pixels).all()


def test_vocabularies_without_an_encoder_are_told(tmp_path: Path) -> None:
    source = load("embedded/image", tmp_path)
    other = type(source.manifest.vocabularies[1])(name="video", size=4, fingerprint="v")
    with pytest.raises(DataError, match="no encoder here; leave the prompt out"):
        encode(other, "x")


def test_the_runs_plan_is_what_it_was_trained_with(run: Path) -> None:
    import msgspec

    assert msgspec.json.decode((run / "run.json").read_bytes(), type=RunPlan).id == run.name
