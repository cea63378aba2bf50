"""Noise schedules, times and their densities, against autograd and against brute force over all masks."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.compile import compile_study
from compiler.plan import Noise, RunPlan, TimePlan
from compiler.records import Metrics
from runtime.training.importance import ByWeights, Learned
from runtime.training.loader import NoisedLoader
from runtime.training.noise import alpha, masked, slope, weight, when
from runtime.training.times import Drawn, Times, levels
from tests.ranks import run_groups
from tests.tiny import STUDY, write_study

Numbers = npt.NDArray[np.float64]

SAMPLINGS = ("lattice", "antithetic", "independent")
IMPORTANCES = ("none", "weight", "learned")


@st.composite
def tables(draw: st.DrawFn) -> Noise:
    """A schedule of straight lines from 1 down to 0."""
    corners = draw(st.integers(0, 5))
    inner = st.sets(st.integers(1, 999), min_size=corners, max_size=corners)
    t, alphas = (sorted(value / 1000 for value in draw(inner)) for _ in range(2))
    return Noise(kind="table", t=(0.0, *t, 1.0), alpha=(1.0, *reversed(alphas), 0.0))


NOISES = (
    st.sampled_from([Noise(kind="linear"), Noise(kind="cosine")])
    | st.floats(0.25, 4).map(lambda power: Noise(kind="polynomial", power=power))
    | st.floats(0, 0.5).map(lambda eps: Noise(kind="log-linear", eps=eps))
    | tables()
)


@given(NOISES, st.sampled_from([torch.float32, torch.float64]))
def test_alpha_is_exact_at_the_ends_and_falls_between(noise: Noise, dtype: torch.dtype) -> None:
    t = torch.linspace(0, 1, 201, dtype=dtype)
    kept = alpha(noise, t)
    assert kept.dtype == dtype
    assert (kept.diff() <= 0).all()
    assert (masked(noise, t).diff() > 0).all()
    end = torch.tensor(noise.eps if noise.kind == "log-linear" else 0.0, dtype=dtype)
    assert torch.equal(kept[[0, -1]], torch.stack([torch.ones((), dtype=dtype), end]))
    assert masked(noise, t)[0] == 0
    torch.testing.assert_close(masked(noise, t), 1 - kept)


@given(NOISES, st.integers(0, 2**31))
def test_slope_and_weight_are_those_of_autograd(noise: Noise, seed: int) -> None:
    drawn = torch.from_numpy(np.random.default_rng(seed).uniform(0.05, 1, 50))
    corners = torch.tensor([*noise.t[1:], 1.0], dtype=torch.float64)
    t = torch.cat([drawn, corners]).requires_grad_()
    kept = alpha(noise, t)
    (steepness,) = torch.autograd.grad(kept.sum(), t)
    torch.testing.assert_close(slope(noise, t), steepness, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weight(noise, t), -steepness / (1 - kept), rtol=1e-6, atol=1e-9)


@given(NOISES, st.floats(-300, -10))
def test_no_digits_are_lost_at_small_times(noise: Noise, exponent: float) -> None:
    t = torch.tensor([10.0**exponent], dtype=torch.float64)
    power = noise.power if noise.kind == "polynomial" else 1.0
    torch.testing.assert_close(weight(noise, t) * t, torch.full_like(t, power), rtol=1e-14, atol=0)
    if masked(noise, t) > 1e-290:
        torch.testing.assert_close(when(noise, masked(noise, t)), t, rtol=1e-11, atol=0)


@given(NOISES)
def test_when_is_the_inverse_of_the_masked_share(noise: Noise) -> None:
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    torch.testing.assert_close(when(noise, masked(noise, t)), t, rtol=1e-7, atol=1e-7)


@given(NOISES)
def test_the_expected_weight_of_a_token_is_the_fall_of_alpha(noise: Noise) -> None:
    """A token is masked with probability 1 - α and then has the weight: over t that is the integral of -α'."""
    nodes, areas = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(64))
    knots = torch.tensor(noise.t or (0.0, 1.0), dtype=torch.float64)
    half = knots.diff()[:, None] / 2
    t = knots[:-1, None] + half * (1 + nodes)
    # A power below 1 has a pole in its slope at 0: integrate over u with t = u^8 instead.
    jacobian = 8 * t**7
    moved = t**8 if noise.kind == "polynomial" else t
    terms = weight(noise, moved) * (1 - alpha(noise, moved))
    total = (half * areas * terms * (jacobian if noise.kind == "polynomial" else 1)).sum()
    ends = alpha(noise, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(total, ends[0] - ends[1], rtol=1e-6, atol=1e-9)


def test_a_table_of_one_line_is_linear() -> None:
    t = torch.tensor([1e-12, 0.3, 1.0], dtype=torch.float64)
    table = Noise(kind="table", t=(0.0, 1.0), alpha=(1.0, 0.0))
    torch.testing.assert_close(alpha(table, t), alpha(Noise(kind="linear"), t), rtol=0, atol=0)
    torch.testing.assert_close(weight(table, t), weight(Noise(kind="linear"), t), rtol=1e-15, atol=0)


def test_unknown_kinds_are_errors(study: RunPlan) -> None:
    t = torch.ones(1)
    for function in (alpha, slope, masked, weight, when):
        with pytest.raises(ValueError, match="unknown noise schedule 'pink'"):
            function(Noise(kind="pink"), t)
    with pytest.raises(ValueError, match="unknown sampling of times 'dice'"):
        levels("dice", 0, 0, np.zeros(1, dtype=np.int64), 1)
    with pytest.raises(ValueError, match="unknown importance of times 'vain'"):
        Times(msgspec.structs.replace(study, time=TimePlan(importance="vain")))


modalities_of_batches = st.lists(st.integers(0, 2), min_size=1, max_size=64).map(np.array)


@given(st.sampled_from(SAMPLINGS), st.integers(0, 1000), modalities_of_batches)
def test_levels_are_in_reach_and_change_with_step_and_seed(sampling: str, step: int, modality: Numbers) -> None:
    u = levels(sampling, 5, step, modality, 3)
    assert ((u > 0) & (u <= 1)).all()
    assert not np.array_equal(u, levels(sampling, 5, step + 1, modality, 3))
    assert not np.array_equal(u, levels(sampling, 6, step, modality, 3))


@given(st.integers(0, 1000), modalities_of_batches)
def test_a_lattice_has_equal_gaps_and_any_stretch_of_it_is_spread(step: int, modality: Numbers) -> None:
    u = levels("lattice", 5, step, modality, 3)
    for m in set(modality.tolist()):
        own = u[modality == m]
        assert np.allclose(np.diff(np.sort(own)), 1 / len(own))
        for size in range(1, len(own)):
            for start in range(len(own) - size + 1):
                # The mean of a stretch is that of all of it, within about one gap of so many even points.
                assert abs(own[start : start + size].mean() - 0.5) < 1.5 / size


@given(st.integers(0, 1000), modalities_of_batches)
def test_antithetic_levels_are_pairs(step: int, modality: Numbers) -> None:
    u = levels("antithetic", 5, step, modality, 3)
    for m in set(modality.tolist()):
        own = u[modality == m]
        pairs = own[: len(own) // 2 * 2].reshape(-1, 2)
        assert np.allclose(pairs.sum(axis=1), 1)
        assert len(set(np.round(pairs[:, 0], 12))) == len(pairs)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_each_level_is_uniform(sampling: str) -> None:
    """Over steps, wherever a sequence stands: mean 1 / 2, variance 1 / 12, and, but for their own batch, alone."""
    modality = np.array([0, 1, 0, 0, 1])
    u = np.stack([levels(sampling, 3, step, modality, 2) for step in range(4000)])
    assert np.abs(u.mean(axis=0) - 0.5).max() < 4 * math.sqrt(1 / 12 / 4000)
    assert np.abs(u.var(axis=0) - 1 / 12).max() < 4 * math.sqrt(1 / 180 / 4000)
    assert np.abs(np.corrcoef(u[:-1].T, u[1:].T)[:5, 5:]).max() < 4 / math.sqrt(4000)
    apart = np.corrcoef(u.T)[0, 1]  # of two modalities
    assert abs(apart) < 4 / math.sqrt(4000)


PARTS = ("image", "text")
SCHEDULES: dict[str, tuple[Noise, Callable[[Numbers], Numbers], Callable[[Numbers], Numbers]]] = {
    # The plan's schedule; the masked share and its slope, written down once more.
    "linear": (Noise(kind="linear"), lambda t: t, np.ones_like),
    "cosine": (
        Noise(kind="cosine"),
        lambda t: np.cos(np.pi / 2 * (1 - t)),
        lambda t: np.pi / 2 * np.sin(np.pi / 2 * (1 - t)),
    ),
    "square": (Noise(kind="polynomial", power=2.0), np.square, lambda t: 2 * t),
    "cube": (Noise(kind="polynomial", power=3.0), lambda t: t**3, lambda t: 3 * t**2),
    "log-linear": (Noise(kind="log-linear", eps=0.01), lambda t: 0.99 * t, lambda t: np.full_like(t, 0.99)),
    "table": (
        Noise(kind="table", t=(0.0, 0.5, 1.0), alpha=(1.0, 0.8, 0.0)),
        lambda t: np.where(t < 0.5, 0.4 * t, 0.2 + 1.6 * (t - 0.5)),
        lambda t: np.where(t < 0.5, 0.4, 1.6),
    ),
}


class SmallModel:
    """Some nats for each masked token of a sequence of four under each of its 16 masks: two tokens of a caption, two of
    an image. No distribution of sequences has these conditionals: what the order of unmasking costs depends on it."""

    masks = np.array(list(itertools.product([False, True], repeat=4)))
    part = np.array([PARTS.index("text")] * 2 + [PARTS.index("image")] * 2)

    def __init__(self, context: float = 1.0) -> None:
        """The more masked tokens, the more nats, by `context`."""
        nats = np.random.default_rng(11).uniform(0.5, 1.5, self.masks.shape)
        nats *= 0.2 + context * self.masks.sum(axis=1, keepdims=True)
        self.nats = np.where(self.masks, nats, 0.0)

    def probabilities(self, share: Numbers) -> Numbers:
        """Of each mask (N, 16), given each token's masked share (N, 4)."""
        return np.where(self.masks, share[:, None], 1 - share[:, None]).prod(axis=2)

    def moments(self, drawn: Drawn) -> tuple[Numbers, Numbers]:
        """Of the loss estimate of a sequence, over all masks, given its time: mean and mean square (N,)."""
        columns = self.part if drawn.share.shape[1] > 1 else np.zeros_like(self.part)
        losses = drawn.weight[:, columns] @ self.nats.T
        probabilities = self.probabilities(drawn.share[:, columns])
        return (probabilities * losses).sum(axis=1), (probabilities * losses**2).sum(axis=1)

    def exact(self, caption: str, image: str) -> float:
        """The objective with these schedules: an integral over t by quadrature, of a sum over all masks."""
        nodes, areas = np.polynomial.legendre.leggauss(40)
        t = np.concatenate([(nodes + 1) / 4, (nodes + 3) / 4])
        share, steepness = (
            np.stack([SCHEDULES[name][which](t) for name in (caption, caption, image, image)], axis=1)
            for which in (1, 2)
        )
        total = np.zeros_like(t)
        for token in range(4):
            # The weight is the slope over the share, and the share is a factor of the probability of such a mask.
            others = np.where(np.arange(4) == token, 1.0, share)
            total += steepness[:, token] * (self.probabilities(others) @ self.nats[:, token])
        return float(np.tile(areas / 4, 2) @ total)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    """A run of two modalities, the first of which are images with captions, of four tokens."""
    run = compile_study(write_study(tmp_path_factory.mktemp("study"))).runs[0]
    assert tuple(part.name for part in run.vocabulary.parts) == tuple(run.modalities) == PARTS
    image = msgspec.structs.replace(run.modalities["image"], mean_tokens=4.0)
    return msgspec.structs.replace(run, modalities=run.modalities | {"image": image})


def times_of(run: RunPlan, caption: str, image: str, sampling: str = "lattice", importance: str = "none") -> Times:
    """Times of a run whose images and their captions have these schedules."""
    noise = SCHEDULES[image][0]
    if caption != image:
        noise = msgspec.structs.replace(noise, segments={"text": SCHEDULES[caption][0]})
    modality = msgspec.structs.replace(run.modalities["image"], noise=noise)
    time = TimePlan(sampling=sampling, importance=importance)
    return Times(msgspec.structs.replace(run, modalities=run.modalities | {"image": modality}, time=time))


def teach(times: Times, model: SmallModel, steps: int = 40, batch: int = 128) -> None:
    """Some steps of training, as far as times are concerned."""
    assert times.learned is not None
    modality = np.zeros(batch, dtype=np.int64)
    rng = np.random.default_rng(0)
    for step in range(steps):
        drawn = times.draw(modality, times.levels(step, modality))
        columns = model.part if drawn.share.shape[1] > 1 else np.zeros(4, dtype=int)
        mask = rng.random((batch, 4)) < drawn.share[:, columns]
        nats = model.nats[mask @ [8, 4, 2, 1]]
        rows, _ = np.nonzero(mask)
        terms = (nats * drawn.weight[:, columns])[mask]
        times.learned.observe(*(torch.from_numpy(part) for part in (terms, rows, modality, drawn.level)))
        times.learned.learn(None)


def expected(times: Times, model: SmallModel) -> float:
    """What the estimate of a sequence is on average: over all masks, and over the uniform number by quadrature."""
    u = (np.arange(20_000) + 0.5) / 20_000
    mean, _ = model.moments(times.draw(np.zeros(len(u), dtype=np.int64), u))
    return float(mean.mean())


COMBINATIONS = [
    *((name, name) for name in SCHEDULES),
    ("linear", "cosine"),
    ("cosine", "linear"),
    ("square", "linear"),
    ("cube", "table"),
    ("log-linear", "square"),
]


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize(("caption", "image"), COMBINATIONS)
def test_the_expected_loss_is_the_objective_of_its_own_schedules(
    study: RunPlan, caption: str, image: str, importance: str
) -> None:
    model = SmallModel()
    times = times_of(study, caption, image, importance=importance)
    if importance == "learned":
        teach(times, model)
    assert expected(times, model) == pytest.approx(model.exact(caption, image), rel=2e-4)


@pytest.mark.parametrize("power", [0.05, 0.1, 0.5, 8.0])
def test_steep_schedules_of_one_segment_bias_neither(power: float) -> None:
    """Weight times masked share is -α', whose mean over times is 1 - α(1), whatever density they are drawn by."""
    noises = [Noise(kind="polynomial", power=power), Noise(kind="linear")]
    levels = (np.arange(200_000) + 0.5) / 200_000
    t, density = ByWeights(noises, 40.0).draw(levels)
    for noise in noises:
        times = torch.from_numpy(t)
        estimates = weight(noise, times) * masked(noise, times) / torch.from_numpy(density)
        assert float(estimates.mean()) == pytest.approx(1.0, abs=2e-3)


def test_equal_schedules_have_one_objective_and_unequal_ones_others() -> None:
    """The equal ones: each mask of k of n tokens has the weight B(k, n - k + 1), whatever the schedule."""
    model = SmallModel()
    counts = model.masks.sum(axis=1)
    diagonal = sum(
        math.factorial(k - 1) * math.factorial(4 - k) / math.factorial(4) * nats.sum()
        for k, nats in zip(counts.tolist(), model.nats, strict=True)
        if k
    )
    for name in set(SCHEDULES) - {"log-linear"}:  # which ends before all is masked
        assert model.exact(name, name) == pytest.approx(diagonal, rel=1e-9)
    assert model.exact("log-linear", "log-linear") < 0.999 * diagonal
    apart = [model.exact(*pair) for pair in COMBINATIONS if pair[0] != pair[1]]
    assert min(abs(one - diagonal) for one in apart) > 0.003 * diagonal
    assert min(abs(a - b) for a, b in itertools.combinations(apart, 2)) > 0.0003 * diagonal


@pytest.mark.parametrize(
    ("caption", "image", "nats"), [("cosine", "cosine", 2.10), ("linear", "square", 2.37), ("square", "linear", 1.83)]
)
@pytest.mark.parametrize("importance", ["none", "weight"])
def test_two_tokens_cost_more_or_less_by_the_path_of_their_schedules(
    study: RunPlan, caption: str, image: str, nats: float, importance: str
) -> None:
    """A caption of 0.8 nats whatever is seen of the image; an image of 2.11 nats without its caption, of 0.49 with it.
    Under linear and square noise the image has its caption a third of the time it needs it, and mirrored two thirds."""
    model = SmallModel()
    model.masks = np.array(list(itertools.product([False, True], repeat=2)))
    model.part = np.array([PARTS.index("text"), PARTS.index("image")])
    model.nats = np.array([[0.0, 0.0], [0.0, 0.49], [0.8, 0.0], [0.8, 2.11]])
    assert expected(times_of(study, caption, image, importance=importance), model) == pytest.approx(nats, rel=1e-4)


def spread(times: Times, model: SmallModel, steps: int = 400, batch: int = 32) -> tuple[float, float, float]:
    """Of the loss estimate of a global batch, over many steps' times and all masks: mean, its standard error, and
    variance."""
    modality = np.zeros(batch, dtype=np.int64)
    u = np.concatenate([times.levels(1000 + step, modality) for step in range(steps)])
    mean, square = (part.reshape(steps, batch) for part in model.moments(times.draw(np.tile(modality, steps), u)))
    of_steps = mean.mean(axis=1)
    of_masks = (square - mean**2).sum(axis=1).mean() / batch**2
    return float(of_steps.mean()), float(of_steps.std() / math.sqrt(steps)), float(of_steps.var() + of_masks)


@pytest.fixture(scope="module")
def variances(study: RunPlan) -> dict[tuple[str, str, str], float]:
    """Of the loss estimate, by schedule, sampling and importance; each estimate is seen to be unbiased first."""
    model = SmallModel()
    found = {}
    for name, sampling, importance in itertools.product(("linear", "cosine", "square", "cube"), SAMPLINGS, IMPORTANCES):
        times = times_of(study, name, name, sampling, importance)
        if importance == "learned":
            teach(times, model)
        mean, error, found[name, sampling, importance] = spread(times, model)
        exact = model.exact(name, name)
        assert abs(mean - exact) < 4 * error + 1e-4 * exact
        assert error < 0.02 * exact
    return found


def test_evenly_spread_times_vary_less(variances: dict[tuple[str, str, str], float]) -> None:
    for (name, sampling, importance), variance in variances.items():
        share = {"lattice": 0.9, "antithetic": 0.99, "independent": 1.0}[sampling]
        assert variance <= share * variances[name, "independent", importance]


def test_important_times_vary_less_and_take_the_schedule_s_place(
    variances: dict[tuple[str, str, str], float],
) -> None:
    def of(name: str, importance: str, sampling: str = "independent") -> float:
        return variances[name, sampling, importance]

    for name in ("linear", "cosine", "square", "cube"):
        assert of(name, "learned") < 0.9 * of(name, "none")
        assert of(name, "learned") < 0.9 * of(name, "weight")
        for importance, sampling in itertools.product(("weight", "learned"), SAMPLINGS):
            assert of(name, importance, sampling) == pytest.approx(of("linear", importance, sampling), rel=0.02)
    for name in ("cosine", "square", "cube"):  # with linear noise the loss weight is as good as even already
        assert of(name, "weight") < 0.8 * of(name, "none")
    for name in ("linear", "cosine", "cube"):  # squares and a lattice: as good already
        assert of(name, "weight", "lattice") < 0.9 * of(name, "none", "lattice")


def test_where_all_tokens_are_alike_the_loss_weight_is_least_variance(study: RunPlan) -> None:
    model = SmallModel()
    model.nats = model.masks.astype(float)
    _, _, best = spread(times_of(study, "linear", "linear", "independent", "weight"), model)
    for name in ("linear", "cosine", "square", "cube"):
        assert best < 0.99 * spread(times_of(study, name, name, "independent", "none"), model)[2]
    learned = times_of(study, "linear", "linear", "independent", "learned")
    untaught = spread(learned, model)[2]
    assert untaught == pytest.approx(best, rel=1e-9)
    teach(learned, model)
    assert spread(learned, model)[2] == pytest.approx(best, rel=0.03)


def test_what_is_learned_depends_on_neither_micro_batches_nor_accidents() -> None:
    rng = np.random.default_rng(3)
    whole, parts = Learned(2), Learned(2)
    for step in range(20):
        modality, level = torch.from_numpy(rng.integers(0, 2, 32)), torch.from_numpy(1 - rng.random(32))
        rows = torch.from_numpy(np.sort(rng.integers(0, 32, 100)))
        terms = torch.from_numpy(rng.exponential(size=100))
        whole.observe(terms, rows, modality, level)
        for first in range(0, 32, 8):
            own = (rows >= first) & (rows < first + 8)
            parts.observe(terms[own], rows[own] - first, modality[first : first + 8], level[first : first + 8])
        if step == 7:  # a sequence whose loss is not a number: the step is left out, the loss itself says so
            whole.learn(None)
            before = parts.densities()
            parts.observe(torch.tensor([math.nan]), torch.tensor([0]), modality[:1], level[:1])
            parts.learn(None)
            assert np.array_equal(parts.densities(), before)
            whole.load_state_dict({name: value.clone() for name, value in parts.state_dict().items()})
        whole.learn(None)
        parts.learn(None)
    np.testing.assert_allclose(parts.densities(), whole.densities(), rtol=1e-12)
    assert np.ptp(whole.densities(), axis=1).min() > 0.1
    np.testing.assert_allclose(whole.densities().mean(axis=1), 1)


def test_no_time_is_starved() -> None:
    """Where hardly any loss is seen, times are still drawn a tenth as often as by loss weight, or more."""
    learned = Learned(1)
    level = torch.linspace(1e-3, 1, 4096, dtype=torch.float64)
    terms = torch.where(level < 0.5, 1e-9, 1.0)
    for _ in range(10):
        learned.observe(terms, torch.arange(4096), torch.zeros(4096, dtype=torch.int64), level)
        learned.learn(None)
    (density,) = learned.densities()
    assert 0.1 <= density.min() < density[:8].max() < 0.25
    assert density[8:] == pytest.approx(1.8, rel=0.05)


@pytest.mark.parametrize(("sampling", "importance"), [*zip(SAMPLINGS, IMPORTANCES, strict=True)])
def test_times_are_those_of_the_global_batch_on_any_ranks(tmp_path: Path, sampling: str, importance: str) -> None:
    run = compile_study(write_study(tmp_path)).runs[0]
    run = msgspec.structs.replace(run, time=TimePlan(sampling=sampling, importance=importance))

    def drawn(ranks: int, micro: int) -> tuple[list[float], list[float]]:
        times, weights = [], []
        for rank, part in itertools.product(range(ranks), range(8 // (ranks * micro))):
            loader = NoisedLoader(
                NoisedLoader.Config(run=run, data_root=tmp_path),
                dp_world_size=ranks,
                dp_rank=rank,
                local_batch_size=micro,
            )
            batch, _ = loader.batch(3, part)
            times.append(batch["time"])
            weights.append(batch["weights"])
        return sorted(torch.cat(times).tolist()), sorted(torch.cat(weights).tolist())

    assert drawn(1, 8) == drawn(2, 2) == drawn(4, 2) == drawn(8, 1)


def train(rank: int, ranks: int, folder: Path) -> None:
    """Train with learned times. One rank then goes on from the first checkpoint a second time, elsewhere."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    run = msgspec.structs.replace(
        run,
        parallel=msgspec.structs.replace(run.parallel, shard=ranks),
        checkpoint=msgspec.structs.replace(run.checkpoint, keep=100),
    )

    def train_in(place: Path) -> None:
        place.mkdir(exist_ok=True)
        trainer = trainer_config(run, place, folder).build()
        trainer.train()
        if rank == 0:
            learned = trainer.dataloader.times.learned
            np.save(place / "densities.npy", learned.densities())
        trainer.close()

    train_in(folder / f"ranks-{ranks}")
    if ranks == 1:
        shutil.copytree(folder / "ranks-1/checkpoint/step-5", folder / "again/checkpoint/step-5")
        train_in(folder / "again")


def rows(place: Path) -> list[Metrics]:
    """A run's rows without what depends on the clock."""
    lines = (place / "metrics.jsonl").read_bytes().splitlines()
    timed = {"tokens_per_second": 0.0, "seconds": 0.0, "data_wait": None, "mfu": None}
    return [msgspec.structs.replace(msgspec.json.decode(line, type=Metrics), **timed) for line in lines]


def test_learned_times_go_on_bit_for_bit_and_are_the_same_on_two_ranks(tmp_path: Path) -> None:
    text = STUDY.replace("axes: []", "").replace("  log_every: 1", "  log_every: 1\n  time: {importance: learned}")
    run = compile_study(write_study(tmp_path, text.replace("physical: 8", "physical: 16, micro: 4"))).runs[0]
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(run, steps=12)))
    run_groups("tests.test_noise:train", [(1,), (2,)], tmp_path)

    calm, again, two = (rows(tmp_path / place) for place in ("ranks-1", "again", "ranks-2"))
    assert [row.step for row in calm] == list(range(1, 13))
    assert again == calm
    for one, other in zip(calm, two, strict=True):
        assert other.tokens == one.tokens
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
        assert other.bands == pytest.approx(one.bands, rel=1e-4)
    densities = [np.load(tmp_path / place / "densities.npy") for place in ("ranks-1", "again", "ranks-2")]
    assert np.ptp(densities[0], axis=1).min() > 0.05
    assert np.array_equal(densities[0], densities[1])
    np.testing.assert_allclose(densities[0], densities[2], rtol=1e-4)
