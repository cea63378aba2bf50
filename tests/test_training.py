"""Studies trained by the command, as a user runs it: real processes, real checkpoints, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from compiler.compile import compile_study, compile_whole
from compiler.layout import table
from compiler.plan import RunPlan
from compiler.records import checkpoint_steps, read_status
from runtime.folders import prepare
from tests.tiny import STUDY, write_study

TRIPTYCH = [str(Path(sys.executable).with_name("triptych"))]


def triptych(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*TRIPTYCH, *map(str, arguments)], capture_output=True, text=True, timeout=240)
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def numbers(out: Path, run_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a run measured, without what depends on the clock."""
    folder = out / "store" / run_id
    timed = {"tokens_per_second", "seconds", "data_wait", "mfu"}
    metrics = [{key: value for key, value in row.items() if key not in timed} for row in rows(folder / "metrics.jsonl")]
    return metrics, rows(folder / "eval.jsonl")


LONG = STUDY.replace("tokens: 3K", "tokens: 20K").replace("every: 5", "every: 25")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study's file and the folder where it was trained in peace: two runs, over 200 steps each."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file = write_study(folder, LONG.replace("axes: []", "axes: [{grid: {model.width: [16, 32]}}]"))
    triptych("run", file, "--out", folder / "runs")
    return file, folder / "runs"


def test_a_study_trains_and_is_not_trained_again(undisturbed: tuple[Path, Path]) -> None:
    file, out = undisturbed
    plan = compile_study(file)
    for run in plan.runs:
        metrics, evaluations = numbers(out, run.id)
        assert [row["step"] for row in metrics] == list(range(1, run.steps + 1))
        assert abs(metrics[-1]["tokens"] - run.tokens) / run.tokens < 0.05
        assert {row["modality"] for row in evaluations} == {"text", "image"}
        assert metrics[-1]["losses"].keys() == {"text", "image"}
        assert read_status(out / "store" / run.id).attempts == 1
        assert (out / "tiny" / "runs" / run.id / "run.json").exists()
    again = triptych("run", file, "--out", out)
    assert "2 of 2 runs are done already" in again.stdout
    assert all(read_status(out / "store" / run.id).attempts == 1 for run in plan.runs)
    states = json.loads(triptych("status", out / "tiny", "--json").stdout)["runs"]
    assert [state["state"] for state in states] == ["done", "done"]


def test_a_trained_run_says_where_its_values_came_from(undisturbed: tuple[Path, Path]) -> None:
    file, out = undisturbed
    first = compile_study(file).runs[0]
    line = file.read_text().splitlines().index("axes: [{grid: {model.width: [16, 32]}}]") + 1
    for folder in (out / "tiny/runs" / first.id, out / "store" / first.id):
        told = json.loads(triptych("explain", folder, "--path", "model.width", "--json").stdout)
        assert told["id"] == first.id
        [value] = told["values"]
        assert (value["written"], value["planned"], value["origin"]) == (16, 16, f"{file}:{line}")
    refused = triptych("explain", out / "store", check=2)
    assert "not the folder of a study's run" in refused.stderr


def test_the_mfu_of_trained_runs_is_measured(undisturbed: tuple[Path, Path]) -> None:
    _, out = undisturbed
    measured = json.loads(triptych("mfu", out / "tiny", "--json").stdout)
    assert len(measured["runs"]) == 2
    assert 0 < measured["mfu"] < 1


def test_a_study_s_folder_holds_what_includes_and_overrides_brought(tmp_path: Path) -> None:
    file = write_study(tmp_path, STUDY.replace("axes: []", "include: axes.yaml"))
    (tmp_path / "axes.yaml").write_text("axes: [{seeds: 2}]\n")
    compiled = compile_whole(file, ["base.log_every=3"])
    prepare(compiled, file, ["base.log_every=3"], tmp_path / "runs")
    kept = tmp_path / "whole.yaml"
    kept.write_bytes((tmp_path / "runs/tiny/study.yaml").read_bytes())
    assert compile_study(kept).digest == compiled.plan.digest


def test_a_run_that_two_studies_share_is_trained_once(undisturbed: tuple[Path, Path]) -> None:
    file, out = undisturbed
    other = file.with_name("other.yaml")
    other.write_text(file.read_text().replace("study: tiny", "study: other").replace("[16, 32]", "[16]"))
    assert "1 of 1 runs are done already" in triptych("run", other, "--out", out).stdout
    assert (out / "other" / "runs").is_dir()


@pytest.mark.parametrize(
    "after",
    [
        "the first checkpoint",
        pytest.param("a few rows", marks=pytest.mark.slow),
        pytest.param("half the steps", marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_time_it_ends_with_the_same_numbers(
    undisturbed: tuple[Path, Path], tmp_path: Path, after: str
) -> None:
    file, calm = undisturbed
    plan = compile_study(file)
    watched = tmp_path / "store" / max(plan.runs, key=lambda run: run.flops).id
    with subprocess.Popen(
        [*TRIPTYCH, "run", str(file), "--out", str(tmp_path)], stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            steps = (watched / "metrics.jsonl").read_bytes().count(b"\n") if (watched / "metrics.jsonl").exists() else 0
            checkpoints = list((watched / "checkpoint").glob("step-*"))
            if {"the first checkpoint": bool(checkpoints), "a few rows": steps > 3, "half the steps": steps > 110}[
                after
            ]:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    triptych("run", file, "--out", tmp_path)
    for run in plan.runs:
        assert numbers(tmp_path, run.id) == numbers(calm, run.id)
    assert max(read_status(tmp_path / "store" / run.id).attempts for run in plan.runs) == 2


def watched(process: subprocess.Popen[bytes], happens: Callable[[], object]) -> None:
    """Wait for something to happen while a process runs."""
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        assert process.poll() is None, "it ended before"
        time.sleep(0.005)


def states(out: Path) -> dict[str, str]:
    told = json.loads(triptych("status", out / "tiny", "--json").stdout)
    return {run["id"]: run["state"] for run in told["runs"]}


def test_interrupted_cancelled_damaged_and_shared_it_ends_the_same(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    """A life of a study with all that a user may do to it, each step a check of its own."""
    file, calm = undisturbed
    plan = compile_study(file)
    small, large = sorted(plan.runs, key=lambda run: run.flops)
    homes = {run.id: tmp_path / "store" / run.id for run in plan.runs}
    command = [*TRIPTYCH, "run", str(file), "--out", str(tmp_path)]

    # Ctrl-C: what trains is saved where it is, and the next run goes on from there.
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        watched(process, lambda: all(len(checkpoint_steps(home)) > 0 for home in homes.values()))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 1
    assert "SIGINT: saving runs" in said
    for home in homes.values():
        status = read_status(home)
        assert status.state == "preempted"
        assert status.history[-1].last_step == checkpoint_steps(home)[0] == len(rows(home / "metrics.jsonl"))
    assert set(states(tmp_path).values()) == {"preempted"}

    # Damage while nobody trains: the newest checkpoint of one run, and rows of the other.
    newest = homes[large.id] / "checkpoint" / f"step-{checkpoint_steps(homes[large.id])[0]}"
    data = next(newest.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1000])
    (homes[small.id] / "metrics.jsonl").write_bytes(b"")

    # Two launchers at once, and one run cancelled by a third command on the way.
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as first,
        subprocess.Popen(command, stdout=subprocess.PIPE) as second,
    ):
        watched(first, lambda: read_status(homes[large.id]).state == "running")
        asked = json.loads(triptych("cancel", tmp_path / "tiny", large.id, "--json").stdout)
        assert asked["asked"] == [large.id]
        told = first.communicate(timeout=120)[0] + second.communicate(timeout=120)[0]
    assert (first.returncode, second.returncode) == (1, 1)
    assert b"waiting for width=" in told
    assert states(tmp_path) == {small.id: "done", large.id: "cancelled"}
    assert numbers(tmp_path, small.id) == numbers(calm, small.id)
    assert [attempt.state for attempt in read_status(homes[small.id]).history] == ["preempted", "done"]

    # Cancelled runs are left alone until they are taken up again.
    assert "1 of 2 runs are cancelled" in triptych("run", file, "--out", tmp_path, check=1).stdout
    (homes[small.id] / "eval.jsonl").write_bytes(b"{}\n")  # damage to what is done is seen, and mended, too
    triptych("retry", tmp_path / "tiny")
    assert states(tmp_path) == {small.id: "done", large.id: "done"}
    assert [attempt.state for attempt in read_status(homes[large.id]).history] == ["preempted", "cancelled", "done"]
    assert numbers(tmp_path, large.id) == numbers(calm, large.id)
    triptych("run", file, "--out", tmp_path)
    assert numbers(tmp_path, small.id) == numbers(calm, small.id)

    # An edited study: what is new is trained, what is gone stays.
    edited = file.with_name("edited.yaml")
    edited.write_text(file.read_text().replace("[16, 32]", "[16]").replace("tokens: 20K", "tokens: 2K"))
    triptych("run", edited, "--out", tmp_path)
    (added,) = states(tmp_path)
    assert added not in homes
    for run in plan.runs:
        assert (tmp_path / "tiny/runs" / run.id / "eval.jsonl").exists()

    told = triptych("logs", tmp_path / "tiny", added[:6], "--lines", "5").stdout.splitlines()
    assert told[0].endswith(f"{added}/log.txt")
    assert len(told) == 6


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study's file and the folder where its one short run was trained on one rank."""
    folder = tmp_path_factory.mktemp("brief")
    file = write_study(folder, STUDY.replace("tokens: 3K", "tokens: 5K").replace("every: 5", "every: 25"))
    triptych("run", file, "--out", folder / "runs")
    return file, folder / "runs"


def agree(out: Path, calm: Path, runs: tuple[RunPlan, ...]) -> None:
    """The same numbers in both folders, to rounding."""
    for run in runs:
        (metrics, evaluations), (own, own_evaluations) = numbers(calm, run.id), numbers(out, run.id)
        for row, same in zip(metrics, own, strict=True):
            assert same["tokens"] == row["tokens"]
            assert same["loss"] == pytest.approx(row["loss"], rel=1e-4)
        for row, same in zip(evaluations, own_evaluations, strict=True):
            assert same["tokens"] == row["tokens"]
            assert same["nelbo"] == pytest.approx(row["nelbo"], rel=1e-4)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(["shard=2"], id="sharded"),
        pytest.param(["replicate=2", "activation_checkpoint=full"], id="replicated", marks=pytest.mark.slow),
    ],
)
def test_the_same_numbers_on_two_ranks(brief: tuple[Path, Path], tmp_path: Path, layout: list[str]) -> None:
    file, calm = brief
    overrides = [*(f"base.parallel.{setting}" for setting in layout), "base.batch.micro=2"]
    runs = compile_study(file).runs
    assert [run.id for run in runs] == [run.id for run in compile_study(file, overrides).runs]
    triptych("run", file, *overrides, "--out", tmp_path)
    agree(tmp_path, calm, runs)

    # What two ranks have written goes on in one, from the checkpoint before the last.
    for run in runs:
        folder = tmp_path / "store" / run.id
        shutil.rmtree(folder / "checkpoint" / f"step-{run.steps}")
        (folder / "status.json").unlink()
    triptych("run", file, "--out", tmp_path)
    agree(tmp_path, calm, runs)


def test_recomputed_blocks_change_no_number(brief: tuple[Path, Path], tmp_path: Path) -> None:
    file, calm = brief
    triptych("run", file, "base.parallel.activation_checkpoint=full", "--out", tmp_path)
    for run in compile_study(file).runs:
        assert numbers(tmp_path, run.id) == numbers(calm, run.id)
        folder = tmp_path / "store" / run.id / "checkpoint" / f"step-{run.steps}"
        saved = FileSystemReader(folder).read_metadata().state_dict_metadata
        assert {row.name for row in table(run)} <= saved.keys()
        assert not [name for name in saved if "_checkpoint_wrapped_module" in name]


def test_a_run_that_diverges_fails_alone_and_says_why(tmp_path: Path) -> None:
    text = STUDY.replace("axes: []", "axes: [{grid: {optimizer.lr: [0.01, 1.0e+9]}}]")
    file = write_study(tmp_path, text)
    done = triptych("run", file, "--out", tmp_path / "runs", check=1)
    assert "1 done, 1 failed" in done.stdout
    states = json.loads(triptych("status", tmp_path / "runs/tiny", "--json").stdout)["runs"]
    failed = next(state for state in states if state["state"] == "failed")
    assert "not a number at step" in failed["reason"]
    assert "1e+09" in failed["name"]
    assert {read_status(home).diverged for home in (tmp_path / "runs/store").iterdir()} == {False, True}


def test_a_killed_worker_is_replaced_and_its_run_goes_on(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    file, calm = undisturbed
    plan = compile_study(file)
    victim = tmp_path / "store" / max(plan.runs, key=lambda run: run.flops).id
    with subprocess.Popen(
        [*TRIPTYCH, "run", str(file), "--out", str(tmp_path), "--workers", "1"], stdout=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not checkpoint_steps(victim):
            time.sleep(0.01)
        os.kill(read_status(victim).pid, signal.SIGKILL)
        process.communicate(timeout=200)
    assert process.returncode == 0
    first, second = read_status(victim).history
    assert (first.state, first.reason) == ("preempted", "its process ended (killed by SIGKILL)")
    assert second.state == "done"
    assert second.first_step <= first.last_step
    for run in plan.runs:
        assert numbers(tmp_path, run.id) == numbers(calm, run.id)


def test_the_built_model_must_equal_the_plan(tmp_path: Path) -> None:
    from runtime.training.model import model_config

    run = compile_study(write_study(tmp_path)).runs[0]
    model = model_config(run).build()
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {r.name: r.shape for r in table(run)}
    assert sum(p.numel() for p in model.parameters()) == run.model.parameters.total
    wider = msgspec.structs.replace(run, sequence_length=run.sequence_length + 1)
    config = model_config(run)
    config.run = wider
    with pytest.raises(AssertionError, match="differs from the plan's layout table"):
        config.build()


def test_recomputed_blocks_keep_their_names(tmp_path: Path) -> None:
    from runtime.training.model import model_config
    from runtime.training.trainer import activation_checkpoint

    run = compile_study(write_study(tmp_path)).runs[0]
    model = model_config(run).build()
    full = activation_checkpoint("full")
    assert full is not None
    full.build().apply(model)
    model.init_states()
    names = [row.name for row in table(run)]
    assert sorted(name for name, _ in model.named_parameters()) == sorted(names)
    assert sorted(model.state_dict()) == sorted(names)

    calls = []
    model.layers["0"].attention.register_forward_hook(lambda *_: calls.append("forward"))
    tokens = torch.zeros(2, run.sequence_length, dtype=torch.int64)
    logits = model(
        tokens,
        document=torch.zeros(2, run.sequence_length, dtype=torch.int32),
        code_index=tokens,
        scored=torch.arange(4),
    )
    assert len(calls) == 1
    logits.sum().backward()
    assert len(calls) == 2
