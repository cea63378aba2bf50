"""The head in chunks of positions, against the plain head: same loss, same gradients, no whole logits."""

from __future__ import annotations

# The platform is told before torchtitan is imported.
import runtime.training  # noqa: F401

# isort: split
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from compiler.compile import compile_study
from compiler.plan import RunPlan
from runtime.training import head as head_module
from runtime.training.head import Head, Scores, Targets, chunked_scores
from runtime.training.objective import MaskedDiffusionLoss
from tests.ranks import run_ranks
from tests.tiny import STUDY, write_study

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def problem(scored: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    """Hidden states, a head's weight and targets, with weights as far apart as those of 1 / t."""
    generator = torch.Generator().manual_seed(scored + 100 * width + 1000 * vocabulary)
    hidden = torch.randn(scored, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64) / width**0.5
    labels = torch.randint(vocabulary, (scored,), generator=generator)
    weights = 1 / torch.rand(scored, generator=generator).clamp(min=1e-3)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), Targets(labels, weights)


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Weighted cross-entropies, as one would write them."""
    return targets.weights * F.cross_entropy(F.linear(hidden, weight).double(), targets.labels, reduction="none")


def distance(a: torch.Tensor, b: torch.Tensor, scale: float | None = None) -> float:
    """Of two tensors, in units of `scale`, or of what they measure themselves."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm()) / (scale or float(b.norm()))


@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(2, 60),
    st.integers(1, 45),
    st.sampled_from(list(TOLERANCE)),
)
@settings(max_examples=60, deadline=None)
def test_chunks_give_the_loss_and_gradients_of_the_plain_head(
    scored: int, width: int, vocabulary: int, rows: int, dtype: torch.dtype
) -> None:
    hidden, weight, targets = problem(scored, width, vocabulary, dtype)
    exact_hidden, exact_weight = (leaf.detach().double().requires_grad_() for leaf in (hidden, weight))
    terms = plain(exact_hidden, exact_weight, targets)
    (terms.sum() / 7).backward()
    scores = chunked_scores(hidden, weight, targets, rows)
    (scores.total / 7).backward()

    tolerance = TOLERANCE[dtype]
    assert not scores.terms.requires_grad
    # A token that is all but certain has next to no loss and gradient, but rounds as others do.
    unit = float(targets.weights.norm())
    size = unit * (1 + float(F.linear(exact_hidden, exact_weight).detach().abs().max()))
    assert distance(scores.terms, terms, size) < tolerance
    assert distance(scores.total, terms.sum(), scored**0.5 * size) < tolerance
    for leaf, exact, other in ((hidden, exact_hidden, exact_weight), (weight, exact_weight, exact_hidden)):
        assert leaf.grad is not None
        assert exact.grad is not None
        assert leaf.grad.dtype == dtype
        assert distance(leaf.grad, exact.grad, unit * float(other.detach().norm())) < tolerance


def test_without_gradients_chunks_give_the_same_terms() -> None:
    hidden, weight, targets = problem(20, 8, 30, torch.float32)
    with torch.no_grad():
        scores = chunked_scores(hidden, weight, targets, 6)
    assert not scores.total.requires_grad
    assert distance(scores.terms, plain(hidden, weight, targets)) < 1e-6


def test_gradients_are_handed_over_once() -> None:
    scores = chunked_scores(*problem(5, 4, 6, torch.float32), rows=2)
    scores.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gone after one backward pass"):
        scores.total.backward()


class Largest(TorchDispatchMode):
    """Watches for the largest tensor that any operation gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor):
                self.size = max(self.size, one.numel())
        return out


def head_of(width: int, vocabulary: int) -> Head:
    return Head.Config(in_features=width, out_features=vocabulary).build()


@pytest.mark.parametrize(("limit", "largest"), [(None, 300 * 500), (5000, 5000)])
def test_only_the_chunk_s_logits_stand_in_memory(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, largest: int
) -> None:
    if limit is not None:
        monkeypatch.setattr(head_module, "LOGITS", limit)
    hidden, _, targets = problem(300, 8, 500, torch.float32)
    head, loss_fn = head_of(8, 500), MaskedDiffusionLoss.Config().build(compile_config=None)
    with Largest() as watch:
        loss, _ = loss_fn(head(hidden, targets), targets.labels, torch.tensor(9), weights=targets.weights)
        loss.backward()
    assert watch.size == largest


def test_few_logits_are_those_of_the_matrix_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, _, targets = problem(20, 8, 30, torch.float32)
    head = head_of(8, 30)
    assert torch.equal(head(hidden, targets), F.linear(hidden, head.weight))
    monkeypatch.setattr(head_module, "LOGITS", 20 * 30 - 1)
    assert isinstance(head(hidden, targets), Scores)
    assert torch.equal(head(hidden), F.linear(hidden, head.weight))


LIMITS = (10**9, 100)
"""Logits at a time: plain, and in chunks of a few positions."""


def train(rank: int, ranks: int, folder: Path) -> None:
    """One step of the trainer at each limit, from the same start; rank 0 saves the gradients."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    run = msgspec.structs.replace(run, parallel=msgspec.structs.replace(run.parallel, shard=ranks))
    for limit in LIMITS:
        head_module.LOGITS = limit
        trainer = trainer_config(run, folder / str(limit), folder).build()
        gradients: dict[str, torch.Tensor] = {}

        def keep(trainer: Any = trainer, gradients: dict[str, torch.Tensor] = gradients) -> None:
            for name, parameter in trainer.model_parts[0].named_parameters():
                grad = parameter.grad
                gradients[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad

        trainer.optimizers.step = keep
        trainer.step = 1
        trainer.metrics_processor.reset_step()
        trainer.train_step(trainer.batch_generator(trainer.dataloader))
        if rank == 0:
            torch.save(gradients, folder / str(limit) / "gradients.pt")
        trainer.close()


@pytest.mark.parametrize(("ranks", "dtype", "tolerance"), [(1, "bfloat16", 2e-2), (2, "float32", 1e-5)])
def test_a_step_in_chunks_is_the_plain_step(tmp_path: Path, ranks: int, dtype: str, tolerance: float) -> None:
    """FSDP's ranks have chunks of their own number: the head's weight is gathered, and its gradient reduced, once."""
    run = compile_study(write_study(tmp_path, STUDY.replace("physical: 8", "physical: 8, micro: 2"))).runs[0]
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(run, dtype=dtype)))
    for limit in LIMITS:
        (tmp_path / str(limit)).mkdir()
    run_ranks("tests.test_head:train", ranks, tmp_path)

    plain_row, row = (msgspec.json.decode((tmp_path / str(limit) / "metrics.jsonl").read_bytes()) for limit in LIMITS)
    assert row["loss"] == pytest.approx(plain_row["loss"], rel=tolerance)
    assert row["losses"] == pytest.approx(plain_row["losses"], rel=tolerance)
    whole, chunked = (torch.load(tmp_path / str(limit) / "gradients.pt", weights_only=True) for limit in LIMITS)
    assert whole.keys() == chunked.keys()
    assert whole["lm_head.weight"].norm() > 0
    for name, gradient in chunked.items():
        assert distance(gradient, whole[name], max(1e-9, float(whole[name].norm()))) < tolerance, name
