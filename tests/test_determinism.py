"""One seed, one machine, one curve, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from compiler.compile import compile_study
from compiler.plan import RunPlan
from tests.ranks import run_ranks
from tests.tiny import STUDY, write_source, write_study

CLOCK = {"seconds", "tokens_per_second", "data_wait", "mfu"}


def train(rank: int, ranks: int, folder: Path, *names: str) -> None:
    from runtime.training.trainer import trainer_config

    for name in names:
        run = msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=RunPlan)
        (folder / name).mkdir()
        trainer = trainer_config(run, folder / name, folder).build()
        trainer.train()
        trainer.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[dict[str, Any]]]]:
    """The rows of a run in two processes, and of another seed: all that depends on no clock."""
    folder = tmp_path_factory.mktemp("determinism")
    text = STUDY.replace("sequence_length: 12", "sequence_length: 40").replace("cosine", "cosine, drop_condition: 0.2")
    text = text.replace("{physical: 8}", "{physical: 12, micro: 3}").replace("tokens: 3K", "tokens: 6K")
    study = text.replace(
        "  checkpoint:", "  time: {importance: learned}\n  monitor: {gradient_noise: 4}\n  checkpoint:"
    )
    file = write_study(folder, study)
    write_source(folder / "data/image", {"text": 20, "image": 8}, lengths=(1, 16))
    for name, seed in {"first": 0, "again": 0, "other": 1}.items():
        run = compile_study(file, [f"base.seed={seed}"]).runs[0]
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(run))
    run_ranks("tests.test_determinism:train", 1, folder, "other", "first")
    run_ranks("tests.test_determinism:train", 1, folder, "again", fresh=True)

    def rows(file: Path) -> list[dict[str, Any]]:
        lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
        return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]

    return {
        name: [rows(folder / name / file) for file in ("metrics.jsonl", "eval.jsonl")]
        for name in ("first", "again", "other")
    }


def test_another_process_writes_the_same_rows(written: dict[str, list[list[dict[str, Any]]]]) -> None:
    metrics, evaluations = written["first"]
    assert len(metrics) > 8
    assert {"loss", "losses", "bands", "grad_norm", "parameter_norm", "update_norm", "padding"} <= metrics[0].keys()
    assert any(row["gradient_noise"] for row in metrics)
    assert {row["modality"] for row in evaluations} == {"text", "image"}
    assert written["again"] == [metrics, evaluations]


def test_another_seed_does_not(written: dict[str, list[list[dict[str, Any]]]]) -> None:
    for rows, others in zip(written["first"], written["other"], strict=True):
        for row, other in zip(rows, others, strict=False):
            numbers = ("loss", "grad_norm") if "loss" in row else ("nelbo",)
            assert all(row[name] != other[name] for name in numbers)
