"""What a study computes and shares: arithmetic, conditions, interpolation, and files that include others."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import os
import re
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from compiler.plan import RunPlan
from specs.arithmetic import FUNCTIONS
from specs.document import Document, Origin, read_document
from specs.errors import Problem, SpecError
from specs.expression import Condition, ExpressionError, check_path, compile_condition
from specs.interpolation import InterpolationError, Resolver, check, defaults, references, resolve
from specs.reuse import compose
from specs.study import Base, TransferSpec


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """At most 2 s of this process, collecting no garbage, as in planning."""
    gc.disable()
    started = time.process_time()
    try:
        yield
        assert time.process_time() - started < 2
    finally:
        gc.enable()


# Arithmetic


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("add", (1, 2, 3), 6),
        ("sub", ("-5K", "20M"), -20_005_000),
        ("mul", (4, 0.25), 1),
        ("div", (7, 2), 3.5),
        ("pow", (2, -1), 0.5),
        ("min", (3, "2K", 1.5), 1.5),
        ("max", (3, "2K"), 2000),
        ("abs", (-3,), 3),
        ("round", (2.567, 1), 2.6),
        ("floor", (-1.5,), -2),
        ("ceil", (1.2,), 2),
        ("sqrt", (9,), 3),
        ("log", (math.e,), 1),
        ("log2", (8,), 3),
        ("log10", ("1M",), 6),
        ("quantity", ("20M",), 20_000_000),
        ("mul", (2**52, 4), float(2**54)),
    ],
)
def test_functions(name: str, arguments: tuple[Any, ...], result: float) -> None:
    value = FUNCTIONS[name](*arguments)
    assert value == result
    assert type(value) is type(result)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("div", (1, 0)),
        ("pow", (0, -1)),
        ("pow", (-8, 0.5)),
        ("pow", (2, 10**9)),
        ("pow", (10.0, 400)),
        ("pow", ("1e300", "1e300")),
        ("mul", (10**200, 10**200)),
        ("sqrt", (-1,)),
        ("log", (0,)),
        ("log2", (-1,)),
        ("add", (1,)),
        ("sub", (1, 2, 3)),
        ("quantity", ("many",)),
        ("quantity", (None,)),
        ("abs", (True,)),
        ("abs", ([1],)),
        ("abs", (math.inf,)),
        ("round", (math.nan,)),
        ("abs", (10**400,)),
    ],
)
def test_what_arithmetic_refuses(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"^[^;]+; [^;]+$"):
        FUNCTIONS[name](*arguments)


@given(
    st.sampled_from(sorted(FUNCTIONS)),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none(), st.booleans()), max_size=3),
)
def test_results_are_finite_numbers_or_errors_with_advice(name: str, arguments: list[Any]) -> None:
    try:
        value = FUNCTIONS[name](*arguments)
    except ValueError as error:
        what, _, todo = str(error).partition("; ")
        worded = bool(what and todo)
    else:
        worded = True
        assert math.isfinite(value)
        assert isinstance(value, int) == (value == int(value) and abs(value) < 2**53)
    assert worded


# Conditions


class Noise(msgspec.Struct):
    kind: str
    power: float = 1.0


class Source(msgspec.Struct):
    weight: float
    noise: Noise


class Model(msgspec.Struct):
    width: int
    heads: int

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Run(msgspec.Struct):
    flops: float
    seed: int
    model: Model
    kind: str
    critical: float | None
    packed: bool
    sources: dict[str, Source]
    epochs: dict[str, float]
    groups: tuple[Noise, ...] = ()


RUN = Run(
    flops=2e19,
    seed=3,
    model=Model(512, 8),
    kind="wsd",
    critical=None,
    packed=True,
    sources={"text": Source(0.5, Noise("linear")), "two-part": Source(0.25, Noise("cosine"))},
    epochs={"embedded/text": 1.5, "v1.2": 0.5},
)


def condition(text: str) -> Condition:
    return compile_condition(text, lambda path: check_path(Run, path))


@pytest.mark.parametrize(
    "text",
    [
        "flops > 1e19",
        "flops == 20_000_000M * 1M",
        "model.width == 512 and model.head_dim <= 64",
        "model.width / 2 == 256 and -2 ** 2 == -4 and 2 ** 3 ** 2 == 512 and 2 ** -1 == 0.5",
        "seed < 3 or not (seed == 2)",
        "1 < seed < 4 != 5",
        "seed % 2 == 1",
        "kind in ['wsd', \"cosine\"] and kind not in ['linear',]",
        "critical == null or critical < 3",
        "critical == None and packed == true and packed and not false",
        "sources.text.noise.kind == 'linear' and sources['two-part'].weight == .25",
        "epochs['embedded/text'] > 1 and epochs['v1.2'] < 1",
        "max(seed, model.width, 1) == 512 and log2(model.width) == 9 and quantity('20M') == 20M",
        "seed\n  ==\n  3",
        "+seed - -3 == 6",
        "'and' != 'or'",
    ],
)
def test_conditions_that_hold(text: str) -> None:
    assert condition(text)(RUN) is True
    assert condition(f"not ({text})")(RUN) is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model.widht == 512", "did you mean 'model.width'?"),
        ("kind == wsd", "nor text in quotes"),
        ("model == 3", "model.head_dim"),
        ("sources.text == 3", "sources.text.weight"),
        ("sources == 3", "sources['NAME']"),
        ("groups == 3", "several values"),
        ("seed.x == 3", "use 'seed'"),
        ("model.__class__ == 3", "not a single quantity"),
        ("seed = 3", "write '=='"),
        ("seed == 3 & packed", "write 'and'"),
        ("seed == 3 packed", "cannot follow '3'"),
        ("seed ==", "'the end' cannot follow"),
        ("(seed == 3", "write ')'"),
        ("seed in 3", "write '['"),
        ("", "cannot follow 'the start'"),
        ("kind == 'wsd", "close the quote"),
        ("kind == 'w\\x'", "no backslash"),
        ("flops > 20Q", "20M"),
        ("flops > 1.2.3", "is not a number"),
        ("flops > 1e999", "smaller"),
        ("open('x') == 3", "there is no function 'open'"),
        ("maxx(1) == 3", "did you mean 'max'?"),
        ("(" * 500 + "seed", "deeper than 40"),
        ("- " * 400 + "seed", "deeper than 40"),
        ("not " * 200 + "packed", "deeper than 40"),
        ("2**" * 300 + "2 > 1", "deeper than 40"),
        ("seed == 3 or " * 100 + "packed", "longer than 1,000"),
        ("lambda: 3", "cannot be read"),
        ("seed if packed else 3", "cannot follow"),
    ],
)
def test_conditions_that_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        condition(text)
    assert says in str(caught.value)
    assert str(caught.value) == f"{caught.value.what}; {caught.value.todo}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("critical < 3", "null has no order"),
        ("kind > 3", "the text 'wsd' has no order"),
        ("kind == 3", "the text 'wsd' is compared with 3"),
        ("seed in [1, 'x']", "is compared with"),
        ("sources.txet.weight > 1", "did you mean 'text'?"),
        ("1 / (seed - 3) > 1", "division by zero"),
        ("2 ** 10 ** 9 > 1", "not a finite number"),
        ("(-8) ** 0.5 > 1", "not a real number"),
        ("seed", "3 is neither true nor false"),
        ("seed and packed", "3 is neither true nor false"),
        ("not kind", "neither true nor false"),
        ("packed + 1 == 2", "true is not a number"),
        ("max(kind, 1) == 2", "is not a quantity"),
    ],
)
def test_conditions_without_an_answer(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        condition(text)(RUN)
    assert says in str(caught.value)


NUMBERS = st.one_of(
    st.sampled_from(["seed", "model.width", "model.head_dim"]),
    st.integers(0, 9).map(str),
    st.floats(0, 9).map(lambda value: f"{value:.3f}"),
)
SUMS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "%", "**"]), inner).map(" ".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
        st.tuples(inner, inner).map(lambda both: f"max({both[0]}, {both[1]})"),
    ),
    max_leaves=6,
)
COMPARISONS = st.lists(SUMS, min_size=2, max_size=3).flatmap(
    lambda sums: st.lists(
        st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), min_size=len(sums) - 1, max_size=len(sums) - 1
    ).map(lambda signs: sums[0] + "".join(f" {sign} {one}" for sign, one in zip(signs, sums[1:], strict=True)))
)
CONDITIONS = st.recursive(
    st.one_of(COMPARISONS, st.just("packed"), SUMS.map(lambda one: f"{one} in [1, 2, seed]")),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map(lambda text: f"not {text}"),
        inner.map(lambda text: f"({text})"),
    ),
    max_leaves=4,
)


@settings(max_examples=4000, deadline=None)
@given(CONDITIONS)
def test_conditions_mean_what_they_mean_in_python(text: str) -> None:
    scope = {"seed": RUN.seed, "packed": RUN.packed, "model": RUN.model, "max": max}
    bounded = re.sub(r"\*\* *", "** _small * ", text)  # no towers of powers for Python to work out
    text = bounded.replace("_small", "0.1")
    answer, failed = None, ""
    try:
        answer = condition(text)(RUN)
    except ExpressionError as error:
        failed = error.what
    if failed:
        assert any(word in failed for word in ("finite", "zero", "real number", "deeper", "longer"))
    else:
        assert answer is eval(text, {"__builtins__": {}}, scope)


WORDS = [
    "seed",
    "kind",
    "and",
    "or",
    "not",
    "in",
    "(",
    ")",
    "[",
    "]",
    ",",
    "-",
    "**",
    "%",
    "<",
    "==",
    "'x'",
    "20M",
    ".",
]


@settings(max_examples=4000, deadline=1000)
@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(WORDS),
            max_size=20,
        ).map(" ".join),
    )
)
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert condition(text)(RUN) in (True, False)


def test_a_condition_knows_its_paths_and_reads_mappings() -> None:
    one = compile_condition("a.b > 1 and c == 'x'", lambda path: None)
    assert one.paths == ("a.b", "c")
    assert one({"a": {"b": 2}, "c": "x"})
    with pytest.raises(ExpressionError, match="there is no 'c'"):
        one({"a": {"b": 2}})


@pytest.mark.parametrize(
    "path", ["flops", "model.head_dim", "modalities.text.noise.kind", "batch.critical", "epochs.embedded/text", "seed"]
)
def test_the_quantities_of_a_plan(path: str) -> None:
    assert check_path(RunPlan, path) is None


# Interpolation


def root(**base: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "model": {"depth": 2, "width": 256},
        "tokens": "20M",
        "modalities": {"text": {"data": "t"}},
    }
    return {"study": "t", "base": plain | base}


def value(text: str, **base: Any) -> Any:
    return Resolver(root(x={"v": text}, **base)).resolve(("base", "x", "v"), {})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${mul:4,${base.model.width}}", 1024),
        ("${div:${base.tokens},2}", 10_000_000),
        ("${quantity:20M}", 20_000_000),
        ("${sub:'20M',-5K}", 20_005_000),
        ("${ mul : 4 , ${ base.model.width } }", 1024),
        ("${max:${mul:2,${base.seed}},${sub:3,-1}}", 4),
        ("w${base.model.width}-${div:1,2}", "w256-0.5"),
        ("${base.optimizer.lr}", 3e-3),
        ("${base.optimizer.betas}", [0.9, 0.95]),
        ("${base.optimizer.betas.1}", 0.95),
        ("${base.modalities.text.noise.kind}", "linear"),
        ("${base.transfer}", None),
        ("${base.model}", {"depth": 2, "width": 256}),
        ("${cluster}", "local"),
    ],
)
def test_interpolations(text: str, result: Any) -> None:
    found = value(text)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${mull:1,2}", "did you mean 'mul'?"),
        ("${oc.create:${base.model}}", "is no function"),
        ("${mul:2,${oc.env:HOME}}", "is no function"),
        ("${mul:2,a}", "give mul numbers"),
        ("${mul:2,[1]}", "give mul numbers"),
        ("${mul:2", "end it with '}'"),
        ("\\${base.seed}", "leave out"),
        ("$${base.seed}", "leave out"),
        ("${base.transfer.gamma}", "leads to nothing"),
        ("${base.modalities.weight}", "leads to nothing"),
        ("${base.x.v}", "contains itself"),
        ("${mul:${base.x.v},2}", "contains itself"),
        ("${mul:4,${base.model}}", "is a mapping"),
        ("a ${base.model}", "is a mapping"),
        ("${div:1,0}", "division by zero; divide by another number"),
        ("${mul:4,${base.model.heads}}", "null is not a number"),
        ("${mul:" * 60 + "1", "nest fewer"),
        ("x" * 1000 + "${base.seed}", "longer than 1,000"),
    ],
)
def test_interpolations_with_an_error(text: str, says: str) -> None:
    with pytest.raises(InterpolationError) as caught:
        value(text)
    assert says in f"{caught.value.what}; {caught.value.todo}"
    assert caught.value.parts == ("base", "x", "v")


def test_what_interpolation_composes_is_not_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "told")
    with pytest.raises(InterpolationError, match="composes another"):
        value("${base.y} ", y="${base.dollar}{oc.env:SECRET}", dollar="$")


def test_settings_hold_for_one_call_only() -> None:
    data = root(optimizer={"lr": "${div:1,${base.model.width}}"})
    data["base"]["model"]["ffn"] = "${mul:4,${base.model.width}}"
    before = copy.deepcopy(data)
    resolver = Resolver(data)
    for width in (64, 128, 64):
        assert resolver.resolve(("base", "model"), {"base.model.width": width})["ffn"] == 4 * width
        assert resolver.resolve(("base", "optimizer", "lr"), {"base.model.width": width}) == 1 / width
        assert resolver.resolve(("base", "model", "ffn"), {"base.model.ffn": "${base.model.depth}"}) == 2
        assert resolver.resolve(("base", "schedule", "final"), {"base.schedule.final": 0.5}) == 0.5
        assert resolver.resolve(("base", "model"), {}) == {"depth": 2, "width": 256, "ffn": 1024}
    assert data == before


LEAVES = st.one_of(st.integers(-9, 9), st.floats(-9, 9), st.sampled_from(["20M", "word", True, None]))
TEXTS = st.recursive(
    st.one_of(st.sampled_from(["${a.x}", "${a.y}", "${b}", "${c.0}"])),
    lambda inner: st.tuples(
        st.sampled_from(["add", "sub", "mul", "max", "div"]),
        inner,
        st.one_of(inner, st.sampled_from(["2", "-1.5", "3K"])),
    ).map(lambda call: f"${{{call[0]}:{call[1]},{call[2]}}}"),
    max_leaves=4,
)


@settings(max_examples=4000, deadline=None)
@given(LEAVES, LEAVES, LEAVES, TEXTS, TEXTS, st.sampled_from(["", "x", " and "]))
def test_interpolation_agrees_with_omegaconf(x: Any, y: Any, b: Any, first: str, second: str, between: str) -> None:
    data = {"a": {"x": x, "y": y}, "b": b, "c": [first], "d": f"{first}{between}{second}", "e": [{"f": second}]}
    if "${c.0}" in first:
        data["c"] = [1]
    with contextlib.suppress(InterpolationError):
        found = {key: Resolver(data).resolve((key,), {}) for key in data}
        assert json.dumps(found) == json.dumps(OmegaConf.to_container(OmegaConf.create(data), resolve=True))


def test_references_are_those_of_the_text_itself() -> None:
    assert references("${mul:4,${base.model.width}} ${base.mix.0.weights}") == {
        ("base", "model", "width"),
        ("base", "mix", 0, "weights"),
    }
    assert references("plain") == references("${oc.env:HOME}") == frozenset()


def test_defaults_are_plain_and_valid() -> None:
    plain = defaults(Base)
    assert plain["transfer"] is None
    assert plain["optimizer"]["betas"] == [0.9, 0.95]
    assert "tokens" not in plain
    needed = {
        "model": {"depth": 1},
        "modalities": {"text": {"data": "t"}},
        "sequence_length": 8,
        "tokens": 1,
        "batch": {},
    }
    assert Base.model_validate(json.loads(json.dumps(plain)) | needed) == Base.model_validate(needed)
    assert defaults(TransferSpec) == {"gamma": 0.44, "critical": None}


def whole(data: dict[str, Any]) -> Document:
    return Document(data, "study.yaml", {(): Origin("study.yaml", 1)})


def test_what_fails_in_the_base_may_succeed_at_a_point() -> None:
    data = root()
    del data["base"]["model"]["width"]
    data["base"]["model"]["ffn"] = "${mul:4,${base.model.width}}"
    del data["base"]["tokens"]
    data["base"]["log_every"] = "${base.tokens}"
    with pytest.raises(SpecError) as caught:
        check(whole(data))
    assert [problem.path for problem in caught.value.problems] == ["base.model.ffn", "base.log_every"]
    data["axes"] = [{"grid": {"model.width": [8], "tokens": [7]}}]
    assert check(whole(data))
    resolver = Resolver(data)
    assert resolver.resolve(("base", "model", "ffn"), {"base.model.width": 8}) == 32
    assert resolver.resolve(("base", "log_every"), {"base.tokens": 7}) == 7
    with pytest.raises(InterpolationError, match="leads to nothing"):
        resolver.resolve(("base", "log_every"), {})
    data["axes"] = [{"grid": {"tokens": ["${mul:4,${base.model.width}}"]}}]
    with pytest.raises(SpecError, match="null is not a number"):
        check(whole(data))
    data["axes"] = [{"seeds": "${add:1,${base.seed}}"}]
    assert check(whole(data))
    assert resolve(data)["axes"] == [{"seeds": 1}]


def doubling(text: str) -> dict[str, Any]:
    return {"a0": ["x" * 50]} | {f"a{i}": eval(text, {"b": f"${{base.a{i - 1}}}"}) for i in range(1, 60)}


@pytest.mark.parametrize(
    "base",
    [
        doubling("[b, b]"),
        doubling("{'x': b, 'y': b}"),
        {"a0": "x" * 50} | {f"a{i}": f"${{base.a{i - 1}}}${{base.a{i - 1}}}" for i in range(1, 60)},
        {"a": "${add:1,${base.b}}", "b": "${add:1,${base.a}}"},
        {"a": {"x": "${base.b}"}, "b": ["${base.a}"]},
        {f"a{i}": f"${{add:1,${{base.a{i + 1}}}}}" for i in range(300)} | {"a300": 1},
        {f"a{i}": [[[[[f"${{base.a{i + 1}}}"]]]]] for i in range(200)} | {"a200": 1},
        {"a": [0] * 1000, "b": ["${base.a}"] * 50_000},
        {"a": ["${base.a.1}", "${base.a.0}"]},
        {f"a{i}": f"${{add:{i},1}}" for i in range(20_000)},
        {"a": "${add:" + "1," * 480 + "1}"},
        {"a": "${" * 400},
        {"a": "${add:" * 150},
    ],
    ids=range(13),
)
def test_hostile_interpolation_stays_bounded(base: dict[str, Any]) -> None:
    with quickly(), contextlib.suppress(SpecError):
        check(whole({"study": "t", "base": base}))
        assert list(base) == ["a"]
        assert "1,1" in base["a"]


@given(st.text(st.sampled_from("${}:,.' abmul0123\\-[]\n"), max_size=40))
@settings(max_examples=4000, deadline=None)
def test_any_string_is_resolved_or_refused(text: str) -> None:
    with contextlib.suppress(InterpolationError):
        value(text, a=1, b={"a": [1, "x"]})


# Reuse


def files(folder: Path, **texts: str) -> Path:
    """Files by their names, `__` for `/`; the study's own is `study`."""
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder / "study.yaml"


def problem(path: Path) -> Problem:
    with pytest.raises(SpecError) as caught:
        compose(path)
    [one] = caught.value.problems
    return one


def test_a_mapping_includes_a_file_under_its_own_keys(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        study="""\
            study: t
            base:
              include: [common/base, small.yaml]
              model: {depth: 4}
              batch:
                include: common/batch
            """,
        common__base="""\
            model:
              depth: 2
              heads: 8
            tokens: 1M
            optimizer: {betas: [0.9, 0.99], lr: 1}
            """,
        common__batch="include: deeper/batch\nphysical: 8\n",
        common__deeper__batch="physical: 4\nmicro: 2\n",
        small="optimizer: {betas: [0.8]}\n",
    )
    document = compose(path)
    assert document.data == {
        "study": "t",
        "base": {
            "model": {"depth": 4, "heads": 8},
            "tokens": "1M",
            "optimizer": {"betas": [0.8], "lr": 1},
            "batch": {"physical": 8, "micro": 2},
        },
    }
    common = str(tmp_path / "common" / "base.yaml")
    assert document.origin(("base", "model", "depth")) == (str(path), 4)
    assert document.origin(("base", "model", "heads")) == (common, 3)
    assert document.origin(("base", "tokens")) == (common, 4)
    assert document.origin(("base", "optimizer", "betas", 0)) == (str(tmp_path / "small.yaml"), 1)
    assert ("base", "optimizer", "betas", 1) not in document.origins
    assert document.origin(("base", "batch", "micro")) == (str(tmp_path / "common" / "deeper" / "batch.yaml"), 2)
    names = ["study", "common/base", "small", "common/batch", "common/deeper/batch"]
    assert document.files[0] == path
    assert sorted(document.files) == sorted(tmp_path / f"{name}.yaml" for name in names)


def test_without_reuse_a_study_is_its_file(tmp_path: Path) -> None:
    path = files(tmp_path, study="study: t\nbase: {a: 1}\n")
    assert compose(path) == read_document(path)
    assert compose(path).files == (path,)


@pytest.mark.parametrize(
    ("listed", "x"), [("[a, b]", 3), ("[a, _self_]", 3), ("[_self_, a, b]", 2), ("[_self_, b, a]", 1), ("a", 3)]
)
def test_defaults_are_merged_from_left_to_right(tmp_path: Path, listed: str, x: int) -> None:
    path = files(tmp_path, study=f"defaults: {listed}\nbase: {{x: 3}}\n", a="base: {x: 1, y: 1}\n", b="base: {x: 2}\n")
    assert compose(path).data["base"]["x"] == x
    assert "defaults" not in compose(path).data


KEYS = st.sampled_from(["a", "b", "c"])
TREES = st.recursive(
    st.one_of(st.integers(0, 9), st.none(), st.just("word")),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=3)


@settings(max_examples=4000, deadline=None)
@given(st.lists(MAPPINGS, min_size=1, max_size=3), MAPPINGS, st.integers(0, 3))
def test_files_merge_as_in_omegaconf(trees: list[dict[str, Any]], own: dict[str, Any], position: int) -> None:
    names: list[str] = [f"f{index}" for index in range(len(trees))]
    order = [*trees[:position], own, *trees[position:]]
    try:
        merged, under = (OmegaConf.to_container(OmegaConf.merge(*some)) for some in (order, [*trees, own]))
    except TypeError:
        reject()  # it merges no list with a mapping
    with tempfile.TemporaryDirectory() as folder:
        for name, tree in zip(names, trees, strict=True):
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        path = Path(folder) / "study.yaml"
        path.write_text(yaml.safe_dump({"defaults": [*names[:position], "_self_", *names[position:]], **own}))
        document = compose(path)
        path.write_text(yaml.safe_dump({"sub": {"include": names, **own}}))
        included = compose(path)
    assert document.data == merged
    assert included.data == {"sub": under}

    def paths(data: Any, at: tuple[Any, ...] = ()) -> set[tuple[Any, ...]]:
        inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
        return {at}.union(*(paths(child, (*at, key)) for key, child in inside))

    assert set(document.origins) == paths(merged)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("/etc/passwd", "absolute path"),
        ("../outside.yaml", "outside the study's folder"),
        ("link.yaml", "outside the study's folder"),
        ("folder/../../study/../outside", "outside the study's folder"),
        ("nothing", "there is no file 'nothing.yaml'"),
        ("sub", "there is no file 'sub.yaml'"),
        ("pipe", "there is no file 'pipe.yaml'"),
        ("loop", "there is no file"),
        ("'x\\0y'", "there is no file"),
        ("x" * 5000, "there is no file"),
        ("'${base.name}'", "cannot be interpolated"),
        ("3", "not the path of a file"),
        ("null", "not the path of a file"),
        ("{a: b}", "not the path of a file"),
        ("[[a]]", "not the path of a file"),
        ("study.yaml", "study.yaml -> "),
        ("circle", "circle.yaml -> "),
    ],
)
def test_files_that_cannot_be_included(tmp_path: Path, written: str, says: str) -> None:
    (tmp_path / "outside.yaml").write_text("a: 1\n")
    study = tmp_path / "study"
    path = files(study, study=f"study: t\nbase:\n  include: {written}\n", circle="x: {include: more/circle}\n")
    files(study, more__circle="y: {include: ../circle}\n", sub__a="a: 1\n")
    (study / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    (study / "loop.yaml").symlink_to(study / "loop.yaml")
    os.mkfifo(study / "pipe.yaml")
    one = problem(path)
    assert says in one.what
    if "circle" not in written:
        assert (one.file, one.line, one.path.removesuffix(".0")) == (str(path), 3, "base.include")


def test_a_mistake_in_an_included_file_is_told_there(tmp_path: Path) -> None:
    path = files(tmp_path, study="base:\n  include: a\n", a="x: 1\ny: !tag z\n")
    assert (problem(path).file, problem(path).line) == (str(tmp_path / "a.yaml"), 2)
    path = files(tmp_path, study="base:\n  include: a\n", a="- a list\n")
    assert "not a mapping" in problem(path).what
    path = files(tmp_path, study="defaults: [_self_, _self_]\n")
    assert "twice" in problem(path).what
    path = files(
        tmp_path, study="axes:\n  - seeds: 2\n  - grid:\n      include:\n        - b\n        - none\n", b="x: [1]\n"
    )
    assert (problem(path).line, problem(path).path) == (6, "axes.1.grid.include.1")


def test_a_study_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, study="include: sub/a\n", sub__a="include: ../b\n", b="x: 1\n")
    monkeypatch.chdir(tmp_path)
    document = compose(Path("study.yaml"))
    assert document.data == {"x": 1}
    assert list(map(str, document.files)) == ["study.yaml", "sub/a.yaml", "b.yaml"]


def test_hostile_reuse_stays_bounded(tmp_path: Path) -> None:
    nested = "{a: " * 30
    chain = {f"f{i}": f"{nested}{{include: f{i + 1}}}{'}' * 30}\n" for i in range(90)} | {"f90": "x: 1\n"}
    fan = {f"f{i}": "".join(f"k{j}: {{include: f{i + 1}}}\n" for j in range(10)) for i in range(20)} | {"f20": "x: 1\n"}
    large = {"f0": "".join(f"k{i}: {{include: f1}}\n" for i in range(90)), "f1": f"x: [{'1,' * 20_000}]\n"}
    bomb = {"f0": "".join(f"k{i}: {{include: f1}}\n" for i in range(90))}
    bomb["f1"] = f"a: &a [{'x,' * 100}]\nb: &b [{'*a,' * 100}]\nc: [*b, *b]\n"
    for number, (texts, says) in enumerate(
        ((chain, "nested deeper"), (fan, "more than 100 files"), (large, "values"), (bomb, "values"))
    ):
        path = files(tmp_path / str(number), study="base: {include: f0}\n", **texts)
        with quickly():
            assert says in problem(path).what
