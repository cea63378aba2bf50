"""The study language: quantities, YAML as read, overrides, interpolation, and where errors are said to be."""

from __future__ import annotations

import contextlib
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.document import plain, read_document
from specs.errors import Problem, SpecError
from specs.load import LoadedStudy, Setting, load_study
from specs.quantities import format_quantity, parse_quantity

STUDY = """\
study: tiny
base:
  model: {width: 32, depth: 2}
  modalities:
    text: {weight: 2, data: text}
    image:
      weight: 1
      data: image
      noise: {kind: polynomial, power: 2}
  sequence_length: 64
  tokens: 1e6
  batch: {physical: 8}
  optimizer: {lr: 3e-3}
axes:
  - grid: {model.width: [64, 128]}
"""


def write(tmp_path: Path, text: str, name: str = "study.yaml") -> Path:
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path


def load(tmp_path: Path, text: str = STUDY, *overrides: str) -> LoadedStudy:
    return load_study(write(tmp_path, text), overrides)


def problems(tmp_path: Path, text: str = STUDY, *overrides: str) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text, *overrides).base()
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("20M", 20e6),
        ("13B", 13e9),
        ("6.4T", 6.4e12),
        ("1e9", 1e9),
        ("1_000", 1000.0),
        ("2 k", 2000.0),
        (7, 7.0),
        (0.5, 0.5),
    ],
)
def test_quantities(written: object, number: float) -> None:
    assert parse_quantity(written) == number


@pytest.mark.parametrize("written", ["", "M", "20Q", "-5M", -1, True, None, "1e999", "nan", float("inf"), [1], 10**400])
def test_what_is_no_quantity(written: object) -> None:
    with pytest.raises(ValueError, match="is not a quantity; write"):
        parse_quantity(written)


@given(st.floats(1, 1e15), st.sampled_from(["", "K", "M", "B", "T"]))
def test_quantity_suffixes_multiply(number: float, suffix: str) -> None:
    factor = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[suffix]
    assert parse_quantity(f"{number!r}{suffix}") == pytest.approx(number * factor)


@given(st.floats(1, 9e14))
def test_quantities_are_printed_to_three_digits(number: float) -> None:
    assert parse_quantity(format_quantity(number)) == pytest.approx(number, rel=6e-3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("3e-3", 3e-3),
        ("12", 12),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("~", None),
        ("20M", "20M"),
    ],
)
def test_scalars_are_yaml_1_2(text: str, value: object) -> None:
    assert plain(text) == value
    assert type(plain(text)) is type(value)


def test_defaults_and_short_forms(tmp_path: Path) -> None:
    base = load(tmp_path).base()
    assert base.optimizer.lr == 3e-3
    assert base.tokens == 1e6
    assert base.modalities["text"].noise.kind == "linear"
    assert base.modalities["image"].noise.power == 2
    assert base.batch.logical is None


def test_overrides_start_at_the_root_and_make_what_is_missing(tmp_path: Path) -> None:
    base = load(
        tmp_path, STUDY, "base.batch.physical=32", "base.schedule.kind=wsd", "base.modalities.text.noise={kind: cosine}"
    ).base()
    assert base.batch.physical == 32
    assert base.schedule.kind == "wsd"
    assert base.modalities["text"].noise.kind == "cosine"


@pytest.mark.parametrize("override", ["base.batch.physical", "=3", "base..x=3", "base.tokens.x=1", "base.tokens=[1"])
def test_bad_overrides_are_said_to_be_on_the_command_line(tmp_path: Path, override: str) -> None:
    [problem] = problems(tmp_path, STUDY, "base.seed=1", override)
    assert (problem.file, problem.line) == ("command line", 2)


def test_interpolation_follows_the_axes(tmp_path: Path) -> None:
    loaded = load(tmp_path, STUDY, "base.model.ffn=${base.model.width}", "base.evaluation.sequences=${base.model.ffn}")
    for width in (64, 128):
        base = loaded.base([Setting("model.width", width, ("axes", 0, "grid", "model.width", 0))])
        assert base.model.ffn == base.evaluation.sequences == width


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("${oc.env:HOME}", "not an interpolation of a plain path"),
        ("${oc.decode:x}", "not an interpolation of a plain path"),
        ("${${base.seed}}", "not an interpolation of a plain path"),
        ("${.lr}", "not an interpolation of a plain path"),
        ("${base.nothing}", "leads to nothing"),
        ("${base.optimizer.lr}", "itself"),
        ("${base}", "itself"),
    ],
)
def test_interpolations_that_are_refused(tmp_path: Path, value: str, what: str) -> None:
    [problem] = problems(tmp_path, STUDY.replace("3e-3", f"'{value}'"))
    assert what in problem.what
    assert (problem.line, problem.path) == (13, "base.optimizer.lr")


def test_a_circle_of_interpolations_is_named(tmp_path: Path) -> None:
    text = STUDY.replace("lr: 3e-3", "lr: '${base.optimizer.eps}', eps: '${base.optimizer.lr}'")
    assert "base.optimizer.lr -> base.optimizer.eps" in problems(tmp_path, text)[0].what


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "says"),
    [
        ("optimizer:", "optimiser:", 13, "base.optimiser", "did you mean 'optimizer'?"),
        ("lr: 3e-3", "lrr: 3e-3", 13, "base.optimizer.lrr", "did you mean 'lr'?"),
        ("      weight: 1", "      weight: -1", 7, "base.modalities.image.weight", "at least 0"),
        ("      weight: 1", "      weigth: 1", 7, "base.modalities.image.weigth", "did you mean 'weight'?"),
        ("      data: image\n", "", 6, "base.modalities.image.data", "missing; write data:"),
        ("kind: polynomial", "kind: polinomial", 9, "base.modalities.image.noise.kind", "did you mean 'polynomial'?"),
        ("physical: 8", "physical: 0", 12, "base.batch.physical", "at least 1"),
        ("physical: 8", "physical: 8.5", 12, "base.batch.physical", "whole number"),
        ("tokens: 1e6", "tokens: many", 11, "base.tokens", "not a quantity"),
        ("  tokens: 1e6\n", "", 2, "base.tokens", "missing; write tokens: 20M"),
        ("3e-3}", "3e-3, betas: [0.9]}", 13, "base.optimizer.betas.1", "at least 2"),
        ("3e-3", "yes", 13, "base.optimizer.lr", "not a number"),
        ("depth: 2", "depth: true", 3, "base.model.depth", "true is not a whole number"),
        ("study: tiny", "study: a/b", 1, "study", "not a name"),
        ("study: tiny", "study: store", 1, "study", "taken"),
        ("axes:", "axis:", 14, "axis", "did you mean 'axes'?"),
        ("grid:", "gird:", 15, "axes.0.gird", "did you mean 'grid'?"),
    ],
)
def test_a_mistake_is_found_on_its_line(tmp_path: Path, old: str, new: str, line: int, path: str, says: str) -> None:
    assert old in STUDY
    found = problems(tmp_path, STUDY.replace(old, new, 1))
    assert (line, path) in [(problem.line, problem.path) for problem in found]
    assert any(says in str(problem) for problem in found)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = STUDY.replace("depth: 2", "depth: 0").replace("lr: 3e-3", "lr: 0").replace("tokens: 1e6", "token: 1e6")
    assert {problem.path for problem in problems(tmp_path, text)} >= {
        "base.model.depth",
        "base.optimizer.lr",
        "base.token",
        "base.tokens",
    }


def test_problems_as_json(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, STUDY.replace("3e-3", "-1")).base()
    [record] = caught.value.to_json()
    assert set(record) == {"file", "line", "path", "what", "todo"}
    assert str(caught.value) == f"{record['file']}:13: base.optimizer.lr: {record['what']}; {record['todo']}"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DOUBLING = "study: t\nbase:\n  a0: xxxxxxxxxx\n" + "".join(
    f"  a{i}: '${{base.a{i - 1}}}${{base.a{i - 1}}}'\n" for i in range(1, 60)
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "- a list\n",
        "just words\n",
        "a: [1, 2\n",
        "a: 1\n\tb: 2\n",
        "a: 1\na: 2\n",
        "? [1]\n: 2\n",
        "study: !!python/name:os.system x\n",
        "study: !Own x\n",
        "study: x\n---\nstudy: y\n",
        "study: &a [*a]\n",
        "study: *nothing\n",
        "study: " + "[" * 5000,
        "study: " + "[" * 60 + "]" * 60,
        "%YAML 9\n",
        "study: \x07\n",
        BOMB,
        DOUBLING,
        "x" * 1_100_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_hostile_yaml_is_refused_quickly(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        load_study(path)
    assert time.process_time() - started < 2
    assert all(problem.line >= 1 and problem.what and problem.todo for problem in caught.value.problems)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"study: t\nbase: \xff\n")
    for path, line in ((tmp_path / "none.yaml", 1), (tmp_path, 1), (tmp_path / "latin.yaml", 2)):
        with pytest.raises(SpecError) as caught:
            read_document(path)
        [problem] = caught.value.problems
        assert (problem.file, problem.line) == (str(path), line)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        with contextlib.suppress(SpecError):
            load_study(path)
