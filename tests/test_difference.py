"""Two plans compared: what was added, removed, changed and recosted, and how it reads."""

from __future__ import annotations

import functools
import io
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from compiler.difference import Change, Difference, difference, load_plan, show_difference
from compiler.plan import RunPlan, StudyPlan
from specs.errors import SpecError
from tests.compiling import compile_data, study


@functools.cache
def plan(*overrides: str, seeds: int = 2, axes: str = "model.width") -> StudyPlan:
    data = study(transfer={"base": {"width": 64, "depth": 2, "batch": 16, "tokens": "100K"}, "gamma": 0.5})
    values = {"model.width": [32, 64, 128], "optimizer.lr": [1e-3, 2e-3]}
    data["axes"] = [{"grid": {axes: values[axes]}}, {"seeds": seeds}]
    return compile_data(data, *overrides)


def seen(d: Difference) -> str:
    file = io.StringIO()
    show_difference(d, Console(file=file, color_system=None))
    return file.getvalue()


def counts(d: Difference) -> tuple[int, int, int, int]:
    """Runs added, removed, changed and recosted."""
    return len(d.added), len(d.removed), len(d.changed), len(d.recosted)


def with_runs(base: StudyPlan, *runs: RunPlan) -> StudyPlan:
    return replace(base, runs=runs)


def test_a_plan_does_not_differ_from_itself() -> None:
    assert difference(plan(), plan()).empty
    assert seen(difference(plan(), plan())) == "no difference: 6 runs in both\n"


def test_a_changed_value_is_said_once_with_what_it_was() -> None:
    d = difference(plan(), plan("base.optimizer.lr=5e-3"))
    assert counts(d) == (0, 0, 6, 0)
    assert not d.study
    assert [(one.before.name, one.after.name) for one in d.changed] == [(run.name, run.name) for run in plan().runs]
    assert all(one.before.id != one.after.id for one in d.changed)
    for one in d.changed:
        changes = {change.path: (change.before, change.after) for change in one.changes}
        assert changes.pop("optimizer.lr") == (3e-3, 5e-3)
        assert "groups.hidden.lr" in changes, "programs get derived values too"
        assert all(path.startswith("groups.") for path in changes)
    text = seen(d)
    assert "in all 6 changed runs:\n    optimizer.lr 0.003 → 0.005\n" in text
    assert text.count("optimizer.lr") == 1
    assert "groups." not in text
    assert f"{sum(len(one.changes) - 1 for one in d.changed)} values follow from these" in text


def test_runs_are_added_and_removed() -> None:
    few, many = plan(seeds=2), plan(seeds=3)
    d = difference(few, many)
    assert [run.name for run in d.added] == [f"width={width},seed=2" for width in (32, 64, 128)]
    assert counts(d) == (3, 0, 0, 0)
    assert (d.before, d.after) == (few.totals, many.totals)
    text = seen(d)
    assert f"+ width=32,seed=2 ({d.added[0].id})" in text
    assert "runs 6 → 9" in text
    assert "hours" not in text.replace("device-hours", ""), "the study's time follows from its runs"
    assert f"- width=32,seed=2 ({d.added[0].id})" in seen(difference(many, few))


def test_what_decides_no_numbers_is_recosted() -> None:
    d = difference(plan(), plan("base.batch.micro=4"))
    assert counts(d) == (0, 0, 0, 6)
    for one in d.recosted:
        assert one.before.id == one.after.id
        changes = {change.path: (change.before, change.after) for change in one.changes}
        assert (changes["batch.micro"], changes["batch.accumulation"]) == ((16, 4), (1, 4))
        assert "memory.activations" in changes
    text = seen(d)
    assert "in all 6 recosted runs (the same numbers):\n    batch.micro 16 → 4\n" in text
    assert "accumulation" not in text
    assert "memory" not in text
    assert "width=32" not in text, "nothing is said of single runs that all runs have in common"


def test_runs_are_matched_by_point_then_by_name() -> None:
    first, second, *_ = plan().runs
    renamed = replace(first, id="new", name="another", steps=7)
    [one] = difference(with_runs(plan(), first), with_runs(plan(), renamed)).changed
    assert [change.path for change in one.changes] == ["name", "steps"]
    assert f"another ({first.id} → new)" in seen(difference(with_runs(plan(), first), with_runs(plan(), renamed)))
    moved = replace(first, id="new", point={"elsewhere": 1}, steps=7)
    [one] = difference(with_runs(plan(), first), with_runs(plan(), moved)).changed
    assert Change("point.elsewhere", None, 1) in one.changes
    apart = difference(with_runs(plan(), first), with_runs(plan(), replace(second, id="new")))
    assert counts(apart) == (1, 1, 0, 0)


def test_a_quantity_written_another_way_is_the_same_point() -> None:
    run = plan().runs[0]
    before, after = (
        with_runs(plan(), replace(run, id=str(one), name=str(one), point={"tokens": one})) for one in ("20M", 2e7)
    )
    d = difference(before, after)
    assert counts(d) == (0, 0, 1, 0)


def test_each_run_says_what_is_its_own() -> None:
    before = plan()
    runs = [
        replace(run, id=f"new{index}", optimizer=replace(run.optimizer, lr=1.0), seed=run.seed + 10 * (index == 4))
        for index, run in enumerate(before.runs)
    ]
    text = seen(difference(before, with_runs(before, *runs)))
    lines = text.splitlines()
    assert text.count("optimizer.lr 0.003 → 1") == 1
    own = lines.index(f"  ~ {before.runs[4].name} ({before.runs[4].id} → new4)")
    assert lines[own + 1] == "      seed 0 → 10"
    assert sum(line.startswith("  ~ ") for line in lines) == 6


def test_another_mix_of_data_is_told_by_its_weights() -> None:
    text = seen(difference(plan(), plan("base.modalities.text.weight=3")))
    common = text[: text.index("  ~ ")]
    assert "modalities.image.weight 0.5 → 0.25" in common
    assert "modalities.text.weight 0.5 → 0.75" in common
    for derived in ("share", "mix.", "epochs", "flops", "groups"):
        assert derived not in text
    paths = {change.path for change in difference(plan(), plan("base.modalities.text.weight=3")).changed[0].changes}
    assert {"modalities.text.share", "mix.0.weights.text", "epochs.prose"} <= paths


def test_another_cluster_is_one_change() -> None:
    d = difference(plan(), plan("cluster=h100"))
    assert counts(d) == (0, 0, 0, 6)
    assert "cluster.accelerator.peak.float32" in [change.path for change in d.study]
    text = seen(d)
    assert "study: cluster.name local → h100" in text
    assert "peak" not in text
    assert "device_hours" not in text
    assert "values follow from these" in text


def test_many_runs_are_not_all_listed() -> None:
    some = plan().runs
    many = [
        replace(run, id=f"{i}{run.id}", name=f"{run.name},x={i}", point={"x": i}) for i in range(20) for run in some
    ]
    text = seen(difference(with_runs(plan()), with_runs(plan(), *many)))
    assert text.count("\n+ ") + text.startswith("+ ") == 61
    assert "+ and 60 more runs; --json has all" in text


def test_ten_thousand_changed_runs_are_compared_quickly() -> None:
    some = plan().runs
    before = [
        replace(run, id=f"{i}{run.id}", name=f"{run.name},x={i}", point={**run.point, "x": i})
        for i in range(10_000 // len(some))
        for run in some
    ]
    after = [replace(run, id=f"new{run.id}", optimizer=replace(run.optimizer, lr=1.0)) for run in before]
    start = time.perf_counter()
    d = difference(with_runs(plan(), *before), with_runs(plan(), *after))
    seen(d)
    assert len(d.changed) == len(before)
    assert time.perf_counter() - start < 10


STUDIES: list[dict[str, Any]] = [
    {},
    {"seeds": 3},
    {"axes": "optimizer.lr"},
    {"overrides": ("base.optimizer.lr=5e-3",)},
    {"overrides": ("base.batch.micro=4",)},
    {"overrides": ("base.tokens=200K",), "seeds": 1},
    {"overrides": ("base.modalities.text.noise=cosine", "cluster=h100")},
    {"overrides": ("study=other", "base.schedule.kind=wsd")},
]


@st.composite
def plans(draw: st.DrawFn) -> StudyPlan:
    """A part of one of some studies, its runs in any order."""
    kind = dict(draw(st.sampled_from(STUDIES)))
    whole = plan(*kind.pop("overrides", ()), **kind)
    order = draw(st.permutations(range(len(whole.runs))))
    return with_runs(whole, *(whole.runs[index] for index in order[: draw(st.integers(0, len(order)))]))


def mirrored(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    return tuple(Change(one.path, one.after, one.before) for one in changes)


@settings(max_examples=60, deadline=None)
@given(plans(), plans())
def test_the_way_back_mirrors_the_way_there(a: StudyPlan, b: StudyPlan) -> None:
    there, back = difference(a, b), difference(b, a)
    assert difference(a, a).empty
    assert there.empty == back.empty
    assert (there.before, there.after) == (back.after, back.before)
    assert there.added == back.removed
    assert there.removed == back.added
    assert there.study == mirrored(back.study)
    for one, other in ((there.changed, back.changed), (there.recosted, back.recosted)):
        assert {(run.before, run.after): run.changes for run in one} == {
            (run.after, run.before): mirrored(run.changes) for run in other
        }
    assert len(there.added) + len(there.changed) + len(there.recosted) <= len(b.runs)
    assert len(b.runs) - len(there.added) == len(a.runs) - len(there.removed), "matched one to one"
    assert seen(there)
    assert msgspec.json.decode(msgspec.json.encode(there), type=Difference).added == there.added


def test_plans_are_read_from_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan()))
    assert load_plan(tmp_path) == load_plan(tmp_path / "plan.json") == plan()


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no plan here"), (b"{", "cannot be read"), (b"{}", "study"), (b'{"study": "\xff"}', "cannot be")],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_bytes(content)
    for path in (tmp_path, tmp_path / "plan.json"):
        with pytest.raises(SpecError) as refused:
            load_plan(path)
        [problem] = refused.value.problems
        assert problem.file == str(tmp_path / "plan.json")
        assert says in problem.what
