"""`triptych plan` from the command line: what it prints, how it refuses, how long it takes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from specs.sampling import is_sampling_study
from triptych import app

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "studies"
DEMO = STUDIES / "demo" / "study.yaml"
GOLDEN = Path(__file__).parent / "golden"
STUDY = """\
study: tiny
base:
  model: {width: 64, depth: 2}
  modalities:
    text: {weight: 1, data: embedded/text}
    image: {weight: 1, data: embedded/image}
  sequence_length: 96
  tokens: 100K
  batch: {physical: 8}
axes:
  - grid: {model.width: [64, 128]}
"""


def plan(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


@pytest.mark.parametrize("name", ["demo", "flagship"])
def test_the_shipped_studies_are_planned_as_before(name: str) -> None:
    # After a wanted change: triptych plan studies/NAME/study.yaml --json | python -m json.tool > tests/golden/NAME.json
    code, out, _ = plan(STUDIES / name / "study.yaml", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((GOLDEN / f"{name}.json").read_text())


def brief(plan: dict[str, Any]) -> dict[str, Any]:
    """What stands for a plan too long to keep: the digest of all of it, and what decides each run's numbers."""
    return {"digest": plan["digest"], "runs": {run["name"]: run["id"] for run in plan["runs"]}}


def shipped() -> dict[str, Path]:
    """The shipped studies of training: NAME is NAME/study.yaml, NAME/paper is NAME/paper.yaml."""
    files = [file for file in sorted(STUDIES.glob("*/*.yaml")) if not is_sampling_study(file)]
    return {file.parent.name + ("" if file.stem == "study" else f"/{file.stem}"): file for file in files}


@pytest.mark.parametrize("name", sorted(shipped().keys() - {"demo", "flagship"}))
def test_the_shipped_experiments_are_planned_as_before(name: str) -> None:
    """After a wanted change, what `brief` gives belongs in tests/golden/experiments.json; `triptych diff` says more."""
    code, out, _ = plan(shipped()[name], "--json")
    assert code == 0
    assert brief(json.loads(out)) == json.loads((GOLDEN / "experiments.json").read_text())[name]


def test_the_table(study: Path) -> None:
    code, out, _ = plan(study, "base.tokens=50M")
    assert code == 0
    for text in ("width=64", "width=128", "128x2x2", "50M", "repeated", "2 runs", "FLOPs", "device-hours"):
        assert text in out
    assert out.index("warning") < out.index("width=64")


def test_json_has_the_contract_s_fields(study: Path) -> None:
    _, out, _ = plan(study, "--json")
    result = json.loads(out)
    assert set(result) > {"study", "digest", "warnings", "totals", "runs"}
    assert set(result["totals"]) == {"runs", "tokens", "flops", "device_hours"}
    run = result["runs"][0]
    wanted = (
        "id name seed tokens steps sequence_length model modalities batch optimizer clip groups multipliers schedule"
    )
    assert set(run) > set(f"{wanted} epochs flops hardware_flops memory device_hours".split())
    assert set(run["batch"]) > {"logical", "physical", "micro", "accumulation", "kappa", "critical"}
    assert set(run["model"]["parameters"]) == {"total", "non_embedding"}


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "says"),
    [
        ("physical:", "phisical:", 9, "base.batch.phisical", "did you mean 'physical'?"),
        ("text: {weight: 1", "text: {weight: -1", 5, "base.modalities.text.weight", "at least 0"),
        ("weight: 1, data: embedded/image", "weight: 1", 6, "base.modalities.image.data", "missing"),
        ("embedded/image", "embedded/imgae", 6, "base.modalities.image.data", "did you mean 'embedded/image'?"),
        ("depth: 2", "depth: 2, heads: 3", 11, "base.model.width", "heads do not divide width"),
        ("100K", "100", 8, "base.tokens", "fewer than one step"),
        ("{physical: 8}", "{physical: 8", 10, "file", "YAML syntax"),
        ("model.width:", "model.widht:", 11, "axes.0.grid.model.widht", "did you mean 'width'?"),
    ],
)
def test_a_user_s_mistake_is_one_clear_line(study: Path, old: str, new: str, line: int, path: str, says: str) -> None:
    study.write_text(STUDY.replace(old, new, 1))
    code, out, err = plan(study)
    assert (code, out) == (2, "")
    assert err.startswith(f"{study}:{line}: {path}: ")
    assert says in err
    assert "Traceback" not in err
    code, out, _ = plan(study, "--json")
    assert code == 2
    first = json.loads(out)["errors"][0]
    assert (first["file"], first["line"], first["path"]) == (str(study), line, path)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no such file"), (b"", "empty"), (b"study: \xff", "not UTF-8"), ("folder", "this is a folder")],
)
def test_files_that_are_no_study(tmp_path: Path, content: bytes | str | None, says: str) -> None:
    path = tmp_path / "study.yaml"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    code, _, err = plan(path)
    assert code == 2
    assert err.startswith(f"{path}:1: file: ")
    assert says in err


def test_a_mistake_on_the_command_line(study: Path) -> None:
    code, _, err = plan(study, "base.seed=1", "base.optimizer.lr=fast")
    assert code == 2
    assert err.startswith("command line:2: base.optimizer.lr: 'fast' is not a number; ")


@pytest.mark.parametrize("arguments", [["--help"], ["plan", str(DEMO)], ["plan", str(DEMO), "--json"]], ids=str)
def test_planning_is_quick_and_without_torch(arguments: list[str]) -> None:
    code = (
        f"import sys, triptych; sys.argv = ['triptych', *{arguments}]\ntry: triptych.main()\nexcept SystemExit: pass\n"
    )
    code += "bad = {'torch', 'numpy', 'polars', 'altair', 'scipy'} & set(sys.modules); assert not bad, bad"
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # Of processor time, for tests share their cores. The aim is 0.6 s on an idle machine.
    assert best < 1.5
