"""Rows of metrics.jsonl, against what they say they are, measured another way."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from compiler.compile import compile_study
from compiler.plan import MonitorPlan, RunPlan
from compiler.records import Evaluation, Metrics
from tests.ranks import run_ranks
from tests.tiny import STUDY, write_study

STEPS = 5
LINEAR = STUDY.replace(", noise: cosine", "").replace("physical: 8", "physical: 16, micro: 2")


def train(rank: int, ranks: int, folder: Path) -> None:
    """Some steps of the trainer; each rank saves its loss by band of t (with linear noise a token's weight is 1 / t),
    and of its activations the sums of squares and their counts; rank 0 the parameters before and after each step, all
    measured without the metrics."""
    from runtime.training.objective import MaskedDiffusionLoss
    from runtime.training.trainer import trainer_config

    bands = torch.zeros(STEPS, 4, dtype=torch.float64)

    class Watching(MaskedDiffusionLoss):
        def __call__(self, pred, labels, global_valid_tokens=None, *, weights=None, **unused):  # type: ignore[no-untyped-def]
            loss, parts = super().__call__(pred, labels, global_valid_tokens, weights=weights, **unused)
            for term, weight in zip(parts["terms"].tolist(), weights.tolist(), strict=True):
                band = next(i for i in range(4) if 1 / weight <= (i + 1) / 4 or i == 3)
                bands[trainer.step - 1, band] += term / global_valid_tokens.item()
            return loss, parts

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    run = msgspec.structs.replace(
        run, parallel=msgspec.structs.replace(run.parallel, shard=ranks), monitor=MonitorPlan(activations=True)
    )
    trainer = trainer_config(run, folder, folder).build()
    trainer.loss_fn = Watching(MaskedDiffusionLoss.Config())
    (model,) = trainer.model_parts
    seen: list[dict[str, list[torch.Tensor]]] = [{} for _ in range(STEPS)]

    def watch(name: str, values: torch.Tensor) -> None:
        seen[trainer.step - 1].setdefault(name, []).append(values.detach().flatten(0, -2).clone())

    model.register_forward_pre_hook(lambda _module, args: watch("tokens", args[0][..., None]))
    model.layers["0"].register_forward_pre_hook(lambda _module, args: watch("embedding", args[0]))
    for i, block in model.layers.items():
        block.register_forward_hook(lambda _module, _args, output, i=i: watch(f"block.{i}", output))
    model.norm.register_forward_hook(lambda _module, _args, output: watch("final", output))
    model.lm_head.register_forward_hook(lambda _module, _args, output: watch("logits", output))

    def parameters() -> torch.Tensor:
        whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in trainer.model_parts[0].parameters()]
        return torch.cat([p.detach().flatten().double() for p in whole])

    states = [parameters()]
    batches = trainer.batch_generator(trainer.dataloader)
    for _ in range(STEPS):
        trainer.step += 1
        trainer.metrics_processor.reset_step()
        trainer.train_step(batches)
        states.append(parameters())
    torch.save(bands, folder / f"bands-{rank}.pt")
    sums = []
    for found in seen:
        real = torch.cat(found["tokens"])[:, 0] != run.vocabulary.specials["pad"]
        sums.append({"padding": torch.tensor([(~real).sum(), real.numel()], dtype=torch.float64)})
        for name in ("embedding", "block.0", "final", "logits"):
            values = torch.cat(found[name]).double()
            values = values[real] if len(values) == len(real) else values
            sums[-1][name] = torch.tensor([values.square().sum(), values.numel()], dtype=torch.float64)
    torch.save(sums, folder / f"sums-{rank}.pt")
    if rank == 0:
        torch.save(torch.stack(states), folder / "states.pt")
    trainer.close()


@pytest.mark.parametrize(("ranks", "log_every", "steps"), [(1, 2, [1, 2, 4]), (2, 1, [1, 2, 3, 4, 5])])
def test_rows_say_where_the_loss_comes_from_and_how_far_a_step_went(
    tmp_path: Path, ranks: int, log_every: int, steps: list[int]
) -> None:
    run = compile_study(write_study(tmp_path, LINEAR.replace("log_every: 1", f"log_every: {log_every}"))).runs[0]
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(run))
    run_ranks("tests.test_metrics:train", ranks, tmp_path)
    rows = [msgspec.json.decode(line, type=Metrics) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    assert [row.step for row in rows] == steps

    bands = torch.stack([torch.load(tmp_path / f"bands-{rank}.pt", weights_only=True) for rank in range(ranks)]).sum(0)
    states = torch.load(tmp_path / "states.pt", weights_only=True)
    sums = [torch.load(tmp_path / f"sums-{rank}.pt", weights_only=True) for rank in range(ranks)]
    for row in rows:
        assert sum(row.bands) == pytest.approx(row.loss, rel=1e-5)
        assert row.bands == pytest.approx(tuple(bands[row.step - 1].tolist()), rel=1e-5)
        assert min(row.bands) > 0
        # The update of the logged step alone, not of all since the row before.
        update = states[row.step] - states[row.step - 1]
        assert row.update_norm == pytest.approx(update.norm().item(), rel=1e-4)
        assert row.parameter_norm == pytest.approx(states[row.step].norm().item(), rel=1e-5)
        found = {name: sum(rank[row.step - 1][name] for rank in sums) for name in sums[0][0]}
        ratios = {name: (total / count).item() for name, (total, count) in found.items()}
        assert row.padding == pytest.approx(ratios.pop("padding"), rel=1e-12)
        assert row.activations == pytest.approx({name: ratio**0.5 for name, ratio in ratios.items()}, rel=1e-5)
        rate = run.flops * row.step / run.steps / row.tokens * row.tokens_per_second
        assert row.mfu == pytest.approx(rate / ranks / run.peak_flops)
        assert row.data_wait is not None
        assert 0 < row.data_wait < 1


def train_whole(rank: int, ranks: int, folder: Path) -> None:
    """The whole run."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    trainer = trainer_config(run, folder / "run", folder).build()
    trainer.train()
    trainer.close()


def numbers(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard and W&B must have of a run's files: by name and step."""
    found: dict[str, dict[int, float]] = {}
    rows = [msgspec.json.decode(line, type=Metrics) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    for row in rows:
        values = {f"loss/{name}": value for name, value in row.losses.items()}
        values |= {f"band/{i}": value for i, value in enumerate(row.bands, start=1)}
        values |= {f"activations/{name}": value for name, value in (row.activations or {}).items()}
        for name, noise in (row.gradient_noise or {}).items():
            values |= {f"gradient_noise/{name}/signal": noise.signal, f"gradient_noise/{name}/noise": noise.noise}
        for name in ("loss", "lr", "grad_norm", "parameter_norm", "update_norm", "tokens", "tokens_per_second", "mfu"):
            values[name] = getattr(row, name)
        for name, value in values.items():
            found.setdefault(name, {})[row.step] = value
    for line in (folder / "eval.jsonl").read_bytes().splitlines():
        scored = msgspec.json.decode(line, type=Evaluation)
        found.setdefault(f"eval/{scored.modality}/nelbo", {})[scored.step] = scored.nelbo
        for part, value in scored.by_token_modality.items():
            found.setdefault(f"eval/{scored.modality}/by_token_modality/{part}", {})[scored.step] = value
    return found


def tensorboard_scalars(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = folder.glob("tb/*/events.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return {
        tag: {event.step: event.value for event in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]
    }


def log_records(log: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log (W&B's files): blocks of 32 KiB of pieces, each after its checksum, size and kind,
    which is whole, first, middle or last. W&B's own seven bytes come first."""
    at, record = 7, b""
    while at + 7 <= len(log):
        size, kind = struct.unpack_from("<HB", log, at + 4)
        if kind:
            record += log[at + 7 : at + 7 + size]
            if kind in (1, 4):
                yield record
                record = b""
        left = 2**15 - (at + 7 + size) % 2**15
        at += 7 + size + (left if left < 7 else 0)


def wandb_scalars(folder: Path, run: RunPlan) -> dict[str, dict[int, float]]:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob(f"tb/*/wandb/offline-run-*/run-{run.id}.wandb")
    found: dict[str, dict[int, float]] = {}
    for data in log_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            assert record.run.display_name == run.name
        for item in record.history.item:
            value = msgspec.json.decode(item.value_json)
            if isinstance(value, int | float):
                found.setdefault("/".join(item.nested_key) or item.key, {})[record.history.step.num] = value
    return found


def test_tensorboard_and_wandb_have_what_the_files_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = compile_study(write_study(tmp_path, STUDY.replace("tokens: 3K", "tokens: 1K"))).runs[0]
    monitor = MonitorPlan(gradient_noise=4, activations=True, tensorboard=True, wandb=True)
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(run, monitor=monitor)))
    run_ranks("tests.test_metrics:train_whole", 1, tmp_path)
    expected = numbers(tmp_path / "run")
    assert {"gradient_noise/text/noise", "activations/block.0", "band/4", "eval/image/nelbo"} <= set(expected)
    for found in (tensorboard_scalars(tmp_path / "run"), wandb_scalars(tmp_path / "run", run)):
        assert {name: found.get(name) for name in expected} == {
            name: pytest.approx(steps, rel=1e-6) for name, steps in expected.items()
        }


def test_rows_of_before_can_still_be_read() -> None:
    old = (
        b'{"step":1,"tokens":9,"loss":3.5,"losses":{"text":3.5},"lr":0.1,"grad_norm":1.0,"tokens_per_second":7.0,'
        b'"padding":0.0,"seconds":2.0}'
    )
    row = msgspec.json.decode(old, type=Metrics)
    assert (row.bands, row.parameter_norm, row.update_norm, row.data_wait) == ((), None, None, None)
