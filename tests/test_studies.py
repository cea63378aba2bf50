"""The shipped studies that end in laws, each in miniature from the command line: train, fit, report, export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

TRIPTYCH = Path(sys.executable).with_name("triptych")
STUDIES = Path(__file__).parents[1] / "studies"


def triptych(*arguments: str | Path) -> str:
    ended = subprocess.run([TRIPTYCH, *map(str, arguments)], capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("name", [pytest.param("scaling", marks=pytest.mark.slow), "mixing", "noise"])
def test_a_study_runs_in_miniature_and_is_answered(tmp_path: Path, name: str) -> None:
    triptych("run", STUDIES / name / "smoke.yaml", "--out", tmp_path)
    folder = tmp_path / f"{name}-smoke"
    found = json.loads(triptych("fit", folder, "--bootstrap", "20", "--json"))
    assert found[name]
    triptych("report", folder, "--bootstrap", "20")
    results = pl.read_parquet(folder / "results.parquet")
    plan = json.loads((folder / "plan.json").read_text())
    assert set(results["id"]) == {run["id"] for run in plan["runs"]}
    assert set(results["modality"]) == {"all", "text", "image", "audio"}
    assert f'<section id="{name}"' in (folder / "report.html").read_text()
