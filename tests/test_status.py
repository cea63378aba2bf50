"""What `status` says of a run whose owner comes or goes while it looks."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from compiler.records import Attempt, Status
from runtime import status
from runtime.attempts import write_status
from runtime.status import study_states
from tests.synthetic import make_study

RUNNING = Status(state="running", attempts=1, history=(Attempt(job="7_0"),))


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (msgspec.structs.replace(RUNNING, state="done"), "done"),
        (msgspec.structs.replace(RUNNING, state="failed", reason="no memory"), "failed"),
        (msgspec.structs.replace(RUNNING, attempts=2), "running"),
        (RUNNING, "preempted"),
    ],
)
def test_an_owner_that_lets_go_meanwhile_has_said_how_it_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: Status, said: str
) -> None:
    study = make_study(tmp_path, sizes={32: 36_000}, tokens=(2e5,), states={0: ("running", "")})
    [home] = (study / "runs").iterdir()
    write_status(home, RUNNING)
    looks = []

    def is_held(folder: Path) -> bool:
        """Its owner ends it, or another begins, between the first look and the second."""
        write_status(folder, then)
        looks.append(folder)
        return len(looks) > 1 and then.attempts == 2

    monkeypatch.setattr(status, "is_held", is_held)
    [run] = study_states(study).runs
    assert run.state == said
