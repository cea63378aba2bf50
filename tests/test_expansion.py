"""The study language through the compiler: every kind of axis, filters, mixes, exceptions, automatic batches."""

from __future__ import annotations

import itertools
import math
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.compile import compile_study
from compiler.explain import explain
from compiler.layout import table
from compiler.single import find_run
from specs.errors import RuleError
from tests.compiling import compile_data, compile_data_whole, group, refused, run, study

TRANSFER = {"base": {"width": 64, "depth": 2, "batch": 16, "tokens": "100K"}, "gamma": 0.5}


def with_axes(*axes: dict[str, Any], **base: Any) -> dict[str, Any]:
    return study(**base) | {"axes": list(axes)}


# Axes


def test_a_list_sets_several_values_at_once_and_leaves_out_what_it_likes() -> None:
    entries = [{"model.width": 32, "optimizer.lr": 1e-3}, {"model.width": 64}, {"optimizer.lr": 2e-3}]
    runs = compile_data(with_axes({"list": entries}, {"seeds": 2})).runs
    found = [(one.model.width, one.optimizer.lr) for one in runs[::2]]
    assert found == [(32, 1e-3), (64, 3e-3), (64, 2e-3)]
    assert [one.name for one in runs[:3]] == ["width=32,lr=0.001,seed=0", "width=32,lr=0.001,seed=1", "width=64,seed=0"]


def test_log_ranges() -> None:
    runs = compile_data(with_axes({"log": {"optimizer.lr": {"from": 1e-4, "to": 1e-2, "points": 3}}})).runs
    assert [one.optimizer.lr for one in runs] == [1e-4, 1e-3, 1e-2]
    widths = with_axes({"log": {"model.width": {"from": 32, "to": 128, "points": 3, "multiple": 16}}})
    assert [one.model.width for one in compile_data(widths).runs] == [32, 64, 128]


@pytest.mark.parametrize("method", ["lhs", "sobol"])
def test_samples_are_seeded(method: str) -> None:
    ranges = {"optimizer.lr": {"from": 1e-4, "to": 1e-2, "scale": "log"}, "schedule.kind": ["cosine", "linear"]}
    axis = {"sample": {"points": 8, "method": method, "seed": 3, "ranges": ranges}}
    plan = compile_data(with_axes(axis))
    assert plan == compile_data(with_axes(axis))
    assert len(plan.runs) == 8
    assert all(1e-4 <= one.optimizer.lr <= 1e-2 for one in plan.runs)
    assert sorted(one.schedule.kind for one in plan.runs) == ["cosine"] * 4 + ["linear"] * 4
    other = axis["sample"] | {"seed": 4}
    assert {one.id for one in plan.runs}.isdisjoint(one.id for one in compile_data(with_axes({"sample": other})).runs)


def test_unbalanced_sobol_points_are_told() -> None:
    axis = {"sample": {"points": 6, "method": "sobol", "ranges": {"optimizer.lr": {"from": 1e-4, "to": 1e-2}}}}
    assert "power of two" in compile_data(with_axes(axis)).warnings[0]


def test_a_simplex_is_every_mix_within_bounds() -> None:
    runs = compile_data(with_axes({"simplex": {"parts": 4, "min": {"text": 0.25}}})).runs
    assert [(one.modalities["text"].weight, one.modalities["image"].weight) for one in runs] == [
        (0.25, 0.75),
        (0.5, 0.5),
        (0.75, 0.25),
        (1.0, 0.0),
    ]
    assert "'txt'" in str(refused(with_axes({"simplex": {"parts": 4, "modalities": ["txt", "image"]}}))[0])


@settings(max_examples=20, deadline=None)
@given(budget=st.floats(1e13, 1e17), depth=st.integers(1, 4), length=st.integers(30, 90))
def test_isoflop_tokens_spend_the_budget(budget: float, depth: int, length: int) -> None:
    axis = {"isoflop": {"flops": [budget], "sizes": [{"model.depth": depth}, {"model.width": 128}]}}
    runs = compile_data(with_axes(axis, sequence_length=length, batch={"physical": 1})).runs
    for one in runs:
        step = one.flops / one.steps
        assert budget - 2 * step <= one.flops <= budget
    # The same number of steps would do with any tokens between; those found are the most.
    assert all(one.tokens == math.floor(one.tokens) for one in runs)


def test_isoflop_composes_with_other_axes_and_needs_no_tokens() -> None:
    data = with_axes({"grid": {"model.width": [32, 64]}}, {"isoflop": {"flops": [1e12, "4T"]}})
    del data["base"]["tokens"]
    runs = compile_data(data).runs
    assert [one.name for one in runs[:2]] == ["width=32,flops=1e+12", "width=32,flops=4e+12"]
    assert runs[1].tokens == pytest.approx(4 * runs[0].tokens, rel=1e-3)
    assert "set here and as 'tokens'" in str(
        refused(with_axes({"isoflop": {"flops": [1e12]}}, {"grid": {"tokens": [1]}}))[0]
    )


def test_what_an_isoflop_axis_refuses_and_tells() -> None:
    twice = {"isoflop": {"flops": [1e12], "sizes": [{"tokens": "1M"}]}}
    assert "set here and by the budgets" in str(refused(with_axes(twice))[0])
    coarse = with_axes({"isoflop": {"flops": [5e10]}}, batch={"physical": 512})
    assert "leave more than 1% of their FLOP budget" in " ".join(compile_data(coarse).warnings)


def test_whole_numbers_are_sampled_whole() -> None:
    runs = compile_data(with_axes({"log": {"model.ffn": {"from": 1, "to": 100, "points": 4}}})).runs
    assert [one.model.ffn for one in runs] == [1, 5, 22, 100]
    axis = {"sample": {"points": 4, "ranges": {"evaluation.sequences": {"from": 10, "to": 99}}}}
    assert all(isinstance(one.point["evaluation.sequences"], int) for one in compile_data(with_axes(axis)).runs)
    bad = {"sample": {"points": 4, "ranges": {"optimizer.lr": {"from": 1e-4, "to": 1e-2, "step": 3}}}}
    [problem] = refused(with_axes(bad))
    assert problem.path == "axes.0.sample.ranges.optimizer.lr.step"


def test_values_inside_a_mapping_are_named_whole() -> None:
    runs = compile_data(with_axes({"grid": {"schedule.warmup": [10, {"tokens": "10K"}]}})).runs
    assert [one.name for one in runs] == ["warmup=10", "warmup.tokens=10K"]


def test_a_wrong_value_under_an_axis_is_told() -> None:
    [problem] = refused(with_axes({"grid": {"tokens": ["1M", "2M"]}}, tokens="abc"))
    assert problem.path == "base.tokens"


# Filters


def test_exclude_and_only_read_the_plan() -> None:
    grid = {"grid": {"model.width": [32, 64, 128], "batch.physical": [8, 16]}}
    plan = compile_data(
        with_axes(grid, {"exclude": "model.width == 128 and batch.physical > 8"}, {"only": ["flops < 1e18"]})
    )
    assert [(one.model.width, one.batch.physical) for one in plan.runs] == [
        pair for pair in itertools.product([32, 64, 128], [8, 16]) if pair != (128, 16)
    ]
    assert plan.excluded == 1
    assert "'flops < 1e18' (only) takes no point out" in plan.warnings[-1]


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("model.widht > 3", "did you mean 'model.width'?"),
        ("flops >", "axes.1.exclude"),
        ("__import__('os')", "axes.1.exclude"),
        ("batch.critical > 3", "null"),
        ("flops", "axes.1.exclude"),
        ("flops > 0", "take out all 2 points"),
    ],
)
def test_bad_conditions(condition: str, says: str) -> None:
    [problem] = refused(with_axes({"grid": {"model.width": [32, 64]}}, {"exclude": condition}))
    assert says in str(problem)
    assert problem.path.startswith("axes.1.exclude")


def test_what_a_rule_finds_at_several_points_is_told_once_with_a_name() -> None:
    data = with_axes({"seeds": 3}, batch={"physical": 100}, transfer=TRANSFER | {"critical": {"steps": 50}})
    [problem] = refused(data)
    assert "above the critical batch" in problem.what
    assert problem.what.endswith("(in 'seed=0' and 2 more)")


# Mix


def test_a_mix_that_changes_with_tokens() -> None:
    mix = [{"from": 0.25, "weights": {"image": 3}}, {"from": "50K", "weights": {"text": 0}}]
    plan = run(mix=mix, batch={"physical": 1})
    assert [stage.weights for stage in plan.mix] == [
        {"image": 0.5, "text": 0.5},
        {"image": 0.75, "text": 0.25},
        {"image": 1.0, "text": 0.0},
    ]
    assert plan.modalities["text"].weight == pytest.approx(0.25 * 0.5 + 0.25 * 0.25)
    # Tokens that the stages' sequences come to, by modality, are those of the weights.
    starts = [*(stage.start for stage in plan.mix), plan.steps]
    for name, mean in (("text", 32), ("image", 23.5)):
        drawn = sum((b - a) * s.shares[name] for (a, b), s in zip(itertools.pairwise(starts), plan.mix, strict=True))
        assert drawn * mean == pytest.approx(100_000 * plan.modalities[name].weight, abs=200)
    assert len(run().mix) == 1
    assert run(mix=[{"from": 0.5, "weights": {"text": 2}}]).id != run().id


@pytest.mark.parametrize(
    ("mix", "says"),
    [
        ([{"from": 0.5, "weights": {"txt": 1}}], "no modality"),
        ([{"from": 0.5, "weights": {"text": 1}}, {"from": 0.4, "weights": {"text": 2}}], "order the stages"),
        ([{"from": "2M", "weights": {"text": 1}}], "after the run's"),
        ([{"from": 0.5, "weights": {"text": 0, "image": 0}}], "all weights are zero"),
        ([{"form": 0.5, "weights": {"text": 0}}], "did you mean 'from'?"),
        ([{"from": 1.0, "weights": {"text": 0}}], "a share below 1"),
    ],
)
def test_mixes_that_cannot_be(mix: list[Any], says: str) -> None:
    assert any(says in str(problem) for problem in refused(study(mix=mix)))


# Exceptions for modules


def test_exceptions_split_groups_and_leave_every_parameter_in_one() -> None:
    modules = {
        "out": {"pattern": "layers.*.attention.wo.weight", "lr": 2, "init": 0.5},
        "first": {"pattern": "layers.0.*", "lr": 3, "weight_decay": 0},
    }
    plain, plan = run(), run(optimizer__modules=modules)
    for row in table(plan):
        [only] = [one for one in plan.groups if re.fullmatch(one.pattern, row.name)]
        base = group(plain, only.name.split("+")[0])
        factor = (2 if "attention.wo." in row.name else 1) * (3 if row.name.startswith("layers.0.") else 1)
        assert only.lr == pytest.approx(base.lr * factor)
        assert only.weight_decay == (0 if row.name.startswith("layers.0.") else base.weight_decay)
        assert row.group == only.name
    assert group(plan, "hidden+out").init_std == pytest.approx(0.5 * (group(plain, "hidden").init_std or 0))
    assert {one.name.split("+")[0] for one in plan.groups} == {one.name for one in plain.groups}
    axis = {"grid": {"optimizer.modules.out.lr": [1, 2]}}
    assert [one.name for one in compile_data(with_axes(axis, optimizer__modules=modules)).runs] == ["lr=1", "lr=2"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"pattern": "layers.*.attention.w0.weight"}, "matches no parameter"),
        ({"pattern": "norm.weight", "init": 2}, "start at a constant"),
        ({"pattern": "*", "epps": 2}, "did you mean 'eps'?"),
    ],
)
def test_exceptions_that_cannot_be(spec: dict[str, Any], says: str) -> None:
    assert says in str(refused(study(optimizer__modules={"one": spec}))[0])


# Batch and schedule


@settings(max_examples=40, deadline=None)
@given(
    shard=st.sampled_from([1, 2, 8]),
    replicate=st.sampled_from([1, 2]),
    micro=st.sampled_from([None, 1, 3]),
    critical=st.integers(1, 200),
    tokens=st.integers(100_000, 3_000_000),
)
def test_an_automatic_batch_is_the_largest_that_may_be(
    shard: int, replicate: int, micro: int | None, critical: int, tokens: int
) -> None:
    unit = shard * replicate * (micro or 1)
    data = study(
        batch={"micro": micro} if micro else {},
        parallel={"shard": shard, "replicate": replicate},
        tokens=tokens,
        transfer=TRANSFER | {"critical": {"batch": critical}},
    )
    logical = 16 * math.sqrt(tokens / 100_000)
    if critical < unit:
        assert "above the critical batch" in str(refused(data)[0])
        return
    if unit >= logical / 0.1:
        return  # β leaves (0, 1): another error, tested elsewhere
    batch = run(data).batch
    assert batch.profile == "h100"
    assert batch.physical % unit == 0
    assert batch.physical <= critical
    assert batch.kappa * (1 - 0.9) < 1
    larger = batch.physical + unit
    assert larger > critical or larger / logical * (1 - 0.9) >= 1 - 1e-6
    assert batch.accumulation * batch.micro * shard * replicate == batch.physical


def test_an_automatic_batch_fits_the_named_profile() -> None:
    wide = {"model": {"width": 4096, "depth": 8}, "tokens": "100M", "batch": {"profile": "l40s", "logical": 1e6}}
    small, large = run(**wide), run(**{**wide, "batch": {"profile": "h200", "logical": 1e6}})
    assert small.batch.physical < large.batch.physical
    assert small.id != large.id
    full = run(**wide, parallel={"activation_checkpoint": "full"})
    assert full.batch.physical > small.batch.physical
    assert "did you mean 'h100'?" in str(refused(study(batch={"profile": "h1000", "logical": 4}))[0])
    huge = study(model={"width": 16384, "depth": 64}, batch={"logical": 4})
    assert "raise parallel.shard" in str(refused(huge)[0])


def test_what_an_automatic_batch_brings_along_is_told() -> None:
    prime = compile_data(study(batch={}, tokens="10M", transfer=TRANSFER | {"critical": {"batch": 347}}))
    assert prime.runs[0].batch.physical == 347
    fast = compile_data(study(batch={}, tokens="10M", transfer=TRANSFER | {"critical": {"batch": 1500}}))
    assert any("a β below 0.5" in one for one in fast.warnings)
    split = study(batch={}, tokens="10M", sequence_length=8000, transfer=TRANSFER | {"critical": {"batch": 347}})
    assert any("347 sequences, 347x1 on a rank" in one for one in compile_data(split).warnings)


def test_an_explicit_batch_names_no_profile() -> None:
    assert run().batch.profile is None


def test_warm_up_in_tokens_is_the_same_share_whatever_the_batch() -> None:
    schedule = {"warmup": {"tokens": "20K"}}
    for physical in (1, 4, 16):
        plan = run(schedule=schedule, batch={"physical": physical})
        assert plan.schedule.warmup_steps == pytest.approx(0.2 * plan.steps, abs=1)
    assert run(schedule={"warmup": {"tokens": "60K"}}).schedule.warmup_steps == math.floor(run().steps / 4)
    assert "one of steps and tokens" in str(refused(study(schedule={"warmup": {"steps": 1, "tokens": 3}}))[0])


@pytest.mark.parametrize(
    ("noise", "planned"),
    [
        ({"kind": "log-linear"}, {"kind": "log-linear", "eps": 1e-3}),
        ({"kind": "table", "alpha": [1, 0.25, 0]}, {"kind": "table", "t": [0.0, 0.5, 1.0], "alpha": [1.0, 0.25, 0.0]}),
    ],
)
def test_more_noise_schedules(noise: dict[str, Any], planned: dict[str, Any]) -> None:
    plan = run(modalities__text__noise=noise)
    assert msgspec.to_builtins(plan.modalities["text"].noise) == {
        name: tuple(value) if isinstance(value, list) else value for name, value in planned.items()
    }
    assert plan.hardware_flops != run().hardware_flops


@pytest.mark.parametrize("alpha", [[1], [1, 0.5], [0.9, 0], [1, 0.2, 0.3, 0]])
def test_tables_that_are_no_schedule(alpha: list[float]) -> None:
    assert "does not fall from 1 to 0" in str(
        refused(study(modalities__text__noise={"kind": "table", "alpha": alpha}))[0]
    )


# Interpolation, includes, explanations


def test_derived_values_follow_the_axes() -> None:
    data = with_axes(
        {"grid": {"model.width": [32, 64]}}, {"grid": {"seed": [0, 1]}}, model__ffn="${mul:3,${base.model.width}}"
    )
    assert [one.model.ffn for one in compile_data(data).runs] == [96, 96, 192, 192]
    other = with_axes({"grid": {"model.width": [32, 64]}}, evaluation__sequences="${base.model.width}")
    assert [one.evaluation.sequences for one in compile_data(other).runs] == [32, 64]


def test_an_axis_cannot_interpolate_what_an_axis_sets() -> None:
    follows = {"grid": {"model.ffn": ["${mul:3,${base.model.width}}"]}}
    assert compile_data(with_axes(follows)).runs[0].model.ffn == 192
    [problem] = refused(with_axes(follows, {"grid": {"model.width": [32, 64]}}))
    assert problem.path == "axes.0.grid.model.ffn.0"
    assert "write the interpolation in the base" in problem.todo


def test_derived_values_of_derived_values_follow_the_axes() -> None:
    data = with_axes(
        {"grid": {"seed": [8, 16]}},
        evaluation__sequences="${base.checkpoint.every}",
        checkpoint__every="${mul:2,${base.seed}}",
    )
    assert [one.evaluation.sequences for one in compile_data(data).runs] == [16, 32]


def test_explanations(tmp_path: Path) -> None:
    data = with_axes({"grid": {"optimizer.lr": [1e-3, 2e-3]}}, transfer=TRANSFER, batch={"physical": 64})
    whole = compile_data_whole(data, "base.seed=3")
    chosen = find_run(whole.plan, "#1")
    [lr] = explain(whole, chosen, "optimizer.lr")
    assert (lr.written, lr.value, lr.planned) == (2e-3, 2e-3, pytest.approx(4e-3))
    assert re.fullmatch(r".*study\.yaml:\d+", lr.origin)
    assert lr.groups["head"] == chosen.groups[-1].lr
    [seed] = explain(whole, chosen, "seed")
    assert (seed.origin, seed.planned) == ("command line:1", 3)
    [eps] = explain(whole, chosen, "optimizer.eps")
    assert (eps.origin, eps.written, eps.value) == ("default", None, 1e-8)
    [kappa] = explain(whole, chosen, "batch.kappa")
    assert (kappa.origin, kappa.planned) == ("derived", 4)
    assert len(explain(whole, chosen, None)) > 30
    with pytest.raises(RuleError, match=r"did you mean 'optimizer\.lr'"):
        explain(whole, chosen, "optimizer.lrr")


def test_the_line_of_an_included_value_is_named(tmp_path: Path) -> None:
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes/small.yaml").write_text("\nwidth: 64\ndepth: 2\nheads: 3\n")
    file = tmp_path / "study.yaml"
    file.write_text(
        "study: t\nbase:\n  model: {include: sizes/small.yaml}\n  modalities: {text: {data: embedded/text}}\n"
        "  sequence_length: 32\n  tokens: 1M\n  batch: {physical: 8}\n"
    )
    with pytest.raises(Exception, match=r"small\.yaml:4: base\.model\.heads: 3 heads do not divide"):
        compile_study(file)


# Size


def test_a_product_over_the_limit_is_refused_before_it_is_expanded() -> None:
    started = time.process_time()
    data = with_axes({"seeds": 10**6}, {"sample": {"points": 10**6, "ranges": {"tokens": {"from": 1, "to": 9}}}})
    assert "1,000,000,000,000 points" in str(refused(data)[0])
    assert "points" in str(refused(with_axes({"simplex": {"parts": 10_000}}, {"seeds": 1000}))[0])
    assert time.process_time() - started < 2


def test_one_bad_value_of_a_huge_product_is_found_at_once() -> None:
    started = time.process_time()
    found = refused(with_axes({"grid": {"optimizer.lr": [1e-3, -1]}}, {"seeds": 400_000}))
    assert time.process_time() - started < 2
    assert [problem.path for problem in found] == ["base.optimizer.lr"]


def test_ten_thousand_runs_are_planned_within_bounds(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    data = with_axes({"grid": {"model.width": [32, 64, 96, 128], "optimizer.lr": [1e-3, 2e-3]}}, {"seeds": 1250})
    data["base"]["modalities"] = {"text": {"data": "embedded/text"}, "image": {"data": "embedded/image"}}
    data["base"]["sequence_length"] = 88
    file.write_bytes(msgspec.json.encode(data))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [Path(sys.executable).with_name("triptych"), "plan", str(file), "--json"], capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert msgspec.json.decode(done.stdout)["totals"]["runs"] == 10_000
    # The aim is 2 s; tests may share their cores.
    assert after.ru_utime - before.ru_utime < 6
