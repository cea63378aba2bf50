"""Sampling studies: from a file and finished runs to points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from compiler.difference import load_plan
from compiler.plan import RunPlan
from compiler.records import Status, digests, store_folder
from compiler.sampled import compile_sampling, sampler_of, tasks_of
from compiler.sampling import Sampler, SamplingPlan
from specs.document import parse
from specs.errors import Problem, RuleError, SpecError
from specs.sampling import SamplerSpec, default_sampler, is_sampling_study
from specs.schema import json_schema
from tests.compiling import run
from tests.synthetic import make_study, modality, run_plan

STUDY = """\
study: sweep
runs: [trained/#0]
base:
  task: text-to-image
  n: 64
  sampler: {kind: confidence}
axes:
  - grid: {sampler.steps: [4, 8, null]}
"""
DEFAULTS = default_sampler("text-to-image")


def finish(out: Path, run: RunPlan) -> None:
    place = store_folder(out, run.id)
    status = Status(state="done", step=run.steps, results=digests(place))
    (place / "status.json").write_bytes(msgspec.json.encode(status))


def train(out: Path, name: str = "trained", widths: tuple[int, ...] = (32, 64), done: int | None = None) -> list[str]:
    """A study of one run per width under `out`, the first `done` of them finished; their ids."""
    states: Any = {k: ("running", "") for k in range(len(widths)) if done is not None and k >= done}
    folder = make_study(out, name, sizes={width: 1000 * width for width in widths}, tokens=(2e5,), states=states)
    plan = load_plan(folder)
    for one in plan.runs[:done]:
        finish(out, one)
    return [one.id for one in plan.runs]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(folder)
    train(folder, "half", widths=(48, 96), done=1)
    train(folder, "begun", widths=(128,), done=0)
    return folder


@pytest.fixture
def compiled(out: Path, tmp_path: Path) -> Any:
    def compile_text(text: str = STUDY, *overrides: str, limit: int = 1000) -> SamplingPlan:
        file = tmp_path / "sweep.yaml"
        file.write_text(text)
        return compile_sampling(file, overrides, out, limit=limit)

    return compile_text


@pytest.fixture
def refused(compiled: Any) -> Any:
    def problem(text: str = STUDY, *overrides: str, limit: int = 1000) -> Problem:
        with pytest.raises(SpecError) as caught:
            compiled(text, *overrides, limit=limit)
        [only] = caught.value.problems
        return only

    return problem


def changed(old: str, new: str) -> str:
    assert STUDY.count(old) == 1
    return STUDY.replace(old, new)


def axes(*some: str) -> str:
    return STUDY[: STUDY.index("  - grid")] + "".join(f"  - {one}\n" for one in some)


# Points


def test_points_are_the_product_of_the_axes(compiled: Any, out: Path) -> None:
    plan = compiled(axes("grid: {task: [text-to-image, text-to-speech], sampler.steps: [4, 8]}", "seeds: 2"))
    assert [(point.task, point.sampler.steps, point.seed) for point in plan.points] == [
        (task, steps, seed) for task in ("text-to-image", "text-to-speech") for steps in (4, 8) for seed in (0, 1)
    ]
    first = plan.points[0]
    assert (first.name, first.n) == ("task=text-to-image,steps=4,seed=0", 64)
    assert first.point == {"task": "text-to-image", "sampler.steps": 4, "seed": 0}
    [run_id] = plan.runs
    assert {point.run for point in plan.points} == {run_id}
    assert plan.runs[run_id] == str(out / "store" / run_id)


def test_a_point_is_the_tasks_default_but_for_what_is_written(compiled: Any) -> None:
    plan = compiled()
    assert plan.points[0].sampler == Sampler(**(DEFAULTS | {"kind": "confidence", "steps": 4}))


def test_steps_left_out_are_the_tasks_and_null_is_one_a_token(compiled: Any) -> None:
    assert DEFAULTS["steps"] is not None
    left_out = compiled(axes("grid: {sampler.kind: [ancestral]}")).points
    assert [point.sampler.steps for point in left_out] == [DEFAULTS["steps"]]
    assert [point.sampler.steps for point in compiled().points] == [4, 8, None]
    assert compiled().points[2].name == "steps=null"


def test_all_kinds_of_axes(compiled: Any) -> None:
    text = axes(
        "log: {sampler.steps: {from: 2, to: 32, points: 5}}",
        "zip: {sampler.temperature: [0.5, 1], sampler.top_p: [1, 0.9]}",
        "list: [{sampler.kind: ancestral}, {sampler.kind: entropy-bounded, sampler.bound: 0.5}]",
        "sample: {points: 2, ranges: {sampler.guidance: {from: 1, to: 3}}}",
    )
    plan = compiled(text)
    assert len(plan.points) == 5 * 2 * 2 * 2
    assert sorted({point.sampler.steps for point in plan.points}) == [2, 4, 8, 16, 32]
    assert {(point.sampler.temperature, point.sampler.top_p) for point in plan.points} == {(0.5, 1.0), (1.0, 0.9)}


def test_several_runs_are_told_apart(compiled: Any, out: Path) -> None:
    plan = compiled(changed("[trained/#0]", "[trained]"))
    names = sorted(plan.names.values())
    assert len(names) == 2
    assert [point.name for point in plan.points[:3]] == [
        f"{plan.names[plan.points[0].run]}/steps={steps}" for steps in ("4", "8", "null")
    ]
    assert len({point.name for point in plan.points}) == len({point.id for point in plan.points}) == 6


def test_runs_of_a_study_that_are_not_done_are_left_out_and_told(compiled: Any) -> None:
    plan = compiled(changed("[trained/#0]", "[half, trained]"))
    assert len(plan.runs) == 3
    assert any("1 of 2 runs of 'half' are not done" in told for told in plan.warnings)


def test_a_run_by_name_and_by_id_is_the_same(compiled: Any, out: Path) -> None:
    [run_id] = compiled().runs
    plan = load_plan(out / "trained")
    by_id = compiled(changed("trained/#0", f"trained/{run_id}"))
    by_name = compiled(changed("trained/#0", f"'trained/{plan.runs[0].name}', trained/{run_id}"))
    assert by_id == by_name == compiled()


def test_filters_read_points(compiled: Any) -> None:
    text = axes("grid: {sampler.steps: [4, 8, 16], task: [text, text-to-image]}")
    plan = compiled(text + "  - exclude: sampler.steps > 4 and task == 'text'\n  - only: sampler.steps < 16\n")
    assert [(p.sampler.steps, p.task) for p in plan.points] == [(4, "text"), (4, "text-to-image"), (8, "text-to-image")]


def test_overrides(compiled: Any) -> None:
    plan = compiled(STUDY, "base.n=9", "base.sampler.top_k=5", "axes.0.grid={sampler.steps: [2]}", "runs.0=trained")
    assert [(point.n, point.sampler.top_k, point.sampler.steps) for point in plan.points] == [(9, 5, 2)] * 2


def test_interpolation_and_includes(compiled: Any, tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text("n: 64\nsampler: {steps: 4, top_k: '${mul:2,${base.sampler.steps}}'}\n")
    text = changed("  n: 64\n  sampler: {kind: confidence}\n", "  include: common.yaml\n")
    assert [point.sampler.top_k for point in compiled(text.replace(", null", "")).points] == [8, 16]


# Names that follow from content


def test_ids_are_stable_and_say_what_decides_samples(compiled: Any) -> None:
    plan = compiled()
    assert compiled() == plan
    renamed = compiled(axes("list: [{sampler.steps: 4, seed: 0}]").replace("study: sweep", "study: other"))
    assert renamed.points[0].id == plan.points[0].id
    ids = {plan.points[0].id}
    for change in ("base.n=65", "base.seed=1", "base.controls=[lookup]", "base.task=text-to-speech"):
        ids.add(compiled(STUDY, change).points[0].id)
    for change in ("top_p=0.5", "gumbel=2", "remask=0.1", "guidance=9", "lengths=3"):
        ids.add(compiled(STUDY, f"base.sampler.{change}").points[0].id)
    ids.add(compiled(STUDY, "runs.0=trained/#1").points[0].id)
    assert len(ids) == 11


def test_the_digest_is_of_the_points(compiled: Any) -> None:
    assert compiled(changed("study: sweep", "study: other")).digest == compiled().digest
    assert compiled(STUDY, "base.n=65").digest != compiled().digest


def test_duplicate_points_are_dropped(compiled: Any) -> None:
    text = axes("grid: {sampler.steps: [4, 4, 8], task: [text-to-audio, text-to-speech]}")
    assert [(point.task, point.sampler.steps) for point in compiled(text).points] == [
        ("text-to-speech", 4),
        ("text-to-speech", 8),
    ]


def test_controls_that_need_a_condition_are_left_to_tasks_with_one(compiled: Any) -> None:
    text = axes("grid: {task: [text, text-to-image]}")
    plan = compiled(text, "base.controls=[lookup, one-length, condition-masked]")
    assert [point.controls for point in plan.points] == [(), ("condition-masked", "one-length", "lookup")]


# Warnings


def test_guidance_that_training_did_not_prepare_is_told(compiled: Any) -> None:
    plan = compiled(STUDY, "base.sampler.guidance=2")
    assert any("drop_condition" in told for told in plan.warnings)
    assert not compiled(STUDY, "base.sampler.guidance=1").warnings


def test_a_filter_that_does_nothing_is_told(compiled: Any) -> None:
    plan = compiled(STUDY + "  - exclude: n > 64\n", "base.sampler.guidance=1")
    assert plan.warnings == ("'n > 64' (exclude) takes no point out",)


# Mistakes


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "said"),
    [
        ("  n: 64", "  m: 64", 5, "base.m", "unknown key 'm'"),
        ("{kind: confidence}", "{kinds: confidence}", 6, "base.sampler.kinds", "did you mean 'kind'?"),
        ("{kind: confidence}", "{kind: greedy}", 6, "base.sampler.kind", "use one of: ancestral"),
        ("{kind: confidence}", "{temperature: -1}", 6, "base.sampler.temperature", "out of range"),
        ("{kind: confidence}", "{temperature: null}", 6, "base.sampler.temperature", "null is not a number"),
        ("{kind: confidence}", "{top_p: 0}", 6, "base.sampler.top_p", "out of range"),
        ("{kind: confidence}", "{remask: 1}", 6, "base.sampler.remask", "out of range"),
        ("{kind: confidence}", "{top_k: '${base.sampler.bound}'}", 6, "base.sampler.top_k", "the task's default"),
        ("  n: 64", "  n: ${cluster}", 5, "base.n", "leads to nothing"),
        ("[4, 8, null]", "[4, 0]", 8, "base.sampler.steps", "0 is out of range"),
        ("[4, 8, null]", "[1.5]", 8, "base.sampler.steps", "1.5 is not a whole number"),
        ("sampler.steps:", "sampler.step:", 8, "axes.0.grid.sampler.step", "did you mean 'steps'?"),
        ("text-to-image", "text-to-video", 4, "base.task", "has no task 'text-to-video'; did you mean"),
        ("[trained/#0]", "[train]", 2, "runs.0", "there is no study 'train'"),
        ("[trained/#0]", "[trained, trained/x]", 2, "runs.1", "there is no run 'x'"),
        ("[trained/#0]", "[begun]", 2, "runs.0", "no run of 'begun' is done"),
        ("[trained/#0]", "['half/#1']", 2, "runs.0", "of 'half' is not done (running)"),
        ("[trained/#0]", "[../trained]", 2, "runs.0", "names no study"),
        ("[trained/#0]", "[]", 2, "runs", "has too few entries"),
        ("study: sweep", "study: trained", 1, "study", "a study of training"),
        ("study: sweep", "study: store", 1, "study", "taken"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(
    refused: Any, old: str, new: str, line: int, path: str, said: str
) -> None:
    problem = refused(changed(old, new))
    assert (problem.line, problem.path) == (line, path)
    assert Path(problem.file).name == "sweep.yaml"
    assert said in f"{problem.what}; {problem.todo}"


@pytest.mark.parametrize("axis", ["isoflop: {flops: [1e15]}", "simplex: {parts: 2}"])
def test_axes_of_training_are_refused(refused: Any, axis: str) -> None:
    problem = refused(axes(axis))
    assert (problem.line, problem.path) == (8, f"axes.0.{axis.partition(':')[0]}")
    assert "about training" in problem.what


def test_a_task_on_an_axis_is_refused_where_it_stands(refused: Any) -> None:
    problem = refused(axes("grid:\n      task:\n      - text\n      - video-to-text"))
    assert (problem.line, problem.path) == (11, "base.task")


def test_conditions_on_what_points_have_not(refused: Any) -> None:
    problem = refused(STUDY + "  - exclude: steps > 4\n")
    assert (problem.line, problem.path) == (9, "axes.1.exclude.0")
    problem = refused(STUDY + "  - exclude: sampler.steps > 4\n")
    assert "null has no order" in problem.what
    problem = refused(STUDY + "  - exclude: n > 4\n")
    assert "take out all points" in problem.what


def test_a_run_whose_rows_have_changed_is_not_done(refused: Any, tmp_path: Path, out: Path) -> None:
    train(out, "changed", widths=(80,))
    [changed_run] = load_plan(out / "changed").runs
    with (store_folder(out, changed_run.id) / "eval.jsonl").open("a") as file:
        file.write("\n")
    assert "its rows are not those" in refused(changed("trained/#0", "changed/#0")).what


def test_the_limit_is_on_points_of_all_runs(compiled: Any, refused: Any) -> None:
    assert len(compiled(STUDY, limit=3).points) == 3
    assert "6 points, more than 5" in refused(STUDY, "runs.0=trained", limit=5).what


# Tasks and samplers


def test_the_tasks_of_a_run() -> None:
    trimodal = run_plan(32, 1000, 2e5, 0, {name: modality(name, 1 / 3) for name in ("text", "image", "audio")})
    assert tasks_of(trimodal) == {
        "text": ("text", "", "text"),
        "text-to-image": ("image", "text", "image"),
        "image-to-text": ("image", "image", "text"),
        "text-to-speech": ("audio", "text", "audio"),
        "text-to-audio": ("audio", "text", "audio"),
        "speech-to-text": ("audio", "audio", "text"),
        "audio-to-text": ("audio", "audio", "text"),
        "infill": ("", "", ""),
    }
    assert tasks_of(run()).keys() == {"words", "pixels-to-words", "words-to-pixels", "infill"}


def test_a_task_of_three_segments_is_conditioned_on_the_others() -> None:
    three = msgspec.structs.replace(modality("image", 1.0), segments=("text", "image", "audio"))
    tasks = tasks_of(run_plan(32, 1000, 2e5, 0, {"all": three}))
    assert tasks["text+image-to-speech"] == tasks["text+image-to-audio"] == ("all", "text+image", "audio")
    assert tasks["text+speech-to-image"] == ("all", "text+audio", "image")


def test_every_shipped_sampler_is_one() -> None:
    for task in ("text", "text-to-image", "text-to-speech", "image-to-text", "speech-to-text", "infill", "a-to-b"):
        settings = default_sampler(task)
        assert settings.keys() == set(Sampler.__struct_fields__) == set(SamplerSpec.model_fields)
        assert msgspec.json.decode(msgspec.json.encode(Sampler(**settings)), type=Sampler) == Sampler(**settings)
    assert default_sampler("text-to-audio") == default_sampler("text-to-speech")


def test_a_sampler_from_the_command_line() -> None:
    expected = Sampler(**(DEFAULTS | {"steps": 8, "temperature": 0.5, "kind": "entropy-bounded"}))
    assert sampler_of("text-to-image", ["steps=8", "temperature=0.5", "kind=entropy-bounded"]) == expected
    assert sampler_of("text-to-image", {"steps": "8", "temperature": "0.5", "kind": "entropy-bounded"}) == expected
    assert sampler_of("text-to-image", ["steps=null"]).steps is None
    assert sampler_of("text-to-image") == Sampler(**DEFAULTS)


@pytest.mark.parametrize(
    ("given", "path", "said"),
    [
        ("step=8", "step", "did you mean 'steps'?"),
        ("steps=0", "steps", "out of range"),
        ("steps=many", "steps", "not a whole number"),
        ("ramp=cosine", "ramp", "not known"),
        ("steps", "steps", "write key=value"),
    ],
)
def test_a_setting_that_is_wrong(given: str, path: str, said: str) -> None:
    with pytest.raises(RuleError) as caught:
        sampler_of("text", [given])
    assert caught.value.path == path
    assert said in str(caught.value)


# Files


def test_what_is_a_sampling_study(tmp_path: Path) -> None:
    for text, expected in (
        (STUDY, True),
        ("defaults: other.yaml\nstudy: x\n", True),
        ("study: x\nbase: {}\n", False),
        ("runs: [\n", False),
        ("- runs\n", False),
    ):
        (tmp_path / "other.yaml").write_text("runs: [a]\n")
        (tmp_path / "study.yaml").write_text(text)
        assert is_sampling_study(tmp_path / "study.yaml") is expected, text
    assert not is_sampling_study(tmp_path / "none.yaml")
    assert not is_sampling_study(tmp_path)


def test_the_schema_of_sampling_studies() -> None:
    schema = json_schema(sampling=True)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(parse(STUDY, "sweep.yaml", {}))
    for old, new in (
        ("n: 64", "m: 64"),
        ("confidence", "greedy"),
        ("[4, 8, null]", "[0]"),
        ("sampler.steps", "sampler.step"),
        ("grid: {sampler.steps: [4, 8, null]}", "isoflop: {flops: [1e15]}"),
        ("runs: [trained/#0]\n", ""),
    ):
        assert not validator.is_valid(parse(changed(old, new), "sweep.yaml", {})), new
