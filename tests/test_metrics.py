"""Rows of metrics.jsonl, against what they say they are, measured another way."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from compiler.compile import compile_study
from compiler.plan import RunPlan
from compiler.records import Metrics
from tests.ranks import run_ranks
from tests.tiny import STUDY, write_study

STEPS = 5
LINEAR = STUDY.replace(", noise: cosine", "").replace("physical: 8", "physical: 16, micro: 2")


def train(rank: int, ranks: int, folder: Path) -> None:
    """Some steps of the trainer; each rank saves its loss by band of t (with linear noise a token's weight is 1 / t),
    rank 0 the parameters before and after each step, all measured without the metrics."""
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
    run = msgspec.structs.replace(run, parallel=msgspec.structs.replace(run.parallel, shard=ranks))
    trainer = trainer_config(run, folder, folder).build()
    trainer.loss_fn = Watching(MaskedDiffusionLoss.Config())

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
    for row in rows:
        assert sum(row.bands) == pytest.approx(row.loss, rel=1e-5)
        assert row.bands == pytest.approx(tuple(bands[row.step - 1].tolist()), rel=1e-5)
        assert min(row.bands) > 0
        # The update of the logged step alone, not of all since the row before.
        update = states[row.step] - states[row.step - 1]
        assert row.update_norm == pytest.approx(update.norm().item(), rel=1e-4)
        assert row.parameter_norm == pytest.approx(states[row.step].norm().item(), rel=1e-5)
        assert row.data_wait is not None
        assert 0 < row.data_wait < 1


def test_rows_of_before_can_still_be_read() -> None:
    old = (
        b'{"step":1,"tokens":9,"loss":3.5,"losses":{"text":3.5},"lr":0.1,"grad_norm":1.0,"tokens_per_second":7.0,'
        b'"padding":0.0,"seconds":2.0}'
    )
    row = msgspec.json.decode(old, type=Metrics)
    assert (row.bands, row.parameter_norm, row.update_norm, row.data_wait) == ((), None, None, None)
