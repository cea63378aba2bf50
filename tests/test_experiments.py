from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.compile import compile_study
from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.asked import answers, summary
from studies.analysis.cli import run_fit
from studies.analysis.how import How
from studies.analysis.questions.coordinates import FLAT, Sweep, coordinate_check
from studies.analysis.questions.gamma import batch_exponent
from studies.analysis.questions.invariance import batch_invariance
from studies.analysis.questions.learning_rate import learning_rate_transfer
from studies.analysis.results import Study, read_study
from studies.analysis.settings import PLAIN, TRANSFERRED
from studies.analysis.views.coordinates import coordinates_table
from studies.analysis.views.learning_rate import learning_rate_table
from tests.compiling import study
from tests.experiments import (
    ARMS,
    BATCHES,
    GRID,
    HORIZONS,
    RATES,
    TRANSFER,
    Runs,
    again,
    bent,
    bowl,
    dependence,
    finished,
    grows,
    level,
    never,
    once,
    rate,
    rescaled,
    scaled,
    sweeps,
    swept,
    watched,
)
from tests.synthetic import make_study

STUDIES = Path(__file__).parent.parent / "studies"
Activations = Callable[[RunPlan, int], dict[str, float] | None]

EXPERIMENTS = {"coordinates", "learning_rate", "invariance", "gamma"}

FEW = settings(max_examples=12)


@cache
def swept_study() -> Study:
    return finished(swept(), level)


@cache
def rescaled_study() -> Study:
    return finished(rescaled(), level)


@cache
def sweeps_study() -> Study:
    return finished(sweeps(), level)


# --- coordinate check


def checked(runs: tuple[RunPlan, ...], activations: Activations) -> tuple[Sweep, ...]:
    return coordinate_check(finished(runs, never, activations))


@FEW
@given(st.floats(-2, 2), st.floats(-2, 2))
def test_planted_slopes_are_found_over_width_and_over_depth(width: float, depth: float) -> None:
    sweeps = {(s.along, s.rule): s for s in checked(watched(), grows(width, depth))}
    assert set(sweeps) == {(along, rule) for along in ("width", "depth") for rule in (TRANSFERRED, PLAIN)}
    for (along, rule), sweep in sweeps.items():
        planted = 0.0 if rule == TRANSFERRED else {"width": width, "depth": depth}[along]
        for kind in ("half of the blocks", "all blocks", "logits"):
            found = sweep.of(kind)[-1]
            assert found.slope == pytest.approx(planted, abs=1e-9)
            assert found.standard_error == pytest.approx(0, abs=1e-6)
            if not math.isclose(abs(planted), FLAT, rel_tol=1e-6):
                assert sweep.flat[kind] == (abs(planted) <= FLAT)
        assert sweep.flat["embedding"]
        # At step 1 the logits are zero: there is nothing to compare.
        assert [slope.step for slope in sweep.of("logits")] == list(range(2, 9))
        rows = {row[0]: row for row in coordinates_table(sweep).rows}
        assert coordinates_table(sweep).header[1] == "step 1"
        assert rows["logits"][1] == "–"
        assert rows["all blocks"][1] != "–"
    assert sweeps["width", PLAIN].sizes == (64, 256, 1024)


def test_the_runs_of_the_base_shape_stand_for_both_rules() -> None:
    assert len(watched()) == 2 * (2 * 4 - 1)
    for sweep in checked(watched(), grows(0, 0)):
        assert sweep.runs == 2 * len(sweep.sizes)


def test_an_activation_that_is_not_finite_is_not_flat_and_silent_runs_are_left_out() -> None:
    def activations(run: RunPlan, step: int) -> dict[str, float] | None:
        if run.model.width == 256:
            return None
        blocks = {f"block.{n}": 1.0 for n in range(run.model.depth)}
        return {"embedding": 1.0, **blocks, "final": 1.0, "logits": math.nan if run.model.width == 1024 else 1.0}

    sweep = next(s for s in checked(watched(), activations) if s.along == "width")
    assert sweep.sizes == (64, 1024)
    kinds = ("embedding", "half of the blocks", "all blocks", "final", "logits")
    assert sweep.flat == {kind: kind != "logits" for kind in kinds}
    assert sweep.of("logits")[-1].slope is None
    assert sweep.rms["logits"][0] == (1.0, None)


def test_trained_runs_that_logged_no_activations_are_counted_and_said() -> None:
    def activations(run: RunPlan, step: int) -> dict[str, float] | None:
        return None if run.model.width == 256 else grows(0, 0)(run, step)

    sweeps = coordinate_check(finished(watched(), level, activations))
    widths = [sweep for sweep in sweeps if sweep.along == "width"]
    assert [(sweep.sizes, sweep.runs, sweep.silent) for sweep in widths] == [((64, 1024), 4, 2)] * 2
    assert [sweep.silent for sweep in sweeps if sweep.along == "depth"] == [0, 0]
    assert "2 of 6 trained runs logged no activations" in coordinates_table(widths[0]).warned[0]
    # What is still to be trained is no surprise.
    assert {sweep.silent for sweep in checked(watched(), activations)} == {0}


def test_a_check_none_of_whose_runs_logged_activations_says_so_and_has_no_verdict() -> None:
    sweeps = coordinate_check(finished(watched(), level))
    assert len(sweeps) == 4
    for sweep in sweeps:
        assert (sweep.steps, sweep.slopes, sweep.flat, sweep.runs) == ((), (), {}, 0)
        assert sweep.silent in (4, 6)
        table = coordinates_table(sweep)
        assert (table.rows, len(table.warned)) == ((), 2)


def test_without_logged_activations_or_shapes_there_is_no_coordinate_check() -> None:
    assert coordinate_check(finished(watched(), never)) == ()
    unwatched = tuple(msgspec.structs.replace(run, monitor=type(run.monitor)()) for run in watched())
    assert checked(unwatched, grows(0, 0)) == ()
    alike = tuple(run for run in watched() if run.model.width == 64 and run.model.depth == 2)
    assert checked(alike, grows(0, 0)) == ()


# --- learning-rate transfer


@FEW
@given(st.integers(1, 4), st.floats(-0.45, 0.45), st.integers(-3, 3))
def test_planted_best_learning_rates_are_found_by_shape_and_rule(place: int, off: float, moved: int) -> None:
    moved = min(max(moved, 1 - place), 4 - place)

    def best(run: RunPlan) -> float:
        away = moved if run.model.width == 256 and not scaled(run) else 0
        return float(RATES[place] * 2.0 ** (off + away))

    with_, without = learning_rate_transfer(again(swept_study(), bowl(best)))
    assert (with_.rule, without.rule) == (TRANSFERRED, PLAIN)
    for transfer in (with_, without):
        base, wide = transfer.curves
        assert base.is_base
        assert (base.width, wide.width) == (64, 256)
        assert base.best == pytest.approx(RATES[place])
        assert base.vertex == pytest.approx(RATES[place] * 2**off, rel=1e-6)
        assert wide.steps == (0 if transfer is with_ else moved)
        assert wide.octaves == pytest.approx(wide.steps, abs=1e-6)
        assert wide.within == (abs(wide.steps) <= 1)
        assert wide.regret is not None
        assert (wide.regret > 1e-9) == (wide.steps != 0)
        assert (base.runs, wide.runs) == (12, 12)


def test_a_failed_run_is_infinitely_bad_and_an_unfinished_one_unknown() -> None:
    planted = bowl(lambda run: RATES[3])

    def loss(run: RunPlan, modality: str) -> float | None:
        if run.model.width == 256 and rate(run) >= RATES[2] and run.seed == 1:
            return math.inf
        if run.model.width == 64 and rate(run) == RATES[0]:
            return None
        return planted(run, modality)

    base, wide = learning_rate_transfer(finished(swept(), loss))[0].curves
    assert wide.losses[2:] == (math.inf,) * 4
    assert wide.failed == (0, 0, 1, 1, 1, 1)
    assert wide.best == RATES[1]
    assert wide.vertex is None
    assert not wide.edge
    assert (wide.steps, wide.within) == (-2, False)
    assert wide.regret == math.inf
    assert base.losses[0] is None
    assert base.best == RATES[3]


def test_a_best_at_the_grids_edge_is_said_and_all_failed_leave_no_verdict() -> None:
    [transfer, _] = learning_rate_transfer(finished(swept(), bowl(lambda run: 1.0)))
    base, wide = transfer.curves
    assert base.edge
    assert wide.edge
    assert base.vertex is None
    assert (base.within, wide.within, base.open, wide.open) == (None, None, True, True)
    assert all("edge, widen the grid" in str(row[-1]) for row in learning_rate_table(transfer).rows)
    lost = learning_rate_transfer(
        finished(swept(), lambda run, _: math.inf if run.model.width == 256 else 3 + rate(run))
    )
    wide = lost[0].curves[1]
    assert (wide.best, wide.steps, wide.within) == (None, None, None)
    assert learning_rate_transfer(finished(swept(), never)) == ()


@pytest.mark.parametrize("edge", [64, 256])
def test_a_best_at_one_grids_edge_leaves_the_other_without_a_verdict_too(edge: int) -> None:
    planted = bowl(lambda run: RATES[0] if run.model.width == edge else RATES[1])
    [transfer, _] = learning_rate_transfer(finished(swept(), planted))
    base, wide = transfer.curves
    assert (base.edge, wide.edge) == (edge == 64, edge == 256)
    assert wide.steps == (1 if edge == 64 else -1)
    assert wide.within is None
    assert base.within is (None if edge == 64 else True)
    rows = learning_rate_table(transfer).rows
    assert rows[0][-1] == ("base\nedge, widen the grid" if edge == 64 else "base")
    assert rows[1][-1] == "no verdict\nedge, widen the grid"


def test_other_axes_are_compared_apart() -> None:
    axes = [
        {"grid": {"model.width": [64, 128]}},
        {"grid": {"optimizer.lr": RATES[:3], "schedule.final": [0.0, 0.1]}},
    ]
    runs = once(axes, transfer=TRANSFER)
    study = finished(runs, lambda run, _: 3 + (rate(run) if run.schedule.final else -rate(run)))
    found = learning_rate_transfer(study)
    assert {transfer.setting for transfer in found} == {"schedule.final=0", "schedule.final=0.1"}
    assert {curve.best for transfer in found for curve in transfer.curves} == {RATES[0], RATES[2]}
    # What the axes set is a column of the results too.
    axes_of = {json.loads(axes)["schedule.final"] for axes in study.results()["axes"]}
    assert axes_of == {0.0, 0.1}


# --- batch invariance


@FEW
@given(st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_planted_spreads_and_their_ratio_are_found(with_: float, without: float) -> None:
    [found] = batch_invariance(again(rescaled_study(), dependence(with_, without)), bootstrap=50)
    assert (found.logical, found.critical, found.tokens) == (16, 32, 2e5)
    weight = {run.modalities["text"].weight for run in rescaled()}.pop()
    for modality, share in (("text", 1.0), ("image", 0.5), (MIX, weight + 0.5 * (1 - weight))):
        assert found.scaled[modality].batches == BATCHES
        assert found.scaled[modality].seeds == (3,) * 5
        assert found.scaled[modality].spread == pytest.approx(share * with_)
        assert found.plain[modality].spread == pytest.approx(share * without)
        assert found.ratio[modality] == pytest.approx(with_ / without)
        # Seeds differ alike at every batch, so their draw does not matter.
        assert found.ratio_interval[modality] == pytest.approx((with_ / without,) * 2)
        assert found.scaled[modality].seed_noise == pytest.approx(0, abs=1e-9)


def test_both_sides_draw_the_same_seeds_where_runs_are_missing() -> None:
    weight = (1.0, 2.0, 3.0)

    def loss(run: RunPlan, modality: str) -> float | None:
        plain = run.batch.critical is None
        if plain and run.batch.physical == 8 and run.seed == 0:
            return None
        place = math.log(min(run.batch.physical, 32) / 16) / math.log(8)
        return 3 + weight[run.seed] * place * (0.4 if plain else 0.1)

    [found] = batch_invariance(finished(rescaled(), loss), bootstrap=200)
    # Whatever seeds are drawn, both spreads are in proportion to their mean weight: the missing run is at no end.
    assert found.ratio["text"] == pytest.approx(0.25)
    assert found.ratio_interval["text"] == pytest.approx((0.25, 0.25))
    low, high = found.scaled["text"].spread_interval or (0, 0)
    assert high > 1.5 * low


def test_runs_transferred_in_other_ways_are_not_pooled() -> None:
    sides = [
        {"transfer": TRANSFER, "batch.logical": 16},
        {"transfer": None, "batch.logical": 16},
        {"transfer": None, "batch.logical": None},
    ]
    shape = {"list": [{"model.width": 256, "model.heads": 8}]}
    runs = once([{"list": sides}, shape, {"grid": {"batch.physical": [8, 16, 32]}}, {"seeds": 2}], tokens="200K")

    def loss(run: RunPlan, modality: str) -> float:
        slope = 0.3 if run.batch.kappa == 1 else 0.01 if scaled(run) else 0.1
        return 3 + (1.0 if scaled(run) else 0.0) + slope * math.log(run.batch.physical / 16)

    found = batch_invariance(finished(runs, loss), bootstrap=0)
    assert [one.setting for one in found] == [TRANSFERRED, PLAIN]
    with_, without = found
    assert with_.scaled["text"].seeds == (2, 2, 2)
    assert with_.scaled["text"].spread == pytest.approx(0.01 * math.log(4))
    # Without transfer in width there is something to compare it with.
    assert with_.plain == {}
    assert without.scaled["text"].spread == pytest.approx(0.1 * math.log(4))
    assert without.ratio["text"] == pytest.approx(1 / 3)


def test_the_spread_is_below_the_critical_batch_and_the_break_is_seen_above_it() -> None:
    planted = dependence(0.001, 0.1, beyond=0.5)
    [found] = batch_invariance(again(rescaled_study(), planted, noise=0.005), bootstrap=0)
    text = found.scaled["text"]
    assert text.spread == pytest.approx(0.001, abs=0.02)
    assert text.spread_all == pytest.approx(0.5 + 0.001, abs=0.02)
    assert (text.base, text.breaks) == (16, 64)
    assert found.plain["text"].breaks == 32
    assert text.spread_interval is None
    assert text.seed_noise == pytest.approx(0.005, rel=0.6)
    assert found.ratio["text"] < 1 / 3


def test_what_noise_alone_would_give_is_what_noise_alone_gives() -> None:
    expected, seen = [], []
    for seed in range(12):
        [found] = batch_invariance(again(rescaled_study(), level, noise=0.05, seed=seed), bootstrap=0)
        noise = found.scaled[MIX].noise_spread
        assert noise is not None
        expected.append(noise)
        seen.append(found.scaled[MIX].spread)
    # 12 ranges of 4 means: their own mean is known to about 12 %.
    assert np.mean(seen) == pytest.approx(np.mean(expected), rel=0.35)


def test_one_seed_failed_runs_and_a_missing_modality() -> None:
    single = tuple(run for run in rescaled() if run.seed == 0)
    planted = dependence(0.01, 0.1, beyond=0.5)

    def loss(run: RunPlan, modality: str) -> float | None:
        if run.batch.physical == 32 and run.batch.critical is None:
            return math.inf
        return None if modality == "image" else planted(run, modality)

    [found] = batch_invariance(finished(single, loss), bootstrap=50)
    # Without images there is no mix, but a failure is one of all.
    assert "text" in found.scaled
    assert "image" not in found.scaled
    text = found.scaled["text"]
    assert (text.seed_noise, text.noise_spread, text.spread_interval, text.breaks) == (None, None, None, None)
    assert found.plain["text"].spread == math.inf
    assert found.ratio["text"] == 0
    assert found.ratio_interval == {}


def test_without_the_other_side_there_is_a_spread_and_no_ratio_and_a_plain_sweep_is_no_check() -> None:
    scaled_only = tuple(run for run in rescaled() if run.batch.logical == 16)
    [found] = batch_invariance(finished(scaled_only, dependence(0.01, 0.1)), bootstrap=0)
    assert (found.plain, found.ratio) == ({}, {})
    plain_only = tuple(run for run in rescaled() if run.batch.kappa == 1)
    assert batch_invariance(finished(plain_only, dependence(0.01, 0.1))) == ()
    assert batch_invariance(finished(rescaled(), never)) == ()


# --- γ


@FEW
@given(st.floats(0, 0.6), st.floats(8, 12))
def test_planted_gamma_is_found_and_transfers_without_regret(gamma: float, at_base: float) -> None:
    [found] = batch_exponent(again(sweeps_study(), bent(gamma, at_base)), bootstrap=20)
    assert found.gamma == pytest.approx(gamma, abs=1e-6)
    assert found.interval == pytest.approx((gamma, gamma), abs=1e-6)
    assert [h.best for h in found.horizons] == pytest.approx([at_base * (D / 1e5) ** gamma for D in HORIZONS])
    held = found.held_out
    assert held is not None
    assert held.tokens == 1.6e6
    assert held.transferred == pytest.approx(at_base * 16**gamma)
    assert held.retuned == pytest.approx(min(held.transferred, 64))
    assert held.regret == pytest.approx(0, abs=1e-6 if not held.outside else 0.01)
    # Costs are as 1 : 2 : 4 : 16, but for the last step; 5 runs of one seed a sweep.
    assert held.saved_share == pytest.approx(1 - (7 / 16 + 1 / 5), abs=0.01)
    assert held.saved == pytest.approx(held.sweep_flops - held.transfer_flops)
    assert found.warnings == ()


def test_the_interval_covers_the_planted_gamma_about_as_often_as_it_says() -> None:
    planted = bent(0.4)
    covered = 0
    trials = 40
    for seed in range(trials):
        [found] = batch_exponent(again(sweeps_study(), planted, noise=0.01, seed=seed), bootstrap=200)
        assert found.interval is not None
        covered += found.interval[0] <= 0.4 <= found.interval[1]
    # Of 40 at 90 %, fewer than 30 or more than 40 would be one in a thousand.
    assert covered >= 30


def test_the_longest_of_four_horizons_takes_no_part_in_the_fit() -> None:
    def loss(run: RunPlan, modality: str) -> float:
        return bent(0.8 if run.tokens == 1.6e6 else 0.3, at_base=6)(run, modality)

    [found] = batch_exponent(finished(sweeps(), loss), bootstrap=0)
    held = found.held_out
    assert found.gamma == pytest.approx(0.3)
    assert [found.role(horizon) for horizon in found.horizons] == ["fitted"] * 3 + ["held out"]
    assert found.interval is None
    assert held is not None
    assert held.retuned == pytest.approx(6 * 16**0.8)
    assert held.regret == pytest.approx(0.03 * math.log(16**0.5) ** 2)
    assert held.nearest == 16
    three = tuple(run for run in sweeps() if run.tokens < 1e6)
    [found] = batch_exponent(finished(three, loss), bootstrap=0)
    assert found.held_out is None
    assert len(found.horizons) == 3


def test_edges_flat_curves_failures_and_missing_runs_are_said() -> None:
    def loss(run: RunPlan, modality: str) -> float | None:
        if run.tokens == HORIZONS[0]:
            return bent(0.0, at_base=400.0)(run, modality)
        if run.tokens == HORIZONS[1]:
            return 3 - 0.1 * math.log(run.batch.logical) ** 2
        if run.tokens == HORIZONS[2]:
            return math.inf if run.batch.logical >= 32 and run.seed == 0 else 3.0
        return None

    [found] = batch_exponent(finished(sweeps(), loss), bootstrap=20)
    edge, falling, failed, missing = found.horizons
    assert edge.edge
    assert edge.best == pytest.approx(400)
    assert edge.tuned == 64
    assert found.gamma is None
    assert [found.role(horizon) for horizon in found.horizons] == ["left out"] * 3 + ["held out"]
    assert (falling.best, falling.tuned, falling.bends) == (None, None, 0.0)
    assert (failed.curve, failed.failed) == (None, 2)
    assert (missing.runs, missing.batches) == (0, ())
    assert (found.gamma, found.interval, found.held_out) == (None, None, None)
    said = " ".join(found.warnings)
    for words in (
        "outside the batches around it",
        "does not bend up",
        "fewer than 4 batches",
        "an optimum at two horizons",
    ):
        assert words in said


def test_resamples_that_do_not_bend_up_widen_the_intervals_and_are_said() -> None:
    flat = again(sweeps_study(), bent(0.3, curvature=0.002), noise=0.01, seed=4)
    [found] = batch_exponent(flat, bootstrap=400)
    fitted = [horizon for horizon in found.horizons if found.role(horizon) == "fitted"]
    assert len(fitted) >= 2
    share = min(horizon.bends for horizon in fitted)
    assert 0.3 < share < 0.9
    for horizon in fitted:
        # Above 5 % at either side the interval has no end there.
        assert (horizon.interval == (0, math.inf)) == (horizon.bends < 0.949)
    assert found.bends <= share
    assert found.interval == (-math.inf, math.inf)
    said = f"in {100 * (1 - found.bends):.2g} % of resamples a fitted horizon does not bend up"
    assert any(said in one for one in found.warnings)
    if found.held_out is not None:
        assert found.held_out.transferred_interval == (0, math.inf)
    firm = batch_exponent(again(sweeps_study(), bent(0.3), noise=0.002), bootstrap=100)[0]
    assert (firm.bends, firm.warnings) == (1, ())


def test_physical_batches_and_ways_of_transfer_have_a_gamma_of_their_own() -> None:
    by_physical = {4: 0.1, 8: 0.4}
    axes = [{"grid": {"batch.physical": [4, 8], "batch.logical": GRID, "tokens": HORIZONS[:3]}}]
    runs = once(axes, transfer=TRANSFER)
    planted = finished(runs, lambda run, m: bent(by_physical[run.batch.physical])(run, m))
    found = {one.setting: one.gamma for one in batch_exponent(planted, bootstrap=0)}
    assert found == {f"physical batch {batch}": pytest.approx(gamma) for batch, gamma in by_physical.items()}

    arms = [ARMS, {"list": [{"model.width": 256, "model.heads": 8}]}]
    sweep = {"grid": {"batch.logical": GRID, "tokens": HORIZONS[:3]}}
    runs = once([*arms, sweep], batch__physical=4)
    planted = finished(runs, lambda run, m: bent(0.1 if scaled(run) else 0.4)(run, m))
    found = {one.setting: one.gamma for one in batch_exponent(planted, bootstrap=0)}
    assert found == {TRANSFERRED: pytest.approx(0.1), PLAIN: pytest.approx(0.4)}


def test_logical_batches_that_are_the_physical_ones_are_one_sweep() -> None:
    runs = once([{"grid": {"batch.physical": GRID, "tokens": HORIZONS[:3]}}])
    [found] = batch_exponent(finished(runs, bent(0.3)), bootstrap=0)
    assert (found.gamma, found.setting) == (pytest.approx(0.3), "")


def test_what_is_far_from_the_lowest_point_does_not_bend_the_fit() -> None:
    def steep(run: RunPlan, modality: str) -> float:
        """Parabolas with γ = 0.25 near their lowest point; far above it the shorter horizons rise ten times as fast."""
        away = math.log(run.batch.logical / (6 * (run.tokens / 1e5) ** 0.25))
        return 3 + 0.03 * away**2 * (10 if away > 2 and run.tokens < 3e5 else 1)

    [found] = batch_exponent(again(sweeps_study(), steep), bootstrap=20)
    assert found.gamma == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25))
    assert all(horizon.window != (horizon.batches[0], horizon.batches[-1]) for horizon in found.horizons[:2])


def test_one_seed_is_enough_and_too_few_batches_or_horizons_are_no_sweep() -> None:
    single = tuple(run for run in sweeps() if run.seed == 0)
    [found] = batch_exponent(finished(single, bent(0.3), noise=0.003), bootstrap=100)
    assert found.gamma == pytest.approx(0.3, abs=0.2)
    assert found.interval is not None
    assert batch_exponent(finished(tuple(r for r in sweeps() if r.tokens < 4e5), bent(0.3))) == ()
    assert batch_exponent(finished(tuple(r for r in sweeps() if r.batch.logical < 32), bent(0.3))) == ()
    assert batch_exponent(finished(sweeps(), never)) == ()


def test_the_studys_own_gamma_is_compared_where_its_file_can_be_read(tmp_path: Path) -> None:
    finished(sweeps(), bent(0.3), out=tmp_path)
    file = tmp_path / "tiny" / "study.yaml"
    written = study(transfer={**TRANSFER, "gamma": 0.5})
    file.write_text(json.dumps(written))
    [found] = batch_exponent(read_study(file.parent), bootstrap=0)
    assert found.study_gamma == 0.5
    assert found.held_out is not None
    assert found.held_out.study_batch == pytest.approx(16 * 16**0.5)
    losses = dict(zip(found.horizons[-1].batches, found.horizons[-1].losses, strict=True))
    assert found.held_out.study_regret == pytest.approx(losses[64] - min(losses.values()))
    file.write_text("study: [")
    assert batch_exponent(read_study(file.parent), bootstrap=0)[0].study_gamma is None


# --- the command and which experiments a study makes


@pytest.mark.parametrize(
    ("runs", "loss", "activations", "keys", "words"),
    [
        (watched, never, grows(0.5, 0), {"coordinates"}, ["Over width at depth 2", "not flat"]),
        (swept, bowl(lambda run: RATES[2]), None, {"learning_rate"}, ["transfers"]),
        (rescaled, dependence(0.01, 0.1), None, {"invariance"}, ["Logical batch 16", "≤ 1/3"]),
        (sweeps, bent(0.3), None, {"gamma"}, ["γ = 0.30", "Regret", "FLOPs"]),
    ],
)
def test_fit_prints_the_experiments_that_a_study_makes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    runs: Callable[[], Runs],
    loss: Callable[[RunPlan, str], float | None],
    activations: Callable[[RunPlan, int], dict[str, float]] | None,
    keys: set[str],
    words: list[str],
) -> None:
    finished(runs(), loss, activations, out=tmp_path)
    assert run_fit([tmp_path / "tiny"], how=How(bootstrap=10), as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert EXPERIMENTS & printed.keys() == keys
    assert all(printed[key] for key in keys)
    assert run_fit([tmp_path / "tiny"], how=How(bootstrap=10)) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words)
    assert "not fitted" not in text


def test_failures_are_null_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(swept(), lambda run, _: math.inf if rate(run) > 0.01 else 3 + rate(run), out=tmp_path)
    assert run_fit([tmp_path / "tiny"], how=How(bootstrap=10), as_json=True) == 0
    curve = json.loads(capsys.readouterr().out)["learning_rate"][0]["curves"][0]
    assert curve["losses"][-1] is None
    assert curve["failed"][-1] == 2


def test_a_scaling_study_makes_no_other_experiment(tmp_path: Path) -> None:
    found = summary(answers(read_study(make_study(tmp_path, seeds=2)), How(bootstrap=10)))
    assert found.keys() == {"scaling"}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("coordinates", "coordinates"),
        ("transfer", "learning_rate"),
        ("invariance", "invariance"),
        ("batch", "gamma"),
    ],
)
def test_the_projects_own_studies_make_the_experiments_that_they_are_for(tmp_path: Path, name: str, key: str) -> None:
    plan = compile_study(STUDIES / name / "study.yaml")
    found = summary(answers(finished(plan.runs, level, grows(0, 0), out=tmp_path), How(bootstrap=10)))
    assert found.keys() & EXPERIMENTS == {key}
    arms = {"coordinates": 4, "learning_rate": 2}.get(key, 1)
    assert len(found[key]) == arms
