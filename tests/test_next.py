"""What to run next: the optimum for a budget, and the runs that narrow the law, on studies whose law is known."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from compiler.compile import compile_study
from compiler.plan import RunPlan
from compiler.records import MIX
from compiler.source import Source
from specs.errors import SpecError
from studies.analysis.design import Candidates, NoDesignError, Target, design, jacobian, optimum_gradient
from studies.analysis.family import SingleSizeError, family_of
from studies.analysis.laws.chinchilla import fit
from studies.analysis.laws.chinchilla_law import NAMES, Law, predict
from studies.analysis.next_cli import run_next
from studies.analysis.next_study import Next, advise
from studies.analysis.prescription import UnreadyError
from studies.analysis.results import Study, read_study
from tests.compiling import PIXELS, WORDS, compile_data, manifest, study
from tests.experiments import Loss, bent, finished

LAW = Law(E=2.4, A=30.0, B=700.0, alpha=0.36, beta=0.45)
WIDTHS = [{"model.width": width, "model.heads": width // 8} for width in (16, 24, 32, 48, 64)]
ISOFLOP = {"isoflop": {"flops": [3e10, 1e11, 3e11, 1e12], "sizes": WIDTHS}}
TRANSFER = {"base": {"width": 32, "depth": 2, "heads": 4, "batch": 8, "tokens": "200K"}, "gamma": 0.5}
SOURCES = {
    "prose": manifest("prose", True, (WORDS,), sequences=4000, tokens=2_000_000, longest=900),
    "pictures": manifest("pictures", False, (WORDS, PIXELS), sequences=90_000, tokens=1_845_000, longest=25),
}
"""Seen less than 4 times by every run of the study."""


def by_law(run: RunPlan, modality: str) -> float:
    return float(LAW(run.model.parameters.non_embedding, run.tokens))


@dataclass(frozen=True)
class Made:
    """A study's folder with results, and the folder of its file and data."""

    folder: Path
    home: Path

    @property
    def read(self) -> Study:
        return read_study(self.folder)

    def advise(self, budget: float, **how: Any) -> Next:
        return advise(self.read, budget, **{"bootstrap": 50, "runs": 0, **how})


def written(home: Path, data: dict[str, Any]) -> Path:
    home.mkdir(parents=True)
    for name, one in SOURCES.items():
        (home / "data" / name).mkdir(parents=True)
        (home / "data" / name / "manifest.json").write_bytes(msgspec.json.encode(one))
    file = home / "study.yaml"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1))
    return file


def made(at: Path, axes: list[dict[str, Any]], loss: Loss = by_law, noise: float = 0.002, **base: Any) -> Made:
    """A study of the two small sources that ended as `loss` says, as `triptych run` leaves it."""
    modalities = {
        "text": {"weight": 1, "data": "data/prose"},
        "image": {"weight": 1, "data": "data/pictures", "noise": "cosine"},
    }
    settings = {"modalities": modalities, "batch__physical": 4, "transfer": TRANSFER, **base}
    data = study(**settings) | {"axes": axes}
    file = written(at / "home", data)
    plan = compile_study(file)
    finished(plan.runs, loss, noise=noise, out=at / "runs")
    folder = at / "runs" / "tiny"
    shutil.copy(file, folder / "study.yaml")
    source = Source(file=str(file), overrides=(), digest=plan.digest)
    (folder / "source.json").write_bytes(msgspec.json.encode(source))
    return Made(folder, file.parent)


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """IsoFLOP budgets over five widths, of a law with a noise of 0.002 nats."""
    return made(tmp_path_factory.mktemp("scaling"), [ISOFLOP])


@pytest.fixture(scope="module")
def advice(scaling: Made) -> Next:
    """The optimum for ten times the largest run, and a design."""
    return scaling.advise(1e13, bootstrap=200, runs=10)


# The prescription.


def test_the_optimum_is_the_law_s_own(tmp_path: Path) -> None:
    exact = made(tmp_path, [ISOFLOP], noise=0.0)
    found = exact.advise(1e13)
    widths = [{"model.width": width, "model.heads": width // 8} for width in range(8, 400, 8)]
    axes = [{"isoflop": {"flops": [1e13], "sizes": widths}}]
    others = compile_study(_beside(exact.home, json.loads((exact.home / "study.yaml").read_text()) | {"axes": axes}))
    best = min(others.runs, key=lambda run: by_law(run, MIX))
    assert found.prescription.best.width == best.model.width
    assert found.prescription.best.tokens == pytest.approx(best.tokens, rel=1e-4)
    assert found.prescription.best.loss == pytest.approx(by_law(best, MIX), abs=1e-4)


def _beside(home: Path, data: dict[str, Any]) -> Path:
    file = home / "other.yaml"
    file.write_bytes(msgspec.json.encode(data))
    return file


def test_the_file_plans_and_spends_the_budget(advice: Next, scaling: Made) -> None:
    plan = compile_study(Path(advice.file))
    [run] = plan.runs
    assert plan.study == "tiny-next"
    assert Path(advice.file).parent == scaling.home  # where data/prose lies
    assert 0.99 * 1e13 < run.flops <= 1e13
    assert run.flops == advice.run.flops
    best = advice.prescription.best
    assert (run.model.width, run.model.depth, run.model.heads) == (best.width, 2, best.width // 8)
    assert run.model.parameters.non_embedding == best.N
    # All else is the study's.
    old = scaling.read.plan.runs[0]
    assert (run.schedule.kind, run.optimizer.betas, run.sequence_length) == ("cosine", run.optimizer.betas, 32)
    assert {n: p.weight for n, p in run.modalities.items()} == {n: p.weight for n, p in old.modalities.items()}
    assert run.batch.logical == pytest.approx(8 * (run.tokens / 2e5) ** 0.5)


def test_comments_say_where_numbers_come_from(advice: Next) -> None:
    text = Path(advice.file).read_text()
    assert "1e+13 FLOPs" in text
    assert f"{advice.prescription.runs} finished runs" in text
    lines = text.splitlines()
    for key in ("model:", "tokens:", "batch:"):
        place = next(k for k, line in enumerate(lines) if line.startswith(f"  {key}"))
        assert lines[place - 1].lstrip().startswith("#")


def test_intervals_hold_the_truth_and_say_how_far_it_is(advice: Next, scaling: Made) -> None:
    found = advice.prescription
    best = found.best
    for interval, value in ((found.N_interval, best.N), (found.tokens_interval, best.tokens)):
        assert interval is not None
        assert interval[0] <= value <= interval[1]
    assert found.loss_interval is not None
    assert found.run_interval is not None
    assert found.loss_interval[0] <= float(LAW(best.N, best.tokens)) <= found.loss_interval[1]
    assert found.run_interval[0] <= found.loss_interval[0] < found.loss_interval[1] <= found.run_interval[1]
    largest = max(scaling.read.plan.runs, key=lambda run: run.flops)
    assert found.beyond.flops == pytest.approx(1e13 / largest.flops)


def test_intervals_narrow_with_less_noise(tmp_path: Path, advice: Next) -> None:
    quiet = made(tmp_path, [ISOFLOP], noise=0.0002).advise(1e13, bootstrap=200).prescription

    def width(found: Any) -> float:
        return math.log(found.loss_interval[1] / found.loss_interval[0])

    assert width(quiet) < width(advice.prescription) / 3


def test_tokens_count_the_head_and_attention(advice: Next) -> None:
    # 6 N D with N without embeddings leaves most of a small model's cost out.
    assert advice.prescription.best.tokens < 0.8 * advice.prescription.six_nd


def test_more_epochs_than_four_are_told_with_what_stays_below(scaling: Made, advice: Next) -> None:
    often = scaling.advise(1e14, out=scaling.home / "often.yaml")
    assert max(often.run.epochs.values()) > 4
    assert often.fresh is not None
    assert often.fresh.tokens <= often.run.tokens * 4 / max(often.run.epochs.values()) * 1.001
    assert often.fresh.N > often.prescription.best.N
    assert often.fresh.loss > often.prescription.best.loss
    assert any("2305.16264" in said for said in often.warnings)
    assert max(advice.run.epochs.values()) < 4
    assert advice.fresh is None
    assert not any("2305.16264" in said for said in advice.warnings)


def test_a_budget_within_what_was_run_warns_of_nothing_far(scaling: Made, tmp_path: Path) -> None:
    near = scaling.advise(5e11, out=scaling.home / "near.yaml").warnings
    far = scaling.advise(1e15, out=scaling.home / "far.yaml").warnings
    assert not any("times the largest run" in said for said in near)
    assert any("1e+03 times the largest run" in said for said in far)


def test_a_law_that_fails_its_own_largest_runs_is_in_doubt(tmp_path: Path, advice: Next) -> None:
    def dropping(run: RunPlan, modality: str) -> float:
        return by_law(run, modality) * (0.97 if run.flops > 5e11 else 1.0)

    wrong = made(tmp_path, [ISOFLOP], dropping).advise(1e13, bootstrap=100)
    assert wrong.prescription.tested is not None
    assert wrong.prescription.tested.bias == pytest.approx(0.03, abs=0.015)
    assert any("largest compute" in said for said in wrong.warnings)
    right = advice.prescription.tested
    assert right is not None
    assert abs(right.bias) < 0.01
    assert not any("largest compute" in said for said in advice.warnings)


def test_seeds_and_what_axes_hold_come_along(tmp_path: Path) -> None:
    axes = [ISOFLOP, {"grid": {"optimizer.lr": [7e-3]}}, {"seeds": 2}]
    found = made(tmp_path, axes).advise(1e12)
    [run] = compile_study(Path(found.file)).runs
    study_lr = run.optimizer.lr / math.sqrt(run.batch.kappa)
    assert study_lr == pytest.approx(7e-3)
    assert run.seed == 0


def test_the_law_is_of_the_best_of_what_else_is_varied(tmp_path: Path) -> None:
    def loss(run: RunPlan, modality: str) -> float:
        return by_law(run, modality) * (1.0 if run.point["optimizer.lr"] == 7e-3 else 1.05)

    axes = [ISOFLOP, {"grid": {"optimizer.lr": [6e-3, 7e-3]}}]
    found = made(tmp_path, axes, loss).advise(1e12)
    best = found.prescription.best
    assert found.prescription.runs == 20
    assert best.loss == pytest.approx(float(LAW(best.N, best.tokens)), rel=0.01)
    assert any("varies optimizer.lr" in said for said in found.warnings)
    assert any("best setting" in said for said in found.warnings)
    [run] = compile_study(Path(found.file)).runs
    assert run.optimizer.lr / math.sqrt(run.batch.kappa) == pytest.approx(7e-3)  # the base has none of its own


def test_values_decide_which_loss_is_least(tmp_path: Path) -> None:
    # Images' loss falls with size alone, text's with tokens alone.
    laws = {
        "text": Law(E=2.0, A=0.5, B=900.0, alpha=0.3, beta=0.5),
        "image": Law(E=2.0, A=40.0, B=5.0, alpha=0.35, beta=0.3),
    }

    def loss(run: RunPlan, modality: str) -> float:
        return float(laws[modality](run.model.parameters.non_embedding, run.tokens))

    study_made = made(tmp_path, [ISOFLOP], loss, noise=0.0005)
    by = {
        name: study_made.advise(1e13, values={name: 1.0}, out=study_made.home / f"{name}.yaml").prescription
        for name in laws
    }
    assert by["text"].best.N < by["image"].best.N / 2
    best = by["image"].best
    assert best.loss == pytest.approx(float(laws["image"](best.N, best.tokens)), rel=0.01)


def test_the_mix_is_the_one_of_least_weighted_loss(tmp_path: Path) -> None:
    simplex = {"simplex": {"parts": 8, "min": {"text": 0.125, "image": 0.125}}}

    def loss(run: RunPlan, modality: str) -> float:
        share = run.modalities[modality].weight
        best = {"text": 0.75, "image": 0.25}[modality]
        return by_law(run, modality) + 0.5 * (share - best) ** 2

    tokens = {"grid": {"tokens": [2e5, 6e5, 1.8e6]}}
    mixed = made(tmp_path, [{"list": WIDTHS[::2]}, tokens, simplex], loss, noise=0.001)
    found = mixed.advise(1e12)
    mix = found.prescription.mix
    assert mix.chosen
    assert mix.weights["text"] == pytest.approx(0.75, abs=0.1)
    low, high = mix.intervals["text"]
    assert low <= mix.weights["text"] <= high
    [run] = compile_study(Path(found.file)).runs
    assert run.modalities["text"].weight == pytest.approx(mix.weights["text"], abs=1e-3)
    assert run.flops == pytest.approx(1e12, rel=0.01)


def test_the_batch_follows_the_study_s_own_gamma(tmp_path: Path) -> None:
    sizes = {"list": [{"model.width": w, "model.heads": w // 8} for w in (32, 48, 64)]}
    sweep = {"grid": {"batch.logical": [4, 8, 16, 32, 64]}}
    tokens = {"grid": {"tokens": [1e5, 2e5, 4e5]}}
    swept = made(tmp_path, [sizes, tokens, sweep], bent(0.5), noise=0.002)
    # The law of such runs is flat in N: enough is that the batch is of the fitted γ.
    found = swept.advise(1e12)
    batch = found.prescription.batch
    assert batch.gamma == pytest.approx(0.5, abs=0.1)
    assert batch.interval is not None
    assert batch.logical is not None
    assert found.run.logical == pytest.approx(batch.logical, rel=1e-3)
    assert found.run.logical == pytest.approx(12 * (found.run.tokens / 1e5) ** batch.gamma, rel=0.3)


def test_a_study_of_depths_gets_a_depth(tmp_path: Path) -> None:
    budgets = {"isoflop": {"flops": [1e12, 3e12, 1e13], "sizes": [{"model.depth": depth} for depth in (1, 2, 3, 4)]}}
    transfer = {"base": {"depth": 2, "batch": 8, "tokens": "200K"}, "gamma": 0.5}
    deep = made(tmp_path, [budgets], model={"depth": 2}, transfer=transfer)
    found = deep.advise(1e14)
    assert list(found.prescription.best.model) == ["depth"]
    [run] = compile_study(Path(found.file)).runs
    assert run.model.width == 128 * run.model.depth
    assert run.flops == pytest.approx(1e14, rel=0.01)


# The family.


def shapes_of(axes: list[dict[str, Any]], **base: Any) -> list[tuple[int, int, int, int]]:
    data = study(**base)
    data["axes"] = axes
    keys = {*data["base"]["model"], *(path.partition(".")[2] for axis in axes for path in _paths(axis))}
    runs = compile_data(data).runs
    family = family_of(runs, keys, "non_embedding", 1.0)
    assert np.all(np.diff(family.N) > 0)
    mine = {(run.model.width, run.model.depth, run.model.heads, run.model.ffn) for run in runs}
    found = [(shape.width, shape.depth, shape.heads, shape.ffn) for shape in family.shapes]
    assert mine <= set(found)  # the study's own shapes belong to it
    return found


def _paths(axis: dict[str, Any]) -> list[str]:
    inside = next(iter(axis.values()))
    return [path for one in (inside if isinstance(inside, list) else [inside]) for path in one]


def test_width_varies_at_fixed_depth_with_heads_of_one_dimension() -> None:
    found = shapes_of([{"list": WIDTHS}], model__depth=3)
    assert all(depth == 3 and width == 8 * heads for width, depth, heads, _ in found)
    assert [width for width, *_ in found[:4]] == [8, 16, 24, 32]
    assert found[-1][0] > 100_000


def test_width_follows_depth_where_it_does_in_the_runs() -> None:
    found = shapes_of([{"grid": {"model.depth": [2, 3, 5]}}], model={"depth": 2})
    assert [(width, depth) for width, depth, *_ in found[:4]] == [(128, 1), (256, 2), (384, 3), (512, 4)]


def test_depth_varies_at_fixed_width() -> None:
    found = shapes_of([{"grid": {"model.depth": [2, 4, 8]}}])
    assert [(width, depth) for width, depth, *_ in found[:3]] == [(64, 1), (64, 2), (64, 3)]


def test_the_number_of_heads_stays_where_the_runs_keep_it() -> None:
    found = shapes_of([{"grid": {"model.width": [32, 64, 96]}}], model__heads=4)
    assert all(heads == 4 for _, _, heads, _ in found)


def test_heads_divide_over_tensor_parallel_processes() -> None:
    axes = [{"list": [{"model.width": width, "model.heads": width // 8} for width in (32, 64, 96)]}]
    found = shapes_of(axes, parallel__tensor=2)
    assert all(heads % 2 == 0 for _, _, heads, _ in found)


def test_one_size_is_no_family() -> None:
    runs = compile_data(study()).runs
    with pytest.raises(SingleSizeError):
        family_of(runs, ["width", "depth"], "non_embedding", 1.0)


# The design.


def test_the_gradients_are_those_of_finite_differences() -> None:
    def theta(law: Law) -> list[float]:
        return [math.log(law.E), math.log(law.A), math.log(law.B), law.alpha, law.beta]

    def moved(k: int, by: float) -> Law:
        e, a, b, alpha, beta = (value + by * (i == k) for i, value in enumerate(theta(LAW)))
        return Law(E=math.exp(e), A=math.exp(a), B=math.exp(b), alpha=alpha, beta=beta)

    slope, budget = 0.7, 1e12

    def tokens(N: Any) -> Any:
        return budget * np.asarray(N) ** -slope

    def best(law: Law) -> float:
        x = np.linspace(math.log(1e2), math.log(1e12), 2_000_001)
        return float(x[np.argmin(law(np.exp(x), tokens(np.exp(x))))])

    N = math.exp(best(LAW))
    losses, optima = [], []
    for k in range(5):
        up, down = moved(k, 1e-2), moved(k, -1e-2)
        losses.append((math.log(up(3e4, 1e6)) - math.log(down(3e4, 1e6))) / 2e-2)
        optima.append((best(up) - best(down)) / 2e-2)
    assert jacobian(LAW, [3e4], [1e6])[0] == pytest.approx(losses, rel=2e-2, abs=1e-4)
    found = optimum_gradient(LAW, Target(N, float(tokens(N)), slope))
    assert found == pytest.approx(optima, rel=5e-2, abs=1e-2)


@dataclass(frozen=True)
class Trial:
    """One law fitted to a first study, and what further runs of one cost do for it."""

    widths: dict[str, float]
    errors: dict[str, float]
    expected: float
    costs: dict[str, float]


TARGET_FLOPS = 3e13
_SHAPES = np.geomspace(1e3, 1e8, 1500)


def optimum(laws: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return _SHAPES[predict(laws, _SHAPES, TARGET_FLOPS / (6 * _SHAPES)).argmin(axis=1)]


def trial(seed: int) -> Trial:
    rng = np.random.default_rng(seed)
    noise = 0.005
    N, D = (v.ravel() for v in np.meshgrid([2e4, 5e4, 1.2e5, 3e5], [2e5, 4e5, 8e5, 1.6e6]))
    loss = LAW(N, D) * np.exp(rng.normal(0, noise, len(N)))
    first = fit(N, D, loss, 40, seed)
    more = [v.ravel() for v in np.meshgrid(np.geomspace(2e4, 9e5, 12), np.geomspace(2e5, 4.8e6, 12))]
    candidates = Candidates(more[0], more[1], 6 * more[0] * more[1])
    own = np.array([[getattr(first.law, name) for name in NAMES]])
    best = float(optimum(own)[0])
    aim = Target(best, TARGET_FLOPS / (6 * best), 1.0)
    budget = float((6 * N * D).sum())
    made_design = design(first.law, N, D, noise, aim, candidates, budget, 10, first.samples, optimum(first.samples))
    random: list[int] = []
    left = budget
    while len(random) < 10 and np.any(candidates.flops <= left):
        random.append(int(rng.choice(np.flatnonzero(candidates.flops <= left))))
        left -= candidates.flops[random[-1]]

    widths, errors, costs = {}, {}, {}
    chosen = {"none": [], "design": list(made_design.chosen), "grid": list(made_design.grid), "random": random}
    for name, places in chosen.items():
        n, d = np.r_[N, candidates.N[places]], np.r_[D, candidates.D[places]]
        seen = LAW(n[len(N) :], d[len(N) :]) * np.exp(np.random.default_rng(900 + seed).normal(0, noise, len(places)))
        again = fit(n, d, np.r_[loss, seen], 40, seed, near=first.law) if places else first
        low, high = again.band([aim.N], [aim.D])
        widths[name] = math.log(high[0] / low[0])
        errors[name] = math.log(again.law(aim.N, aim.D) / LAW(aim.N, aim.D))
        costs[name] = float(candidates.flops[places].sum()) / budget
    return Trial(widths, errors, made_design.narrowed.loss, costs)


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return [trial(seed) for seed in range(20)]


def test_a_design_narrows_more_than_a_grid_or_chance_at_the_same_cost(trials: list[Trial]) -> None:
    width = {name: float(np.median([one.widths[name] for one in trials])) for name in trials[0].widths}
    error = {name: float(np.sqrt(np.mean([one.errors[name] ** 2 for one in trials]))) for name in width}
    assert all(cost <= 1 + 1e-9 for one in trials for cost in one.costs.values())
    assert width["design"] < 0.55 * width["none"]
    assert width["design"] < 0.85 * min(width["grid"], width["random"])
    assert error["design"] < 0.8 * error["none"]
    assert error["design"] < min(error["grid"], error["random"])


def test_a_design_does_what_it_was_expected_to(trials: list[Trial]) -> None:
    reached = float(np.median([one.widths["design"] / one.widths["none"] for one in trials]))
    expected = float(np.median([one.expected for one in trials]))
    assert expected == pytest.approx(reached, rel=0.4)


def test_a_design_keeps_to_its_budget_and_number_of_runs() -> None:
    N, D = (v.ravel() for v in np.meshgrid([1e4, 3e4, 9e4], [1e5, 3e5, 9e5]))
    candidates = Candidates(N, D, 6 * N * D)
    for budget, runs in ((1e11, 3), (5e11, 8), (6e9, 8)):
        found = design(LAW, N, D, 0.01, Target(1e5, 1e7, 1.0), candidates, budget, runs)
        assert len(found.chosen) <= runs
        assert found.narrowed.flops <= budget
        assert found.narrowed.loss <= 1
        assert max(found.chosen.count(place) for place in found.chosen) <= 3
    with pytest.raises(NoDesignError, match="cheapest"):
        design(LAW, N, D, 0.01, Target(1e5, 1e7, 1.0), candidates, 5e9, 3)


def test_the_design_is_a_study_of_new_runs(advice: Next, scaling: Made) -> None:
    assert advice.design is not None
    plan = compile_study(Path(advice.design.file))
    assert plan.study == "tiny-design"
    assert len(plan.runs) == sum(len(one.seeds) for one in advice.design.runs) <= 10
    assert plan.totals.flops <= advice.design.design.budget
    assert plan.totals.flops > 0.8 * advice.design.design.budget
    old = scaling.read.plan
    assert not {run.id for run in plan.runs} & {run.id for run in old.runs}
    widths = [run.model.width for run in old.runs]
    assert all(run.model.width >= min(widths) and run.model.heads * 8 == run.model.width for run in plan.runs)
    assert all(epochs <= 4.01 for run in plan.runs for epochs in run.epochs.values())
    assert {run.batch.physical for run in plan.runs} == {4}
    narrowed, grid = advice.design.design.narrowed, advice.design.design.grid_narrowed
    assert narrowed.loss < grid.loss
    now, then = advice.prescription.loss_interval, advice.design.loss_after
    assert now is not None
    assert then is not None
    assert now[0] < then[0] < then[1] < now[1]


# The command.


def test_the_command_prints_what_it_wrote(scaling: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scaling.home / "sub" / ".." / "printed.yaml"
    assert run_next(scaling.folder, "1e12", out=out, bootstrap=30, runs=4) == 0
    printed = capsys.readouterr().out
    assert "1e+12 FLOPs" in printed
    assert "printed.yaml" in printed
    assert "even grid" in printed
    assert run_next(scaling.folder, 1e12, out=out, bootstrap=30, runs=4, overwrite=True, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prescription"]["budget"] == 1e12
    assert found["run"]["flops"] == pytest.approx(1e12, rel=0.01)
    assert found["design"]["design"]["narrowed"]["loss"] < 1


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "many", "1e31", "1e3"])
def test_a_budget_that_is_none_is_one_clear_error(
    scaling: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: str
) -> None:
    out = tmp_path / "next.yaml"
    assert run_next(scaling.folder, budget, out=out, bootstrap=10) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("command line:1: --budget: ")
    assert "; " in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("values", [["video=1"], ["text"], ["text=x"], ["text=-1"], ["text=0"], ["text=1", "text=2"]])
def test_a_value_that_is_none_is_one_clear_error(
    scaling: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], values: list[str]
) -> None:
    assert run_next(scaling.folder, "1e12", values, out=tmp_path / "next.yaml", bootstrap=10, as_json=True) == 2
    [error] = json.loads(capsys.readouterr().out)["errors"]
    assert error["path"] == "--value"
    assert error["todo"]


def test_a_file_is_not_written_over(scaling: Made, capsys: pytest.CaptureFixture[str]) -> None:
    out = scaling.home / "mine.yaml"
    for taken in (out, scaling.home / "mine-design.yaml"):
        taken.write_text("mine")
        assert run_next(scaling.folder, "1e12", out=out, bootstrap=10) == 2
        assert f"{taken}:1: --out: there is a file" in capsys.readouterr().err
        assert taken.read_text() == "mine"
        taken.unlink()
        assert not out.exists()


def test_a_file_away_from_its_data_is_refused_with_where_they_lie(
    scaling: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_next(scaling.folder, "1e12", out=tmp_path / "away.yaml", bootstrap=10) == 2
    error = capsys.readouterr().err
    assert str(scaling.home) in error
    assert "--out" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("axes", "loss", "said"),
    [
        ([ISOFLOP], lambda run, modality: None, "no run of the study has finished yet"),
        ([{"grid": {"tokens": [1e5, 2e5, 3e5]}}, {"seeds": 2}], by_law, "three sizes"),
        ([{"list": WIDTHS}, {"seeds": 2}], by_law, "3 different token counts"),
        ([ISOFLOP], lambda run, modality: by_law(run, modality) if run.flops < 4e10 else None, "let the other"),
    ],
)
def test_results_that_determine_no_law_are_one_clear_error(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    axes: list[dict[str, Any]],
    loss: Callable[[RunPlan, str], float | None],
    said: str,
) -> None:
    poor = made(tmp_path, axes, loss)
    assert run_next(poor.folder, "1e12", bootstrap=10) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{poor.folder}:1: results: ")
    assert said in line
    with pytest.raises(UnreadyError), contextlib.suppress(SpecError):
        poor.advise(1e12)
