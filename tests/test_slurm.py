"""Studies on a real Slurm, by the command, as a user has them there: what ends is what the same study trains here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from compiler.compile import compile_study
from compiler.plan import RunPlan
from compiler.records import Attempt, checkpoint_steps, read_status
from tests.slurm import Cluster, Job
from tests.test_training import TRIPTYCH, agree, numbers, triptych
from tests.tiny import STUDY, write_study

BASE = STUDY.replace("every: 5", "every: 25")
TWO_RANKS = {"parallel.shard": 2, "batch.micro": 4}

# A device a node, so that two ranks are two nodes. A run has a node for itself.
PROFILE = """\
kind: slurm
accelerator: cpu-core
mfu: 0.25
nodes: 2
gpus_per_node: 1
cpus_per_task: 8
notice: 30
patience: 60
"""

Point = dict[str, float]
MANY: list[Point] = [{"model.width": width, "seed": seed, "tokens": 6000} for width in (16, 24, 32) for seed in (0, 1)]
WIDE: Point = {"model.width": 24, "seed": 3, "tokens": 12_000, **TWO_RANKS}
MANY += [{"model.width": 24, "seed": 2, "tokens": 6000, **TWO_RANKS}, WIDE]
ADDED: Point = {"model.width": 48, "tokens": 6000}
PAIR: list[Point] = [{"model.width": width, "tokens": 16_000} for width in (16, 24)]


def study(name: str, points: Sequence[Point]) -> str:
    return BASE.replace("study: tiny", f"study: {name}").replace("axes: []", f"axes: [{{list: {json.dumps(points)}}}]")


class Site:
    """A user's folder on the cluster: studies over the same data, and where their runs are kept."""

    def __init__(self, cluster: Cluster, home: Path, out: Path) -> None:
        self.cluster, self.home, self.out = cluster, home, out

    def write(self, name: str, points: Sequence[Point]) -> Path:
        file = self.home / f"{name}.yaml"
        file.write_text(study(name, points))
        return file

    def submit(self, file: Path, profile: str, *more: str) -> dict[str, Any]:
        """What `triptych submit --json` says."""
        given = ("--profile", profile, "--out", self.out, "--json", *more)
        return json.loads(triptych("submit", file, *given).stdout)

    def states(self, file: Path) -> dict[str, dict[str, Any]]:
        """What `triptych status --json` says of each run, by id."""
        said = json.loads(triptych("status", self.out / file.stem, "--json").stdout)
        assert not said["scheduler"]
        return {run["id"]: run for run in said["runs"]}

    def folder(self, run: str) -> Path:
        return self.out / "store" / run

    def attempts(self, run: str) -> tuple[Attempt, ...]:
        return read_status(self.folder(run)).history

    def trains(self, run: str, attempt: int) -> bool:
        """Whether that attempt of a run has saved a checkpoint of its own, and goes on."""
        *earlier, newest = self.attempts(run) or [None]
        if newest is None or len(earlier) + 1 < attempt:
            return False
        assert len(earlier) + 1 == attempt, "it was interrupted once more"
        assert newest.state == "running", f"it has ended: {newest}"
        folder = self.folder(run)
        before = max((one.last_step for one in earlier), default=0)
        new = [step for step in checkpoint_steps(folder) if step > before]
        return any(len(list((folder / "checkpoint" / f"step-{step}").glob("seal-*"))) == newest.ranks for step in new)

    def until(self, reached: Callable[[], bool], what: str, timeout: float = 90) -> None:
        """Poll; where it does not come about, fail with all that is known."""
        end = time.monotonic() + timeout
        while not reached():
            if time.monotonic() > end:
                pytest.fail(f"{what}: not in {timeout:g} s\n{self._known()}", pytrace=False)
            time.sleep(0.02)

    def hold(self, run: str, attempt: int = 1) -> int:
        """Stop the one process of a run's attempt when it has saved a checkpoint, until it is told to continue:
        commands take longer than so small a run."""
        self.until(lambda: self.trains(run, attempt), f"a checkpoint of {run}, attempt {attempt}")
        pid = self.attempts(run)[-1].pid
        os.kill(pid, signal.SIGSTOP)
        return pid

    def until_done(self, runs: Sequence[str]) -> None:
        self.until(lambda: all(read_status(self.folder(run)).state == "done" for run in runs), f"{runs} done")
        self.until(lambda: not self.cluster.squeue(), "an empty queue", 30)

    def _known(self) -> str:
        told = [f"squeue: {self.cluster.squeue()}"]
        for file in sorted(self.out.glob("store/*/status.json")):
            told.append(f"{file}: {file.read_text()}")
        for file in sorted([*self.out.glob("store/*/log.txt"), *self.out.glob("*/slurm/*_log.*")]):
            told.append(f"--- {file}\n{file.read_text(errors='replace')[-1500:]}")
        return "\n".join(told)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_study(folder)
    return folder


class Local(NamedTuple):
    """The runs of all studies, trained by one process each on this machine, meanwhile."""

    process: subprocess.Popen[bytes]
    out: Path

    def finished(self) -> Path:
        assert self.process.wait(timeout=240) == 0
        return self.out

    def numbers(self, run: str) -> Any:
        return numbers(self.finished(), run)


@pytest.fixture(scope="module")
def local(home: Path) -> Iterator[Local]:
    file, out = home / "local.yaml", home / "local"
    points = [{path: point[path] for path in point if path not in TWO_RANKS} for point in (*MANY, ADDED, *PAIR)]
    file.write_text(study("local", points))
    with subprocess.Popen([*TRIPTYCH, "run", str(file), "--out", str(out)], stdout=subprocess.DEVNULL) as process:
        yield Local(process, out)
        process.kill()


@pytest.fixture(scope="module")
def profiles(cluster: Cluster, home: Path) -> Iterator[Path]:
    """Where profiles are; meanwhile commands find them, and the cluster."""
    folder = home / "profiles"
    folder.mkdir()
    (folder / "each.yaml").write_text(f"{PROFILE}pack: 0\narray_limit: 2\n")
    (folder / "shared.yaml").write_text(f"{PROFILE}pack: 30\narray_limit: 1\n")
    (folder / "nowhere.yaml").write_text(f"{PROFILE}partition: nowhere\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**cluster.environment, "TRIPTYCH_CLUSTERS": str(folder)}.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture
def site(cluster: Cluster, home: Path, profiles: Path, tmp_path: Path) -> Iterator[Site]:
    yield Site(cluster, home, tmp_path / "runs")
    cluster.reset()


def ids(file: Path) -> list[str]:
    return [run.id for run in compile_study(file).runs]


def minutes(runs: Sequence[RunPlan]) -> float:
    return sum(60 * run.device_hours / run.parallel.ranks for run in runs)


def task(cluster: Cluster, job: str, rank: int) -> int:
    """The process of a job's rank."""
    job_id = re.search(r"\bJobId=(\d+)", cluster.run("scontrol", "show", "job", "-o", job))
    assert job_id is not None
    wanted = {
        f"SLURM_CONF={cluster.environment['SLURM_CONF']}",
        f"SLURM_JOB_ID={job_id[1]}",
        f"SLURM_PROCID={rank}",
        "SLURM_STEP_ID=0",
    }
    [found] = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if wanted <= _environment(pid)]
    return found


def _environment(pid: int) -> set[str]:
    """Of a Python process that submitit has started; nothing where it is another, or has ended."""
    try:
        if b"submitit.core._submit" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return set()
        return set(Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"))
    except OSError:
        return set()


class Observed(NamedTuple):
    """What was seen of a study on Slurm that was edited while it ran, from the dry run to the end."""

    site: Site
    runs: dict[str, RunPlan]
    dry: list[str]
    first: dict[str, Any]
    again: dict[str, Any]
    waiting: dict[str, dict[str, Any]]
    edited: dict[str, Any]
    removed: str
    added: str
    meanwhile: list[dict[str, dict[str, Any]]]
    queues: list[list[Job]]


@pytest.fixture(scope="module")
def many(local: Local, cluster: Cluster, home: Path, profiles: Path) -> Observed:
    """Six runs of one process, two a job, two jobs at once; two of two processes, in one job; and one that comes later,
    when another, which is done by then, is in the study no more."""
    site = Site(cluster, home, home / "runs")
    file = site.write("many", MANY)
    runs = {run.id: run for run in compile_study(file).runs}
    pack = minutes([run for run in runs.values() if run.parallel.ranks == 1]) / 2.5
    (profiles / "packed.yaml").write_text(f"{PROFILE}pack: {pack}\narray_limit: 2\n")
    cluster.run("scontrol", "update", "partitionname=debug", "state=down")
    dry = site.submit(file, "packed", "--dry-run")["sbatch"]
    first = site.submit(file, "packed")
    again = site.submit(file, "packed")
    waiting = site.states(file)
    cluster.run("scontrol", "update", "partitionname=debug", "state=up")
    meanwhile, queues = [], [cluster.squeue()]

    def seen(reached: Callable[[], bool]) -> bool:
        queues.append(cluster.squeue())
        if any(read_status(site.folder(run)).state == "running" for run in runs):
            meanwhile.append(site.states(file))
        return reached()

    removed = min(runs, key=lambda run: (runs[run].model.width, runs[run].seed))
    site.until(lambda: seen(lambda: read_status(site.folder(removed)).state == "done"), f"{removed} done", 180)
    site.write("many", [*MANY[1:], ADDED])
    edited = site.submit(file, "packed")
    [added] = set(ids(file)) - set(runs)
    site.until(lambda: seen(lambda: not queues[-1]), "an empty queue", 180)
    return Observed(site, runs, dry, first, again, waiting, edited, removed, added, meanwhile, queues)


def test_a_dry_run_prints_what_sbatch_is_then_given(many: Observed) -> None:
    arrays = sorted({job.partition("_")[0] for job in many.first["jobs"]}, key=int)
    files = [many.site.out / "many" / "slurm" / f"{array}_submission.sh" for array in arrays]
    assert many.dry == [file.read_text() for file in files]
    wide, narrow = many.dry
    assert "--nodes=2" in wide
    assert "--array" not in wide
    assert "--nodes=1" in narrow
    assert "--array=0-2%2" in narrow
    assert all("--signal=USR2@30" in text for text in many.dry)
    file = many.site.home / "many.yaml"
    assert "#SBATCH --nodes=2" in triptych("submit", file, "--profile", "packed", "--dry-run").stdout


def test_runs_of_like_needs_share_an_array_and_short_ones_a_job(many: Observed) -> None:
    jobs = many.first["jobs"]
    assert sorted(run for members in jobs.values() for run in members) == sorted(many.runs)
    ranks = {job: {many.runs[run].parallel.ranks for run in members} for job, members in jobs.items()}
    array = [job for job, each in ranks.items() if each == {1}]
    assert [len(jobs[job]) for job in array] == [2, 2, 2]
    assert len({job.partition("_")[0] for job in array}) == 1
    assert [len(jobs[job]) for job, each in ranks.items() if each == {2}] == [2]
    running = [sum(job.state == "RUNNING" and job.id in array for job in queue) for queue in many.queues]
    assert max(running) == 2


def test_what_is_queued_is_not_submitted_again(many: Observed) -> None:
    assert not many.again["jobs"]
    assert sorted(many.again["queued"]) == sorted(many.runs)
    assert {job.id for queue in many.queues for job in queue} == {*many.first["jobs"], *many.edited["jobs"]}


def test_a_study_that_is_edited_while_it_runs_submits_what_is_new(many: Observed) -> None:
    [(job, members)] = many.edited["jobs"].items()
    assert members == [many.added]
    assert "_" not in job
    others = [*many.edited["done"], *many.edited["queued"]]
    assert sorted([*others, many.removed]) == sorted(many.runs)
    assert many.edited["queued"]
    assert many.removed not in many.site.states(many.site.home / "many.yaml")
    assert read_status(many.site.out / "many" / "runs" / many.removed).state == "done"


def test_status_follows_a_study_from_the_queue_to_its_end(many: Observed) -> None:
    submitted = {**many.first["jobs"], **many.edited["jobs"]}
    job_of = {run: job for job, members in submitted.items() for run in members}
    assert {run: state["job"] for run, state in many.waiting.items()} == {run: job_of[run] for run in many.runs}
    assert {state["state"] for state in many.waiting.values()} == {"pending"}
    assert all("waits (PartitionDown)" in state["reason"] for state in many.waiting.values())

    training = [state for seen in many.meanwhile for state in seen.values() if state["state"] == "running"]
    assert training
    assert all(state["job"] == job_of[state["id"]] for state in training)
    assert all(set(state["hosts"]) <= {"n1", "n2"} for state in training)
    assert {state["state"] for seen in many.meanwhile for state in seen.values()} <= {"pending", "running", "done"}

    ended = many.site.states(many.site.home / "many.yaml")
    assert ended.keys() == {*many.runs, many.added} - {many.removed}
    for run, state in ended.items():
        assert (state["state"], state["attempts"], state["job"]) == ("done", 1, "")
        assert state["step"] == state["steps"]
        assert len(state["hosts"]) == (2 if run != many.added and many.runs[run].parallel.ranks == 2 else 1)
    assert "8 runs: 8 done" in triptych("status", many.site.out / "many").stdout


def test_numbers_are_those_of_this_machine(many: Observed, local: Local) -> None:
    wide = [run for run in many.runs.values() if run.parallel.ranks == 2]
    for run in {*many.runs, many.added} - {run.id for run in wide}:
        assert numbers(many.site.out, run) == local.numbers(run)
    agree(many.site.out, local.finished(), tuple(wide))


def test_logs_are_the_run_s_and_its_job_s(many: Observed) -> None:
    for job, members in many.first["jobs"].items():
        run = many.runs[members[0]]
        if run.id == many.removed:
            continue
        said = triptych("logs", many.site.out / "many", run.id, "--lines", "0", "--json").stdout
        files = {Path(file).name: lines for file, lines in json.loads(said)["files"].items()}
        assert any(f"step: {run.steps}" in line for line in files.pop("log.txt"))
        assert len(files) == 2 * run.parallel.ranks
        assert all(name.startswith(f"{job}_") for name in files)
        assert any(f"JobEnvironment(job_id={job}," in line for lines in files.values() for line in lines)


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_two_nodes_come_back_from_a_signal_to_one_rank_and_from_the_death_of_one(
    site: Site, many: Observed, killed: int
) -> None:
    file = site.write("wide", [WIDE])
    [run] = ids(file)
    [job] = site.submit(file, "each")["jobs"]
    site.until(lambda: site.trains(run, 1), "a checkpoint")
    os.kill(task(site.cluster, job, 1), signal.SIGUSR2)
    site.until(lambda: site.attempts(run)[0].state == "preempted", "saved", 30)
    site.until(lambda: site.trains(run, 2), "a checkpoint after the signal")
    os.kill(task(site.cluster, job, killed), signal.SIGKILL)
    site.until_done([run])

    first, second, third = site.attempts(run)
    assert (first.hosts, first.ranks) == (("n1", "n2"), 2)
    assert second.first_step == first.last_step
    assert second.state == "preempted"
    assert second.first_step < third.first_step <= second.last_step
    assert {attempt.job for attempt in (first, second, third)} == {job}
    assert numbers(site.out, run) == numbers(many.site.out, run)


def test_what_is_cancelled_stays_so_until_it_is_taken_up_again(site: Site, local: Local) -> None:
    file = site.write("three", [*PAIR, ADDED])
    folder = site.out / "three"
    jobs = site.submit(file, "each")["jobs"]
    job_of = {run: job for job, members in jobs.items() for run in members}
    stopped, dropped, waiting = job_of  # the longest are first in the queue
    held = [site.hold(run) for run in (stopped, dropped)]

    said = json.loads(triptych("cancel", folder, waiting, "--json").stdout)
    assert (said["cancelled"], said["asked"], said["jobs"]) == ([waiting], [], [job_of[waiting]])
    said = json.loads(triptych("cancel", folder, dropped, "--json").stdout)
    assert (said["cancelled"], said["asked"]) == ([], [dropped])
    assert not said["jobs"], "a job that trains is left alone, so that Slurm does not kill what is saving"
    site.cluster.run("scancel", job_of[stopped])  # from outside: saved, and no longer queued
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    site.until(lambda: not site.cluster.squeue(), "an empty queue")

    [saved], [half] = site.attempts(stopped), site.attempts(dropped)
    assert (saved.state, half.state) == ("preempted", "cancelled")
    states = site.states(file)
    assert [states[run]["state"] for run in job_of] == ["preempted", "cancelled", "cancelled"]
    assert not any(state["job"] for state in states.values())
    assert "SIGTERM" in states[stopped]["reason"]
    assert f"its job {job_of[stopped]} is no longer queued; submit the study again" in states[stopped]["reason"]

    said = site.submit(file, "shared")
    assert list(said["jobs"].values()) == [[stopped]]
    assert sorted(said["cancelled"]) == sorted([dropped, waiting])
    said = json.loads(triptych("retry", folder, "--json").stdout)
    assert sorted(*said["jobs"].values()) == sorted([dropped, waiting])
    assert said["queued"] == [stopped]
    site.until_done(list(job_of))
    for run, earlier in ((stopped, saved), (dropped, half)):
        assert site.attempts(run)[1].first_step == earlier.last_step > 25
    assert len(site.attempts(waiting)) == 1
    for run in job_of:
        assert numbers(site.out, run) == local.numbers(run)


def test_a_study_survives_its_node_its_controller_and_a_signal(site: Site, local: Local) -> None:
    file = site.write("pair", PAIR)
    jobs = {members[0]: job for job, members in site.submit(file, "each")["jobs"].items()}
    held = {run: site.hold(run) for run in jobs}
    on = {site.attempts(run)[0].hosts[0]: run for run in jobs}
    assert on.keys() == {"n1", "n2"}
    site.cluster.run("scancel", "--signal=USR2", jobs[on["n2"]])
    site.cluster.node_down("n1")
    os.kill(held[on["n2"]], signal.SIGCONT)
    site.until(lambda: site.attempts(on["n2"])[0].state == "preempted", "saved", 30)
    site.cluster.restart_controller()
    site.cluster.node_up("n1")
    site.until_done(list(jobs))

    lost, saved = (site.attempts(on[node]) for node in ("n1", "n2"))
    assert [attempt.state for attempt in lost] == [attempt.state for attempt in saved] == ["preempted", "done"]
    assert saved[1].first_step == saved[0].last_step
    assert lost[1].first_step > 0
    for run in jobs:
        assert numbers(site.out, run) == local.numbers(run)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_longer_than_its_limit_is_a_chain_of_jobs(site: Site, local: Local, profiles: Path) -> None:
    (profiles / "brief.yaml").write_text(PROFILE.replace("notice: 30", "notice: 45\ntime: 2"))
    file = site.write("long", PAIR[:1])
    [run] = ids(file)
    [job] = site.submit(file, "brief")["jobs"]

    def saved(link: int) -> bool:
        return site.attempts(run)[link - 1].state == "preempted"

    for link in (1, 2):
        site.hold(run, link)  # until the notice of its limit, with which Slurm wakes it
        site.until(partial(saved, link), f"link {link} saved", 150)
    site.until_done([run])

    *links, last = site.attempts(run)
    assert [link.state for link in links] == ["preempted", "preempted"]
    assert {link.job for link in (*links, last)} == {job}
    for link, following in zip(links, [*links[1:], last], strict=True):
        assert "SIGUSR2" in link.reason
        assert following.first_step == link.last_step > link.first_step
    assert numbers(site.out, run) == local.numbers(run)


def test_what_a_user_does_wrong_is_said_in_one_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    file = site.write("wrong", PAIR)

    def refused(code: int, *arguments: str) -> str:
        done = triptych("submit", file, *arguments, "--out", site.out, check=code)
        [line] = done.stderr.splitlines()
        assert not done.stdout
        return line

    place = r"[^:]+:\d+: "
    assert re.match(rf"{place}cluster: .*'local'.* Slurm; give --profile NAME", refused(2))
    assert re.match(rf"{place}cluster: .*'nothing'; ", refused(2, "--profile", "nothing"))
    four = ("base.parallel.shard=4", "base.batch.micro=2", "--profile", "each")
    assert re.match(rf"{place}parallel.shard: 4 processes do not fit .*; change", refused(2, *four))
    assert re.match(rf"{place}parallel.shard: ", refused(2, *four, "--dry-run"))

    assert "invalid partition specified: nowhere" in refused(1, "--profile", "nowhere")
    assert not site.cluster.squeue()
    assert {(state["state"], state["job"]) for state in site.states(file).values()} == {("pending", "")}

    monkeypatch.setenv("PATH", str(site.home))
    assert re.match("there is no s(queue|batch|control) here", refused(1, "--profile", "each"))
    states = json.loads(triptych("status", site.out / "wrong", "--json").stdout)["runs"]
    assert {state["state"] for state in states} == {"pending"}
