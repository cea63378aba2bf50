"""Approaches 1, 2 and 3 on runs of known laws: what is found, how sure it is said to be, and what is said to lack."""

from __future__ import annotations

import doctest
import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from studies.analysis.laws import envelope, held_out, isoflop
from studies.analysis.laws.base import Array, UnidentifiedError
from studies.analysis.laws.chinchilla import Fit, fit
from studies.analysis.laws.chinchilla_law import NAMES, Law, predict
from studies.analysis.laws.descent import DELTA
from studies.analysis.laws.resampling import By

LAW = Law(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
Points = tuple[Array, Array]


def grid(sizes: int, tokens: int, seeds: int = 1) -> Points:
    N, D = np.meshgrid(np.geomspace(1e6, 256e6, sizes), np.geomspace(1e8, 64e8, tokens))
    return np.tile(N.ravel(), seeds), np.tile(D.ravel(), seeds)


def budgets(law: Law, width: float, sizes: int = 7, off: float = 1.0, drift: float = 0.0) -> Points:
    """Five budgets of 6 N D FLOPs, sizes up to `width` times either side of `off` times the optimum, which moves by
    e^`drift` from budget to budget."""
    a, G = optimum(law)
    N, D = [], []
    for k, C in enumerate(np.geomspace(1e17, 1e21, 5)):
        at = G * (C / 6) ** a * off * math.exp(drift * k) * np.geomspace(1 / width, width, sizes)
        N.append(at)
        D.append(C / 6 / at)
    return np.concatenate(N), np.concatenate(D)


def optimum(law: Law) -> tuple[float, float]:
    """a and G of N_opt = G (C / 6)^a."""
    both = law.alpha + law.beta
    return law.beta / both, (law.alpha * law.A / (law.beta * law.B)) ** (1 / both)


def test_docstring_examples_run() -> None:
    for module in (isoflop, envelope):
        assert doctest.testmod(module).failed == 0


# --- intervals


def coverage(
    points: Points,
    noise: float,
    repeats: int,
    by: By = "run",
    shared: float = 0.0,
    uneven: float = 0.0,
    bootstrap: int = 200,
) -> dict[str, float]:
    """Share of studies whose 90 % intervals hold the truth. `shared` is the noise that runs of one N and D have in
    common, `uneven` how fast noise falls with log N."""
    N, D = points
    configuration = np.unique(np.stack([N, D]), axis=1, return_inverse=True)[1].ravel()
    scale = noise * np.exp(-uneven * (np.log(N) - np.log(N).min()))
    inside = dict.fromkeys(NAMES, 0)
    for repeat in range(repeats):
        rng = np.random.default_rng([7, repeat])
        together = shared * rng.normal(size=configuration.max() + 1)[configuration]
        loss = LAW(N, D) * np.exp(rng.normal(size=len(N)) * scale + together)
        intervals = fit(N, D, loss, bootstrap, repeat, by=by, near=LAW).intervals
        for name, (low, high) in intervals.items():
            inside[name] += low <= getattr(LAW, name) <= high
    return {name: count / repeats for name, count in inside.items()}


@pytest.mark.parametrize(
    ("points", "by", "shared", "uneven"),
    [
        pytest.param(grid(5, 4), "run", 0.0, 0.0, id="grid"),
        pytest.param(grid(4, 3, seeds=3), "seed", 0.003, 0.0, id="seeds that share an error"),
        pytest.param(grid(6, 5), "run", 0.0, 0.4, id="noise that falls with size"),
    ],
)
def test_intervals_hold_the_truth_at_about_their_rate(points: Points, by: By, shared: float, uneven: float) -> None:
    # 72 of 80 with a standard deviation of 2.7: the slow test below is the sharp one.
    for name, share in coverage(points, 0.003, 80, by, shared, uneven, bootstrap=100).items():
        assert 0.8 <= share <= 0.99, name


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("points", "noise"),
    [
        pytest.param(grid(4, 3), 0.003, id="12 runs"),
        pytest.param(grid(5, 4), 0.01, id="20 runs, 1 %"),
        pytest.param(grid(6, 5), 0.003, id="30 runs"),
        pytest.param(grid(6, 5, seeds=3), 0.003, id="90 runs, 3 seeds"),
        pytest.param(budgets(LAW, 6.0), 0.003, id="IsoFLOP"),
    ],
)
def test_intervals_hold_the_truth_at_their_rate_over_500_studies(points: Points, noise: float) -> None:
    for name, share in coverage(points, noise, 500).items():
        assert 0.86 <= share <= 0.94, name


def test_intervals_by_seed_are_wider_where_seeds_share_an_error() -> None:
    N, D = grid(5, 4, seeds=3)
    rng = np.random.default_rng(0)
    shared = LAW(N, D) * np.exp(np.tile(rng.normal(0, 0.004, 20), 3) + rng.normal(0, 0.001, 60))
    widths = {by: width(fit(N, D, shared, by=by, bootstrap=300), "alpha") for by in ("run", "seed")}
    assert widths["seed"] > 1.3 * widths["run"]
    alone = slice(0, 20)
    assert fit(N[alone], D[alone], shared[alone], by="seed", bootstrap=50).intervals == (
        fit(N[alone], D[alone], shared[alone], by="run", bootstrap=50).intervals
    )


def width(found: Fit, name: str) -> float:
    low, high = found.intervals[name]
    return high - low


def test_groups_name_the_configurations_that_are_drawn_together() -> None:
    N, D = grid(5, 4, seeds=3)
    rng = np.random.default_rng(1)
    loss = LAW(N, D) * np.exp(np.tile(rng.normal(0, 0.004, 20), 3))
    labels = [f"configuration {k}" for k in range(20)] * 3
    # N that are not quite equal, as where seeds count a few more parameters, still belong together by their label.
    jittered = N * (1 + 1e-6 * rng.random(60))
    named = fit(jittered, D, loss, by="seed", groups=labels, bootstrap=300)
    assert width(named, "alpha") == pytest.approx(width(fit(N, D, loss, by="seed", bootstrap=300), "alpha"), rel=0.3)
    with pytest.raises(ValueError, match="groups must have one label for each run"):
        fit(N, D, loss, groups=labels[1:])


def test_runs_are_drawn_where_residuals_are_not_alike() -> None:
    N, D = grid(6, 5)
    noise = np.random.default_rng(1).normal(size=30)
    assert fit(N, D, LAW(N, D) * np.exp(noise * 0.01 * (1e6 / N) ** 0.5), bootstrap=10).drawn == "runs"
    assert fit(N, D, LAW(N, D) * np.exp(0.003 * noise), bootstrap=10).drawn == "residuals"


# --- the minimum


def lowest_of_lbfgs(N: Array, D: Array, loss: Array, starts: int, seed: int) -> float:
    def objective(theta: Array) -> float:
        e, a, b, alpha, beta = theta
        parts = np.stack([np.full(len(N), e), a - alpha * np.log(N), b - beta * np.log(D)])
        residual = np.abs(np.logaddexp.reduce(parts) - np.log(loss))
        near = np.minimum(residual, DELTA)
        return float(np.sum(near * (residual - near / 2)))

    rng = np.random.default_rng(seed)
    drawn = rng.uniform((-1, 0, 0, 0, 0), (1, 15, 15, 1.5, 1.5), (starts, 5))
    # Starts near the truth too, from which L-BFGS does its best.
    truth = np.array([np.log(LAW.E), np.log(LAW.A), np.log(LAW.B), LAW.alpha, LAW.beta])
    drawn[::2] = truth + rng.normal(0, (0.1, 0.5, 0.5, 0.03, 0.03), drawn[::2].shape)
    return min(float(minimize(objective, start, method="L-BFGS-B").fun) for start in drawn)


def contaminated(seed: int) -> tuple[Array, Array, Array]:
    """Scattered runs of which one in ten diverged."""
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.uniform(14, 22, 30)), np.exp(rng.uniform(18, 25, 30))
    loss = LAW(N, D) * np.exp(rng.normal(0, (0.0005, 0.003, 0.01)[seed % 3], 30))
    loss[:3] *= np.exp(rng.uniform(0.1, 1.0, 3))
    return N, D, loss


@pytest.mark.parametrize("seed", range(3))
def test_minimum_is_never_worse_than_multistart_lbfgs(seed: int) -> None:
    N, D, loss = contaminated(seed)
    assert fit(N, D, loss, bootstrap=0).objective <= lowest_of_lbfgs(N, D, loss, 60, seed) * (1 + 1e-9)


def test_diverged_runs_hardly_move_the_law() -> None:
    N, D = grid(6, 5)
    loss = LAW(N, D) * np.exp(np.random.default_rng(3).normal(0, 0.001, 30))
    loss[[4, 17]] *= 2
    found = fit(N, D, loss, bootstrap=0).law
    assert found.alpha == pytest.approx(LAW.alpha, rel=0.03)
    assert pytest.approx(LAW.E, rel=0.03) == found.E


def test_thousands_of_runs_and_duplicate_rows_are_fitted() -> None:
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(14, 22, 5000)), np.exp(rng.uniform(18, 25, 5000))
    N[1000:2000], D[1000:2000] = N[0], D[0]
    found = fit(N, D, LAW(N, D) * np.exp(rng.normal(0, 0.01, 5000)), bootstrap=20)
    assert found.law.alpha == pytest.approx(LAW.alpha, abs=0.02)
    assert found.samples.shape == (20, 5)


def test_goodness_of_fit_is_that_of_log_loss() -> None:
    N, D = grid(6, 5)
    loss = LAW(N, D) * np.exp(np.random.default_rng(0).normal(0, 0.01, 30))
    found = fit(N, D, loss, bootstrap=0)
    residuals = np.log(loss) - np.log(found.law(N, D))
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-9)
    assert found.r2 == pytest.approx(1 - np.sum(residuals**2) / np.sum((np.log(loss) - np.log(loss).mean()) ** 2))
    assert {"r2", "residual", "by"} <= json.loads(json.dumps(found.summary())).keys()


def test_one_ratio_of_tokens_to_parameters_is_said() -> None:
    N = np.geomspace(1e6, 1e9, 12)
    rng = np.random.default_rng(0)
    D = 20 * N * np.exp(rng.normal(0, 0.05, 12))
    found = fit(N, D, LAW(N, D) * np.exp(rng.normal(0, 0.002, 12)), bootstrap=50)
    assert any("one line" in said for said in found.warnings)


# --- the compute-optimal allocation


def test_allocation_is_where_the_law_is_lowest() -> None:
    N, D = grid(6, 5)
    found = fit(N, D, LAW(N, D) * np.exp(np.random.default_rng(0).normal(0, 0.002, 30)), bootstrap=100)
    allocation = found.allocation(flops_per_token=7.0)
    best = allocation.at(1e20)
    sizes = np.geomspace(best.N / 3, best.N * 3, 2001)
    losses = found.law(sizes, 1e20 / 7 / sizes)
    assert sizes[losses.argmin()] == pytest.approx(best.N, rel=2e-3)
    assert best.loss == pytest.approx(losses.min(), rel=1e-6)
    assert pytest.approx(1e20) == best.N * best.D * 7
    assert pytest.approx(allocation.G * (1e20 / 7) ** allocation.a) == best.N
    for name, low_high in best.intervals.items():
        assert low_high[0] < getattr(best, name) < low_high[1]
    assert allocation.intervals["a"][0] < 0.37 / 0.72 < allocation.intervals["a"][1]
    assert allocation.b == pytest.approx(1 - allocation.a)


# --- held out


def test_configurations_left_out_are_predicted_with_honest_intervals() -> None:
    N, D = grid(6, 5)
    inside, rms = [], []
    for seed in range(4):
        loss = LAW(N, D) * np.exp(np.random.default_rng(seed).normal(0, 0.003, 30))
        found = held_out.cross_validate(N, D, loss, bootstrap=50, folds=6, seed=seed)
        assert sorted(found.rows) == list(range(30))
        inside.append(found.coverage)
        rms.append(found.rms)
    # A run's own noise, and a little of the law's.
    assert 0.003 <= np.mean(rms) <= 0.0045
    assert 0.82 <= np.mean(inside) <= 0.97


def test_a_configuration_is_left_out_with_all_its_seeds() -> None:
    N, D = grid(4, 4, seeds=2)
    loss = LAW(N, D)
    # Seeds of one configuration agree on a loss that the law does not have: only a model that has seen one knows.
    loss[[5, 21]] *= 1.2
    found = held_out.cross_validate(N, D, loss, folds=16, bootstrap=0)
    errors = np.log(found.predicted / found.actual)[np.argsort(found.rows)]
    np.testing.assert_allclose(errors[[5, 21]], -math.log(1.2), atol=0.01)
    assert math.isnan(found.coverage)


def test_larger_compute_is_predicted_from_smaller() -> None:
    N, D = budgets(LAW, 6.0)
    loss = LAW(N, D) * np.exp(np.random.default_rng(0).normal(0, 0.002, 35))
    found = held_out.extrapolate(N, D, loss, bootstrap=200)
    assert found.predicted.n == 7
    assert set(found.predicted.rows) == set(range(28, 35))
    assert found.reach == pytest.approx(10)
    assert found.predicted.rms < 0.01
    assert found.predicted.coverage >= 5 / 7
    # Losses that stop falling are predicted too low, by as much as they are above the law.
    loss[28:] *= 1.1
    assert held_out.extrapolate(N, D, loss, bootstrap=50).predicted.bias == pytest.approx(-math.log(1.1), abs=0.01)


def test_too_few_runs_to_extrapolate_from_are_said() -> None:
    N, D = grid(3, 3)
    found = held_out.extrapolate(N, D, LAW(N, D), bootstrap=0, share=0.5)
    assert found.fit is None
    assert found.predicted.n == 0
    assert "at least 6 runs" in found.predicted.warnings[0]


# --- approach 2


def test_parabolas_of_a_symmetric_law_about_its_optimum_have_no_bias() -> None:
    law = Law(E=1.8, A=400.0, B=1200.0, alpha=0.35, beta=0.35)
    N, D = budgets(law, 2.0)
    found = isoflop.fit(N, D, law(N, D), bootstrap=0)
    a, G = optimum(law)
    assert found.N is not None
    assert found.bias is not None
    assert found.N.exponent == pytest.approx(a, abs=1e-6)
    assert found.N.at(1e21) == pytest.approx(G * (1e21 / 6) ** a, rel=1e-4)
    assert abs(found.bias.a) < 1e-6
    assert pytest.approx(1, abs=1e-4) == found.bias.N
    assert found.warnings == ()


@pytest.mark.parametrize(("off", "drift"), [(1.0, 0.0), (2.0, 0.0), (1.0, 0.3)])
def test_bias_of_parabolas_is_what_a_direct_calculation_gives(off: float, drift: float) -> None:
    law = Law(E=1.8, A=480.0, B=840_000.0, alpha=0.3, beta=0.6)
    N, D = budgets(law, 8.0, off=off, drift=drift)
    rng = np.random.default_rng(0)
    found = isoflop.fit(N, D, law(N, D) * np.exp(rng.normal(0, 0.001, 35)), law=law, bootstrap=0, reach=10)
    assert found.bias is not None
    logs = []
    for k in range(5):
        rows = slice(7 * k, 7 * k + 7)
        c2, c1, _ = np.polyfit(np.log(N[rows]), law(N[rows], D[rows]), 2)
        logs.append(-c1 / (2 * c2))
    exponent, intercept = np.polyfit(np.log(np.geomspace(1e17, 1e21, 5)), logs, 1)
    a, G = optimum(law)
    assert found.bias.a == pytest.approx(exponent - a, abs=1e-6)
    assert found.bias.b == pytest.approx(a - exponent, abs=1e-6)
    for C, bias in ((1e21, found.bias.N), (1e22, found.bias.N_beyond)):
        assert bias == pytest.approx(math.exp(intercept) * C**exponent / (G * (C / 6) ** a), rel=1e-5)
    # A grid that follows the optimum has the right exponent and the wrong size; one that drifts, both wrong.
    assert (abs(found.bias.a) > 0.01) == (drift > 0)
    assert abs(found.bias.N - 1) > 0.03
    assert any("noise-free" in said for said in found.warnings)


def test_isoflop_intervals_hold_the_parabolas_own_truth() -> None:
    N, D = budgets(LAW, 4.0)
    inside = 0
    for seed in range(60):
        loss = LAW(N, D) * np.exp(np.random.default_rng(seed).normal(0, 0.003, 35))
        found = isoflop.fit(N, D, loss, law=LAW, bootstrap=200, seed=seed)
        assert found.N is not None
        assert found.N.interval is not None
        inside += found.N.interval[0] <= optimum(LAW)[0] <= found.N.interval[1]
    # 54 of 60 with a standard deviation of 2.3.
    assert 46 <= inside <= 60


def test_budgets_without_an_optimum_are_shown_and_left_out() -> None:
    N, D = budgets(LAW, 6.0)
    edge = np.r_[0:21, 25:28, 28:35]  # Of the fourth budget only sizes above the optimum.
    few = np.r_[edge[:21], edge[21:24], 28:30]  # Of the last, two sizes.
    found = isoflop.fit(N[few], D[few], LAW(N[few], D[few]), bootstrap=0)
    assert [budget.left_out for budget in found.budgets[:3]] == ["", "", ""]
    assert found.budgets[3].edge
    assert found.budgets[4].curve is None
    assert found.N is not None
    assert found.N.n == 3
    assert sum(bool(budget.left_out) for budget in found.budgets) == 2
    assert any(said.startswith("left out, of 5 budgets: ") for said in found.warnings)


def test_runs_without_budgets_have_no_parabola() -> None:
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(14, 20, 8)), np.exp(rng.uniform(18, 30, 8))
    with pytest.raises(UnidentifiedError, match="no budget holds 3 sizes"):
        isoflop.fit(N, D, LAW(N, D))


def test_given_flops_make_the_budgets() -> None:
    N, D = budgets(LAW, 4.0)
    # Of the same FLOPs, which an attention's cost takes beyond 6 N.
    flops = np.repeat(np.geomspace(1e17, 1e21, 5), 7)
    fewer = D / (1 + 0.2 * (N / N.min()) ** -0.1)
    found = isoflop.fit(N, fewer, LAW(N, fewer), flops, bootstrap=0)
    assert [budget.runs for budget in found.budgets] == [7] * 5
    assert found.N is not None
    assert found.N.n == 5


# --- approach 1


def curves(sizes: int = 13, noise: float = 0.0, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """N, D, loss and run of training curves, each of which follows the law."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, sizes), np.geomspace(1e7, 1e11, 33), indexing="ij"))
    run = np.repeat(np.arange(sizes), 33)
    error = np.random.default_rng(seed).normal(0, noise, sizes)[run]
    return N, D, LAW(N, D) * np.exp(error), run


def test_envelope_finds_the_frontier_of_training_curves() -> None:
    N, D, loss, run = curves()
    found = envelope.fit(N, D, loss, runs=run, bootstrap=0)
    a, G = optimum(LAW)
    assert found.N_law is not None
    assert found.D_law is not None
    assert found.N_law.exponent == pytest.approx(a, abs=0.02)
    assert found.D_law.exponent == pytest.approx(1 - a, abs=0.02)
    middle = found.N_law.center
    assert found.N_law.at(middle) == pytest.approx(G * (middle / 6) ** a, rel=0.1)
    inside = found.inside
    np.testing.assert_allclose(found.flops[inside], 6 * (found.N * found.D)[inside], rtol=1e-6)
    lowest = predict(np.array([[LAW.E, LAW.A, LAW.B, LAW.alpha, LAW.beta]]), found.N[inside], found.D[inside])[0]
    np.testing.assert_allclose(found.loss[inside], lowest, rtol=2e-3)


def test_envelope_does_not_take_a_size_at_the_edge_for_an_optimum() -> None:
    N, D, loss, run = curves()
    small = N < 1e7
    found = envelope.fit(N[small], D[small], loss[small], runs=run[small], bootstrap=0)
    assert max(found.optimal, default=0) < N[small].max() * 0.999
    assert any("beside it" in said for said in found.warnings)


def test_envelope_averages_seeds_and_has_intervals_by_run() -> None:
    parts = [curves(noise=0.003, seed=seed) for seed in range(2)]
    N, D, loss, run = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    run[len(run) // 2 :] += 13
    found = envelope.fit(N, D, loss, runs=run, bootstrap=40)
    assert found.N_law is not None
    assert found.N_law.interval is not None
    low, high = found.N_law.interval
    assert low < found.N_law.exponent < high
    assert found.sizes == 13
    by_seed = envelope.fit(N, D, loss, runs=run, bootstrap=40, by="seed")
    assert by_seed.N_law is not None
    assert by_seed.N_law.exponent == found.N_law.exponent


def test_envelope_needs_curves_of_three_sizes() -> None:
    N, D, loss, run = curves()
    two = run < 2
    with pytest.raises(UnidentifiedError, match="needs 3 sizes"):
        envelope.fit(N[two], D[two], loss[two], runs=run[two])
