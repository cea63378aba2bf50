"""The gradient noise scale, against gradients of single sequences taken one by one; on any number of ranks."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from compiler.compile import compile_study
from compiler.plan import MonitorPlan, RunPlan
from compiler.records import GradientNoise, Metrics
from tests.ranks import run_groups, run_ranks
from tests.tiny import STUDY, write_source

# With α = 1 - t⁴ a loss weight is large for few tokens: few sequences are enough to know the variance.
BOUNDED = (
    STUDY.replace("physical: 8", "physical: 192, micro: 48")
    .replace("tokens: 3K", "tokens: 100K")
    .replace("data: data/text", "data: data/text, noise: {kind: polynomial, power: 4}")
    .replace("noise: cosine", "drop_condition: 0.3, noise: {kind: polynomial, power: 4}")
)
PROBES, SINGLE = 20, 400
Estimates = dict[str, GradientNoise]


def write_run(folder: Path, text: str) -> RunPlan:
    """The run of a study of two sources, so large that no sequence comes twice."""
    write_source(folder / "data/text", {"text": 20}, sequences=6000, lengths=(3, 9), packed=True)
    write_source(folder / "data/image", {"text": 20, "image": 8}, sequences=4000)
    (folder / "study.yaml").write_text(text)
    run = compile_study(folder / "study.yaml").runs[0]
    (folder / "run.json").write_bytes(msgspec.json.encode(run))
    return run


def estimate(rank: int, ranks: int, folder: Path, layout: str, probes: str) -> None:
    """Estimates at the first steps by a model that does not move, and on one rank what to hold them against."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    run = msgspec.structs.replace(run, parallel=msgspec.structs.replace(run.parallel, **{layout: ranks}))
    trainer = trainer_config(run, folder, folder).build()
    parameters = list(trainer.model_parts[0].parameters())
    found = [trainer.gradient_probe.estimate(1 + i, parameters, trainer.add_gradient) for i in range(int(probes))]
    (folder / f"{layout}-{ranks}-{rank}.json").write_bytes(msgspec.json.encode(found))
    if ranks == 1:
        (folder / "single.json").write_bytes(msgspec.json.encode(one_by_one(trainer, parameters)))
    trainer.close()


def one_by_one(trainer, parameters) -> list[Estimates]:  # type: ignore[no-untyped-def]
    """|G|² and tr Σ from gradients of single sequences with independent times, per mean token, by modality; and of
    batches of them with as many of each modality as the run has. Then the standard errors of all that."""
    run, rng = trainer.run, np.random.default_rng(5)
    gradients, tokens = {}, {}
    for m, name in enumerate(run.modalities):
        own, scorable = [], 0
        for i in rng.choice(3000, SINGLE, replace=False):
            one = np.array([i])
            inputs, labels = trainer.dataloader.noised(np.array([m]), one, 1 - rng.random(1), 10**6 + m, one)
            scorable += int((labels >= 0).sum())
            for parameter in parameters:
                parameter.grad = None
            trainer.add_gradient((inputs, labels), 1.0)
            own.append(torch.cat([parameter.grad.flatten() for parameter in parameters]).double())
        gradients[name], tokens[name] = torch.stack(own), scorable / SINGLE
    mix = {name: plan.share for name, plan in run.modalities.items()}
    values, errors = {}, {}
    for name, shares in {**{name: {name: 1.0} for name in mix}, "all": mix}.items():
        per_sequence = sum(share * tokens[part] for part, share in shares.items())
        parts = {part: share * gradients[part] / per_sequence for part, share in shares.items()}
        mean = sum(part.mean(dim=0) for part in parts.values())
        off = {part: (own - own.mean(dim=0)).square().sum(dim=1) for part, own in parts.items()}
        bias = sum(float(own.sum()) / (SINGLE - 1) for own in off.values()) / SINGLE
        values[name] = GradientNoise(
            signal=float(mean.square().sum()) - bias,
            noise=sum(float(own.sum()) / (SINGLE - 1) / shares[part] for part, own in off.items()),
        )
        errors[name] = GradientNoise(
            signal=sum(float((2 * own @ mean).var()) / SINGLE for own in parts.values()) ** 0.5,
            noise=sum(float((own / shares[part]).var()) / SINGLE for part, own in off.items()) ** 0.5,
        )
    return [values, errors]


def test_estimates_are_those_of_single_sequences_in_the_mean_and_of_any_layout(tmp_path: Path) -> None:
    write_run(tmp_path, BOUNDED)
    groups = [(1, "shard", str(PROBES)), (2, "shard", "2"), (2, "replicate", "2"), (2, "tensor", "2")]
    run_groups("tests.test_gradient_noise:estimate", groups, tmp_path)
    values, errors = msgspec.json.decode((tmp_path / "single.json").read_bytes(), type=list[Estimates])
    one = msgspec.json.decode((tmp_path / "shard-1-0.json").read_bytes(), type=list[Estimates])
    assert set(values) == set(one[0]) == {"text", "image", "all"}
    for name in values:
        for field in ("signal", "noise"):
            found = np.array([getattr(row[name], field) for row in one])
            exact, error = (getattr(of[name], field) for of in (values, errors))
            error = (error**2 + found.var(ddof=1) / PROBES) ** 0.5
            assert error < (0.25 if field == "signal" else 0.12) * exact  # or the next line would say little
            assert abs(found.mean() - exact) < 3.5 * error

    for layout in ("shard", "replicate", "tensor"):
        for rank in range(2):
            two = msgspec.json.decode((tmp_path / f"{layout}-2-{rank}.json").read_bytes(), type=list[Estimates])
            for expected, row in zip(one, two, strict=False):
                for name in expected:
                    scale = expected[name].noise / 96
                    assert row[name].signal == pytest.approx(expected[name].signal, abs=1e-5 * scale)
                    assert row[name].noise == pytest.approx(expected[name].noise, rel=1e-5)


def train(rank: int, ranks: int, folder: Path) -> None:
    """The run with the probe every three steps and without, each in a folder of its own."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    for every in (3, 0):
        (folder / str(every)).mkdir()
        trainer = trainer_config(
            msgspec.structs.replace(run, monitor=MonitorPlan(gradient_noise=every)), folder / str(every), folder
        ).build()
        trainer.train()
        trainer.close()


def test_a_probe_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    # So few images that a step has one, or none.
    text = STUDY.replace("weight: 1, data: data/image", "weight: 0.1, data: data/image")
    run = write_run(tmp_path, text.replace("tokens: 3K", "tokens: 2K").replace("log_every: 1", "log_every: 2"))
    run_ranks("tests.test_gradient_noise:train", 1, tmp_path)

    def rows(every: int) -> dict[int, Metrics]:
        lines = (tmp_path / str(every) / "metrics.jsonl").read_bytes().splitlines()
        return {row.step: row for row in (msgspec.json.decode(line, type=Metrics) for line in lines)}

    probed, plain = rows(3), rows(0)
    assert set(probed) - set(plain) == set(range(3, run.steps, 6))
    for step, row in plain.items():
        other = probed[step]
        for field in ("tokens", "loss", "losses", "bands", "grad_norm", "parameter_norm", "update_norm", "padding"):
            assert getattr(other, field) == getattr(row, field)
        assert row.gradient_noise is None
    assert {step for step, row in probed.items() if row.gradient_noise} == set(range(3, run.steps + 1, 3))
    kinds = {tuple(row.gradient_noise) for row in probed.values() if row.gradient_noise}
    assert kinds == {("text",), ("text", "all")}
    assert all(one.noise > 0 for row in probed.values() for one in (row.gradient_noise or {}).values())
