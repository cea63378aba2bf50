"""The sampler's loop: its distribution against brute force, what it may never do, and what it does not depend on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from compiler.compile import compile_study
from compiler.manifest import load_manifest
from compiler.plan import Noise
from compiler.sampling import Sampler
from runtime.sampling.canvas import Canvas, Painter
from runtime.sampling.fill import fill
from runtime.sampling.network import Network
from runtime.sampling.order import ORDERS
from runtime.sampling.prompts import Ask
from runtime.sampling.rescore import Channel
from runtime.sampling.steps import remaining
from runtime.training.model import model_config
from tests.tiny import write_source

WORDS, CODES = 4, 3
"""Sizes of the two vocabularies."""
LINEAR = Noise(kind="linear")
STUDY = """\
study: tiny
base:
  model: {width: 16, depth: 2, heads: 2}
  modalities: {image: {data: data/image}}
  sequence_length: 16
  tokens: 1K
  batch: {physical: 8}
"""


@dataclass
class Tiny:
    """A model of random weights, and the painter of its sequences."""

    network: Network
    painter: Painter

    def canvas(self, rows: int, target: int, condition: tuple[int, ...] = (1, 3)) -> Canvas:
        """`rows` equal canvases: a condition, and a target of length `target` to fill."""
        words = np.array(condition)
        segments = [[words, np.zeros(target, np.int64)]] * rows
        hidden = [[np.zeros(len(words), bool), np.ones(target, bool)]] * rows
        return self.painter.paint(segments, hidden, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    write_source(folder / "data/image", {"text": WORDS, "image": CODES}, sequences=80)
    (folder / "study.yaml").write_text(STUDY)
    run = compile_study(folder / "study.yaml").runs[0]
    model = model_config(run).build()
    model.to_empty(device="cpu")
    model.init_states(buffer_device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # far from uniform, and not symmetric
                parameter.normal_(0, 0.7, generator=generator)
    return Tiny(Network(model), Painter(run, "image", load_manifest("data/image", folder)))


class BruteForce:
    """The model's own probabilities of a target of `n` codes, state by state, by its forward pass."""

    def __init__(self, tiny: Tiny, n: int, sampler: Sampler) -> None:
        self.tiny, self.n, self.sampler = tiny, n, sampler
        self.start = tiny.canvas(1, n)
        self.first = self.start.ranges[-1][0]
        self.p = cache(self._p)

    def _p(self, state: tuple[int, ...]) -> np.ndarray:
        """(n, CODES): what each open position of a state (-1: open) is drawn from."""
        logits = self._logits(state, self.start.tokens)
        if self.sampler.guidance != 1:
            hidden = np.where(self.start.condition, self.tiny.network.mask, self.start.tokens)
            without = self._logits(state, hidden)
            logits = without + self.sampler.guidance * (logits - without)
        p = torch.softmax(logits / self.sampler.temperature, -1).numpy()
        if self.sampler.top_k:
            p = np.where(p < np.sort(p, axis=1)[:, [-self.sampler.top_k]], 0, p)
        return p / p.sum(1, keepdims=True)

    def _logits(self, state: tuple[int, ...], tokens: np.ndarray) -> torch.Tensor:
        tokens = tokens.copy()
        tokens[self.start.open] = [self.tiny.network.mask if one < 0 else self.first + one for one in state]
        arrays = (tokens, self.start.document, self.start.code_index, np.flatnonzero(self.start.open))
        with torch.no_grad():
            logits = self.tiny.network.model(*map(torch.from_numpy, arrays))
        return logits[:, self.first : self.first + CODES].double()

    def random_order(self) -> dict[tuple[int, ...], float]:
        """One position at a time, in any order, all orders equally likely."""
        found: dict[tuple[int, ...], float] = {}
        for order in itertools.permutations(range(self.n)):
            for outcome in itertools.product(range(CODES), repeat=self.n):
                state, p = [-1] * self.n, 1.0
                for place in order:
                    p *= self.p(tuple(state))[place, outcome[place]]
                    state[place] = outcome[place]
                found[outcome] = found.get(outcome, 0.0) + p / len(list(itertools.permutations(range(self.n))))
        return found

    def surest_first(self) -> dict[tuple[int, ...], float]:
        """Every open position is drawn; the likeliest drawn token is settled, and the rest drawn again."""
        reached = {(-1,) * self.n: 1.0}
        for _ in range(self.n):
            after: dict[tuple[int, ...], float] = {}
            for state, weight in reached.items():
                p, places = self.p(state), [i for i, one in enumerate(state) if one < 0]
                for drawn in itertools.product(range(CODES), repeat=len(places)):
                    chance = np.prod([p[i, token] for i, token in zip(places, drawn, strict=True)])
                    settled = max(zip(places, drawn, strict=True), key=lambda one: p[one])
                    new = tuple(settled[1] if i == settled[0] else one for i, one in enumerate(state))
                    after[new] = after.get(new, 0.0) + weight * float(chance)
            reached = after
        return reached

    def least_entropy_first(self) -> dict[tuple[int, ...], float]:
        """The position of the lowest entropy is drawn."""
        reached = {(-1,) * self.n: 1.0}
        for _ in range(self.n):
            after: dict[tuple[int, ...], float] = {}
            for state, weight in reached.items():
                p = self.p(state)
                entropy = -(p * np.log(p)).sum(1)
                place = min((i for i, one in enumerate(state) if one < 0), key=lambda i: entropy[i])
                for token in range(CODES):
                    new = tuple(token if i == place else one for i, one in enumerate(state))
                    after[new] = after.get(new, 0.0) + weight * p[place, token]
            reached = after
        return reached


N, DRAWN = 3, 6000
EXACT = {
    "ancestral": (Sampler(), BruteForce.random_order),
    "confidence": (Sampler(kind="confidence"), BruteForce.surest_first),
    "entropy-bounded": (Sampler(kind="entropy-bounded", bound=0.0), BruteForce.least_entropy_first),
    "guided": (Sampler(guidance=2.5), BruteForce.random_order),
    "cooler": (Sampler(temperature=0.5, top_k=2, schedule="cosine"), BruteForce.random_order),
}


@pytest.mark.parametrize("name", EXACT)
def test_samples_follow_the_models_distribution(tiny: Tiny, name: str) -> None:
    sampler, enumerate_ = EXACT[name]
    expected = enumerate_(BruteForce(tiny, N, sampler))
    assert sum(expected.values()) == pytest.approx(1)
    canvas = tiny.canvas(DRAWN, N)
    filled = fill(tiny.network, canvas, sampler, LINEAR, 3, np.arange(DRAWN))
    made = filled.tokens[canvas.open].reshape(DRAWN, N) - canvas.ranges[-1][0]
    outcomes = sorted(outcome for outcome, p in expected.items() if p > 0)
    counts = np.array([(made == outcome).all(1).sum() for outcome in outcomes])
    wanted = np.array([expected[outcome] for outcome in outcomes]) * DRAWN
    assert counts.sum() == DRAWN, "an outcome of probability 0 was drawn"
    # The rare outcomes together, as the test wants five of each.
    rare = wanted < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        wanted = np.append(wanted[~rare], wanted[rare].sum())
    assert chisquare(counts, wanted).pvalue > 1e-3


def test_orders_differ_so_that_the_test_can_fail(tiny: Tiny) -> None:
    plain = BruteForce(tiny, N, Sampler())
    a, b, c = plain.random_order(), plain.surest_first(), plain.least_entropy_first()
    guided = BruteForce(tiny, N, Sampler(guidance=2.5)).random_order()
    for one, other in itertools.combinations([a, b, c, guided], 2):
        chi = sum((one[k] - other[k]) ** 2 / one[k] for k in one if one[k] > 0)
        assert chi * DRAWN > 60  # 26 degrees of freedom: a p-value below 2e-4 expected


samplers = st.builds(
    Sampler,
    kind=st.sampled_from(sorted(ORDERS)),
    steps=st.none() | st.integers(1, 12),
    schedule=st.sampled_from(["linear", "cosine", "training"]),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.integers(0, 3),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    gumbel=st.sampled_from([0.0, 1.0]),
    bound=st.sampled_from([0.0, 0.5, 100.0]),
    remask=st.sampled_from([0.0, 0.3]),
    guidance=st.sampled_from([0.0, 1.0, 3.0]),
    ramp=st.sampled_from(["constant", "linear"]),
)


@settings(max_examples=60, deadline=None)
@given(sampler=samplers, lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_every_sampler_fills_all_and_only_what_is_open(
    tiny: Tiny, sampler: Sampler, lengths: list[int], seed: int
) -> None:
    segments = [[np.array([1, 2]), np.zeros(n, np.int64)] for n in lengths]
    hidden = [[np.zeros(2, bool), np.ones(n, bool)] for n in lengths]
    canvas = tiny.painter.paint(segments, hidden, 1)
    filled = fill(tiny.network, canvas, sampler, LINEAR, seed, np.arange(len(lengths)))
    first, last = canvas.ranges[-1]
    made = filled.tokens[canvas.open]
    assert ((made >= first) & (made < last)).all()
    assert (filled.tokens == canvas.tokens)[~canvas.open].all()
    assert np.isfinite(filled.log_p).all()
    per_step = 1 if sampler.guidance == 1 else 2
    most = [n if sampler.steps is None else sampler.steps if sampler.remask else min(n, sampler.steps) for n in lengths]
    assert (filled.calls <= per_step * np.array(most)).all()
    assert (filled.calls >= 1).all()


def test_a_sample_does_not_depend_on_what_else_is_in_the_batch(tiny: Tiny) -> None:
    sampler = Sampler(kind="confidence", steps=4, gumbel=1.0, guidance=2.0, remask=0.2)
    segments = [[np.array([k % WORDS]), np.zeros(3 + k % 5, np.int64)] for k in range(12)]
    hidden = [[np.zeros(1, bool), np.ones(len(target), bool)] for _, target in segments]
    together = tiny.painter.paint(segments, hidden, 1)
    all_ = fill(tiny.network, together, sampler, LINEAR, 5, np.arange(12)).tokens
    for k in range(12):
        alone = tiny.painter.paint(segments[k : k + 1], hidden[k : k + 1], 1)
        one = fill(tiny.network, alone, sampler, LINEAR, 5, np.array([k])).tokens
        assert (one[0][alone.open[0]] == all_[k][together.open[k]]).all()


@given(
    n=st.integers(0, 60),
    steps=st.none() | st.integers(1, 80),
    schedule=st.sampled_from(["linear", "cosine", "training"]),
    noise=st.sampled_from([LINEAR, Noise(kind="cosine"), Noise(kind="polynomial", power=3.0)]),
    remask=st.sampled_from([0.0, 0.5]),
)
def test_schedules_settle_all_and_never_go_back(
    n: int, steps: int | None, schedule: str, noise: Noise, remask: float
) -> None:
    plan = remaining(Sampler(steps=steps, schedule=schedule, remask=remask), n, noise)
    assert plan[0] == n
    assert plan[-1] == 0
    falls = -np.diff(plan)
    assert (falls >= 0).all()
    if steps is None or steps >= n > 0:
        assert remask or (falls == 1).all()
    elif n:
        assert len(falls) == steps
        assert (falls >= 1).all()


def test_the_cosine_schedule_settles_few_at_first() -> None:
    assert remaining(Sampler(steps=4, schedule="cosine"), 100, LINEAR).tolist() == [100, 92, 71, 38, 0]
    assert remaining(Sampler(steps=4), 100, LINEAR).tolist() == [100, 75, 50, 25, 0]
    power = Noise(kind="polynomial", power=2.0)
    assert remaining(Sampler(steps=4, schedule="training"), 100, power).tolist() == [100, 56, 25, 6, 0]


def test_temperature_zero_takes_the_likeliest_whatever_the_seed(tiny: Tiny) -> None:
    canvas = tiny.canvas(8, 4)
    sampler = Sampler(kind="entropy-bounded", temperature=0.0)
    made = fill(tiny.network, canvas, sampler, LINEAR, 1, np.arange(8)).tokens
    assert (made == made[0]).all()


def test_guidance_hides_the_condition_and_nothing_else(tiny: Tiny) -> None:
    canvas = tiny.canvas(1, 4)
    specials = tiny.painter.run.vocabulary.specials
    hidden = canvas.tokens[canvas.condition]
    assert hidden.tolist() == [tiny.painter.run.vocabulary.parts[1].offset + k for k in (1, 3)]
    assert specials["begin:image"] in canvas.tokens[~canvas.condition]
    assert specials["task:image"] == canvas.tokens[0, 0]


def test_a_channel_scores_the_condition_given_the_target_and_the_target_alone(tiny: Tiny) -> None:
    condition, made = np.array([1, 3, 0]), [np.array([0, 2]), np.array([2, 1, 1, 0])]
    asks = [
        Ask(0, "", [condition, np.zeros(len(one), np.int64)], [np.zeros(3, bool), np.ones(len(one), bool)])
        for one in made
    ]
    channel = Channel(tiny.network, tiny.painter, 0, 1)
    found = channel.log_p(asks, made, 1, 0)
    for one, log_p in zip(made, found, strict=True):
        alone = all_at_once(tiny, [condition, one], 1, {0, 1})
        assert log_p == pytest.approx(all_at_once(tiny, [condition, one], 0, {0}) + alone, rel=1e-4)


@torch.no_grad()
def all_at_once(tiny: Tiny, segments: list[np.ndarray], scored: int, hidden: set[int]) -> float:
    """Log p of all tokens of a segment, each by itself, the segments of `hidden` masked."""
    covered = [np.full(len(part), number in hidden) for number, part in enumerate(segments)]
    canvas = tiny.painter.paint([segments], [covered], scored)
    arrays = (canvas.tokens, canvas.document, canvas.code_index, np.flatnonzero(canvas.open))
    first, last = canvas.ranges[scored]
    log_p = torch.log_softmax(tiny.network.model(*map(torch.from_numpy, arrays))[:, first:last], -1)
    own = log_p[: len(segments[0])] if scored == 0 else log_p[-len(segments[1]) :]
    return sum(float(row[token]) for row, token in zip(own, segments[scored], strict=True))
