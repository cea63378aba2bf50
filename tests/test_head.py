"""The head in chunks of positions, against the plain head: same loss, same gradients, no whole logits."""

from __future__ import annotations

# The platform is told before torchtitan is imported.
import runtime.training  # noqa: F401

# isort: split
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compiler.compile import compile_study
from compiler.plan import RunPlan
from runtime.training import head as head_module
from runtime.training.head import Head, Ids, Scores, Targets, chunked_scores
from runtime.training.loader import NoisedLoader
from runtime.training.model import model_config
from runtime.training.objective import MaskedDiffusionLoss
from runtime.training.segments import Segments
from runtime.training.stream import Sequences, empty_rows
from tests.ranks import run_groups, run_ranks
from tests.tiny import STUDY, validator_of, write_source, write_study

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def problem(
    scored: int, width: int, vocabulary: int, dtype: torch.dtype, parts: int = 0
) -> tuple[torch.Tensor, torch.Tensor, Targets, list[Ids] | None]:
    """Hidden states, a head's weight and targets, with weights as far apart as those of 1 / t; with `parts`, the ids of
    each, unequal, and of two special tokens."""
    generator = torch.Generator().manual_seed(scored + 100 * width + 1000 * vocabulary)
    hidden = torch.randn(scored, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64) / width**0.5
    labels = torch.randint(vocabulary, (scored,), generator=generator)
    weights = 1 / torch.rand(scored, generator=generator).clamp(min=1e-3)
    targets, ids = Targets(labels, weights), None
    if parts:
        ends = [(vocabulary - 2) * (k + 1) ** 2 // parts**2 for k in range(parts)]
        ids = [((a, b), (vocabulary - 2, vocabulary)) for a, b in itertools.pairwise([0, *ends])]
        # Specials are any segment's; the last part has no positions where there are more.
        own = torch.randint(max(1, parts - 1), (scored,), generator=generator)
        for part, ((first, last), _) in enumerate(ids):
            inside = (own == part) & (labels < vocabulary - 2)
            labels[inside] = first + labels[inside] % (last - first) if last > first else vocabulary - 1
        targets = targets._replace(parts=own)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets, ids


def out_of_reach(targets: Targets, ids: list[Ids] | None, vocabulary: int) -> torch.Tensor:
    """True (S, V) for tokens that a position is not scored over."""
    hidden = torch.zeros(len(targets.labels), vocabulary, dtype=torch.bool)
    if ids is not None and targets.parts is not None:
        hidden[:] = True
        for row, part in zip(hidden, targets.parts.tolist(), strict=True):
            for first, last in ids[part]:
                row[first:last] = False
    return hidden


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: Targets, ids: list[Ids] | None) -> torch.Tensor:
    """Weighted cross-entropies, as one would write them."""
    logits = F.linear(hidden, weight).double().masked_fill(out_of_reach(targets, ids, len(weight)), -math.inf)
    return targets.weights * F.cross_entropy(logits, targets.labels, reduction="none")


def distance(a: torch.Tensor, b: torch.Tensor, scale: float | None = None) -> float:
    """Of two tensors, in units of `scale`, or of what they measure themselves."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm()) / (scale or float(b.norm()))


def check(
    hidden: torch.Tensor, weight: torch.Tensor, targets: Targets, ids: list[Ids] | None, scores_of: Callable[[], Scores]
) -> None:
    """Assert that the scores and the gradients of `hidden` and `weight` are the plain ones, to rounding."""
    exact_hidden, exact_weight = (leaf.detach().double().requires_grad_() for leaf in (hidden, weight))
    terms = plain(exact_hidden, exact_weight, targets, ids)
    (terms.sum() / 7).backward()
    scores = scores_of()
    (scores.total / 7).backward()

    tolerance = TOLERANCE[hidden.dtype]
    assert not scores.terms.requires_grad
    # A token that is all but certain has next to no loss and gradient, but rounds as others do.
    unit = float(targets.weights.norm())
    size = unit * (1 + float(F.linear(exact_hidden, exact_weight).detach().abs().max()))
    assert distance(scores.terms, terms, size) < tolerance
    assert distance(scores.total, terms.sum(), len(hidden) ** 0.5 * size) < tolerance
    for leaf, exact, other in ((hidden, exact_hidden, exact_weight), (weight, exact_weight, exact_hidden)):
        assert leaf.grad is not None
        assert exact.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        assert distance(leaf.grad, exact.grad, unit * float(other.detach().norm())) < tolerance
        assert not leaf.grad[(exact.grad == 0).all(1)].any()


@contextmanager
def at_a_time(logits: int) -> Iterator[None]:
    """Has the head compute so many logits at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_module, "LOGITS", logits)
        yield


@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(3, 60),
    st.integers(1, 2000),
    st.sampled_from(list(TOLERANCE)),
    st.integers(0, 4),
)
@settings(max_examples=100, deadline=None)
def test_chunks_give_the_loss_and_gradients_of_the_plain_head(
    scored: int, width: int, vocabulary: int, logits: int, dtype: torch.dtype, parts: int
) -> None:
    hidden, weight, targets, ids = problem(scored, width, vocabulary, dtype, parts)
    with at_a_time(logits):
        check(hidden, weight, targets, ids, lambda: chunked_scores(hidden, weight, targets, ids))


@pytest.mark.parametrize("parts", [0, 3])
def test_no_scored_position_is_no_loss_and_no_gradient(parts: int) -> None:
    hidden, weight, targets, ids = problem(0, 8, 30, torch.float32, parts)
    scores = chunked_scores(hidden, weight, targets, ids)
    scores.total.backward()
    assert scores.terms.shape == (0,)
    assert scores.total == 0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("parts", [0, 3])
def test_without_gradients_chunks_give_the_same_terms(parts: int) -> None:
    hidden, weight, targets, ids = problem(20, 8, 30, torch.float32, parts)
    with torch.no_grad(), at_a_time(180):
        scores = chunked_scores(hidden, weight, targets, ids)
    assert not scores.total.requires_grad
    assert distance(scores.terms, plain(hidden, weight, targets, ids)) < 1e-6


def test_gradients_are_handed_over_once() -> None:
    hidden, weight, targets, _ = problem(5, 4, 6, torch.float32)
    scores = chunked_scores(hidden, weight, targets)
    scores.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gone after one backward pass"):
        scores.total.backward()


def split_vocabulary(rank: int, ranks: int, folder: Path) -> None:
    """The head of tensor parallelism on every rank, against the plain one: each part is one rank's, or another's, or
    both have some of it."""
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("tp",))
    for parts, dtype in itertools.product((0, 1, 3), (torch.float32, torch.bfloat16)):
        hidden, weight, targets, ids = problem(50, 8, 37, dtype, parts)
        head = head_of(8, 37)
        head.ids = None if ids is None else tuple(ids)
        head.weight = torch.nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(0)]))

        def scores_of(
            head: Head = head, hidden: torch.Tensor = hidden, weight: torch.Tensor = weight, targets: Targets = targets
        ) -> Scores:
            scores = head(hidden, targets)
            head.weight.register_post_accumulate_grad_hook(lambda p: setattr(weight, "grad", p.grad.full_tensor()))
            largest = scores.terms.clone()
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
            assert torch.equal(largest, scores.terms)  # on every rank
            return scores

        with at_a_time(200):
            check(hidden, weight, targets, ids, scores_of)

        # Without targets: whole logits, everywhere.
        reference, coefficients = hidden.detach().clone().requires_grad_(), torch.arange(37, dtype=dtype) / 37
        hidden.grad = None
        for logits in (head(hidden), F.linear(reference, weight)):
            (logits * coefficients).sum().backward()
        assert distance(head(hidden), F.linear(reference, weight)) < 1e-6
        assert distance(hidden.grad, reference.grad) < TOLERANCE[dtype]


def test_a_vocabulary_cut_over_processes_gives_the_plain_scores_and_gradients(tmp_path: Path) -> None:
    run_ranks("tests.test_head:split_vocabulary", 2, tmp_path)


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


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("parts", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_a_chunk_s_logits_stand_in_memory(dtype: torch.dtype, parts: int, learn: bool) -> None:
    hidden, weight, targets, ids = problem(300, 8, 500, dtype, parts)
    with Largest() as whole, torch.set_grad_enabled(learn):
        head_of(8, 500).to(dtype)(hidden)
    assert whole.size == 300 * 500
    with Largest() as watch, torch.set_grad_enabled(learn), at_a_time(5000):
        scores = chunked_scores(hidden, weight, targets, ids)
        if learn:
            scores.total.backward()
    assert 4000 <= watch.size <= 5000


def test_few_logits_are_those_of_the_matrix_to_the_bit() -> None:
    hidden, _, targets, _ = problem(20, 8, 30, torch.float32)
    head = head_of(8, 30)
    assert torch.equal(head(hidden, targets), F.linear(hidden, head.weight))
    with at_a_time(20 * 30 - 1):
        assert isinstance(head(hidden, targets), Scores)
        assert torch.equal(head(hidden), F.linear(hidden, head.weight))
    hidden, _, targets, _ = problem(head_module.PLAIN // 30 + 1, 8, 30, torch.float32)
    assert isinstance(head(hidden, targets), Scores)


MIXED = """\
study: mixed
base:
  model: {width: 16, depth: 1, heads: 2}
  modalities:
    text:  {data: data/text}
    image: {data: data/image, drop_condition: 0.5}
    video: {data: data/video}
  head: modality
  sequence_length: 24
  tokens: 3K
  batch: {physical: 16}
  optimizer: {lr: 1e-2}
  evaluation: {sequences: 16}
"""


def mixed_run(folder: Path) -> RunPlan:
    """Packed text, and sequences of two and of three segments; the head has random values."""
    write_source(folder / "data/text", {"text": 20}, sequences=80, lengths=(3, 9), packed=True)
    write_source(folder / "data/image", {"text": 20, "image": 8})
    write_source(folder / "data/video", {"text": 20, "image": 8, "frames": 11})
    file = folder / "study.yaml"
    file.write_text(MIXED)
    run = compile_study(file).runs[0]
    groups = tuple(msgspec.structs.replace(group, init_std=0.5) for group in run.groups)
    return msgspec.structs.replace(run, groups=groups)


def test_a_token_s_part_is_that_of_its_segment(tmp_path: Path) -> None:
    from runtime.data import load

    run = mixed_run(tmp_path)
    names, specials = [part.name for part in run.vocabulary.parts], run.vocabulary.specials
    begins = {specials[f"begin:{name}"]: name for name in names if f"begin:{name}" in specials}
    segments = Segments(run)
    for number, (name, modality) in enumerate(run.modalities.items()):
        source = Sequences(name, modality, load(modality.data, tmp_path).split("train"), run.vocabulary, 24, 0)
        for index in range(20):
            tokens, code_index = empty_rows(1, 24, run.vocabulary)
            row = tokens[0, : source.write(index, tokens[0], code_index[0])]
            segment, expected = "text", []  # all three sources start with text
            for token in row.tolist():
                segment = begins.get(token, segment)
                expected.append(names.index(segment))
            assert segments.parts(row, np.full(len(row), number)).tolist() == expected


class Masked(torch.nn.Module):
    """A model's full logits, those out of a position's reach at -inf."""

    def __init__(self, model: torch.nn.Module, ids: tuple[Ids, ...]) -> None:
        super().__init__()
        self.model, self.ids = model, [*ids]

    def forward(self, tokens: torch.Tensor, *, targets: Targets, **inputs: torch.Tensor) -> torch.Tensor:
        logits = self.model(tokens, **inputs)
        return logits.masked_fill(out_of_reach(targets, self.ids, logits.shape[1]), -math.inf)


def test_a_head_of_kind_modality_trains_and_evaluates_on_each_segment_s_own_part(tmp_path: Path) -> None:
    run = mixed_run(tmp_path)
    model = model_config(run).build()
    model.init_states()
    brute = Masked(model, model.lm_head.ids)
    loader = NoisedLoader(
        NoisedLoader.Config(run=run, data_root=tmp_path),
        dp_world_size=1,
        dp_rank=0,
        local_batch_size=run.batch.micro,
    )
    inputs, labels = loader.batch(0, 0)
    scored, weights, parts = inputs["scored"], inputs["weights"], inputs["parts"]
    assert len(parts.unique()) == 3
    loss_fn = MaskedDiffusionLoss.Config().build(compile_config=None)
    targets = Targets(labels.flatten()[scored], weights, parts)
    arguments = {key: inputs[key] for key in inspect.signature(model.forward).parameters if key in inputs}
    results = []
    for one in (model, brute):
        model.zero_grad()
        pred = one(inputs["input"], targets=targets, **arguments)
        loss, _ = loss_fn(pred, targets.labels, torch.tensor(100), weights=weights)
        loss.backward()
        results.append((loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (loss, gradients), (brute_loss, brute_gradients) = results
    assert distance(loss, brute_loss) < 1e-5
    for name, gradient in gradients.items():
        assert distance(gradient, brute_gradients[name]) < 1e-5, name

    validator = validator_of(run, tmp_path)
    for row, brute_row in zip(validator.validate([model], 0), validator.validate([brute], 0), strict=True):
        assert row.nelbo == pytest.approx(brute_row.nelbo, rel=1e-5)
        assert row.by_token_modality == pytest.approx(brute_row.by_token_modality, rel=1e-5)
        if row.modality != "text":
            assert row.conditional == pytest.approx(brute_row.conditional, rel=1e-5)


LIMITS = (10**9, 100)
"""Logits at a time: plain, and in chunks of a few positions."""


def train(rank: int, ranks: int, folder: Path, dtype: str, *heads: str) -> None:
    """One step of the trainer and an evaluation with each kind of head and at each limit, from the same start; rank 0
    saves what they give."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    run = msgspec.structs.replace(run, parallel=msgspec.structs.replace(run.parallel, shard=ranks), dtype=dtype)
    for head, limit in itertools.product(heads, LIMITS):
        head_module.LOGITS = limit
        place = folder / dtype / head / str(limit)
        if rank == 0:
            place.mkdir(parents=True)
        torch.distributed.barrier()
        trainer = trainer_config(msgspec.structs.replace(run, head=head), place, folder).build()
        gradients: dict[str, torch.Tensor] = {}

        def keep(trainer: Any = trainer, gradients: dict[str, torch.Tensor] = gradients) -> None:
            for name, parameter in trainer.model_parts[0].named_parameters():
                grad = parameter.grad
                gradients[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad

        trainer.optimizers.step = keep
        trainer.step = 1
        trainer.metrics_processor.reset_step()
        trainer.train_step(trainer.batch_generator(trainer.dataloader))
        nelbo = [row.nelbo for row in trainer.validator.validate(trainer.model_parts, 1)]
        if rank == 0:
            torch.save({"gradients": gradients, "nelbo": nelbo}, place / "result.pt")
        trainer.close()


def test_a_step_in_chunks_is_the_plain_step(tmp_path: Path) -> None:
    """FSDP's ranks have chunks of their own number: the head's weight is gathered, and its gradient reduced, once."""
    run = compile_study(write_study(tmp_path, STUDY.replace("physical: 8", "physical: 8, micro: 2"))).runs[0]
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(run))
    groups = [(1, "bfloat16", "full"), (2, "float32", "full", "modality")]
    run_groups("tests.test_head:train", groups, tmp_path)

    for (_, dtype, *heads), tolerance in zip(groups, (2e-2, 1e-5), strict=True):
        for head in heads:
            compare_limits(tmp_path / str(dtype) / str(head), tolerance)


def compare_limits(folder: Path, tolerance: float) -> None:
    places = [folder / str(limit) for limit in LIMITS]
    plain_row, row = (msgspec.json.decode((place / "metrics.jsonl").read_bytes()) for place in places)
    assert row["loss"] == pytest.approx(plain_row["loss"], rel=tolerance)
    assert row["losses"] == pytest.approx(plain_row["losses"], rel=tolerance)
    whole, chunked = (torch.load(place / "result.pt", weights_only=True) for place in places)
    assert chunked["nelbo"] == pytest.approx(whole["nelbo"], rel=tolerance)
    assert whole["gradients"].keys() == chunked["gradients"].keys()
    assert whole["gradients"]["lm_head.weight"].norm() > 0
    for name, gradient in chunked["gradients"].items():
        plain_gradient = whole["gradients"][name]
        assert distance(gradient, plain_gradient, max(1e-9, float(plain_gradient.norm()))) < tolerance, name
