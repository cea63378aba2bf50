"""Run folders, plans and studies from strangers: nothing of theirs is executed, nothing outside is touched, and what is
wrong is said in a line."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex
from typer.testing import CliRunner, Result

from compiler.compile import compile_study, compile_whole
from compiler.records import RESULTS, checkpoint_steps, read_status
from runtime.folders import prepare
from runtime.local import WorkerGroup
from runtime.seals import seal
from runtime.submission import dry_run
from runtime.worker import Answer, Job
from specs.errors import SpecError
from tests.tiny import STUDY, write_study
from triptych import app

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m"
"""What sets a terminal's title, clears it, and colours it in one byte."""

MARKUP = "[/]red [bold]</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a stranger has a study with one run, which is not trained."""
    folder = tmp_path_factory.mktemp("stranger")
    file = write_study(folder)
    prepare(compile_whole(file), file, [], folder / "runs")
    return folder


class Worker:
    """A process that trains runs, as `triptych run` starts them; another where it has died."""

    def __init__(self) -> None:
        self.group = WorkerGroup(1, 1, [])

    def train(self, run: Path, data_root: Path) -> Answer:
        answer = self.group.train(Job(str(run), str(data_root)))
        if answer.state == "preempted":
            self.group.close()
            self.group = WorkerGroup(1, 1, [])
        return answer


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.group.close()


@pytest.fixture(scope="module")
def trained(home: Path, worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, trained."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(home, folder, symlinks=True, dirs_exist_ok=True)
    [run] = (folder / "runs/store").iterdir()
    assert worker.train(run, folder) == Answer("done")
    assert len(checkpoint_steps(run)) == 2
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run's folder, which says that it has not ended."""
    shutil.copytree(trained / "runs", tmp_path / "runs", symlinks=True)
    [folder] = (tmp_path / "runs/store").iterdir()
    (folder / "status.json").unlink()
    return folder


@pytest.fixture
def study(home: Path, tmp_path: Path) -> Path:
    """A copy of the folder of the study that is not trained, its store beside it."""
    shutil.copytree(home / "runs", tmp_path / "runs", symlinks=True)
    return tmp_path / "runs/tiny"


def run_of(study: Path) -> Path:
    [folder] = (study.parent / "store").iterdir()
    return folder


class Trap:
    """Pickled, it makes a file where it is read."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.sprung),)


def step_of(run: Path) -> Path:
    return run / f"checkpoint/step-{checkpoint_steps(run)[0]}"


def seal_again(step: Path) -> None:
    seal(step, 0, 1, [".metadata", *RESULTS, *(path.name for path in step.glob("__0_*.distcp"))])


def change_metadata(step: Path, change: Callable[[Metadata], None]) -> None:
    metadata = pickle.loads((step / ".metadata").read_bytes())
    change(metadata)
    (step / ".metadata").write_bytes(pickle.dumps(metadata))
    seal_again(step)


def put(step: Path, wanted: Callable[[Metadata, MetadataIndex], bool], data: bytes) -> None:
    """Let all items of a checkpoint that are wanted hold `data`."""
    file = next(step.glob("__0_*.distcp"))
    place = file.stat().st_size
    with file.open("ab") as opened:
        opened.write(data)

    def change(metadata: Metadata) -> None:
        items = [index for index in metadata.storage_data if wanted(metadata, index)]
        assert items
        for index in items:
            metadata.storage_data[index].offset = place
            metadata.storage_data[index].length = len(data)

    change_metadata(step, change)


def is_bytes(metadata: Metadata, index: MetadataIndex) -> bool:
    return isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata)


def saved(trap: object) -> bytes:
    file = io.BytesIO()
    torch.save(trap, file)
    return file.getvalue()


def _metadata(step: Path, trap: Trap) -> None:
    (step / ".metadata").write_bytes(pickle.dumps(trap))
    seal_again(step)


def _inside_metadata(step: Path, trap: Trap) -> None:
    def change(metadata: Metadata) -> None:
        metadata.planner_data = {"x": trap}

    change_metadata(step, change)


def _elsewhere(step: Path, trap: Trap) -> None:
    outside = step.parent.parent.parent / "outside.distcp"
    outside.write_bytes(next(step.glob("__0_*.distcp")).read_bytes())

    def change(metadata: Metadata) -> None:
        for place in metadata.storage_data.values():
            place.relative_path = "../../../outside.distcp"

    change_metadata(step, change)


TRAPS: dict[str, Callable[[Path, Trap], None]] = {
    "metadata": _metadata,
    "inside metadata": _inside_metadata,
    "values": lambda step, trap: put(step, is_bytes, saved(trap)),
    "values as plain pickles": lambda step, trap: put(step, is_bytes, pickle.dumps(trap)),
    "tensors": lambda step, trap: put(step, lambda *which: not is_bytes(*which), saved(trap)),
    "tensors as plain pickles": lambda step, trap: put(step, lambda *which: not is_bytes(*which), pickle.dumps(trap)),
    "files elsewhere": _elsewhere,
}


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "one")))
    torch.load(io.BytesIO(saved(Trap(tmp_path / "two"))), weights_only=False)
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


@pytest.mark.parametrize("where", TRAPS)
def test_no_pickle_of_a_checkpoint_is_executed(
    trained: Path, run: Path, worker: Worker, tmp_path: Path, where: str
) -> None:
    sprung = tmp_path / "sprung"
    TRAPS[where](step_of(run), Trap(sprung))
    answer = worker.train(run, trained)
    assert not sprung.exists()
    assert answer.state == "failed", answer
    assert re.fullmatch(r"[^\n]{1,400}", answer.reason)
    assert re.search(r"not a part of a checkpoint|Weights only|leaves the checkpoint", answer.reason)
    status = read_status(run)
    assert (status.state, status.reason) == ("failed", answer.reason)


def test_a_seal_names_no_file_outside(trained: Path, run: Path, worker: Worker, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    step = step_of(run)
    name = os.path.relpath(outside, step)
    seal(step, 0, 1, [".metadata", name])
    assert worker.train(run, trained).state == "done"  # from the checkpoint before
    assert outside.read_bytes() == b"mine"
    assert "is not whole" in (run / "log.txt").read_text()


def full(folder: Path) -> Path:
    """A folder of the user's own that looks like checkpoints, none whole."""
    for name in ("step-5", "step-99"):
        (folder / name).mkdir(parents=True)
        (folder / name / "mine.txt").write_bytes(b"mine")
    return folder


def untouched(folder: Path) -> bool:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == [
        *("step-5", "step-5/mine.txt", "step-99", "step-99/mine.txt")
    ]


@pytest.mark.parametrize("link", ["checkpoint", "checkpoint/step-99"])
def test_nothing_is_deleted_or_written_through_a_link(
    trained: Path, run: Path, worker: Worker, tmp_path: Path, link: str
) -> None:
    mine = full(tmp_path / "mine")
    if link == "checkpoint":
        shutil.rmtree(run / link)
        (run / link).symlink_to(mine)
    else:
        (run / link).symlink_to(mine / "step-99")
    answer = worker.train(run, trained)
    assert untouched(mine)
    assert answer.state in ("done", "failed")
    assert "\n" not in answer.reason


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "eval.jsonl", "status.json"])
def test_what_a_run_writes_stays_in_its_folder(
    trained: Path, run: Path, worker: Worker, tmp_path: Path, name: str
) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine\n")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(mine)
    answer = worker.train(run, trained)
    assert mine.read_bytes() == b"mine\n"
    assert answer.state in ("done", "failed")


@pytest.mark.parametrize("data", ["../mine", "/etc", "data/../../mine", "a\0b"])
def test_a_plan_reads_no_data_outside_the_study_s_folder(
    trained: Path, run: Path, worker: Worker, tmp_path: Path, data: str
) -> None:
    study = tmp_path / "runs/tiny"
    root = tmp_path / "root"
    shutil.copytree(trained / "data", root / "data")
    shutil.copytree(trained / "data/text", tmp_path / "mine")
    for file in (run / "run.json", study / "plan.json"):
        plan = json.loads(file.read_bytes())
        for one in plan.get("runs", [plan]):
            one["modalities"]["text"]["data"] = data
        file.write_text(json.dumps(plan))
    answer = worker.train(run, root)
    assert answer.state == "failed", "the source's name is no part of the id"
    assert "\n" not in answer.reason
    refused(study, "retry", study)


# What the commands say of damaged and hostile records.


def invoke(*arguments: object) -> Result:
    """Run a command that may take some GB of memory, no more: what has no end must not be read to its end. Less would
    end this process: polars reserves much more than it uses, and ends where it gets none."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (8 << 30), before[1]))
    try:
        return CliRunner().invoke(app, list(map(str, arguments)))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused(study: Path, *arguments: object) -> None:
    """The command ends with 2 and a line that says where and why."""
    result = invoke(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    for line in result.stderr.splitlines():
        assert re.fullmatch(rf"({re.escape(str(study))}\S*|command line):\d+: \S+: .+; .+", line), line
        assert line.isprintable(), line


def well(*arguments: object) -> Result:
    result = invoke(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1), result.output
    return result


def commands(study: Path) -> list[tuple[object, ...]]:
    return [
        ("status", study),
        ("status", study, "--json"),
        ("logs", study, "#0"),
        ("cancel", study),
        ("retry", study),
        ("report", study),
        ("fit", study),
        ("mfu", study),
    ]


NAMES = ["../../x", "/etc", "a\0b", "x" * 5000, "", ".", "..", "a/b", "a\nb", "$(id)", "a b", "-rf", ESCAPE]


def test_plans_whose_names_lead_elsewhere_are_refused(study: Path) -> None:
    plan = json.loads((study / "plan.json").read_bytes())
    for name in NAMES:
        for bad in (plan | {"study": name}, plan | {"runs": [plan["runs"][0] | {"id": name}]}):
            (study / "plan.json").write_text(json.dumps(bad))
            refused(study, "status", study)
    for arguments in commands(study):
        if "--json" not in arguments:
            refused(study, *arguments)
    assert sorted(os.listdir(study.parent)) == ["store", "tiny"]


DEEP = b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BROKEN: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "deep": lambda path: path.write_bytes(DEEP),
    "spaces": lambda path: path.write_bytes(b" " * (1 << 20)),
    "no text": lambda path: path.write_bytes(b'{"state": "failed", "reason": "\xff\xfe", "job": "\xff"}'),
    "a surrogate": lambda path: path.write_bytes(b'{"state": "failed", "reason": "\\ud800", "job": "\\ud800"}'),
    "a large number": lambda path: path.write_bytes(b'{"state": "failed", "attempts": 1' + b"0" * 5000 + b"}"),
    "infinity": lambda path: path.write_bytes(b'{"state": "failed", "started": 1e999}'),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "itself": lambda path: path.symlink_to(path),
    "an array": lambda path: path.write_bytes(b"[1]"),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("how", BROKEN)
def test_a_plan_that_is_none_is_a_line(study: Path, how: str) -> None:
    (study / "plan.json").unlink()
    BROKEN[how](study / "plan.json")
    for command in ("status", "retry", "mfu"):
        refused(study, command, study)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("name", ["status.json", "job.json", "metrics.jsonl", "log.txt"])
def test_a_record_that_is_none_stops_no_command(study: Path, name: str, how: str) -> None:
    run = run_of(study)
    (run / name).unlink(missing_ok=True)
    BROKEN[how](run / name)
    for arguments in commands(study):
        if arguments[0] in ("status", "logs", "mfu"):  # fit and report read what mfu reads
            result = invoke(*arguments)
            assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
            assert len(result.stderr.splitlines()) <= 1


@pytest.mark.timeout(10)
@pytest.mark.parametrize("how", BROKEN)
def test_a_source_that_is_none_is_a_line(study: Path, how: str) -> None:
    (study / "source.json").unlink()
    BROKEN[how](study / "source.json")
    status = run_of(study) / "status.json"
    status.write_text('{"state": "failed"}')
    refused(study, "retry", study)
    assert status.read_text() == '{"state": "failed"}'
    refused(study, "explain", study / "runs" / run_of(study).name)


# What reaches a terminal, a shell, a page.


def test_no_record_commands_a_terminal_or_a_page(study: Path) -> None:
    run = run_of(study)
    plan = json.loads((study / "plan.json").read_bytes())
    name = ESCAPE + MARKUP
    plan["runs"][0]["name"] = name
    plan["runs"][0]["point"] = {"seed" + ESCAPE: name}
    (study / "plan.json").write_text(json.dumps(plan))
    status = {"state": "failed", "reason": name, "history": [{"hosts": [name], "job": name, "reason": name}]}
    (run / "status.json").write_text(json.dumps(status))
    (run / "job.json").write_text(json.dumps({"job": name, "profile": name, "submitted": 0}))
    (run / "log.txt").write_text(f"a line\n{name}\n")
    for arguments in [*commands(study), ("logs", study, "none of these"), ("status", study, "--watch")]:
        if arguments[0] == "retry":
            continue
        shown = invoke(*arguments)
        assert shown.exception is None or isinstance(shown.exception, SystemExit), (arguments, shown.exception)
        for letter in "\x1b\x07" if "--json" in arguments else "\x1b\x07\x9b":
            assert letter not in shown.stdout + shown.stderr, arguments
    assert MARKUP in re.sub(r"\s*\n\s*", "", well("status", study).stdout)
    (run / "status.json").write_text(json.dumps(status | {"state": "done"}))
    well("report", study)
    assert "<script>alert(1)" not in (study / "report.html").read_text()


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_a_study_has_a_name_that_is_safe_for_files_and_shells(tmp_path: Path, name: str) -> None:
    file = write_study(tmp_path, STUDY.replace("study: tiny", f"study: {json.dumps(name)}"))
    with pytest.raises(SpecError):
        compile_study(file)


def test_an_sbatch_file_runs_nothing_that_a_folder_s_name_says(tmp_path: Path) -> None:
    plan = compile_study(write_study(tmp_path), ["cluster=h100"])
    out = tmp_path / "a b;echo>sprung;$(echo>sprung)`echo>sprung`'\"&"
    [script] = dry_run(plan, out)
    subprocess.run(
        [str(shutil.which("bash")), "-c", script], cwd=tmp_path, env={"PATH": ""}, capture_output=True, timeout=10
    )
    assert not (tmp_path / "sprung").exists()
