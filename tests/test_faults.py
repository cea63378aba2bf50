"""The fault campaign in small, and its judge: it must see what is lost, doubled or changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.checkpoint import FileSystemWriter, save

from tests.faults.__main__ import campaign, counts
from tests.faults.judge import problems, state
from tests.faults.plan import KINDS, Fault, Life, draw
from tests.test_training import triptych
from tests.tiny import STUDY, write_study


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was trained in peace."""
    folder = tmp_path_factory.mktemp("calm")
    triptych("run", write_study(folder, STUDY.replace("every: 5", "every: 10")), "--out", folder / "runs")
    [home] = (folder / "runs/store").iterdir()
    return home


def lines(change: Callable[[list[bytes]], list[bytes]], name: str = "metrics.jsonl") -> Callable[[Path], None]:
    """Change the rows of a run, and its status with them, as if it had written them itself."""

    def spoil(home: Path) -> None:
        rows = home / name
        rows.write_bytes(b"".join(change(rows.read_bytes().splitlines(keepends=True))))
        status = json.loads((home / "status.json").read_bytes())
        status["results"][name] = hashlib.sha256(rows.read_bytes()).hexdigest()
        (home / "status.json").write_text(json.dumps(status))

    return spoil


def another_loss(rows: list[bytes]) -> list[bytes]:
    row = json.loads(rows[7])
    row["loss"] += 1e-9
    return [*rows[:7], json.dumps(row).encode() + b"\n", *rows[8:]]


def another_weight(home: Path) -> None:
    """The last checkpoint with one weight moved by its last bits, and sealed as it is."""
    last = max((home / "checkpoint").iterdir(), key=lambda folder: int(folder.name.removeprefix("step-")))
    values = state(last)
    values["lm_head.weight"].view(-1)[3] *= 1 + 1e-6
    save(values, storage_writer=FileSystemWriter(last), no_dist=True)
    seal = json.loads((last / "seal-0.json").read_bytes())
    seal["files"] = {file: hashlib.sha256((last / file).read_bytes()).hexdigest() for file in seal["files"]}
    (last / "seal-0.json").write_text(json.dumps(seal))


def a_flipped_bit(home: Path) -> None:
    file = next((home / "checkpoint").glob("*/__0_0.distcp"))
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)


def a_status(home: Path) -> None:
    status = json.loads((home / "status.json").read_bytes())
    (home / "status.json").write_text(json.dumps(status | {"state": "failed", "reason": "no luck"}))


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        pytest.param(lambda home: None, "", id="nothing"),
        pytest.param(lines(lambda rows: [*rows[:4], *rows[3:]]), "step 4 is doubled", id="a doubled row"),
        pytest.param(lines(lambda rows: [*rows[:4], *rows[5:]]), "step 5 was lost", id="a lost row"),
        pytest.param(lines(lambda rows: rows[:-1]), "was lost", id="the last row lost"),
        pytest.param(lines(lambda rows: [rows[1], rows[0], *rows[2:]]), "another order", id="swapped rows"),
        pytest.param(lines(another_loss), "step 8 has another loss", id="a changed loss"),
        pytest.param(lines(lambda rows: rows[1:], "eval.jsonl"), "was lost", id="a lost evaluation"),
        pytest.param(another_weight, "lm_head.weight", id="a changed weight"),
        pytest.param(a_flipped_bit, "differ from their seal", id="a flipped bit of a checkpoint"),
        pytest.param(a_status, "it is failed: no luck", id="a run that failed"),
        pytest.param(lambda home: (home / ".metrics.jsonl.1-2").touch(), "was left behind", id="a temporary file"),
        pytest.param(lambda home: (home / "lease-7").touch(), "was left behind", id="a lease that is held"),
    ],
)
def test_the_judge_sees(calm: Path, tmp_path: Path, spoil: Callable[[Path], None], seen: str) -> None:
    home = tmp_path / calm.name
    shutil.copytree(calm, home)
    spoil(home)
    found = problems(home, calm)
    assert bool(found) == bool(seen)
    assert any(seen in problem for problem in found) or not seen


def test_a_campaign_is_drawn_by_its_seed() -> None:
    lives = draw(300, seed=1)
    faults = [fault for life in lives for fault in life.faults]
    assert len(faults) == 300
    assert {fault.kind for fault in faults} == KINDS.keys()
    assert all(life.variant in KINDS[fault.kind].variants for life in lives for fault in life.faults)
    assert draw(300, seed=1) == lives
    assert draw(300, seed=2) != lives
    assert len(draw(3, seed=1, kinds=["full", "clock", "slow", "signal"])[0].faults) <= 3


def test_a_small_campaign(tmp_path: Path) -> None:
    faults = (
        Fault("worker", "start", at=0.05, seed=1),
        Fault("launcher", "checkpoint", at=0.4, seed=2),
        Fault("flipped", "between", at=0.7, seed=3, file="checkpoint"),
        Fault("truncated", "end", at=0.9, seed=4, file="metrics"),
    )
    outcomes = campaign([Life(1, "one", faults)], 0, tmp_path, 1)
    assert [outcome.problems for outcome in outcomes if outcome.problems] == []
    found = counts(outcomes)
    assert {kind: found[kind]["survived"] for kind in found} == {fault.kind: 1 for fault in faults}
