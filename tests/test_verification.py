"""Plans held against the trainers that torchtitan builds of them, on ranks that do not exist."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from msgspec.structs import replace

import runtime.training  # noqa: F401  (before torchtitan)
from compiler.compile import compile_study
from compiler.cost import memory
from compiler.layout import Module, shape_of
from compiler.plan import ParallelPlan, RunPlan
from runtime.training import verification
from runtime.training.inspection import torchtitan_config
from runtime.training.verification import Verified, verify
from tests.tiny import STUDY, write_study

FLAGSHIP = Path(__file__).parent.parent / "studies/flagship/study.yaml"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = STUDY.replace("heads: 2", "heads: 2, ffn: 46").replace("physical: 8", "physical: 48")
    return write_study(tmp_path_factory.mktemp("verified"), text)


def plan(study: Path, *overrides: str) -> RunPlan:
    return compile_study(study, list(overrides)).runs[0]


def check(*runs: RunPlan) -> list[Verified]:
    lines: list[str] = []
    before = dict(os.environ)
    verified = verify(runs, lines.append)
    assert len(lines) == len(verified)
    assert not dist.is_initialized()
    assert dict(os.environ) == before
    return verified


@pytest.mark.parametrize(
    ("shard", "replicate", "tensor", "dtype", "recompute"),
    [
        (1, 1, 1, "float32", "none"),
        (1, 1, 1, "bfloat16", "none"),
        (3, 1, 1, "float32", "none"),  # 3 divides neither width nor vocabulary
        (8, 2, 1, "bfloat16", "full"),
        (1, 4, 1, "float32", "full"),
        (48, 1, 1, "bfloat16", "none"),  # more ranks than a norm has rows
        (1, 1, 2, "float32", "none"),  # 2 does not divide the vocabulary
        (3, 2, 2, "bfloat16", "full"),
        (48, 1, 2, "float32", "none"),  # more ranks than half a projection has rows
    ],
)
def test_a_plan_is_what_torchtitan_builds(
    study: Path, shard: int, replicate: int, tensor: int, dtype: str, recompute: str
) -> None:
    run = plan(
        study,
        f"base.parallel.shard={shard}",
        f"base.parallel.replicate={replicate}",
        f"base.parallel.tensor={tensor}",
        f"base.parallel.activation_checkpoint={recompute}",
        f"base.dtype={dtype}",
    )
    (found,) = check(run)
    assert found.problems == []
    assert found.ranks == shard * replicate * tensor
    assert found.shard_bytes == found.planned_bytes == run.memory.parameters


def test_runs_that_share_a_trainer_are_built_once(study: Path) -> None:
    one, other = plan(study), plan(study, "base.optimizer.lr=0.5")
    wide = plan(study, "base.model.width=32")
    verified = check(one, wide, other)
    assert [(found.runs, found.problems) for found in verified] == [([one.name, other.name], []), ([wide.name], [])]


def test_per_module_exceptions_are_groups_of_the_trainer(study: Path) -> None:
    run = plan(study, "base.optimizer.modules.out={pattern: 'layers.*.attention.wo.weight', lr: 0.5}")
    assert "hidden+out" in {group.name for group in run.groups}
    (found,) = check(run)
    assert found.problems == []


def tampered(run: RunPlan, group: str, **changes: Any) -> RunPlan:
    return replace(run, groups=tuple(replace(one, **changes) if one.name == group else one for one in run.groups))


def test_a_changed_pattern_is_reported(study: Path) -> None:
    run = plan(study)
    (nothing,) = check(tampered(run, "head", pattern="lm_tail"))
    assert any("cannot be built" in problem for problem in nothing.problems)
    (taken,) = check(tampered(run, "embedding", pattern=r"(tok_embeddings|lm_head)\.weight"))
    assert any("cannot be built" in problem for problem in taken.problems)
    # Every group still has a parameter, and every parameter a group, but one went to another.
    moved = tampered(run, "hidden", pattern=r"layers\.\d+\.(attention\.qkv_linear\.w[qkv]|feed_forward\.w[13])\.weight")
    moved = tampered(moved, "hidden_down", pattern=r"layers\.\d+\.(feed_forward\.w2|attention\.wo)\.weight")
    (found,) = check(moved)
    assert found.problems == ["layers.0.attention.wo.weight: is in 0 of the plan's groups of kind 'hidden', not in one"]


def test_a_group_that_another_robs_is_reported(study: Path) -> None:
    # torchtitan gives a parameter to the first group that matches.
    run = plan(study)
    (found,) = check(tampered(run, "embedding", pattern=r"(tok_embeddings|layers\.0\.ffn_norm)\.weight"))
    assert found.problems[0] == ("layers.0.ffn_norm.weight: is in optimizer group 'embedding', planned 'hidden_norm'")


def test_a_changed_shard_is_reported(study: Path) -> None:
    run = plan(study, "base.parallel.shard=4", "base.batch.micro=1")
    (found,) = check(replace(run, parallel=ParallelPlan(shard=8)))
    (problem,) = found.problems
    assert problem.startswith("rank 0 holds ")
    assert f"{run.memory.parameters:,} planned" in problem


def test_a_matrix_cut_otherwise_is_reported(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verification.modules

    def changed(shape: Any) -> tuple[Module, ...]:
        return tuple(one._replace(cut=0) if one.name.endswith("wo.weight") else one for one in real(shape))

    monkeypatch.setattr(verification, "modules", changed)
    (found,) = check(plan(study, "base.parallel.tensor=2"))
    assert found.problems == ["layers.0.attention.wo.weight: rank 0 holds (16, 8) of it, planned (8, 16)"]


def test_a_changed_count_is_reported(study: Path) -> None:
    run = plan(study)
    counts = replace(run.model.parameters, total=run.model.parameters.total + 1)
    (found,) = check(replace(run, model=replace(run.model, parameters=counts)))
    assert found.problems == [f"{counts.total - 1:,} parameters are built, {counts.total:,} planned"]


def test_a_changed_layout_is_reported(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verification.modules

    def changed(shape: Any) -> tuple[Module, ...]:
        kept = [module for module in real(shape) if module.name != "norm.weight"]
        return (*kept[:-1], kept[-1]._replace(shape=(3, 5)), Module("bias", (7,), "head"))

    monkeypatch.setattr(verification, "modules", changed)
    (found,) = check(plan(study))
    text = "\n".join(found.problems)
    assert "lm_head.weight: has shape" in text
    assert "bias: planned, but not built" in text
    assert "norm.weight: built, but not planned" in text


def test_settings_that_the_optimizer_has_otherwise_are_reported(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verification.trainer_config

    def changed(run: RunPlan, folder: Path, data_root: Path) -> Any:
        return real(tampered(run, "head", lr=7.0, eps=1.0), folder, data_root)

    monkeypatch.setattr(verification, "trainer_config", changed)
    run = plan(study)
    head = next(group for group in run.groups if group.name == "head")
    (found,) = check(run)
    assert found.problems == [
        f"lm_head.weight: lr is 7.0, planned {head.lr}",
        f"lm_head.weight: eps is 1.0, planned {head.eps}",
    ]


def test_a_batch_that_does_not_divide_is_reported(study: Path) -> None:
    run = plan(study, "base.parallel.shard=4")
    (found, well) = check(replace(run, parallel=ParallelPlan(shard=5)), run)
    assert "cannot be built" in found.problems[0]
    assert well.problems == []


def test_a_rank_of_a_running_group_cannot_verify(study: Path) -> None:
    dist.init_process_group("fake", rank=0, world_size=2)
    try:
        with pytest.raises(RuntimeError, match="is a rank of a process group"):
            verify([plan(study)], print)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_three_billion_parameters_on_64_ranks_take_less_than_a_minute() -> None:
    run = compile_study(FLAGSHIP).runs[0]
    assert run.parallel.ranks == 64
    (found,) = check(run)
    assert found.problems == []
    assert found.parameters > 2.9e9
    assert found.shard_bytes == memory(shape_of(run), 1, run.parallel, run.dtype).parameters
    assert found.seconds < 60


def test_the_torchtitan_config_of_a_run_is_plain_and_lists_layers_once(study: Path, tmp_path: Path) -> None:
    run = plan(study, "base.model.depth=3", "base.parallel.activation_checkpoint=full")
    config = torchtitan_config(run, tmp_path / "store", tmp_path)
    assert json.loads(json.dumps(config, allow_nan=False)) == config
    assert config["dump_folder"] == str(tmp_path / "store")
    (layers,) = config["model_spec"]["model"]["layers"]
    assert layers["count"] == 3
    assert layers["each"]["feed_forward"]["w1"]["out_features"] == run.model.ffn
    assert config["training"]["global_batch_size"] == run.batch.physical
    assert config["activation_checkpoint"]["class"] == "FullAC"
    assert [group["optimizer_kwargs"]["lr"] for group in config["optimizer"]["param_groups"]] == [
        group.lr for group in run.groups
    ]
    assert str(run.id) == config["run"]
