from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.compile import compile_study
from compiler.plan import MixStage, RunPlan
from studies.analysis.charts.mixing import best_shares, own_losses, simplex_map
from studies.analysis.figures import drawn
from studies.analysis.how import How
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.mixes import barycentric, central, inside
from studies.analysis.laws.simplex import Best, best_mix
from studies.analysis.laws.simplex_regression import regress
from studies.analysis.questions.mixing import Mixing, mixing
from studies.analysis.results import read_study
from studies.analysis.views.mixing import MIXING, mixing_table, regression_table
from studies.analysis.views.words import Verdict
from tests.compiling import study
from tests.experiments import Runs, finished, once

STUDIES = Path(__file__).parent.parent / "studies"
FEW = settings(max_examples=15)
FIFTHS = barycentric(5, 3)


def bowls(at: Any, centre: Any, lowest: Any = (3.0, 2.0, 4.0)) -> Any:
    """Losses of three modalities that add up to a bowl about `centre`: each falls with its own share."""
    away = np.asarray(at) - np.asarray(centre)
    # The first part sums to zero over modalities, so that the optimum for equal values is the centre.
    return np.asarray(lowest) + away**2 - 0.3 * away


# --- arrays


@FEW
@given(st.integers(1, 3), st.integers(1, 2))
def test_a_planted_best_mix_is_found(a: int, b: int) -> None:
    centre = np.array([a, b, 7 - a - b]) / 7
    best = best_mix(FIFTHS, bowls(FIFTHS, centre), [1, 1, 1], base=[0.2, 0.2, 0.6], bootstrap=20)
    assert best.mix == pytest.approx(centre, abs=0.01)
    assert best.loss == pytest.approx(3.0, abs=1e-3)
    assert best.at.losses == pytest.approx((3.0, 2.0, 4.0), abs=0.01)
    assert best.base is not None
    assert best.base.losses == pytest.approx(bowls([0.2, 0.2, 0.6], centre))
    assert best.gain == pytest.approx(best.base.loss - best.loss)
    assert (best.on_edge, best.edge_share) == (False, 0.0)
    # Without noise, every resample says the same.
    assert sum(spot.count for spot in best.spots) == 20
    assert np.ptp(best.weights, axis=1) == pytest.approx(np.zeros(3), abs=0.02)
    assert best(FIFTHS) == pytest.approx(bowls(FIFTHS, centre).mean(axis=1))


def test_the_value_of_a_modality_moves_the_best_mix_towards_it() -> None:
    losses = bowls(FIFTHS, [0.3, 0.3, 0.4])
    shares = [best_mix(FIFTHS, losses, [v, 1, 1], bootstrap=0).mix[0] for v in (0.5, 1, 2)]
    assert shares[0] < shares[1] < shares[2]
    only = best_mix(FIFTHS, losses, [2, 0, 0], bootstrap=0)
    assert only.values == (1.0, 0.0, 0.0)
    assert only.loss == pytest.approx(only.at.losses[0])


def test_intervals_hold_the_planted_best_mix_about_as_often_as_they_say() -> None:
    centre, trials = (0.45, 0.25, 0.3), 50
    rng = np.random.default_rng(0)
    covered, gains = np.zeros(3), 0
    for seed in range(trials):
        losses = bowls(FIFTHS, centre) + rng.normal(0, 0.03, FIFTHS.shape)
        best = best_mix(FIFTHS, losses, [1, 1, 1], base=[0.2, 0.2, 0.6], bootstrap=100, seed=seed)
        assert best.weights is not None
        assert best.gain_interval is not None
        assert best.base is not None
        covered += [low - 0.005 <= c <= high + 0.005 for c, (low, high) in zip(centre, best.weights, strict=True)]
        truth = bowls([[0.2, 0.2, 0.6], best.mix], centre).mean(axis=1)
        gains += best.gain_interval[0] <= truth[0] - truth[1] <= best.gain_interval[1]
    # Of 50 at 90 %, fewer than 38 would be two in a thousand.
    assert covered.min() >= 38
    assert gains >= 38


def test_the_profile_is_the_least_loss_at_each_share() -> None:
    centre = np.array([0.3, 0.3, 0.4])
    best = best_mix(FIFTHS, bowls(FIFTHS, centre), [1, 1, 1], bootstrap=20)
    for middle, profile in zip(centre, best.profiles, strict=True):
        assert (profile.weights[0], profile.weights[-1]) == (0, 1)
        near = np.array(profile.weights) < 0.8  # beyond it the others would run out unevenly
        # The others share evenly what is left: d² + 2 (d / 2)², a third of it.
        least = 3 + (np.array(profile.weights) - middle) ** 2 / 2
        assert np.array(profile.losses)[near] == pytest.approx(least[near], abs=0.003)
        assert np.all(np.array(profile.low) <= np.array(profile.losses) + 1e-9)


def test_more_noise_means_a_wider_region_of_best_mixes() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, FIFTHS.shape)
    widths = []
    for deviation in (0.003, 0.01, 0.03):
        best = best_mix(FIFTHS, bowls(FIFTHS, [0.3, 0.3, 0.4]) + deviation * noise, [1, 1, 1], bootstrap=200)
        assert best.weights is not None
        widths.append(max(high - low for low, high in best.weights))
        kept = sum(spot.count for spot in best.spots if spot.inside)
        assert kept >= 180
        assert sum(spot.count for spot in best.spots) == 200
        assert all(inside(spot.mix, best.corners) for spot in best.spots)
    assert widths == sorted(widths)
    assert widths[2] > 2 * widths[0]


@FEW
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_the_error_is_that_of_refits_without_each_mix(seed: int, seeds: int) -> None:
    rng = np.random.default_rng(seed)
    mixes = np.repeat(rng.dirichlet([2, 2, 2], size=9), seeds, axis=0)
    losses = 3 + 2 * mixes[:, 0] * mixes[:, 1] - mixes[:, 2] + rng.normal(0, 0.1, len(mixes))
    found = regress(mixes, losses, 0)
    linear = next(one for one in found.tried if one.form == "linear")
    errors = []
    for mix in np.unique(mixes, axis=0):
        out = np.all(mixes == mix, axis=1)
        coefficients = np.linalg.lstsq(mixes[~out], losses[~out], rcond=None)[0]
        errors += (losses[out] - mixes[out] @ coefficients).tolist()
    assert linear.error == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert found.chosen.error == min(one.error for one in found.tried if one.error is not None)


@pytest.mark.parametrize(
    ("loss", "form"),
    [
        (lambda w: 2 + w[:, 1] - w[:, 2], "linear"),
        (lambda w: 2 + 3 * w[:, 1] * w[:, 2] - w[:, 0] * w[:, 1], "quadratic"),
        (lambda w: 2 + w[:, 0] * w[:, 1] + 20 * w.prod(axis=1), "special cubic"),
        (lambda w: 3 + 0.5 * w[:, 1] - 0.4 * np.log(w[:, 0] + 0.3), "own log"),
        (lambda w: 3 + 0.5 * w[:, 1] + 0.4 * (w[:, 0] + 0.1) ** -0.5, "own power"),
        (lambda w: 3 + w[:, 1] * w[:, 2] - 0.4 * np.log(w[:, 0] + 0.1), "quadratic and own log"),
    ],
)
def test_the_form_is_the_one_that_made_the_losses(loss: Callable[[Any], Any], form: str) -> None:
    found = regress(FIFTHS, loss(FIFTHS), 0)
    assert found.chosen.form == form
    assert not found.chosen.trained
    assert found.explained > 0.999
    new = np.random.default_rng(0).dirichlet([1, 1, 1], size=50)
    assert found(new) == pytest.approx(loss(new), abs=1e-6)


def test_what_was_never_trained_on_is_left_out_where_it_is_of_another_kind() -> None:
    smooth = 3 - 0.4 * np.log(FIFTHS[:, 0] + 0.1)
    assert regress(FIFTHS, smooth, 0).n == 21
    jumps = np.where(FIFTHS[:, 0] > 0, smooth, 10 + np.arange(21) % 3)
    found = regress(FIFTHS, jumps, 0)
    assert (found.chosen.trained, found.n, found.mixes, found.lowest) == (True, 15, 15, 0.2)
    assert found([[0.4, 0.3, 0.3]]) == pytest.approx(3 - 0.4 * math.log(0.5), abs=1e-6)
    assert np.isnan(found([[0.1, 0.5, 0.4]])).all()
    # Nor does a form follow a loss of another kind that is the same wherever there is none.
    alike = np.where(FIFTHS[:, 0] > 0, smooth, 10.0) + np.random.default_rng(0).normal(0, 0.02, 21)
    assert regress(FIFTHS, alike, 0).chosen.trained
    losses = np.stack([jumps, 2 + 0.1 * FIFTHS[:, 1], 2 + 0.1 * FIFTHS[:, 2]], axis=1)
    best = best_mix(FIFTHS, losses, [1, 1, 1], base=[0.1, 0.5, 0.4], bootstrap=0)
    assert min(corner[0] for corner in best.corners) == pytest.approx(0.2)
    assert best.base is None
    assert best.gain is None


@pytest.mark.parametrize("k", [2, 4, 5, 8])
def test_any_number_of_modalities(k: int) -> None:
    rng = np.random.default_rng(k)
    mixes = barycentric(10, 2) if k == 2 else rng.dirichlet(np.ones(k), size=20 * k)
    centre = np.full(k, 1 / k) + np.linspace(-0.2, 0.2, k) / k
    losses = 2 + 3 * (mixes - centre) ** 2
    best = best_mix(mixes, losses, [1] * k, bootstrap=20)
    truth = 2 + 3 * (np.array(best.mix) - centre) ** 2
    assert best.loss == pytest.approx(truth.mean())
    # Points fill many dimensions thinly: the loss is near the least one, the mix less so.
    assert best.loss - 2 < (2e-4 if k < 6 else 2e-3)
    assert len(best.profiles) == k
    assert all(min(profile.losses) == pytest.approx(best.loss, abs=0.005) for profile in best.profiles)
    assert math.fsum(best.mix) == pytest.approx(1)
    assert inside(best.mix, best.corners)


def test_mixes_that_keep_to_a_line_are_searched_along_it() -> None:
    share = np.linspace(0.1, 0.65, 12)
    mixes = np.stack([share, 0.75 - share, np.full(12, 0.25)], axis=1)
    losses = np.stack([(share - 0.3) ** 2 + 2, (share - 0.3) ** 2 + 3, np.full(12, 2.5)], axis=1)
    best = best_mix(mixes, losses, [1, 1, 1], bootstrap=50)
    assert best.mix == pytest.approx((0.3, 0.45, 0.25), abs=0.005)
    assert best.edge_share == 0
    assert any("vary only together" in one for one in best.warnings)


def test_linear_losses_have_their_best_mix_in_a_corner_and_flat_ones_nowhere() -> None:
    rng = np.random.default_rng(0)
    losses = 3 - FIFTHS * [0.5, 0.1, 0.2] + rng.normal(0, 1e-4, FIFTHS.shape)
    best = best_mix(FIFTHS, losses, [1, 1, 1], bootstrap=50)
    assert best.mix == pytest.approx((1, 0, 0))
    assert (best.on_edge, best.edge_share) == (True, 1.0)
    flat = best_mix(FIFTHS, 3 + rng.normal(0, 0.1, FIFTHS.shape), [1, 1, 1], bootstrap=100)
    assert any("spans nearly all mixes" in one for one in flat.warnings)


def test_bad_numbers_and_too_few_mixes_are_refused() -> None:
    losses = bowls(FIFTHS, [0.3, 0.3, 0.4])
    with pytest.raises(UnidentifiedError, match="at least 6"):
        best_mix(FIFTHS[:5], losses[:5], [1, 1, 1])
    with pytest.raises(ValueError, match="sum to one"):
        best_mix(2 * FIFTHS, losses, [1, 1, 1])
    for values in ([0, 0, 0], [1, -1, 1], [1, math.nan, 1]):
        with pytest.raises(ValueError, match="values"):
            best_mix(FIFTHS, losses, values)
    with pytest.raises(ValueError, match="finite"):
        best_mix(FIFTHS, np.where(losses < losses.max(), losses, math.inf), [1, 1, 1])
    unknown = losses.copy()
    unknown[:, 2] = math.nan
    with pytest.raises(UnidentifiedError):
        best_mix(FIFTHS, unknown, [1, 1, 1])
    assert best_mix(FIFTHS, unknown, [1, 1, 0], bootstrap=5).regressions[2] is None


def test_the_central_points_are_a_share_of_all() -> None:
    points = np.random.default_rng(0).normal(size=(1000, 2)) * [1, 5]
    kept = central(points, 0.9)
    assert kept.sum() == 900
    assert np.abs(points[kept]).max() < np.abs(points).max()
    assert central(np.zeros((10, 3))).all()


# --- studies


@cache
def triangle(seeds: int = 1) -> Runs:
    """All mixes in fifths of three modalities."""
    three = {name: {"weight": 1, "data": data} for name, data in SOURCES.items()}
    return once([{"simplex": {"parts": 5}}, {"seeds": seeds}], modalities=three)


SOURCES = {"text": "prose", "image": "pictures", "audio": "pictures"}
CENTRE = {"text": 0.2, "image": 0.5, "audio": 0.3}


def weight(run: RunPlan, modality: str) -> float:
    return run.modalities[modality].weight


def bowl(run: RunPlan, modality: str) -> float:
    """Sums to a bowl about `CENTRE`, with a little noise of each run's own."""
    away = weight(run, modality) - CENTRE[modality]
    noise = np.random.default_rng([int(run.id[:8], 16), len(modality)]).normal(0, 0.003)
    return 3 + away**2 - 0.3 * away + float(noise)


def shown(found: Mixing) -> str:
    """All that is said of `found`, once its figures have been drawn."""
    block = MIXING.show(found)
    for figure in block.figures:
        assert drawn(figure.draw()).tables
    return json.dumps(msgspec.to_builtins([msgspec.to_builtins(found), *map(dataclasses.asdict, block.tables)]))


def test_a_study_over_the_simplex_is_asked_for_its_best_mix() -> None:
    [found] = mixing(finished(triangle(), bowl), bootstrap=200)
    assert set(found.modalities) == set(CENTRE)
    assert (found.planned, len(found.mixes), found.failed, found.missing) == (21, 21, 0, 0)
    assert (found.equal, found.values) == (True, pytest.approx(dict.fromkeys(found.modalities, 1 / 3)))
    assert found.best is not None
    assert found.best.weights is not None
    for name, share, (low, high) in zip(found.modalities, found.best.mix, found.best.weights, strict=True):
        assert share == pytest.approx(CENTRE[name], abs=0.05)
        assert low - 0.03 <= CENTRE[name] <= high + 0.03
    table = mixing_table(found)
    assert table.title.startswith("Best mix")
    assert table.rows[-1][1] == Verdict("better than the base mix", True)
    assert "counts every modality alike" in " ".join(table.said)
    # The study's folder is gone: its base cannot be read.
    assert (found.own_base, found.base) == (False, pytest.approx((1 / 3,) * 3))
    assert [row[0] for row in regression_table(found).rows] == list(found.modalities)
    assert "equal weights stand for it" in shown(found)


def test_values_are_followed_and_bad_ones_said() -> None:
    ended = finished(triangle(), bowl)
    [found] = mixing(ended, bootstrap=0, values={"text": 3, "image": 1})
    assert found.values == {"text": 0.75, "image": 0.25, "audio": 0.0}
    assert "counts" in mixing_table(found).said[0]
    assert found.best is not None
    assert found.best.mix[found.modalities.index("text")] > 0.3
    for values in ({"speech": 1.0}, {"text": -1.0, "image": 2.0}, {"text": math.nan}):
        [found] = mixing(ended, bootstrap=0, values=values)
        assert found.equal
        assert any("count alike instead" in one for one in found.warnings)
    [found] = mixing(ended, bootstrap=0, values={"text": 1, "speech": 1})
    assert found.values["text"] == 1
    assert any("'speech'" in one for one in found.warnings)


def test_the_studys_own_base_mix_is_compared_where_its_file_can_be_read(tmp_path: Path) -> None:
    finished(triangle(), bowl, out=tmp_path)
    written = study(modalities={"text": {"weight": 2, "data": "prose"}, "image": {"weight": 2, "data": "pictures"}})
    (tmp_path / "tiny" / "study.yaml").write_text(json.dumps(written))
    [found] = mixing(read_study(tmp_path / "tiny"), bootstrap=0)
    assert found.own_base
    assert dict(zip(found.modalities, found.base, strict=True)) == {"text": 0.5, "image": 0.5, "audio": 0.0}
    assert found.best is not None
    assert found.best.gain is not None
    assert found.best.gain > 0


def test_diverged_missing_and_untrained_runs() -> None:
    def loss(run: RunPlan, modality: str) -> float | None:
        if weight(run, "audio") == 1:
            return math.inf
        if weight(run, "text") == 0.8 and weight(run, "image") == 0.2:
            return None
        if not weight(run, modality):
            return 10 + weight(run, "text")
        return bowl(run, modality) + (weight(run, "text") if modality == "text" else 0.0)

    [found] = mixing(finished(triangle(), loss), bootstrap=50)
    assert (found.planned, len(found.mixes), found.failed, found.missing) == (21, 19, 1, 1)
    assert found.best is not None
    assert all(one is not None and one.lowest == pytest.approx(0.2) for one in found.best.regressions)
    said = shown(found)
    for words in (
        "Runs that diverged: 1",
        "runs that have not ended: 1",
        "19 of 21",
        "never trained",
        "lies at 20 % text",
    ):
        assert words in said


def test_seeds_show_their_own_noise_and_one_mix_less_still_answers() -> None:
    def loss(run: RunPlan, modality: str) -> float | None:
        return None if weight(run, "text") == 1 else bowl(run, modality)

    [found] = mixing(finished(triangle(2), loss), bootstrap=20)
    assert len(found.mixes) == 40
    assert found.seed_noise["text"] == pytest.approx(0.003, rel=0.6)
    assert found.best is not None
    assert [one.mixes for one in found.best.regressions if one is not None] == [20, 20, 20]
    assert "seeds alone" in shown(found)


def test_sources_seen_often_are_said() -> None:
    def repeated(most: float) -> list[str]:
        epochs = [{"prose": most * weight(run, "text"), "pictures": 1.0} for run in triangle()]
        changed = (msgspec.structs.replace(run, epochs=e) for run, e in zip(triangle(), epochs, strict=True))
        [found] = mixing(finished(tuple(changed), bowl), bootstrap=0)
        return [one for one in found.warnings if "repeated tokens" in one]

    # Above a fifth of text: 4 mixes have two fifths, 3 three, 2 four and 1 all.
    assert repeated(19)[0].startswith("10 of 21 runs see a source more than 4 times (up to 19)")
    assert repeated(4) == []


def test_too_few_ended_runs_say_so_and_no_ended_run_says_nothing() -> None:
    def loss(run: RunPlan, modality: str) -> float | None:
        return bowl(run, modality) if weight(run, "text") == 0.2 else None

    [found] = mixing(finished(triangle(), loss), bootstrap=20)
    assert found.best is None
    assert any("cannot be told" in one and "at least 6" in one for one in found.warnings)
    assert mixing_table(found).title.startswith("Best mix not found")
    assert "cannot be told" in shown(found)
    assert mixing(finished(triangle(), lambda run, m: None)) == ()
    [lost] = mixing(finished(triangle(), lambda run, m: math.inf), bootstrap=0)
    assert (lost.best, lost.failed) == (None, 21)
    shown(lost)


def test_studies_that_vary_something_else_are_not_asked() -> None:
    assert mixing(finished(once([{"grid": {"tokens": [1e5, 2e5]}}]), lambda run, m: 3.0)) == ()
    assert mixing(finished(tuple(run for run in triangle() if weight(run, "text") == 0.2), bowl)) == ()


def test_each_size_and_horizon_is_asked_for_itself() -> None:
    runs = compile_study(STUDIES / "mixing" / "study.yaml").runs
    found = mixing(finished(runs, bowl), bootstrap=0)
    assert [(one.width, one.tokens) for one in found] == [(24, 150e3), (56, 150e3), (24, 500e3), (56, 500e3)]
    assert all(one.planned == 21 and one.setting == "" for one in found)


def renamed(runs: Runs, names: dict[str, str]) -> Runs:
    """`runs` with other names for their modalities."""

    def stage(one: MixStage) -> MixStage:
        weights, shares = ({names[m]: w for m, w in each.items()} for each in (one.weights, one.shares))
        return MixStage(start=one.start, weights=weights, shares=shares)

    return tuple(
        msgspec.structs.replace(
            run,
            modalities={names[m]: plan for m, plan in run.modalities.items()},
            mix=tuple(stage(one) for one in run.mix),
            point={path.replace(m, names[m]): value for path, value in run.point.items() for m in names if m in path},
        )
        for run in runs
    )


def test_strange_names_are_only_strange_names() -> None:
    names = {"text": "<script>alert(1)</script>", "image": "a.b[0]", "audio": "datum['x']"}
    back = {strange: plain for plain, strange in names.items()}
    runs = renamed(triangle(), names)

    def loss(run: RunPlan, modality: str) -> float:
        return (run.modalities[modality].weight - CENTRE[back[modality]]) ** 2 + 3

    [found] = mixing(finished(runs, loss), bootstrap=20)
    assert found.best is not None
    assert dict(zip(found.modalities, found.best.mix, strict=True)) == pytest.approx(
        {names[m]: share for m, share in CENTRE.items()}, abs=0.02
    )
    assert names["text"] in shown(found)
    fields = json.dumps([drawn(chart(found)).spec for chart in (simplex_map, best_shares, own_losses)])
    assert "a.b[0]:Q" not in fields


@pytest.mark.parametrize("k", [2, 5])
def test_two_and_five_modalities_have_their_figures(k: int) -> None:
    data = {f"m{i}": {"weight": 1, "data": "prose" if i % 2 else "pictures"} for i in range(k)}
    runs = once([{"simplex": {"parts": 8 if k == 2 else 4}}], modalities=data)

    def loss(run: RunPlan, modality: str) -> float:
        return 3 + (weight(run, modality) - 1 / k) ** 2

    [found] = mixing(finished(runs, loss), bootstrap=20)
    assert found.best is not None
    assert found.best.mix == pytest.approx((1 / k,) * k, abs=0.05)
    block = MIXING.show(found)
    assert [figure.key for figure in block.figures] == ["shares", "own"]
    profile = drawn(block.figures[0].draw())
    drawn_names = {name for table in profile.tables.values() for name in table["modality"].to_list()}
    assert drawn_names == ({"m0"} if k == 2 else set(data))


def test_the_map_shows_the_best_mix_the_runs_and_what_is_between_them() -> None:
    [found] = mixing(finished(triangle(), bowl), bootstrap=50)
    best: Best | None = found.best
    assert best is not None
    tables = drawn(simplex_map(found)).tables.values()
    marks = next(table for table in tables if "kind" in table.columns)
    counts = dict(marks.group_by("kind").len().iter_rows())
    assert counts["run"] == 21
    assert (counts["best mix"], counts["base mix"]) == (1, 1)
    assert counts["best in resamples (90 %)"] == sum(spot.inside for spot in best.spots)
    cells = next(table for table in tables if "nelbo" in table.columns)
    assert len(cells) == math.comb(42, 2)
    assert cells["nelbo"].min() == pytest.approx(best.loss, abs=0.01)


def test_the_question_goes_through_its_record() -> None:
    how = How(bootstrap=20, values={"text": 1.0})
    [found] = MIXING.ask(finished(triangle(), bowl), how)
    assert found.values["text"] == 1
    assert MIXING.key == "mixing"
    msgspec.json.encode(msgspec.to_builtins(found))
