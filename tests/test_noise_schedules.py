from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compiler.compile import compile_study
from compiler.plan import Noise, RunPlan
from compiler.records import MIX, store_folder
from runtime.training.noise import masked
from studies.analysis.figures import drawn
from studies.analysis.how import How
from studies.analysis.laws.comparisons import compare, holm, letters, permutation_test
from studies.analysis.laws.schedules import masked_at, schedule_name
from studies.analysis.questions.noise_schedules import NoiseSchedules, last_bands, noise_schedules
from studies.analysis.results import Study, read_study
from studies.analysis.views.noise_schedules import NOISE, bands_table, schedules_table
from studies.analysis.views.words import Verdict
from tests.compiling import study
from tests.experiments import Loss, Runs, finished, metrics, once
from tests.synthetic import write_lines

STUDIES = Path(__file__).parent.parent / "studies"
FEW = settings(max_examples=20)
SCHEDULES = {
    "linear": Noise(kind="linear"),
    "cosine": Noise(kind="cosine"),
    "polynomial 2.5": Noise(kind="polynomial", power=2.5),
    "log-linear 0.01": Noise(kind="log-linear", eps=0.01),
    "table 1, 0.7, 0": Noise(kind="table", t=(0.0, 0.5, 1.0), alpha=(1.0, 0.7, 0.0)),
    "table 1, 0.7, 0 at 0, 0.2, 1": Noise(kind="table", t=(0.0, 0.2, 1.0), alpha=(1.0, 0.7, 0.0)),
    "linear (codes: cosine)": Noise(kind="linear", segments={"codes": Noise(kind="cosine")}),
}


# --- schedules


@pytest.mark.parametrize(("name", "noise"), SCHEDULES.items())
def test_what_is_masked_is_what_the_runtime_masks_and_names_tell_schedules_apart(name: str, noise: Noise) -> None:
    t = np.linspace(0, 1, 41)
    assert masked_at(noise, t) == pytest.approx(masked(noise, torch.tensor(t)).numpy())
    assert schedule_name(noise) == name


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="pink"):
        masked_at(Noise(kind="pink"), 0.5)


# --- comparisons


def test_p_values_are_uniform_where_no_treatment_matters() -> None:
    rng = np.random.default_rng(0)
    # Heavy tails, and blocks that differ: neither is any matter of treatments.
    tables = rng.standard_t(3, (300, 6, 4)) + 5 * rng.normal(size=(300, 6, 1))
    permuted = [permutation_test(table, permutations=199, seed=k) for k, table in enumerate(tables)]
    assert stats.kstest(permuted, "uniform").pvalue > 0.01
    normal = rng.normal(size=(300, 6, 3)) + 5 * rng.normal(size=(300, 6, 1))
    paired = [compare(table, permutations=0).pairs[0].p for table in normal]
    assert stats.kstest(paired, "uniform").pvalue > 0.01


def test_of_null_comparisons_few_tell_any_pair_apart() -> None:
    rng = np.random.default_rng(1)
    wrong = sum("b" in "".join(compare(table, 0).letters) for table in rng.normal(size=(400, 6, 4)))
    # 5 % of 400 or fewer; more than 35 would be one in a thousand.
    assert wrong <= 35


@FEW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_is_the_textbooks(p: list[float]) -> None:
    corrected = holm(p)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * np.array(p)[order])
    assert np.array(corrected)[order] == pytest.approx(np.minimum(stepped, 1))
    assert all(c >= raw for c, raw in zip(corrected, p, strict=True))


@settings(max_examples=60)
@given(st.data())
def test_two_share_a_letter_exactly_where_they_cannot_be_told_apart(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    pairs = [frozenset((i, j)) for i in range(n) for j in range(i)]
    apart = set(data.draw(st.lists(st.sampled_from(pairs), unique=True))) if pairs else set()
    found = letters(range(n), apart)
    for pair in pairs:
        first, second = pair
        assert bool(set(found[first]) & set(found[second])) == (pair not in apart)
    assert "a" in found[0]


def test_differences_are_paired_and_intervals_cover() -> None:
    rng = np.random.default_rng(2)
    covered, trials = 0, 200
    for _ in range(trials):
        table = 3 * rng.normal(size=(5, 1)) + [0, 0.5] + 0.2 * rng.normal(size=(5, 2))
        pair = compare(table, 0).pair(1, 0)
        assert pair.interval is not None
        covered += pair.interval[0] <= 0.5 <= pair.interval[1]
    assert 170 <= covered <= 192
    there = compare(table, 0)
    back, forth = there.pair(0, 1), there.pair(1, 0)
    assert back.difference == -forth.difference
    assert back.interval is not None
    assert forth.interval is not None
    assert back.interval == pytest.approx((-forth.interval[1], -forth.interval[0]))
    assert forth.p == pytest.approx(stats.ttest_rel(table[:, 1], table[:, 0]).pvalue)
    with pytest.raises(KeyError):
        there.pair(0, 0)


def test_what_is_not_finite_takes_its_pairs_with_it_and_equal_differences_are_told() -> None:
    table = np.array([[1.0, 2, 3], [2, 3, math.inf], [3, 4, math.nan], [4, 5, 6.5]])
    found = compare(table, permutations=50)
    assert found.counts == (4, 4, 2)
    assert found.pair(1, 0).p == 0
    assert (found.pair(2, 0).blocks, found.pair(2, 0).p) == (2, None)
    assert (found.p, found.blocks) == (None, 2)
    same = compare(np.ones((4, 2)), 20)
    assert (same.p, same.pairs[0].p, same.letters) == (1.0, 1.0, ("a", "a"))
    none = compare(np.array([[math.inf, 1.0]]))
    assert math.isnan(none.means[0])
    assert (none.letters, none.intervals) == ((), (None, None))
    with pytest.raises(ValueError, match="treatments"):
        compare([[1.0]])


# --- studies

KINDS = ["linear", "cosine", {"kind": "polynomial", "power": 2}, {"kind": "log-linear", "eps": 0.001}]
NAMES = ("linear", "cosine", "polynomial 2", "log-linear 0.001")
PLANTED = dict(zip(NAMES, (0.1, 0.0, 0.2, 0.1), strict=True))


@cache
def in_step(seeds: int = 5) -> Runs:
    """Four schedules, the same for both modalities."""
    both = {f"modalities.{name}.noise": KINDS for name in ("text", "image")}
    return once([{"zip": both}, {"seeds": seeds}])


@cache
def crossed() -> Runs:
    """Two schedules of text by two of images."""
    each = {f"modalities.{name}.noise": KINDS[:2] for name in ("text", "image")}
    return once([{"grid": each}, {"seeds": 4}])


def named(run: RunPlan, modality: str) -> str:
    return schedule_name(run.modalities[modality].noise)


def noise_of(run: RunPlan, modality: str, deviation: float = 0.005) -> float:
    return float(np.random.default_rng([int(run.id[:8], 16), len(modality)]).normal(0, deviation))


def planted(run: RunPlan, modality: str) -> float:
    """The schedule's effect in text and none in images, on what each seed does to all of its runs."""
    effect = PLANTED[named(run, modality)] if modality == "text" else 0.0
    return 3 + effect + 0.5 * run.seed + noise_of(run, modality)


def of(found: NoiseSchedules, modality: str) -> Any:
    return next(one for one in found.modalities if one.modality == modality)


def shown(found: NoiseSchedules) -> str:
    """All that is said of `found`, once its figures have been drawn."""
    block = NOISE.show(found)
    for figure in block.figures:
        assert drawn(figure.draw()).tables
    return json.dumps(msgspec.to_builtins([msgspec.to_builtins(found), *map(dataclasses.asdict, block.tables)]))


def test_schedules_are_ranked_as_planted_though_seeds_differ_more() -> None:
    [found] = noise_schedules(finished(in_step(), planted), permutations=500)
    text, image = of(found, "text"), of(found, "image")
    assert text.names[0] == "cosine"
    assert text.names[-1] == "polynomial 2"
    assert dict(zip(text.names, text.comparison.letters, strict=True)) == {
        "cosine": "a",
        "linear": "b",
        "log-linear 0.001": "b",
        "polynomial 2": "c",
    }
    for name, pair in ((name, text.comparison.pair(k, 0)) for k, name in enumerate(text.names) if k):
        assert pair.difference == pytest.approx(PLANTED[name], abs=0.015)
        assert pair.interval[0] - 0.005 < PLANTED[name] < pair.interval[1] + 0.005
    assert text.comparison.p < 0.01
    assert set(image.comparison.letters) == {"a"}
    assert image.comparison.p > 0.05
    assert text.together
    assert not of(found, MIX).together
    assert text.seed_noise == pytest.approx(0.5 * math.sqrt(2.5), rel=0.05)
    table = schedules_table(text)
    assert [row[0] for row in table.rows] == list(text.names)
    assert "cosine is the best alone." in table.said
    assert "changed in step" in shown(found)


def test_the_base_schedule_is_compared_where_the_studys_file_can_be_read(tmp_path: Path) -> None:
    finished(in_step(), planted, out=tmp_path)
    (tmp_path / "tiny" / "study.yaml").write_text(json.dumps(study()))
    [found] = noise_schedules(read_study(tmp_path / "tiny"), permutations=0)
    assert (of(found, "text").base, of(found, "image").base, of(found, MIX).base) == ("linear", "cosine", None)
    text = of(found, "text")
    against = {row[0]: row[5] for row in schedules_table(text).rows}
    assert against["linear"] == "the base's"
    assert isinstance(against["cosine"], Verdict)
    assert isinstance(against["polynomial 2"], Verdict)
    assert (against["cosine"].good, against["polynomial 2"].good) == (True, False)
    assert against["log-linear 0.001"].startswith("not told apart")
    pairs = text.comparison.against(text.names.index("linear"))
    assert [pair.corrected for pair in pairs.values()] == holm([pair.p for pair in pairs.values()])
    assert pairs[text.names.index("cosine")].difference == pytest.approx(-0.1, abs=0.015)


def test_crossed_schedules_are_compared_within_one_choice_of_the_others() -> None:
    def loss(run: RunPlan, modality: str) -> float:
        """Text's schedule does 0.1, that of images 1.0 to text too."""
        cosines = [named(run, "text") == "cosine", named(run, "image") == "cosine"]
        return 3 + 0.1 * cosines[0] + cosines[1] + 0.5 * run.seed + noise_of(run, modality)

    [found] = noise_schedules(finished(crossed(), loss), permutations=200)
    text, image = of(found, "text"), of(found, "image")
    assert (text.together, image.together) == (False, False)
    assert text.comparison.blocks == 8
    assert text.comparison.pair(1, 0).difference == pytest.approx(0.1, abs=0.01)
    assert image.comparison.pair(1, 0).difference == pytest.approx(1.0, abs=0.01)
    # The mix is compared where all of its modalities share a schedule.
    assert of(found, MIX).comparison.pair(1, 0).difference == pytest.approx(1.1, abs=0.01)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_tell_no_significance(seeds: int) -> None:
    [found] = noise_schedules(finished(in_step(seeds), planted), permutations=200)
    text = of(found, "text")
    assert text.names[0] == "cosine"
    assert (text.comparison.p, text.comparison.letters) == (None, ())
    assert all(pair.p is None for pair in text.comparison.pairs)
    assert (text.comparison.intervals[0] is None) == (seeds == 1)
    table = schedules_table(text)
    assert "significance cannot be told" in " ".join(table.warned)
    assert all(row[1] == "–" and row[4] == "–" for row in table.rows)
    shown(found)


def test_failed_and_missing_runs_are_said() -> None:
    def loss(run: RunPlan, modality: str) -> float | None:
        if named(run, "text") == "cosine":
            return math.inf
        if named(run, "text") == "polynomial 2" and run.seed == 0:
            return math.inf
        return None if named(run, "text") == "linear" and run.seed == 1 else planted(run, modality)

    [found] = noise_schedules(finished(in_step(), loss), permutations=50)
    text = of(found, "text")
    assert found.missing == 1
    assert dict(zip(text.names, text.failed, strict=True)) == {
        "cosine": 5, "polynomial 2": 1, "linear": 0, "log-linear 0.001": 0
    }  # fmt: skip
    assert text.names[-1] == "cosine"
    assert dict(zip(text.names, text.comparison.counts, strict=True))["linear"] == 4
    said = shown(found)
    assert "5 diverged" in said
    assert "Runs that have not ended: 1" in said
    assert noise_schedules(finished(in_step(), lambda run, m: None)) == ()


def test_studies_of_one_schedule_are_not_asked_and_the_projects_own_is() -> None:
    assert noise_schedules(finished(once([{"seeds": 3}]), lambda run, m: 3.0)) == ()
    runs = compile_study(STUDIES / "noise" / "study.yaml").runs
    [found] = noise_schedules(finished(runs, lambda run, m: 3 + noise_of(run, m)), permutations=50)
    assert [one.modality for one in found.modalities] == [MIX, *runs[0].modalities]
    assert all(len(one.names) == 6 and one.comparison.blocks == 6 for one in found.modalities)
    assert found.setting == ""


# --- bands


def with_bands(out: Path, runs: Runs, early: float = 0.0, loss: Loss = planted) -> Study:
    """Runs whose masked tokens lose 2 + 3 · share nats each, and `early` more in the first 40 % of training."""
    finished(runs, loss, out=out)
    for run in runs:
        rows = []
        for step in range(1, run.steps + 1):
            shares = masked_at(run.modalities["text"].noise, np.linspace(0, 1, 5))
            extra = early if step <= 0.4 * run.steps else 0.01 * run.seed
            bands = np.diff(shares * (2 + extra) + 1.5 * shares**2)
            rows.append(msgspec.structs.replace(metrics(run, step, None), bands=tuple(bands.tolist())))
        write_lines(store_folder(out, run.id) / "metrics.jsonl", rows)
    return read_study(out / "tiny")


def test_bands_are_averaged_over_the_second_half_and_put_on_the_masked_share(tmp_path: Path) -> None:
    [found] = noise_schedules(with_bands(tmp_path, in_step(3), early=5.0), permutations=0)
    assert {one.schedule for one in found.bands} == set(NAMES)
    for one in found.bands:
        assert one.shares is not None
        assert one.per_token is not None
        assert one.runs == 3
        middle = [(low + high) / 2 for low, high in zip(one.shares[:-1], one.shares[1:], strict=True)]
        # Seeds 0, 1 and 2 add 0.01 each: 0.01 on average.
        assert one.per_token == pytest.approx([2.01 + 3 * share for share in middle])
        for value, interval in zip(one.per_token, one.intervals, strict=True):
            assert interval is not None
            assert interval[0] < value < interval[1]
        assert one.losses == pytest.approx(np.multiply(one.per_token, np.diff(one.shares)))
    polynomial = next(one for one in found.bands if one.schedule == "polynomial 2")
    assert polynomial.shares == pytest.approx((0, 1 / 16, 1 / 4, 9 / 16, 1))
    said = " ".join(bands_table(found).said)
    assert "depends on the schedule's weight" in said
    assert "mean loss of a masked token" in said
    assert "masked share" in json.dumps(drawn(NOISE.show(found).figures[-1].draw()).spec)


def test_bands_stay_on_t_where_modalities_have_schedules_of_their_own(tmp_path: Path) -> None:
    [found] = noise_schedules(with_bands(tmp_path, crossed()), permutations=0)
    apart = [one for one in found.bands if one.shares is None]
    assert len(found.bands) == 4
    assert len(apart) == 2
    assert all("text: " in one.schedule and one.per_token is None for one in apart)
    assert "no one masked share" in " ".join(bands_table(found).said)
    assert '"band"' in json.dumps(drawn(NOISE.show(found).figures[-1].draw()).spec)


def test_runs_without_bands_have_no_table_of_them(tmp_path: Path) -> None:
    ended = with_bands(tmp_path, in_step(2))
    assert len(last_bands(ended, [run.id for run in ended.plan.runs])) == 8
    assert last_bands(ended, []) == {}
    [found] = noise_schedules(finished(in_step(2), planted), permutations=0)
    assert found.bands == ()
    assert "band" not in [figure.key for figure in NOISE.show(found).figures]


def test_strange_names_are_only_strange_names() -> None:
    names = {"text": "<script>", "image": "a.b[0]"}
    runs = tuple(
        msgspec.structs.replace(
            run,
            modalities={names[m]: plan for m, plan in run.modalities.items()},
            point={path.replace(m, names[m]): value for path, value in run.point.items() for m in names if m in path}
            | {"seed": run.seed},
        )
        for run in in_step(3)
    )

    def loss(run: RunPlan, modality: str) -> float:
        return 3 + PLANTED[named(run, modality)] + noise_of(run, modality)

    [found] = noise_schedules(finished(runs, loss), permutations=20)
    assert [one.modality for one in found.modalities] == [MIX, *runs[0].modalities]
    assert of(found, "a.b[0]").names[0] == "cosine"
    assert "<script>" in shown(found)


def test_the_question_goes_through_its_record() -> None:
    [found] = NOISE.ask(finished(in_step(3), planted), How(bootstrap=10))
    assert NOISE.key == "noise"
    msgspec.json.encode(msgspec.to_builtins(found))
    assert NOISE.show(found).title.startswith("100K tokens, 64 × 2")
