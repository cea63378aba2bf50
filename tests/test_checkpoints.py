"""Training that is stopped, damaged and resumed, in the trainer itself: nothing it writes differs by a bit."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from compiler.compile import compile_study
from compiler.plan import RunPlan
from compiler.records import RESULTS, checkpoint_steps
from runtime.control import Control
from tests.ranks import run_groups
from tests.tiny import STUDY, write_source, write_study

CLOCK = ("seconds", "tokens_per_second", "data_wait", "mfu")
ALL = (
    STUDY.replace("sequence_length: 12", "sequence_length: 40")
    .replace("cosine", "cosine, drop_condition: 0.2")
    .replace("{physical: 8}", "{physical: 12, micro: 3}")
    .replace("tokens: 3K", "tokens: 9K")
    .replace("every: 5", "every: 5, keep: 3")
    .replace("  checkpoint:", "  time: {importance: learned}\n  monitor: {gradient_noise: 4}\n  checkpoint:")
)


class StopAt(Control):
    """Asks one rank to stop after a step."""

    def __init__(self, step: int, mine: bool) -> None:
        super().__init__()
        self.last, self.mine = step, mine

    def stopping(self) -> bool:
        return self.mine and self.step >= self.last


def train(rank: int, ranks: int, folder: Path, name: str, *stops: str) -> None:
    """Train in `folder/name`, stopping after each of these steps where the last rank alone is told to, to the end."""
    from runtime.training.trainer import trainer_config

    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunPlan)
    home = folder / name
    home.mkdir(exist_ok=True)
    for stop in (*map(int, stops), run.steps + 1):
        trainer = trainer_config(run, home, folder).build()
        ended = trainer.train(StopAt(stop, rank == ranks - 1))
        trainer.close()
        assert ended == (stop > run.steps)
        if not ended:
            assert checkpoint_steps(home)[0] == stop


def fail(rank: int, ranks: int, folder: Path, name: str) -> None:
    """Train with a disk that is full from the third checkpoint on; the trainer must say so."""
    from runtime.training import checkpoints
    from runtime.worker import _words

    write = checkpoints.write_atomically

    def full(path: Path, data: bytes) -> None:
        if "step-15" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    checkpoints.write_atomically = full
    with pytest.raises(OSError, match="No space left") as caught:
        train(rank, ranks, folder, name)
    assert _words(caught.value).startswith("No space left on device: ")


def rows(home: Path) -> list[list[dict[str, Any]]]:
    """All that a run has measured that depends on no clock."""
    found = []
    for name in RESULTS:
        lines = [msgspec.json.decode(line) for line in (home / name).read_bytes().splitlines()]
        found.append([{key: value for key, value in line.items() if key not in CLOCK} for line in lines])
    return found


def state(home: Path) -> dict[str, Any]:
    """The newest checkpoint, as a flat mapping."""
    file = home / "state.pt"
    dcp_to_torch_save(home / "checkpoint" / f"step-{checkpoint_steps(home)[0]}", file)
    return dict(flat("", torch.load(file, weights_only=False)))


def flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [one for key, part in value.items() for one in flat(f"{prefix}/{key}", part)]


def assert_same(home: Path, calm: Path) -> None:
    assert rows(home) == rows(calm)
    mine, theirs = state(home), state(calm)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        same = torch.equal(mine[name], value) if isinstance(value, torch.Tensor) else mine[name] == value
        assert same, name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of 20-odd steps was trained in peace by one process (`calm-1`) and two (`calm-2`), and stopped at
    several steps on the way (`stopped-1`, `stopped-2`)."""
    folder = tmp_path_factory.mktemp("checkpoints")
    file = write_study(folder, ALL)
    write_source(folder / "data/image", {"text": 20, "image": 8}, lengths=(1, 16))
    run = compile_study(file, ["base.parallel.shard=2"]).runs[0]
    assert 20 < run.steps < 40
    (folder / "run.json").write_bytes(msgspec.json.encode(run))
    one = msgspec.structs.replace(run, parallel=msgspec.structs.replace(run.parallel, shard=1))
    alone = folder / "alone"
    alone.mkdir()
    shutil.copytree(folder / "data", alone / "data")
    (alone / "run.json").write_bytes(msgspec.json.encode(one))
    run_groups("tests.test_checkpoints:train", [(1, "calm"), (1, "stopped", "1", "7", "8", "20")], alone)
    run_groups("tests.test_checkpoints:train", [(2, "calm"), (2, "stopped", "3", "10", "17")], folder)
    return folder


@pytest.mark.parametrize("place", ["alone", "."])
def test_stopped_anywhere_by_one_rank_it_ends_the_same(folder: Path, place: str) -> None:
    assert_same(folder / place / "stopped", folder / place / "calm")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": lambda step: flip(next(step.glob("__0_*"))),
    "a bit of the metadata": lambda step: flip(step / ".metadata"),
    "half of the weights": lambda step: halve(next(step.glob("__0_*"))),
    "rows": lambda step: flip(step / "metrics.jsonl"),
    "a file": lambda step: next(step.glob("__0_*")).unlink(),
    "a seal": lambda step: (step / "seal-0.json").unlink(),
    "half a seal": lambda step: halve(step / "seal-0.json"),
}


def test_a_damaged_checkpoint_is_left_out_and_the_one_before_it_used(folder: Path) -> None:
    alone = folder / "alone"
    names = []
    for number, (what, damage) in enumerate(DAMAGE.items()):
        home = alone / f"damaged-{number}"
        shutil.copytree(alone / "calm", home)
        newest, second, *_ = checkpoint_steps(home)
        damage(home / f"checkpoint/step-{newest}")
        if number % 2:
            DAMAGE["half of the weights"](home / f"checkpoint/step-{second}")
        flip(home / "metrics.jsonl")
        halve(home / "eval.jsonl")
        names.append((home, what))
    run_groups("tests.test_checkpoints:train", [(1, home.name) for home, _ in names], alone)
    for home, what in names:
        assert_same(home, alone / "calm")
        log = (alone / "output.txt").read_text()
        assert log.count("is not whole, it is left out") >= len(DAMAGE), what


def test_with_no_whole_checkpoint_it_starts_anew(folder: Path) -> None:
    alone = folder / "alone"
    home = alone / "lost"
    shutil.copytree(alone / "calm", home)
    for step in checkpoint_steps(home):
        (home / f"checkpoint/step-{step}/.metadata").unlink()
    run_groups("tests.test_checkpoints:train", [(1, home.name)], alone)
    assert_same(home, alone / "calm")


def test_two_ranks_go_on_where_one_stopped_and_the_other_way_round(folder: Path) -> None:
    alone = folder / "alone"
    for source, target, ranks in ((alone, folder, 2), (folder, alone, 1)):
        home = target / "handed"
        shutil.copytree(source / "calm", home)
        shutil.rmtree(home / "checkpoint" / f"step-{checkpoint_steps(home)[0]}")
        run_groups("tests.test_checkpoints:train", [(ranks, "handed")], target)
        for row, other in zip(rows(home)[0], rows(source / "calm")[0], strict=True):
            assert (row["step"], row["tokens"]) == (other["step"], other["tokens"])
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        mine, theirs = state(home), state(source / "calm")
        for name, value in theirs.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-5)


def test_what_is_kept_is_the_plan_s(folder: Path) -> None:
    alone = folder / "alone"
    run = msgspec.json.decode((alone / "run.json").read_bytes(), type=RunPlan)
    each = run.tokens / 4
    checkpoint = msgspec.structs.replace(run.checkpoint, every=5, keep=2, keep_every=each)
    place = folder / "policy"
    place.mkdir()
    shutil.copytree(folder / "data", place / "data")
    (place / "run.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(run, checkpoint=checkpoint)))
    run_groups("tests.test_checkpoints:train", [(1, "kept")], place)
    tokens = run.tokens / run.steps
    good = {next(s for s in range(1, run.steps + 1) if s * tokens >= k * each * (1 - 1e-12)) for k in (1, 2, 3, 4)}
    regular = [*range(5, run.steps + 1, 5), *good]
    newest = sorted({*regular, run.steps})[-2:]
    assert set(checkpoint_steps(place / "kept")) == good | set(newest)
    assert rows(place / "kept") == rows(alone / "calm")


def test_a_full_disk_is_named(folder: Path) -> None:
    run_groups("tests.test_checkpoints:fail", [(1, "full")], folder / "alone")
    run_groups("tests.test_checkpoints:train", [(1, "full")], folder / "alone")
    assert_same(folder / "alone/full", folder / "alone/calm")
