"""Studies compiled: axes, transfer, composition, layout, costs and identity, through the plan."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.compile import compile_study
from compiler.layout import GROUPS, table
from compiler.manifest import VocabularyManifest
from compiler.plan import StudyPlan
from specs.errors import SpecError
from tests.compiling import MANIFESTS, compile_data, group, manifest, refused, run, study

TRANSFER = {"base": {"width": 64, "depth": 2, "batch": 16, "tokens": "100K"}, "gamma": 0.5}

# Axes


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=3, max_size=3), st.integers(1, 3))
def test_axes_compose_by_product(sizes: list[int], seeds: int) -> None:
    widths, rates, tokens = [32, 64, 96][: sizes[0]], [1e-3, 2e-3, 3e-3][: sizes[1]], ["50K", "60K", "70K"][: sizes[2]]
    data = study()
    data["axes"] = [
        {"grid": {"model.width": widths, "optimizer.lr": rates}},
        {"grid": {"tokens": tokens}},
        {"seeds": seeds},
    ]
    plan = compile_data(data)
    assert plan.totals.runs == len(plan.runs) == math.prod(sizes) * seeds
    assert len({one.id for one in plan.runs}) == len({one.name for one in plan.runs}) == len(plan.runs)
    points = [tuple(one.point.values()) for one in plan.runs]
    assert points == list(itertools.product(widths, rates, tokens, range(seeds)))
    assert plan.totals.flops == pytest.approx(sum(one.flops for one in plan.runs))


def test_zip_goes_in_step_and_names_say_what_differs() -> None:
    data = study(modalities__text__noise={"kind": "polynomial", "power": 2})
    data["axes"] = [
        {"zip": {"model.width": [32, 64], "modalities.text.noise.power": [2, 3]}},
        {"grid": {"modalities.image.weight": [1]}},
        {"seeds": [7]},
    ]
    runs = compile_data(data).runs
    assert [one.model.width for one in runs] == [32, 64]
    assert [one.name for one in runs] == ["width=32,power=2,weight=1", "width=64,power=3,weight=1"]
    assert [one.seed for one in runs] == [7, 7]


def test_names_are_as_short_as_is_clear() -> None:
    data = study()
    data["axes"] = [{"grid": {"modalities.text.weight": [1, 2], "modalities.image.weight": [1, 3]}}, {"seeds": 2}]
    assert compile_data(data).runs[0].name == "text.weight=1,image.weight=1,seed=0"


def test_without_axes_there_is_one_run() -> None:
    assert run().name == "base"


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ([{"grid": {"model.widht": [32]}}], "did you mean 'width'?"),
        ([{"grid": {"modalities.txt.weight": [32]}}], "did you mean 'text'?"),
        ([{"grid": {"base.tokens": ["1M"]}}], "leave 'base.' out"),
        ([{"grid": {"tokens.x": [1]}}], "unknown path"),
        ([{"grid": {"model.width": [32], "model": [{"depth": 1}]}}], "set here and as 'model.width'"),
        ([{"grid": {"seed": [1]}}, {"seeds": 2}], "set here and as 'seed'"),
        ([{"zip": {"model.width": [32, 64], "tokens": ["1M"]}}], "unequal length"),
        ([{"grid": {"model.width": []}}], "too few entries"),
        ([{"seeds": 0}], "neither a number of seeds nor a list"),
        ([{"seeds": 2, "grid": {"model.width": [32]}}], "exactly one kind"),
        ([{"seeds": 2_000_000}], "more than 1,000,000"),
        ([{"seeds": 2000}, {"grid": {"log_every": list(range(1, 2001))}}], "4,000,000 points"),
    ],
)
def test_bad_axes_are_refused(axes: list[Any], says: str) -> None:
    assert any(says in str(problem) for problem in refused(study() | {"axes": axes}))


def test_a_bad_value_of_an_axis_is_named_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: t\nbase:\n  model: {depth: 1, heads: 3}\n  modalities: {text: {data: embedded/text}}\n"
        "  sequence_length: 32\n  tokens: 1M\n  batch: {physical: 8}\n"
        "axes:\n  - grid:\n      model.width:\n        - 96\n        - 128\n      optimizer.lr: [1e-3, -1]\n"
    )
    with pytest.raises(SpecError) as caught:
        compile_study(path)
    found = {(problem.line, problem.path) for problem in caught.value.problems}
    assert found == {(12, "base.model.width"), (13, "base.optimizer.lr")}


def test_points_that_differ_in_nothing_are_one_run_and_told() -> None:
    data = study()
    data["axes"] = [{"grid": {"batch.micro": [4, 8, 16]}}]
    plan = compile_data(data)
    assert len(plan.runs) == plan.totals.runs == 1
    assert "2 of 3 points" in plan.warnings[0]


def test_an_override_under_an_axis_is_told() -> None:
    data = study() | {"axes": [{"grid": {"tokens": ["50K", "60K"]}}]}
    assert any(
        "base.tokens on the command line has no effect" in one for one in compile_data(data, "base.tokens=5").warnings
    )


# Batch and tokens


@settings(max_examples=60, deadline=None)
@given(
    physical=st.sampled_from([1, 2, 4, 8, 16, 24]),
    tokens=st.integers(20_000, 10_000_000),
    gamma=st.floats(0, 1),
    lr=st.floats(1e-5, 1e-1),
)
def test_batch_algebra(physical: int, tokens: int, gamma: float, lr: float) -> None:
    base = {"width": 64, "depth": 2, "batch": 16, "tokens": 100_000}
    optimizer = {"lr": lr, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1, "clip": 2.0}
    logical = 16 * (tokens / 100_000) ** gamma
    kappa = physical / logical
    data = study(
        batch={"physical": physical}, tokens=tokens, optimizer=optimizer, transfer={"base": base, "gamma": gamma}
    )
    if kappa * (1 - 0.9) >= 1:
        assert "outside (0, 1)" in str(refused(data)[0])
        return
    plan = run(data)
    assert plan.batch.kappa == pytest.approx(physical / 16 * (100_000 / tokens) ** gamma)
    assert plan.batch.logical == pytest.approx(logical)
    after = plan.optimizer
    # The SDE's invariants: noise per unit of time η²/B, momentum's and decay's times in tokens, ε against the noise.
    assert after.lr**2 / physical == pytest.approx(lr**2 / logical)
    assert (1 - after.betas[0]) / physical == pytest.approx(0.1 / logical)
    assert (1 - after.betas[1]) / physical == pytest.approx(0.01 / logical)
    assert after.lr * after.weight_decay / physical == pytest.approx(lr * 0.1 / logical)
    assert after.eps * math.sqrt(physical) == pytest.approx(1e-8 * math.sqrt(logical))
    assert plan.clip == pytest.approx(2 / math.sqrt(kappa))
    assert 0 <= plan.schedule.warmup_steps <= 0.25 * plan.steps
    assert plan.schedule.warmup_steps == min(round(1000 / kappa), math.floor(plan.steps / 4))


def test_at_the_base_point_nothing_changes() -> None:
    plain, transferred = run(), run(transfer=TRANSFER)
    assert transferred.batch.kappa == 1
    assert (plain.optimizer, plain.groups, plain.multipliers) == (
        transferred.optimizer,
        transferred.groups,
        transferred.multipliers,
    )
    assert plain.id == transferred.id


def test_without_transfer_the_batch_changes_nothing_else() -> None:
    assert run(batch={"physical": 2}).optimizer == run(batch={"physical": 32}).optimizer


def test_an_explicit_logical_batch_is_the_reference() -> None:
    plan = run(batch={"physical": 16, "logical": 4}, transfer=TRANSFER)
    assert (plan.batch.logical, plan.batch.kappa) == (4, 4)


def test_warmup_is_in_logical_steps() -> None:
    schedule = {"kind": "cosine", "warmup": 10, "warmup_cap": 1.0}
    one = run(schedule=schedule, batch={"physical": 16, "logical": 16})
    half = run(schedule=schedule, batch={"physical": 8, "logical": 16})
    assert (one.schedule.warmup_steps, half.schedule.warmup_steps) == (10, 20)


def test_the_critical_batch() -> None:
    critical = TRANSFER | {"critical": {"steps": 100}}
    assert run(transfer=critical).batch.critical == pytest.approx(100_000 / (32 * 100))
    assert run(transfer=TRANSFER | {"critical": {"batch": 20}}).batch.critical == 20
    above = study(transfer=critical, batch={"physical": 64})
    assert "above the critical batch" in refused(above)[0].what
    above["base"]["batch"]["allow_supercritical"] = True
    assert run(above).batch.physical == 64


def test_auto_physical_is_the_logical_batch_below_the_critical_one() -> None:
    assert run(batch={}, transfer=TRANSFER, tokens="400K").batch.physical == 32
    assert run(batch={}, transfer=TRANSFER | {"critical": {"batch": 10.5}}).batch.physical == 10
    assert "auto" in refused(study(batch={}))[0].what


def test_micro_and_accumulation() -> None:
    auto = run(batch={"physical": 192}).batch
    assert (auto.micro, auto.accumulation) == (192, 1)
    sharded = run(batch={"physical": 24, "micro": 4}, parallel={"shard": 2}).batch
    assert (sharded.micro, sharded.accumulation) == (4, 3)
    assert "does not divide" in refused(study(batch={"physical": 24, "micro": 5}))[0].what
    assert "do not divide" in refused(study(parallel={"shard": 5}))[0].what


# Width and depth


def test_completep() -> None:
    plan = run(model={"width": 256, "depth": 4}, transfer=TRANSFER)
    base = run()
    assert (plan.multipliers.residual, plan.multipliers.head, plan.multipliers.embedding) == (1 / 2, 1 / 4, 1)
    assert plan.multipliers.attention == base.multipliers.attention == 64**-0.5  # head_dim is held at 64
    lr, decay, eps = plan.optimizer.lr, plan.optimizer.weight_decay, plan.optimizer.eps
    expected = {
        # lr, weight decay, eps
        "embedding": (lr, decay, eps / 4),
        "positions": (lr, decay, eps / 4),
        "hidden": (lr / 4, decay * 4, eps / 8),
        "hidden_down": (lr / 4, decay * 4, eps / 8),
        "hidden_norm": (lr, 0, eps / 8),
        "qk_norm": (lr, 0, eps / 2),
        "final_norm": (lr, 0, eps / 4),
        "head": (lr, decay, eps / 4),
    }
    assert {one.name: (one.lr, one.weight_decay, one.eps) for one in plan.groups} == expected
    for name in ("hidden", "hidden_down"):
        small, large = group(base, name).init_std, group(plan, name).init_std
        assert small is not None
        assert large == pytest.approx(small / 2)
    assert group(plan, "embedding").init_std == group(base, "embedding").init_std
    assert group(plan, "head").init_std == 0
    assert group(plan, "hidden_norm").init_std is None


def test_attention_scale_as_head_dim_grows() -> None:
    model = {"width": 128, "depth": 2, "heads": 2}
    assert run(model=model, transfer=TRANSFER).multipliers.attention == pytest.approx(math.sqrt(32) / 64)
    told = TRANSFER | {"base": TRANSFER["base"] | {"heads": 1}}  # type: ignore[operator]
    assert run(model=model, transfer=told).multipliers.attention == pytest.approx(1 / 8)
    assert run(model=model).multipliers.attention == pytest.approx(1 / 8)


# Shapes, counts and costs


@settings(max_examples=40, deadline=None)
@given(
    head_dim=st.sampled_from([2, 8, 32, 64]), heads=st.integers(1, 4), depth=st.integers(1, 5), ffn=st.integers(1, 300)
)
def test_the_layout_adds_up(head_dim: int, heads: int, depth: int, ffn: int) -> None:
    width = head_dim * heads
    plan = run(model={"width": width, "depth": depth, "heads": heads, "ffn": ffn})
    rows = table(plan)
    sizes = {row.name: math.prod(row.shape) for row in rows}
    assert len(sizes) == len(rows)
    assert sum(sizes.values()) == plan.model.parameters.total
    layer = 4 * width**2 + 3 * width * ffn + 2 * width + 2 * head_dim
    assert plan.model.parameters.non_embedding == depth * layer + width
    vocabulary = plan.model.vocabulary
    assert plan.model.parameters.total == plan.model.parameters.non_embedding + 2 * vocabulary * width + 32 * width
    for row in rows:
        assert [name for name, pattern in GROUPS.items() if re.fullmatch(pattern, row.name)] == [row.group]
        assert row.init_std == group(plan, row.group).init_std
    matrices = depth * (4 * width**2 + 3 * width * ffn) + vocabulary * width
    positions = plan.steps * 16 * 32
    assert plan.flops == (6 * matrices + 12 * 32 * width * depth) * positions
    assert plan.hardware_flops < plan.flops
    parts = plan.memory
    assert parts.per_rank == parts.parameters + parts.gradients + parts.optimizer + parts.activations
    assert parts.parameters == 4 * plan.model.parameters.total


def test_default_shapes() -> None:
    pilot = run(model={"depth": 3}).model
    assert (pilot.width, pilot.heads, pilot.ffn) == (384, 6, 1024)
    assert run(model={"depth": 1, "width": 96}).model.heads == 2
    assert run(model={"depth": 1, "width": 48}).model.heads == 1


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ({"width": 65, "depth": 1}, "width"),
        ({"width": 64, "depth": 1, "heads": 3}, "heads"),
        ({"width": 6, "depth": 1, "heads": 2}, "heads"),
    ],
)
def test_shapes_that_cannot_be(model: dict[str, int], path: str) -> None:
    assert refused(study(model=model))[0].path == f"base.model.{path}"


def test_vocabulary() -> None:
    plan = run()
    assert [(part.name, part.offset, part.size) for part in plan.vocabulary.parts] == [
        ("pixels", 0, 40),
        ("words", 40, 100),
    ]
    names = ["mask", "pad", "end", "task:image", "task:text", "begin:pixels", "end:pixels"]
    assert plan.vocabulary.specials == {name: 140 + i for i, name in enumerate(names)}
    assert plan.model.vocabulary == plan.vocabulary.size == 147


@settings(max_examples=40, deadline=None)
@given(
    weights=st.tuples(st.integers(0, 5), st.integers(1, 5)),
    tokens=st.integers(2000, 10**7),
    physical=st.integers(1, 32),
)
def test_composition(weights: tuple[int, int], tokens: int, physical: int) -> None:
    plan = run(
        modalities__text__weight=weights[0],
        modalities__image__weight=weights[1],
        tokens=tokens,
        batch={"physical": physical},
    )
    text, image = plan.modalities["text"], plan.modalities["image"]
    assert (text.mean_tokens, image.mean_tokens) == (32, 23.5)
    assert text.weight + image.weight == pytest.approx(1)
    assert text.share + image.share == pytest.approx(1)
    assert text.share * 32 * image.weight == pytest.approx(image.share * 23.5 * text.weight)
    sequences = tokens * (text.weight / 32 + image.weight / 23.5)
    assert abs(plan.steps - sequences / physical) <= 1 + 1e-6
    assert plan.steps * physical <= sequences * (1 + 1e-12)
    used = plan.steps * physical
    assert plan.epochs["pictures"] == pytest.approx(used * image.share / 1000)
    assert plan.epochs["prose"] == pytest.approx(used * text.share / (50_100 / 31))


def test_sources_may_be_shared_and_repetition_is_told() -> None:
    modalities = {"one": {"data": "pictures"}, "two": {"data": "pictures", "weight": 3}}
    plan = compile_data(study(modalities=modalities, tokens="1M"))
    [only] = plan.runs
    assert only.epochs == {"pictures": pytest.approx(only.steps * 16 / 1000)}
    [warning] = plan.warnings
    assert warning.startswith("pictures is repeated 42.5 times")


@pytest.mark.parametrize(
    ("base", "path", "says"),
    [
        ({"tokens": 300}, "tokens", "fewer than one step"),
        ({"sequence_length": 20}, "sequence_length", "28 tokens"),
        ({"modalities__image__data": "paintings"}, "modalities.image.data", "no manifest"),
        ({"modalities__text__weight": 0, "modalities__image__weight": 0}, "modalities", "all weights are zero"),
        ({"schedule": {"kind": "wsd", "decay": 0.9, "warmup_cap": 0.5}}, "schedule.decay", "more than the run's"),
        ({"model": {"width": 64, "depth": 2, "heads": 4}, "parallel": {"tensor": 3}}, "parallel.tensor", "4 heads"),
        (
            {"model": {"width": 60, "depth": 2, "heads": 6, "ffn": 40}, "parallel": {"tensor": 3}},
            "parallel.tensor",
            "40",
        ),
        ({"parallel": {"shard": 3}}, "batch.physical", "16 sequences do not divide over 3 ranks"),
        (
            {"modalities__image__noise": {"kind": "cosine", "segments": {"sounds": "linear"}}},
            "modalities.image.noise.segments.sounds",
            "no segment of 'image'",
        ),
    ],
)
def test_what_does_not_go_together(base: dict[str, Any], path: str, says: str) -> None:
    [problem] = refused(study(**base))
    assert problem.path == f"base.{path}"
    assert says in problem.what


def test_unlike_vocabularies_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = VocabularyManifest(name="words", size=100, fingerprint="other")
    odd = manifest("prose", True, (other,), sequences=100, tokens=50_000, longest=900)
    monkeypatch.setitem(MANIFESTS, "prose", odd)
    assert "vocabulary 'words'" in refused(study())[0].what


def test_broken_manifests_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose" / "manifest.json").write_text('{"name": 3}')
    path = tmp_path / "study.yaml"
    path.write_bytes(msgspec.json.encode(study(modalities={"text": {"data": "prose"}})))
    with pytest.raises(SpecError, match="cannot be read"):
        compile_study(path)


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
def test_schedules(kind: str) -> None:
    schedule = run(schedule={"kind": kind, "final": 0.1}).schedule
    assert schedule.kind == kind
    assert schedule.final == (1.0 if kind == "constant" else 0.1)
    assert (schedule.decay_steps > 0) == (kind == "wsd")


# Identity

SAME: list[dict[str, Any]] = [
    {"batch": {"physical": 16, "micro": 4}},
    {"batch": {"physical": 16, "logical": 16}},
    {"parallel": {"shard": 2}},
    {"parallel": {"shard": 2, "replicate": 2, "activation_checkpoint": "full", "compile": True}},
    {"model": {"width": 64, "depth": 2, "heads": 1, "ffn": 176}, "parallel": {"replicate": 2}},
    {"monitor": {"gradient_noise": 5, "activations": True, "tensorboard": True, "wandb": True}},
    {"modalities__image__noise": {"kind": "cosine", "segments": {"words": "cosine"}}},
    {"checkpoint": {"every": 7, "keep": 1}},
    {"evaluation": {"every": 3}},
    {"log_every": 1},
    {"modalities": {"image": {"data": "pictures", "noise": "cosine"}, "text": {"data": "prose"}}},
    {"modalities__text__weight": 3, "modalities__image__weight": 3},
    {"modalities__text__noise": {"kind": "linear", "power": 3}},
    {"model": {"width": 64, "depth": 2, "heads": 1, "ffn": 176}},
    {"tokens": 1e5},
]
OTHER: list[dict[str, Any]] = [
    {"tokens": "101K"},
    {"seed": 1},
    {"optimizer": {"lr": 1e-3}},
    {"optimizer": {"eps": 1e-9}},
    {"optimizer": {"clip": 1}},
    {"batch": {"physical": 8}},
    {"batch": {"physical": 16, "logical": 8}},
    {"sequence_length": 33},
    {"dtype": "bfloat16"},
    {"model": {"width": 64, "depth": 3}},
    {"model": {"width": 64, "depth": 2, "heads": 2}},
    {"modalities__text__weight": 2},
    {"modalities__text__noise": "cosine"},
    {"modalities__text__data": "pictures"},
    {"schedule": {"kind": "linear"}},
    {"schedule": {"warmup": 3}},
    {"schedule": {"final": 0}},
    {"modalities__image__noise": {"kind": "cosine", "segments": {"words": "linear"}}},
    {"modalities__image__drop_condition": 0.1},
    {"time": {"sampling": "antithetic"}},
    {"time": {"importance": "learned"}},
    {"head": "modality"},
    {"evaluation": {"sequences": 12}},
    {"transfer": TRANSFER | {"base": {"width": 32, "depth": 2, "batch": 16, "tokens": "100K"}}},
]


@pytest.mark.parametrize("base", SAME, ids=str)
def test_what_does_not_decide_the_id(base: dict[str, Any]) -> None:
    assert run(**base).id == run().id


def test_tensor_parallelism_divides_what_it_cuts_and_does_not_decide_the_id() -> None:
    model = {"width": 64, "depth": 2, "heads": 4}
    one, two = run(model=model), run(model=model, parallel={"tensor": 2})
    assert two.id == one.id
    assert (two.parallel.ranks, two.parallel.data_ranks) == (2, 1)
    assert two.batch == one.batch
    vocabulary = one.model.vocabulary
    assert vocabulary % 2 == 1  # of its rows, the first process has one more
    kept = sum(math.prod(row.shape) for row in table(one) if "norm" in row.name or "code_positions" in row.name)
    halves = (one.model.parameters.total - kept - 2 * 64 * vocabulary) / 2
    assert two.memory.parameters == 4 * (kept + halves + 2 * 64 * (vocabulary + 1) / 2)


def test_a_head_of_each_position_s_own_vocabulary_computes_less() -> None:
    """Pictures are half words, half pixels; the specials come on top of both."""
    full, own = run(), run(head="modality")
    assert own.flops == full.flops
    positions = full.steps * full.batch.physical * full.sequence_length
    vocabulary, specials = full.model.vocabulary, len(full.vocabulary.specials)
    text, image = full.modalities["text"], full.modalities["image"]
    scored = image.share * image.mean_tokens / 32 * 2 / math.pi
    saved = text.share / 2 * (vocabulary - 100 - specials) + scored * (vocabulary - (100 + 40) / 2 - specials)
    assert full.hardware_flops - own.hardware_flops == pytest.approx(6 * full.model.width * positions * saved)


def test_dropped_conditions_are_not_scored() -> None:
    """Half of the pictures' tokens are their captions."""
    plan, dropping = run(), run(modalities__image__drop_condition=0.5)
    assert dropping.flops == plan.flops
    positions = plan.steps * plan.batch.physical * plan.sequence_length
    image = plan.modalities["image"]
    fewer = image.share * image.mean_tokens / 32 * 2 / math.pi * 0.5 / 2
    saved = 6 * plan.model.width * plan.model.vocabulary * positions * fewer
    assert plan.hardware_flops - dropping.hardware_flops == pytest.approx(saved)


def test_a_segment_s_own_schedule_masks_another_share() -> None:
    one = run(modalities__image__noise={"kind": "cosine", "segments": {"words": {"kind": "polynomial", "power": 3}}})
    other = run()
    image = one.modalities["image"]
    assert (image.noise.kind, image.noise.segments["words"].power) == ("cosine", 3)
    positions = one.steps * one.batch.physical * one.sequence_length
    fewer = image.share * image.mean_tokens / 32 / 2 * (2 / math.pi - 1 / 4)
    assert other.hardware_flops - one.hardware_flops == pytest.approx(
        6 * one.model.width * one.model.vocabulary * positions * fewer
    )


def test_names_and_key_order_do_not_decide_the_id() -> None:
    data = study()
    renamed = {"axes": [{"grid": {"seed": [0]}}], "base": dict(reversed(data["base"].items())), "study": "other"}
    assert run(renamed).id == run(data).id


def test_what_decides_the_id() -> None:
    ids = [run().id, *(run(**base).id for base in OTHER)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)


def test_the_data_decides_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run().id
    changed = msgspec.structs.replace(MANIFESTS["prose"].train, digest="another")
    monkeypatch.setitem(MANIFESTS, "prose", msgspec.structs.replace(MANIFESTS["prose"], train=changed))
    assert run().id != before


def test_the_same_study_gives_the_same_plan() -> None:
    data = study() | {"axes": [{"grid": {"model.width": [32, 64]}}, {"seeds": 2}]}
    first, second = compile_data(data), compile_data(data)
    assert msgspec.json.encode(first) == msgspec.json.encode(second)
    assert msgspec.json.decode(msgspec.json.encode(first), type=StudyPlan) == first
    assert compile_data(data, "base.log_every=3").digest != first.digest


def test_a_value_given_twice_is_one_run_and_a_warning() -> None:
    data = study()
    data["axes"] = [{"grid": {"model.width": [64, 64]}}]
    plan = compile_data(data)
    assert len(plan.runs) == 1
    assert "1 of 2 points are given twice" in plan.warnings[0]
