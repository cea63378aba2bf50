"""The training objective and the evaluation, against brute force over all masks."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from compiler.compile import compile_study
from compiler.plan import MixStage, RunPlan, TimePlan
from runtime.training.stream import PADDING, TASK
from tests.ranks import run_ranks
from tests.test_noise import SCHEDULES
from tests.tiny import validator_of, write_source

STEPS = 12
STUDY = """\
study: objective
base:
  model: {{width: 16, depth: 1, heads: 2}}
  modalities: {{text: {{data: data, noise: {noise}}}}}
  sequence_length: 6
  tokens: 60K
  batch: {{physical: 1024, micro: 128}}
  optimizer: {{lr: 1.0e-20}}
  parallel: {{shard: {ranks}}}
  evaluation: {{sequences: 2048}}
  log_every: 1
"""


def write_plan(folder: Path, noise: str, ranks: int, packed: bool = False) -> RunPlan:
    """A model of random weights over four sequences of four tokens, padded to six (or over documents of one to three
    tokens, packed into six); it is never updated."""
    write_source(folder / "data", {"text": 5}, sequences=4, lengths=(1 if packed else 3, 3), packed=packed)
    file = folder / "study.yaml"
    file.write_text(STUDY.format(noise=noise, ranks=ranks))
    run = compile_study(file).runs[0]
    groups = tuple(
        msgspec.structs.replace(group, init_std=1.0) if group.name == "head" else group for group in run.groups
    )
    run = msgspec.structs.replace(run, groups=groups, steps=STEPS)
    (folder / "run.json").write_bytes(msgspec.json.encode(run))
    return run


def train(rank: int, ranks: int, folder: Path) -> None:
    """Take the trainer's own steps and save each one's loss and gradients."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    trainer = trainer_config(run, folder, folder).build()
    gradients: dict[str, list[torch.Tensor]] = {}

    def keep() -> None:
        for name, parameter in trainer.model_parts[0].named_parameters():
            grad = parameter.grad
            grad = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
            gradients.setdefault(name, []).append(grad.clone())

    trainer.optimizers.step = keep
    batches = trainer.batch_generator(trainer.dataloader)
    for _ in range(STEPS):
        trainer.step += 1
        trainer.metrics_processor.reset_step()
        trainer.train_step(batches)
    weights = {
        name: parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter.detach()
        for name, parameter in trainer.model_parts[0].named_parameters()
    }
    rows = trainer.validator.validate(trainer.model_parts, STEPS)
    if rank == 0:
        torch.save(
            {
                "gradients": {name: torch.stack(steps) for name, steps in gradients.items()},
                "weights": weights,
                "nelbo": [(row.nelbo, row.standard_error) for row in rows],
            },
            folder / "result.pt",
        )
    trainer.close()


def mask_probability(n: int, k: int) -> float:
    """Integral over t of weight(t) · P(a given mask of k of n tokens | t) = B(k, n - k + 1), for every schedule with
    α(0) = 1 and α(1) = 0: taking 1 - α for the variable turns it into the linear one."""
    return math.factorial(k - 1) * math.factorial(n - k) / math.factorial(n)


def document_of(run: RunPlan, tokens: list[int], n: int) -> torch.Tensor:
    """The document of each position (1, L): in packed text as many documents have ended, the task token apart."""
    end = run.vocabulary.specials["end"]
    if run.modalities["text"].packed:
        return torch.tensor([[TASK, *(tokens[:place].count(end) for place in range(1, len(tokens)))]])
    return torch.tensor([[0] * n + [PADDING] * (len(tokens) - n)])


def brute_force(
    run: RunPlan, folder: Path, weights: dict[str, torch.Tensor], split: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Exact expected loss per non-padding token over a split's sequences, and its gradients, mask by mask."""
    from runtime.data import load
    from runtime.training.model import model_config
    from runtime.training.stream import Sequences, empty_rows

    model = model_config(run).build()
    model.init_states()
    model.load_state_dict(weights)
    source = Sequences("text", run.modalities["text"], load("data", folder).split(split), run.vocabulary, 6, None)
    total, tokens_count = torch.zeros(()), 0
    for index in range(source.count):
        tokens, code_index = empty_rows(1, 6, run.vocabulary)
        n = source.write(index, tokens[0], code_index[0])
        tokens_count += n
        document = document_of(run, tokens[0].tolist(), n)
        for k in range(1, n + 1):
            for masked in itertools.combinations(range(n), k):
                noised = torch.from_numpy(tokens.copy())
                noised[0, list(masked)] = run.vocabulary.specials["mask"]
                scored = torch.tensor(masked)
                logits = model(noised, document=document, code_index=torch.from_numpy(code_index), scored=scored)
                nats = cross_entropy(logits, torch.from_numpy(tokens)[0, scored], reduction="sum")
                total = total + mask_probability(n, k) * nats
    loss = total / tokens_count
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


TABLE = "{kind: table, alpha: [1, 0.8, 0.1, 0]}"


@pytest.mark.parametrize(("noise", "ranks"), [("linear", 1), ("linear", 2), ("cosine", 1), (TABLE, 1)])
def test_loss_and_gradient_are_the_nelbo_through_the_trainer(tmp_path: Path, noise: str, ranks: int) -> None:
    run = write_plan(tmp_path, noise, ranks)
    assert run.batch.accumulation == 8 // ranks
    run_ranks("tests.test_objective:train", ranks, tmp_path)
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    exact_loss, exact = brute_force(run, tmp_path, result["weights"], "train")

    rows = [msgspec.json.decode(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    losses = np.array([row["loss"] for row in rows])
    error = losses.std(ddof=1) / math.sqrt(STEPS)
    assert abs(losses.mean() - exact_loss.item()) < 4 * error
    assert error < 0.03 * exact_loss.item()

    for name, steps in result["gradients"].items():
        mean, spread = steps.mean(dim=0), steps.std(dim=0) / math.sqrt(STEPS)
        if exact[name].norm() == 0:
            assert mean.norm() == 0, name
            continue
        relative = ((mean - exact[name]).norm() / exact[name].norm()).item()
        assert relative < 4 * (spread.norm() / exact[name].norm()).item(), name
        if name == "lm_head.weight":
            assert relative < 0.1

    # Evaluation writes the same integral as k uniform in 1..n with weight n / k.
    (nelbo, standard_error), *_ = result["nelbo"]
    held_out, _ = brute_force(run, tmp_path, result["weights"], "held_out")
    assert abs(nelbo - held_out.item()) < 4 * standard_error
    assert standard_error < 0.03 * held_out.item()


VARIANTS = [
    # Schedules of text, of captions and of images; how times are drawn.
    ("linear", "linear", "linear", "lattice", "none"),
    ("cosine", "square", "square", "antithetic", "none"),
    ("table", "cosine", "cosine", "lattice", "weight"),
    ("log-linear", "table", "table", "independent", "learned"),
    ("square", "cosine", "linear", "lattice", "none"),
    ("cosine", "linear", "cube", "antithetic", "weight"),
    ("linear", "square", "linear", "lattice", "learned"),
]
PAIRS = """\
study: pairs
base:
  model: {width: 16, depth: 1, heads: 2}
  modalities: {text: {data: prose}, image: {data: pictures}}
  sequence_length: 6
  tokens: 60K
  batch: {physical: 1024, micro: 512}
  optimizer: {lr: 1.0e-20}
  log_every: 1
axes: [{seeds: 1}]
"""


def variant(run: RunPlan, text: str, caption: str, image: str, sampling: str, importance: str) -> RunPlan:
    """The run with these schedules and times."""
    noise = SCHEDULES[image][0]
    if caption != image:
        noise = msgspec.structs.replace(noise, segments={"text": SCHEDULES[caption][0]})
    noises = {"text": SCHEDULES[text][0], "image": noise}
    modalities = {
        name: msgspec.structs.replace(modality, noise=noises[name]) for name, modality in run.modalities.items()
    }
    return msgspec.structs.replace(
        run, modalities=modalities, time=TimePlan(sampling=sampling, importance=importance), steps=STEPS
    )


def train_variants(rank: int, ranks: int, folder: Path) -> None:
    """The trainer's own steps under each of `VARIANTS`, from the same weights, which are saved."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    for place, choice in enumerate(VARIANTS):
        (folder / str(place)).mkdir()
        trainer = trainer_config(variant(run, *choice), folder / str(place), folder).build()
        trainer.optimizers.step = lambda: None
        batches = trainer.batch_generator(trainer.dataloader)
        for _ in range(STEPS):
            trainer.step += 1
            trainer.metrics_processor.reset_step()
            trainer.train_step(batches)
        torch.save(trainer.model_parts[0].state_dict(), folder / str(place) / "weights.pt")
        trainer.close()


def nats_of_masks(run: RunPlan, folder: Path, name: str, weights: dict[str, torch.Tensor]) -> np.ndarray:
    """-log p of each token (sequences, 2^n, n) under each mask of its sequence's tokens, 0 where it is not masked."""
    from runtime.data import load
    from runtime.training.model import model_config
    from runtime.training.stream import Sequences, empty_rows

    model = model_config(run).build()
    model.load_state_dict(weights)
    modality, length = run.modalities[name], run.sequence_length
    source = Sequences(name, modality, load(modality.data, folder).split("train"), run.vocabulary, length, None)
    found = []
    for index in range(source.count):
        tokens, code_index = empty_rows(1, length, run.vocabulary)
        n = source.write(index, tokens[0], code_index[0])
        masks = torch.tensor(list(itertools.product([False, True], repeat=n)))
        noised = torch.from_numpy(tokens).repeat(len(masks), 1)
        noised[:, :n][masks] = run.vocabulary.specials["mask"]
        with torch.no_grad():
            logits = model(
                noised,
                document=document_of(run, tokens[0].tolist(), n).repeat(len(masks), 1),
                code_index=torch.from_numpy(code_index).repeat(len(masks), 1),
                scored=torch.arange(noised.numel()),
            )
        labels = torch.from_numpy(tokens).repeat(len(masks), 1)
        nats = cross_entropy(logits, labels.flatten(), reduction="none").view(len(masks), length)[:, :n]
        found.append((nats * masks).double().numpy())
    return np.stack(found)


def path_integral(nats: np.ndarray, schedules: list[str]) -> float:
    """Exact loss per token of sequences whose tokens have these schedules: over t by quadrature, over all masks. The
    weight of a masked token is a slope over its masked share, which is a factor of the probability of its masks."""
    nodes, areas = np.polynomial.legendre.leggauss(40)
    t = np.concatenate([(nodes + 1) / 4, (nodes + 3) / 4])  # the table has its corner at 1 / 2
    share, steepness = (np.stack([SCHEDULES[name][which](t) for name in schedules], axis=1) for which in (1, 2))
    masks = np.array(list(itertools.product([False, True], repeat=len(schedules))))
    total = 0.0
    for token in range(len(schedules)):
        others = np.where(np.arange(len(schedules)) == token, 1.0, share)[:, None]
        probabilities = np.where(masks, others, 1 - others).prod(axis=2)
        total += np.tile(areas / 4, 2) @ (steepness[:, token] * (probabilities @ nats.mean(axis=0)[:, token]))
    return float(total / len(schedules))


def test_each_combination_of_schedules_has_its_own_objective_through_the_trainer(tmp_path: Path) -> None:
    write_source(tmp_path / "prose", {"text": 5}, sequences=4, lengths=(3, 3))
    write_source(tmp_path / "pictures", {"text": 5, "image": 3}, sequences=4, lengths=(1, 1))
    (tmp_path / "study.yaml").write_text(PAIRS)
    run = compile_study(tmp_path / "study.yaml").runs[0]
    shares = {"text": 0.5, "image": 0.5}
    groups = tuple(
        msgspec.structs.replace(group, init_std=None if group.init_std is None else 0.6) for group in run.groups
    )
    run = msgspec.structs.replace(run, mix=(MixStage(start=0, weights=shares, shares=shares),), groups=groups)
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(run))
    run_ranks("tests.test_objective:train_variants", 1, tmp_path)

    weights = torch.load(tmp_path / "0/weights.pt", weights_only=True)
    nats = {name: nats_of_masks(run, tmp_path, name, weights) for name in run.modalities}
    even, uneven = [], []
    for place, (text, caption, image, *_) in enumerate(VARIANTS):
        own = torch.load(tmp_path / str(place) / "weights.pt", weights_only=True)
        assert all(torch.equal(own[name], weights[name]) for name in weights)
        # [task] text; [task] caption [begin:image] code [end:image]
        exact = {
            "text": path_integral(nats["text"], [text] * 4),
            "image": path_integral(nats["image"], [caption] * 2 + [image] * 3),
        }
        rows = [
            msgspec.json.decode(line) for line in (tmp_path / str(place) / "metrics.jsonl").read_bytes().splitlines()
        ]
        for name, value in exact.items():
            losses = np.array([row["losses"][name] for row in rows])
            error = losses.std(ddof=1) / math.sqrt(STEPS)
            assert abs(losses.mean() - value) < 4.5 * error, (place, name)
            assert error < 0.03 * value
        (even if caption == image else uneven).append(exact["image"])
    assert np.ptp(even) < 1e-9 * even[0]
    assert min(abs(value - even[0]) for value in uneven) > 0.01 * even[0]


@pytest.mark.parametrize("packed", [False, True])
def test_evaluation_is_the_nelbo_of_documents_apart(tmp_path: Path, packed: bool) -> None:
    from runtime.training.model import model_config

    run = write_plan(tmp_path, "linear", 1, packed)
    evaluation = msgspec.structs.replace(run.evaluation, sequences=16_384)
    run = msgspec.structs.replace(run, evaluation=evaluation, batch=msgspec.structs.replace(run.batch, micro=1024))
    model = model_config(run).build()
    model.init_states()
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty_like(parameter).normal_(0.0, 0.7, generator=generator)
        for name, parameter in model.named_parameters()
    }
    model.load_state_dict(weights)
    validator = validator_of(run, tmp_path)
    (row,) = validator.validate([model], STEPS)
    exact, _ = brute_force(run, tmp_path, weights, "held_out")
    assert abs(row.nelbo - exact.item()) < 4 * row.standard_error
    assert row.standard_error < 0.03 * exact.item()
    if packed:
        # If they saw each other, the numbers would tell.
        validator.sets = {"text": (dataclasses.replace(validator.sets["text"][0], packed=False), None)}
        (together,) = validator.validate([model], STEPS)
        assert abs(together.nelbo - exact.item()) > 8 * row.standard_error
