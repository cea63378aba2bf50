"""One loss curve, whatever the number of processes and however the model is laid over them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import torch
from msgspec.structs import replace

from compiler.compile import compile_study
from compiler.plan import ParallelPlan, RunPlan
from tests.ranks import run_groups
from tests.tiny import STUDY, write_source

STEPS, CHECKPOINT = 4, 2
RESUMED = ", resumed"
ONE, DIVIDED = "one process", "shard 2, tensor 2"
LAYOUTS = {
    ONE: ParallelPlan(),
    "one process, compiled": ParallelPlan(compile=True),
    "shard 2": ParallelPlan(shard=2),
    "replicate 2": ParallelPlan(replicate=2),
    "tensor 2": ParallelPlan(tensor=2),
    "tensor 2, recomputed, compiled": ParallelPlan(tensor=2, activation_checkpoint="full", compile=True),
    "shard 4": ParallelPlan(shard=4),
    "shard 2, replicate 2": ParallelPlan(shard=2, replicate=2),
    DIVIDED: ParallelPlan(shard=2, tensor=2),
    "replicate 2, tensor 2, recomputed": ParallelPlan(replicate=2, tensor=2, activation_checkpoint="full"),
}
BFLOAT16 = {"one process, bfloat16": ParallelPlan(), "shard 2, tensor 2, bfloat16": LAYOUTS[DIVIDED]}


class Curve(NamedTuple):
    """What a run left: rows without what is a layout's own, gradients of the first step and final parameters by name,
    the dtypes of parameters and optimizer states, and how many graphs were compiled."""

    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    gradients: dict[str, torch.Tensor]
    parameters: dict[str, torch.Tensor]
    dtypes: set[torch.dtype]
    graphs: int


def train(rank: int, ranks: int, folder: Path, *names: str) -> None:
    """Train the runs of these folders one after another, and keep what a `Curve` has beside the run's own files. A
    resumed one starts from the checkpoint of another."""
    from runtime.training.trainer import trainer_config

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach().clone()

    for name in names:
        own = folder / name
        if name.endswith(RESUMED) and rank == 0:
            first, place = folder / name.removesuffix(RESUMED), f"checkpoint/step-{CHECKPOINT}"
            shutil.copytree(first / place, own / place)
            shutil.copy(first / "metrics.jsonl", own)
        torch.distributed.barrier()
        run = msgspec.json.decode((own / "run.json").read_bytes(), type=RunPlan)
        config = trainer_config(run, own, folder)
        config.compile.backend = "aot_eager"  # all of torch.compile but the C++ compiler, which takes a minute
        torch._dynamo.utils.counters.clear()
        trainer = config.build()
        model, gradients = trainer.model_parts[0], {}

        def keep(*_unused: Any, model: Any = model, gradients: dict[str, torch.Tensor] = gradients) -> None:
            if not gradients:
                gradients.update((name, whole(parameter.grad)) for name, parameter in model.named_parameters())

        trainer.optimizers.register_step_pre_hook(keep)
        trainer.train()
        parameters = {name: whole(parameter) for name, parameter in model.named_parameters()}
        states = [state for optimizer in trainer.optimizers.optimizers for state in optimizer.state.values()]
        moments = [state[key] for state in states for key in ("exp_avg", "exp_avg_sq")]
        if rank == 0:
            dtypes = {tensor.dtype for tensor in [*model.parameters(), *gradients.values(), *moments]}
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            torch.save((gradients, parameters, dtypes, graphs), own / "tensors.pt")
        trainer.close()


def variant(run: RunPlan, parallel: ParallelPlan, dtype: str) -> RunPlan:
    accumulation = run.batch.physical // (run.batch.micro * parallel.data_ranks)
    assert accumulation > 1
    return replace(run, parallel=parallel, dtype=dtype, batch=replace(run.batch, accumulation=accumulation))


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curve]:
    """All layouts' curves. Two processes cannot have the same number of rows of the vocabulary each."""
    folder = tmp_path_factory.mktemp("parallel")
    write_source(folder / "data/text", {"text": 20}, sequences=80, lengths=(3, 9))
    write_source(folder / "data/image", {"text": 20, "image": 8}, sequences=80)
    text = STUDY.replace("physical: 8", "physical: 16, micro: 2").replace("lr: 1e-2", "lr: 1e-2, clip: 0.3")
    (folder / "study.yaml").write_text(text)
    run = compile_study(folder / "study.yaml").runs[0]
    assert run.vocabulary.size % 2 == 1
    run = replace(
        run,
        steps=STEPS,
        checkpoint=replace(run.checkpoint, every=CHECKPOINT),
        schedule=replace(run.schedule, warmup_steps=2),
    )
    plans = {name: variant(run, parallel, "float32") for name, parallel in LAYOUTS.items()}
    plans |= {name: variant(run, parallel, "bfloat16") for name, parallel in BFLOAT16.items()}
    plans[DIVIDED + RESUMED] = plans[DIVIDED]
    for name, plan in plans.items():
        (folder / name).mkdir()
        (folder / name / "run.json").write_bytes(msgspec.json.encode(plan))
    groups = [(ranks, *(name for name, plan in plans.items() if plan.parallel.ranks == ranks)) for ranks in (1, 2, 4)]
    run_groups("tests.test_parallel:train", groups, folder)
    return {name: read(folder / name) for name in plans}


def read(folder: Path) -> Curve:
    def rows(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / name).read_text().splitlines()]

    # The clock's, and what follows from the micro-batches' lengths.
    own = {"seconds", "tokens_per_second", "data_wait", "mfu", "padding"}
    metrics = [{key: value for key, value in row.items() if key not in own} for row in rows("metrics.jsonl")]
    return Curve(metrics, rows("eval.jsonl"), *torch.load(folder / "tensors.pt", weights_only=True))


def same(row: Any, other: Any, tolerance: float) -> bool:
    """Whether two values of JSON are equal, their numbers to rounding."""
    if isinstance(row, dict):
        return row.keys() == other.keys() and all(same(row[key], other[key], tolerance) for key in row)
    if isinstance(row, list):
        return len(row) == len(other) and all(same(*pair, tolerance) for pair in zip(row, other, strict=True))
    return bool(row == (pytest.approx(other, rel=tolerance) if isinstance(other, float) else other))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != ONE])
def test_every_layout_has_the_same_curve(curves: dict[str, Curve], layout: str) -> None:
    one, other = curves[ONE], curves[layout]
    assert [row["step"] for row in one.metrics] == list(range(1, STEPS + 1))
    assert min(row["grad_norm"] for row in one.metrics) > 0.3  # every step is clipped
    assert same(other.metrics, one.metrics, 1e-5)
    assert same(other.evaluations, one.evaluations, 1e-5)
    for name, gradient in one.gradients.items():
        assert torch.allclose(other.gradients[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max()), name
        assert other.parameters[name].shape == one.parameters[name].shape


def test_blocks_and_loss_are_compiled_a_few_times_whatever_the_lengths(curves: dict[str, Curve]) -> None:
    for name, curve in curves.items():
        if LAYOUTS.get(name, ParallelPlan()).compile:
            # Of one length and of any, with gradients and without.
            assert 3 <= curve.graphs <= 8, name
        else:
            assert curve.graphs == 0, name


def test_a_divided_model_resumes_bit_for_bit(curves: dict[str, Curve]) -> None:
    calm, resumed = curves[DIVIDED], curves[DIVIDED + RESUMED]
    assert resumed.metrics == calm.metrics
    assert resumed.evaluations == calm.evaluations[-len(resumed.evaluations) :]
    assert all(torch.equal(resumed.parameters[name], calm.parameters[name]) for name in calm.parameters)


@pytest.mark.parametrize("layout", BFLOAT16)
def test_bfloat16_has_float32_master_weights_and_nearly_the_same_curve(curves: dict[str, Curve], layout: str) -> None:
    exact, low = curves[ONE], curves[layout]
    assert low.dtypes == {torch.float32}
    losses, reference = ([row["loss"] for row in curve.metrics] for curve in (low, exact))
    assert losses == pytest.approx(reference, rel=0.01)
    assert losses != pytest.approx(reference, rel=1e-5)  # it was computed in bfloat16
