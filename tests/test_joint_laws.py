"""Sums of power laws and the laws built on them, on data from known laws with noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from studies.analysis.laws import interaction, joint, joint_comparison, optima, power_sums, repeats, three_term
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.descent import DELTA
from studies.analysis.laws.power_sum_form import PowerSum, Term

TWO = PowerSum(terms=(Term("A", (("N", "alpha"),)), Term("B", (("D", "beta"),))))
TRUTH = {"E": 1.8, "A": 480.0, "B": 20.0, "C": 60.0, "alpha": 0.35, "beta": 0.45, "gamma": 0.4}
NAMES = ("text", "image")


def noisy(loss, noise, rng):
    return loss * np.exp(noise * rng.standard_normal(np.shape(loss)))


def batch_runs(n=60, noise=0.003, seed=0):
    """N, S, batch and loss of runs from the three-term law `TRUTH`."""
    rng = np.random.default_rng(seed)
    N, S, b = (10 ** rng.uniform(low, high, n) for low, high in ((6, 9), (2.5, 5), (4, 6.5)))
    t = TRUTH
    return N, S, b, noisy(t["E"] + t["A"] / N**0.35 + t["B"] / S**0.45 + t["C"] / b**0.4, noise, rng)


def repeated_runs(R=8.0, most=30.0, noise=0.003, seed=0):
    """N, D, U and loss of runs of up to `most` epochs."""
    rng = np.random.default_rng(seed)
    N, D = (10 ** rng.choice(levels, 60) for levels in ([6, 6.5, 7, 7.5], [7, 7.5, 8, 8.5]))
    U = D / rng.choice([1.0, most**0.5, most], 60)
    tokens = repeats.effective_tokens(D, U, R)
    return N, D, U, noisy(1.8 + 100 / N**0.3 + 500 / tokens**0.35, noise, rng)


def mixed_runs(tau=0.0, noise=0.005, seed=0, n=50):
    """N, tokens and losses (n, 2) of runs in which an image token is worth `tau` text tokens."""
    rng = np.random.default_rng(seed)
    N, D, share = (
        10 ** rng.choice([5, 5.5, 6, 6.5], n),
        10 ** rng.choice([6, 6.5, 7, 7.5], n),
        rng.uniform(0.15, 0.85, n),
    )
    tokens = np.stack([D * share, D * (1 - share)], axis=1)
    effective = tokens + np.array([tau, 0.0]) * tokens[:, ::-1]
    losses = [2.0, 1.5] + [40, 30] / N[:, None] ** 0.3 + [300, 200] / effective**0.4
    return N, tokens, noisy(losses, noise, rng)


def interacting_runs(noise=0.002, seed=0, shares=((1, 0), (0, 1), (0.5, 0.5), (0.3, 0.7), (0.8, 0.2))):
    """N, tokens and losses from the interaction law with C = 0.3; NaN where a modality was not trained on."""
    grid = [
        (N, D * s, D * (1 - s))
        for N in 10 ** np.arange(5, 7.1, 0.5)
        for D in 10 ** np.arange(6.5, 8.1, 0.5)
        for s, _ in shares
    ]
    N, tokens = np.array(grid)[:, 0], np.array(grid)[:, 1:]
    with np.errstate(divide="ignore"):
        losses = [2.0, 1.5] + [40, 30] / N[:, None] ** 0.3 + [300, 200] / tokens**0.4
    both = (tokens > 0).all(axis=1)
    losses[both] += (-0.3 + 30 / N[both] ** 0.35 + 100 / tokens[both].sum(axis=1) ** 0.4)[:, None]
    losses[tokens == 0] = np.nan
    return N, tokens, noisy(losses, noise, np.random.default_rng(seed))


def swept_runs(sizes=(1e6, 4e6, 16e6), tokens=(1e8, 4e8, 16e8), swept=True, noise=0.003, seed=0, shift=0):
    """N, D, lr, batch and loss of sweeps about lr* = 1.79 N^-0.5 D^0.2 and B* = 0.6 D^0.57, `shift` grid steps off."""
    rng, rows = np.random.default_rng(seed), []
    for N in sizes:
        for D in tokens:
            lr, batch = 1.79 * N**-0.5 * D**0.2, 0.6 * D**0.57
            for j in range(-4, 5):
                for k in range(-3, 4) if swept else [0]:
                    x, y = (j + shift + rng.uniform(-0.3, 0.3)) * np.log(2), k * np.log(2)
                    loss = 3 + 0.05 * x * x + 0.03 * y * y - 0.03 * x * y + noise * rng.standard_normal()
                    rows.append((N, D, lr * np.exp(x), batch * np.exp(y), loss))
    return np.array(rows).T


class TestPowerSums:
    @settings(max_examples=10, deadline=None)
    @given(
        E=st.floats(0.5, 3),
        alpha=st.floats(0.2, 0.8),
        beta=st.floats(0.2, 0.8),
        shares=st.tuples(st.floats(0.2, 1), st.floats(0.2, 1)),
    )
    def test_exact_data_give_back_their_law(self, E, alpha, beta, shares):
        N, D = (v.ravel() for v in np.meshgrid(10 ** np.linspace(6, 9, 5), 10 ** np.linspace(8, 11, 5)))
        A, B = shares[0] * 1e6**alpha, shares[1] * 1e8**beta
        law = power_sums.fit(TWO, {"N": N, "D": D}, E + A / N**alpha + B / D**beta, bootstrap=0, folds=0)
        found = [law.parameters[name] for name in ("E", "alpha", "beta")]
        assert found == pytest.approx([E, alpha, beta], rel=2e-3)
        assert law.r2 == pytest.approx(1)

    @pytest.mark.parametrize("noise", [1e-4, 1e-2])
    def test_objective_is_never_above_that_of_lbfgs_from_many_starts(self, noise):
        N, S, b, loss = batch_runs(noise=noise)
        law = three_term.fit(N, S, b, loss, bootstrap=0)
        logs = np.stack([np.log(v) - np.log(v).mean() for v in (N, S, b)])
        target = np.log(loss)

        def objective(theta):
            parts = np.exp(np.vstack([np.full((1, len(N)), theta[0]), theta[1:4, None] - theta[4:, None] * logs]))
            residual = np.log(parts.sum(axis=0)) - target
            shares = parts / parts.sum(axis=0)
            pull = np.clip(residual, -DELTA, DELTA)
            near = np.minimum(np.abs(residual), DELTA)
            slope = np.concatenate([shares @ pull, -(shares[1:] * logs) @ pull])
            return 1e3 * (near * (np.abs(residual) - near / 2)).sum(), 1e3 * slope

        exponents = ((0.2,) * 3, (0.5,) * 3, (0.9, 0.3, 0.3))
        starts = [(e, a, a, a, *x) for e in (-1, 0.5) for a in (-3, -0.5) for x in exponents]
        options = {"maxiter": 3000, "maxfun": 10_000, "ftol": 1e-15, "gtol": 1e-12}
        best = min(minimize(objective, s, jac=True, method="L-BFGS-B", options=options).fun for s in starts) / 1e3
        assert law.objective <= best * (1 + 1e-6)

    def test_intervals_cover_the_truth_at_their_rate(self):
        truth = {"E": 1.8, "A": 480.0, "B": 20.0, "alpha": 0.35, "beta": 0.45}
        hits = []
        for seed in range(30):
            rng = np.random.default_rng(seed)
            N, D = 10 ** rng.uniform(6, 9, 24), 10 ** rng.uniform(2.5, 5, 24)
            loss = noisy(1.8 + 480 / N**0.35 + 20 / D**0.45, 0.01, rng)
            law = power_sums.fit(TWO, {"N": N, "D": D}, loss, bootstrap=100, folds=0, seed=seed)
            hits += [low <= truth[name] <= high for name, (low, high) in law.intervals.items()]
        assert 0.8 <= np.mean(hits) <= 0.97

    def test_a_term_of_a_constant_variable_joins_the_constant(self):
        N = np.tile(10 ** np.linspace(6, 9, 6), 4)
        loss = noisy(1.8 + 480 / N**0.35, 0.002, np.random.default_rng(0))
        law = power_sums.fit(TWO, {"N": N, "D": np.full_like(N, 1e9)}, loss, bootstrap=50)
        assert law.dropped == ("B",)
        assert set(law.parameters) == {"E", "A", "alpha"}
        assert "D does not vary" in law.warnings[0]
        assert law.parameters["alpha"] == pytest.approx(0.35, abs=0.02)

    def test_what_cannot_be_determined_is_refused(self):
        N, D = np.tile([1e6, 1e7, 1e8], 4), np.repeat([1e8, 1e9], 6)
        with pytest.raises(UnidentifiedError, match="3 different values of D, and there are 2"):
            power_sums.fit(TWO, {"N": N, "D": D}, 2 + 100 / N**0.3)
        with pytest.raises(UnidentifiedError, match=r"5 parameters .* there are 4"):
            power_sums.fit(TWO, {"N": N[:4] * [1, 2, 3, 4], "D": [1, 2, 3, 4]}, np.ones(4))
        with pytest.raises(ValueError, match="positive and finite"):
            power_sums.fit(TWO, {"N": N, "D": D}, np.full(12, np.nan))

    def test_variables_that_vary_together_are_warned_of(self):
        N = 10 ** np.linspace(6, 9, 20)
        law = power_sums.fit(TWO, {"N": N, "D": 20 * N}, 1.8 + 480 / N**0.35, bootstrap=0)
        assert law.warnings[0] == "N and D vary together: their terms cannot be told apart"

    def test_a_loss_that_no_variable_moves_is_warned_of(self):
        rng = np.random.default_rng(0)
        N, D = 10 ** rng.uniform(6, 9, 40), 10 ** rng.uniform(8, 11, 40)
        law = power_sums.fit(TWO, {"N": N, "D": D}, noisy(2 + 100 / N**0.3, 0.01, rng), bootstrap=100)
        assert any(text.startswith("beta") for text in law.warnings)
        assert not any(text.startswith("alpha") for text in law.warnings)

    def test_products_of_powers(self):
        rng = np.random.default_rng(0)
        x, y = 10 ** rng.uniform(0, 3, (2, 40))
        form = PowerSum(terms=(Term("A", (("x", "p"), ("y", "q"))),))
        law = power_sums.fit(form, {"x": x, "y": y}, 1 + 5 * x**-0.4 * y**-0.2, bootstrap=0)
        assert [law.parameters[k] for k in ("E", "A", "p", "q")] == pytest.approx([1, 5, 0.4, 0.2], rel=1e-3)

    def test_held_out_error_is_that_of_new_runs(self):
        law = three_term.fit(*batch_runs(noise=0.01, n=80), bootstrap=0)
        N, S, b, loss = batch_runs(noise=0.01, n=400, seed=9)
        fresh = np.sqrt(np.mean((np.log(law.predict(N, S, b)) - np.log(loss)) ** 2))
        assert law.held_out == pytest.approx(fresh, rel=0.25)
        assert law.held_out > law.residual


class TestThreeTerm:
    law = three_term.fit(*batch_runs(), bootstrap=100)

    def test_truth_within_reach(self):
        for name, value in TRUTH.items():
            low, high = self.law.intervals[name]
            assert low - (high - low) / 2 <= value <= high + (high - low) / 2
        assert self.law.batch_exponent == pytest.approx(0.45 / 0.85, abs=0.03)
        low, high = self.law.intervals["batch_exponent"]
        assert low < self.law.batch_exponent < high

    @settings(max_examples=20, deadline=None)
    @given(D=st.floats(1e7, 1e12))
    def test_the_optimal_batch_has_the_least_loss(self, D):
        best = self.law.optimal_batch(D)
        sizes = best * np.array([0.5, 0.9, 1.0, 1.1, 2.0])
        losses = self.law.predict(1e8, D / sizes, sizes)
        assert losses.argmin() == 2
        assert self.law.regret(D, sizes) == pytest.approx(losses - losses[2], abs=1e-9)

    @pytest.mark.parametrize("overhead", [0.2, 1.0])
    def test_the_critical_batch_costs_its_overhead(self, overhead):
        D = 1e9
        best, critical = self.law.optimal_batch(D), self.law.critical_batch(D, overhead)
        assert critical > best
        goal = self.law.predict(1e8, D / best, best)
        assert self.law.predict(1e8, (1 + overhead) * D / critical, critical) == pytest.approx(goal, rel=1e-9)
        low, high = self.law.critical_batch_interval(D, overhead)
        assert low < critical < high

    def test_one_batch_size_does_not_show_the_best(self):
        N, S, b, _ = batch_runs()
        law = three_term.fit(N, S, np.full_like(b, 1e5), 1.8 + 480 / N**0.35 + 20 / S**0.45, bootstrap=20)
        assert law.parameters["beta"] == pytest.approx(0.45, abs=0.01)
        with pytest.raises(UnidentifiedError, match="one batch only"):
            law.optimal_batch(1e9)


class TestRepeats:
    @given(D=st.floats(1, 1e12), epochs=st.floats(0.1, 1e3), R=st.floats(0.2, 500))
    def test_effective_tokens_lie_between_unique_and_all(self, D, epochs, R):
        U = D / epochs
        found = repeats.effective_tokens(D, U, R)
        if epochs <= 1:
            assert found == pytest.approx(D)
        assert min(D, U) * (1 - 1e-9) <= found <= min(D, U * (1 + R)) * (1 + 1e-9)
        assert repeats.effective_tokens(1.5 * D, U, R) >= found

    def test_four_epochs_are_nearly_as_good_as_new(self):
        assert repeats.effective_tokens(4.0, 1.0, 15.4) == pytest.approx(4, rel=0.08)

    def test_the_decay_is_found(self):
        law = repeats.fit(*repeated_runs(), bootstrap=100)
        low, high = law.intervals["R_D"]
        assert low < law.parameters["R_D"] < high
        assert law.parameters["R_D"] == pytest.approx(8, rel=0.1)
        assert law.warnings == ()
        N, D, U, loss = repeated_runs(seed=1, noise=0)
        assert law.predict(N, D, U) == pytest.approx(loss, rel=0.005)

    def test_without_repeats_it_is_the_chinchilla_law(self):
        N, D, _, loss = repeated_runs(most=1)
        law, plain = (
            repeats.fit(N, D, 1e12, loss, bootstrap=0),
            power_sums.fit(TWO, {"N": N, "D": D}, loss, bootstrap=0),
        )
        assert law.parameters == pytest.approx(plain.parameters, rel=1e-6)
        assert law.objective == pytest.approx(plain.objective)
        assert "no run repeats data" in law.warnings[0]

    def test_few_repeats_are_warned_of(self):
        law = repeats.fit(*repeated_runs(most=1.3), bootstrap=60)
        assert "more than 0.3 times" in law.warnings[0]
        assert any(text.startswith("R_D") for text in law.warnings[1:])

    def test_excess_parameters(self):
        rng = np.random.default_rng(0)
        N, D = 10 ** rng.choice([6, 6.5, 7, 7.5, 8, 9], 90), 10 ** rng.choice([7, 7.5, 8, 8.5], 90)
        U = D / 10 ** rng.choice([0, 0.5, 1, 1.5], 90)
        used = np.minimum(N, (0.3 * 100 / (0.35 * 500) * U**0.35) ** (1 / 0.3))
        size = used * (1 + 4 * (1 - np.exp(-(N / used - 1) / 4)))
        loss = 1.8 + 100 / size**0.3 + 500 / repeats.effective_tokens(D, U, 6) ** 0.35
        law = repeats.fit(N, D, U, noisy(loss, 5e-4, rng), excess_parameters=True, bootstrap=0)
        assert [law.parameters["R_N"], law.parameters["R_D"]] == pytest.approx([4, 6], rel=0.1)

    def test_sources_of_their_own(self):
        rng = np.random.default_rng(0)
        N, D = 10 ** rng.choice([6, 6.5, 7, 7.5], 60), 10 ** rng.choice([7, 7.5, 8], (60, 2))
        U = np.array([3e6, 1e9])
        loss = 1.8 + 100 / N**0.3 + 500 / repeats.effective_tokens(D, U, 8).sum(axis=1) ** 0.35
        law = repeats.fit(N, D, U, loss, bootstrap=0)
        assert law.parameters["R_D"] == pytest.approx(8, rel=0.02)

    def test_runs_within_four_epochs(self):
        assert repeats.within_epochs([0.5, 4, 4.1]).tolist() == [True, True, False]
        assert repeats.within_epochs([[1, 5], [1, 2]], limit=2).tolist() == [False, True]


class TestJoint:
    def test_an_additive_truth_is_seldom_called_transfer(self):
        found = [
            c
            for seed in range(5)
            for c in joint_comparison.compare(*mixed_runs(seed=seed), NAMES, bootstrap=0, drawn=49)
        ]
        assert sum(one.significant for one in found) <= 2
        assert np.mean([one.p_value for one in found]) > 0.25
        taus = [v for one in found for name, v in one.transfer.parameters.items() if name.startswith("tau")]
        assert max(np.abs(taus)) < 0.05

    def test_transfer_is_found_where_it_is(self):
        text, image = joint_comparison.compare(*mixed_runs(tau=0.4), NAMES, bootstrap=80, drawn=99)
        assert text.significant
        assert text.preferred == "transfer"
        assert text.difference_interval[0] > 0
        assert text.transfer.parameters["tau_image"] == pytest.approx(0.4, abs=0.1)
        assert text.transfer.held_out < 0.5 * text.additive.held_out
        assert not image.significant

    def test_competition_is_a_negative_tau(self):
        law = joint.fit_transfer(*mixed_runs(tau=-0.1), NAMES, "text", bootstrap=50)
        assert law.intervals["tau_image"][1] < 0
        assert law.parameters["tau_image"] == pytest.approx(-0.1, abs=0.03)

    def test_prediction_of_another_mix(self):
        law = joint.fit_transfer(*mixed_runs(tau=0.4), NAMES, "text", bootstrap=50)
        N, tokens, losses = mixed_runs(tau=0.4, noise=0, seed=5)
        assert law.predict(N, tokens) == pytest.approx(losses[:, 0], rel=0.01)
        low, high = law.band(N, tokens)
        assert np.mean((low <= losses[:, 0]) & (losses[:, 0] <= high)) > 0.5

    def test_runs_that_never_saw_the_modality(self):
        N, tokens, losses = mixed_runs(tau=0.4, noise=0.002)
        tokens[:6, 1] = tokens[:6].sum(axis=1)
        tokens[:6, 0] = 0
        described = losses.copy()
        described[:6, 0] = 2 + 40 / N[:6] ** 0.3 + 300 / (0.4 * tokens[:6, 1]) ** 0.4
        law = joint.fit_transfer(N, tokens, described, NAMES, "text", bootstrap=0)
        assert (law.joined, law.unseen, law.n) == (True, 6, 50)
        unlike = losses.copy()
        unlike[:6, 0] = 9.0
        law = joint.fit_transfer(N, tokens, unlike, NAMES, "text", bootstrap=0)
        assert (law.joined, law.n) == (False, 44)
        assert "6 runs never saw text and are left out" in law.warnings
        assert joint.fit_additive(N, tokens, unlike, NAMES, "text", bootstrap=0).n == 44

    def test_a_mix_that_does_not_vary_is_refused(self):
        N, tokens, losses = mixed_runs()
        tokens = tokens.sum(axis=1, keepdims=True) * [0.3, 0.7]
        with pytest.raises(UnidentifiedError, match="text: the mix does not vary"):
            joint_comparison.compare(N, tokens, losses, NAMES)
        with pytest.raises(ValueError, match="two modalities or more"):
            joint_comparison.compare(N, tokens[:, :1], losses[:, :1], ("text",))

    def test_the_interaction_law(self):
        law = interaction.fit_interaction(*interacting_runs(), NAMES, bootstrap=100)
        low, high = law.intervals["C"]
        assert low < 0.3 < high
        assert low < law.C < high
        # Beyond the competition barrier in large runs, this side of it in small ones.
        assert law.synergy(1e7, 1e8) == pytest.approx(0.3 - 30 / 1e7**0.35 - 100 / 1e8**0.4, abs=0.02)
        assert law.synergy_interval(1e7, 1e8)[0] > 0
        assert law.synergy_interval(1e5, 3e6)[1] < 0
        N, tokens, losses = interacting_runs(noise=0, shares=((0.6, 0.4),))
        assert law.predict(N, tokens) == pytest.approx(losses.mean(axis=1), rel=0.01)
        low, high = law.band(N, tokens)
        assert np.all(low < high)

    def test_the_interaction_law_needs_runs_on_one_modality_alone(self):
        with pytest.raises(UnidentifiedError, match="runs on image alone"):
            interaction.fit_interaction(*interacting_runs(shares=((1, 0), (0.5, 0.5), (0.3, 0.7))), NAMES)


class TestOptima:
    def test_the_exponents_of_both_laws(self):
        N, D, lr, batch, loss = swept_runs()
        law = optima.fit(N, D, lr, loss, batch)
        assert law.batch is not None
        assert law.warnings == ()
        assert [law.lr.parameters[k] for k in "ND"] == pytest.approx([-0.5, 0.2], abs=0.03)
        assert [law.batch.parameters[k] for k in "ND"] == pytest.approx([0, 0.57], abs=0.05)
        assert any("exponent of N cannot be told from zero" in text for text in law.batch.warnings)
        assert law.lr.predict(8e6, 1e9) == pytest.approx(1.79 * 8e6**-0.5 * 1e9**0.2, rel=0.05)
        low, high = law.lr.band(8e6, 1e9)
        assert low < law.lr.predict(8e6, 1e9) < high
        assert law.lr.r2 > 0.98
        assert law.lr.held_out < 0.1

    def test_intervals_cover_the_truth(self):
        hits = []
        for seed in range(40):
            N, D, lr, _, loss = swept_runs(swept=False, seed=seed)
            found = optima.fit(N, D, lr, loss, bootstrap=300, seed=seed).lr
            hits += [found.intervals[k][0] <= v <= found.intervals[k][1] for k, v in (("N", -0.5), ("D", 0.2))]
        assert 0.75 <= np.mean(hits) <= 0.98

    def test_an_optimum_at_the_edge_is_shown_and_left_out(self):
        N, D, lr, _, loss = (
            np.concatenate(v)
            for v in zip(swept_runs(swept=False), swept_runs(sizes=(64e6,), swept=False, shift=6), strict=True)
        )
        law = optima.fit(N, D, lr, loss)
        assert (len(law.optima), law.lr.n) == (12, 9)
        assert all("edge of the grid in lr" in o.left_out for o in law.optima if pytest.approx(64e6) == o.N)
        assert len(law.warnings) == 3
        assert law.batch is None

    def test_only_what_varies_is_fitted(self):
        N, D, lr, _, loss = swept_runs(sizes=(1e6,), swept=False)
        law = optima.fit(N, D, lr, loss).lr
        assert set(law.parameters) == {"coefficient", "D"}
        assert any("all optima are of one N" in text for text in law.warnings)
        together = D == 100 * N
        N, D, lr, _, loss = swept_runs(swept=False)
        together = np.isclose(D, 100 * N)
        law = optima.fit(N[together], D[together], lr[together], loss[together]).lr
        assert any("vary together" in text for text in law.warnings)

    def test_failed_runs_are_left_out_and_one_group_is_too_few(self):
        N, D, lr, _, loss = swept_runs(swept=False)
        high = lr > np.quantile(lr, 0.95)
        law = optima.fit(N, D, lr, np.where(high, np.inf, loss))
        assert sum(o.runs for o in law.optima) == len(loss) - high.sum()
        one = (N == 1e6) & (D == 1e8)
        with pytest.raises(UnidentifiedError, match="two optima"):
            optima.fit(N[one], D[one], lr[one], loss[one])

    def test_a_loss_that_falls_along_the_grid_has_no_optimum(self):
        N, D, lr, _, _ = swept_runs(swept=False)
        with pytest.raises(UnidentifiedError, match="there are 0"):
            optima.fit(N, D, lr, 5 - np.log(lr))
