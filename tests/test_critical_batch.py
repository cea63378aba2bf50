from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.compile import compile_study
from compiler.plan import RunPlan
from compiler.transfer import critical_batch
from specs.study import TransferSpec
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.hyperbola import fit
from studies.analysis.laws.statistics import central
from studies.analysis.questions.breaking import breaking_point
from studies.analysis.questions.critical_batch import CriticalBatch, critical_batches
from studies.analysis.questions.invariance import LossTable
from studies.analysis.results import Study
from studies.analysis.views.critical_batch import CRITICAL_BATCH, break_table, hyperbola_table
from tests.experiments import (
    BATCHES,
    TRANSFER,
    Runs,
    bent,
    dependence,
    evaluation,
    finished,
    level,
    never,
    once,
    rescaled,
    sweeps,
    trained,
)

GRID = np.array([2, 4, 8, 16, 32, 64], float)


def steps_to(batch: Any, critical: float = 16.0, steps_min: float = 100.0) -> Any:
    return steps_min * (1 + critical / np.asarray(batch))


# --- the law


@settings(max_examples=30)
@given(st.floats(0.5, 300), st.floats(1, 1e5))
def test_the_hyperbola_is_found_wherever_it_bends(critical: float, steps_min: float) -> None:
    found = fit(GRID, steps_to(GRID, critical, steps_min), bootstrap=0)
    assert found.critical == pytest.approx(critical, rel=1e-5)
    assert found.steps_min == pytest.approx(steps_min, rel=1e-5)
    assert found.examples_min == pytest.approx(critical * steps_min, rel=1e-5)
    assert found.held_out == pytest.approx(0, abs=1e-5)
    assert found.r2 == pytest.approx(1)
    assert found.intervals == {}
    for batch in (1.0, critical, 1000.0):
        steps = found.steps(batch)
        product = (steps / found.steps_min - 1) * (steps * batch / found.examples_min - 1)
        assert product == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("seeds", "noise"), [(1, 0.05), (3, 0.1)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(seeds: int, noise: float) -> None:
    batches = np.repeat(GRID, seeds)
    rng = np.random.default_rng(0)
    truth = {"critical": 16.0, "steps_min": 100.0, "examples_min": 1600.0}
    covered = dict.fromkeys(truth, 0)
    for seed in range(100):
        steps = steps_to(batches) * np.exp(rng.normal(0, noise, len(batches)))
        intervals = fit(batches, steps, bootstrap=200, seed=seed).intervals
        for name, value in truth.items():
            covered[name] += intervals[name][0] <= value <= intervals[name][1]
    # Of 100 at 90 %, outside of 81 to 98 would be one in a hundred.
    assert all(81 <= count <= 98 for count in covered.values()), covered


def test_one_side_of_the_critical_batch_does_not_tell_where_it_is() -> None:
    rng = np.random.default_rng(1)
    batches = np.repeat(GRID, 2)
    noise = np.exp(rng.normal(0, 0.05, len(batches)))
    small = fit(batches, 1000 / batches * noise, bootstrap=200)
    assert small.intervals["critical"][1] == math.inf
    assert small.critical > GRID[-1]
    assert "below B_crit" in small.warnings[0]
    assert any("no upper end" in said for said in small.warnings)
    large = fit(batches, 1000 * noise, bootstrap=200)
    assert large.intervals["critical"][0] == 0
    assert large.critical < GRID[0]
    assert "above B_crit" in large.warnings[0]
    exact = fit(GRID, 1000 / GRID, bootstrap=0)
    assert (exact.critical, exact.steps_min) == (math.inf, 0)
    assert exact.examples_min == pytest.approx(1000, rel=1e-3)
    assert exact.steps(10) == pytest.approx(100, rel=1e-3)
    level = fit(GRID, np.full(6, 70.0), bootstrap=0)
    assert (level.critical, level.examples_min) == (0, 0)
    assert level.steps(10) == pytest.approx(70, rel=1e-3)


def test_noise_as_large_as_the_bend_leaves_the_interval_wide_and_says_so() -> None:
    rng = np.random.default_rng(3)
    found = fit(GRID, steps_to(GRID) * np.exp(rng.normal(0, 1.5, 6)), bootstrap=200)
    assert any("hold" in said for said in found.warnings)


def test_a_batch_off_the_curve_shows_in_the_held_out_error() -> None:
    steps = steps_to(GRID)
    steps[3] *= 1.5
    found = fit(GRID, steps, bootstrap=0)
    assert found.held_out is not None
    assert found.held_out > math.log(1.5) / math.sqrt(6)
    assert fit(GRID[:3], steps[:3], bootstrap=0).held_out is None


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(UnidentifiedError, match="at least 3 batches, and there are 2"):
        fit([4, 4, 8, 8], [10, 11, 5, 6])
    with pytest.raises(ValueError, match="one length"):
        fit([4, 8, 16], [10, 5])
    with pytest.raises(ValueError, match="positive"):
        fit([4, 8, 16], [10, 5, math.inf])


def test_samples_of_which_nothing_is_known_widen_an_interval_on_both_sides() -> None:
    known = np.linspace(0, 1, 101)
    assert central(known) == pytest.approx((0.05, 0.95))
    few = np.concatenate([known, [math.nan] * 3])
    low, high = central(few) or (0, 0)
    assert low < 0.05
    assert high > 0.95
    assert central(np.concatenate([known, [math.nan] * 20])) == (-math.inf, math.inf)
    assert central(np.array([])) is None


# --- the break


def tables(excess: np.ndarray, noise: float, seed: int, seeds: int = 3) -> LossTable:
    """Losses about 3 at batches 4, 8, ..., each seed with an offset of its own."""
    rng = np.random.default_rng(seed)
    shape = (seeds, len(excess))
    losses = 3 + excess + 0.2 * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=shape)
    return LossTable(losses, tuple(range(seeds)), tuple(int(4 * 2**k) for k in range(len(excess))))


RISING = np.array([0.0, 0.0, 0.005, 0.02, 0.08, 0.3])
"""Crosses 0.03 half way, in loss, between 0.02 at 32 and 0.08 at 64: a sixth of an octave above 32."""


def test_the_break_is_where_the_loss_crosses_the_tolerance() -> None:
    [one] = [breaking_point(tables(RISING, 0, 0, 1), 8, 3.2e5, 100, bootstrap=50)]
    assert one is not None
    assert (one.base, one.batches) == (8, (8, 16, 32, 64, 128))
    assert one.tolerance == pytest.approx(0.01 * one.loss)
    share = (one.tolerance - 0.02) / 0.06
    assert (one.holds, one.breaks) == (32, 64)
    assert one.critical == pytest.approx(32 * 2**share)
    assert one.steps == pytest.approx(3200 / one.critical)
    assert (one.seed_noise, one.critical_interval, one.steps_interval) == (None, None, None)


def test_the_breaks_interval_covers_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        one = breaking_point(tables(RISING, 0.005, seed), 4, 3.2e5, 100, bootstrap=200, seed=seed)
        assert one is not None
        assert one.critical_interval is not None
        assert one.steps_interval is not None
        truth = 32 * 2 ** ((one.tolerance - 0.02) / 0.06)
        covered += one.critical_interval[0] <= truth <= one.critical_interval[1]
        assert one.steps_interval == pytest.approx(tuple(3200 / end for end in reversed(one.critical_interval)))
    assert 81 <= covered <= 98


def test_what_does_not_break_bounds_the_critical_batch_from_below() -> None:
    one = breaking_point(tables(np.zeros(6), 0.002, 0), 4, 3.2e5, 100, bootstrap=100)
    assert one is not None
    assert (one.critical, one.steps, one.breaks, one.holds) == (None, None, None, 128)
    assert one.critical_interval == (math.inf, math.inf)
    assert one.steps_interval == (0, 0)


def test_seeds_that_differ_by_more_than_a_hundredth_raise_the_tolerance() -> None:
    one = breaking_point(tables(RISING, 0.1, 0), 4, 3.2e5, 100, bootstrap=0)
    assert one is not None
    assert one.seed_noise == pytest.approx(0.1, rel=0.6)
    assert one.tolerance == pytest.approx(2 * one.seed_noise)


def test_failed_runs_break_and_a_failed_base_tells_nothing() -> None:
    table = tables(np.zeros(6), 0.001, 0)
    table.losses[1, 4] = math.inf
    one = breaking_point(table, 4, 3.2e5, 100, bootstrap=100)
    assert one is not None
    assert (one.holds, one.breaks) == (32, 64)
    assert one.critical == pytest.approx(32)
    assert one.excess[4] == math.inf
    assert one.critical_interval == pytest.approx((32, 32))
    table.losses[1, 0] = math.inf
    assert breaking_point(table, 4, 3.2e5, 100) is None
    assert breaking_point(table.only([8, 16, 32]), 32, 3.2e5, 100) is None


def test_a_run_that_is_missing_leaves_seeds_compared_with_themselves() -> None:
    whole = tables(RISING, 0, 1)
    whole.losses[0, 3] = math.nan
    whole.losses[2, 0] = math.nan
    one = breaking_point(whole, 4, 3.2e5, 100, bootstrap=0)
    assert one is not None
    assert one.excess == pytest.approx(RISING, abs=1e-9)


# --- the question

CRITICAL = 24.0


def falling(run: RunPlan, steps: Any) -> Any:
    """A loss whose steps to any value are a hyperbola of B_crit = 24."""
    return 2 + 6 * (steps / (1 + CRITICAL / run.batch.physical)) ** -0.35


@cache
def monitored() -> Runs:
    return tuple(
        msgspec.structs.replace(run, monitor=msgspec.structs.replace(run.monitor, gradient_noise=50))
        for run in rescaled()
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Batches with the reparameterization and without it, that break at 64, with noise."""
    out = tmp_path_factory.mktemp("critical")
    finished(monitored(), dependence(0.0, 0.1, beyond=0.3), noise=0.003, out=out)
    return trained(out, falling, noise=0.05, gradient=lambda run: (0.5, 10.0))


@pytest.fixture(scope="module")
def both(study: Study) -> tuple[CriticalBatch, ...]:
    return critical_batches(study, bootstrap=200)


def test_both_arms_find_the_hyperbola_in_training_losses(both: tuple[CriticalBatch, ...]) -> None:
    assert [one.logical for one in both] == [16, None]
    for one in both:
        assert (one.source, one.batches, one.tokens, one.runs) == ("training", BATCHES, (2e5,), 15)
        assert one.decaying
        losses = [target.loss for target in one.targets]
        assert losses == sorted(losses, reverse=True)
        assert len(losses) == 5
        assert [target.missed for target in one.targets] == [()] * 4 + [(64,)]
        for target in one.targets:
            assert target.fit is not None
            assert target.fit.critical == pytest.approx(CRITICAL, rel=0.2)
            planted = ((target.loss - 2) / 6) ** (-1 / 0.35)
            assert target.fit.steps_min == pytest.approx(planted, rel=0.15)
            low, high = target.fit.intervals["critical"]
            assert high / low < 1.6
            for batch, steps in zip(target.batches, target.steps, strict=True):
                assert steps == pytest.approx(planted * (1 + CRITICAL / batch), rel=0.1)


def test_the_simple_noise_scale_is_beside_it(both: tuple[CriticalBatch, ...]) -> None:
    for one in both:
        scale = one.noise_scale
        assert scale is not None
        assert scale.simple == pytest.approx(20, rel=0.05)
        assert scale.interval is not None
        assert scale.interval[0] < scale.simple < scale.interval[1]
        # Times are drawn plainly for these schedules: only medians are to be trusted.
        assert (scale.runs, scale.medians) == (15, True)


def test_s_crit_as_found_is_what_a_study_may_write(both: tuple[CriticalBatch, ...]) -> None:
    with_, without = both
    assert without.breaks == ()
    [one] = with_.breaks
    assert (one.base, one.holds, one.breaks) == (16, 32, 64)
    assert one.critical is not None
    assert 32 < one.critical < 64
    transfer = TransferSpec.model_validate({**TRANSFER, "critical": {"steps": one.steps}})
    assert critical_batch(transfer, 2e5, 32) == pytest.approx(one.critical)


def test_it_is_put_in_words_figures_and_json(both: tuple[CriticalBatch, ...], study: Study) -> None:
    with_, without = both
    blocks = [CRITICAL_BATCH.show(one) for one in both]
    assert [len(block.tables) for block in blocks] == [2, 1]
    assert blocks[0].title.startswith("With the SDE reparameterization, logical batch 16")
    said = " ".join(hyperbola_table(without).said)
    assert "decays" in said
    assert "noise scale" in said
    [broken] = with_.breaks
    assert broken.steps is not None
    assert f"steps: {math.ceil(broken.steps)}}}" in " ".join(break_table(with_).said)
    for block in blocks:
        for figure in block.figures:
            assert figure.draw().to_dict()["layer"]
    plain = json.loads(msgspec.json.encode(both))
    assert plain[0]["breaks"][0]["steps"] == pytest.approx(broken.steps)
    assert plain[0]["targets"][0]["fit"]["intervals"].keys() == {"critical", "steps_min", "examples_min"}


def test_final_losses_of_several_horizons_go_before_training_curves() -> None:
    runs = once(
        [{"grid": {"batch.physical": [4, 8, 16, 32], "tokens": [5e4, 1e5, 2e5, 4e5]}}, {"seeds": 2}], tokens="200K"
    )
    [one] = critical_batches(finished(runs, lambda run, _: falling(run, run.steps)), bootstrap=100)
    assert (one.source, one.logical, one.tokens) == ("horizons", None, (5e4, 1e5, 2e5, 4e5))
    assert one.noise_scale is None
    for target in one.targets:
        assert target.fit is not None
        assert target.fit.critical == pytest.approx(CRITICAL, rel=0.15)


def test_evaluations_over_training_go_before_training_losses() -> None:
    runs = once([{"grid": {"batch.physical": list(BATCHES)}}], tokens="200K")
    study = finished(runs, level)

    def rows(run: RunPlan) -> list[dict[str, Any]]:
        steps = [round(run.steps * share / 12) for share in range(1, 13)]
        made = [
            msgspec.structs.replace(evaluation(run, name, float(falling(run, step))), step=step)
            for step in steps
            for name in run.modalities
        ]
        return [{"id": run.id, **msgspec.to_builtins(row)} for row in made]

    columns = ("id", "step", "tokens", "modality", "nelbo", "standard_error", "scored_tokens", "sequences")
    frame = pl.DataFrame([row for run in runs for row in rows(run)], infer_schema_length=None).select(columns)
    evaluations = pl.concat([study.evaluations.clear(), frame], how="diagonal_relaxed").sort("step")
    [one] = critical_batches(dataclasses.replace(study, evaluations=evaluations), bootstrap=0)
    assert one.source == "evaluations"
    for target in one.targets:
        assert target.fit is not None
        assert target.fit.critical == pytest.approx(CRITICAL, rel=0.1)


def test_failed_runs_flat_losses_and_studies_that_do_not_ask() -> None:
    def fails(run: RunPlan, modality: str) -> float:
        return math.inf if run.batch.physical == 64 else level(run, modality)

    with_, without = critical_batches(finished(rescaled(), fails), bootstrap=0)
    assert (with_.targets, without.targets) == ((), ())
    assert with_.breaks[0].breaks == 64
    for one in (with_, without):
        said = " ".join(hyperbola_table(one).warned)
        assert "3 of 15 runs failed" in said
        assert "no hyperbola" in said
    assert critical_batches(finished(rescaled(), never)) == ()
    assert critical_batches(finished(sweeps(), bent(0.3))) == ()
    few = tuple(run for run in rescaled() if run.batch.physical <= 16)
    assert critical_batches(finished(few, level)) == ()


def test_the_projects_invariance_study_asks_for_both_arms() -> None:
    plan = compile_study(Path(__file__).parent.parent / "studies" / "invariance" / "study.yaml")
    found = critical_batches(finished(plan.runs, level), bootstrap=0)
    assert [(one.logical, len(one.breaks), len(one.batches)) for one in found] == [(8, 1, 6), (None, 0, 6)]


def test_runs_of_other_width_transfer_are_not_one_sweep() -> None:
    arms = {"list": [{"transfer": TRANSFER, "batch.logical": 16}, {"transfer": None, "batch.logical": 16}]}
    shape = {"list": [{"model.width": 256, "model.heads": 8}]}
    runs = once([arms, shape, {"grid": {"batch.physical": [8, 16, 32, 64]}}], tokens="200K")
    assert len(runs) == 8
    found = critical_batches(finished(runs, level), bootstrap=0)
    assert [one.setting for one in found] == ["with CompleteP", "without CompleteP"]
    assert [one.runs for one in found] == [4, 4]
