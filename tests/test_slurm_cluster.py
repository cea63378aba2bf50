"""What tests on Slurm rely on: their cluster does as a real one does, is theirs alone, and leaves nothing behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm import Cluster

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _queue_left_empty(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.reset()


def wait_until(reached: Callable[[], bool], timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < end, f"not reached in {timeout:g} s"
        time.sleep(0.05)


def submit(cluster: Cluster, script: str, *options: str) -> str:
    """Submit a shell script; its job id."""
    return cluster.run("sbatch", "--parsable", *options, "--wrap", script).strip()


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def processes_of(folder: str) -> list[int]:
    """Processes that have a cluster's folder among their arguments or in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if folder.encode() in text:
            found.append(int(process.name))
    return found


def test_a_job_over_two_nodes_sees_both(cluster: Cluster) -> None:
    said = cluster.run("srun", "-N2", "sh", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME $SLURM_JOB_NODELIST")
    assert sorted(said.splitlines()) == ["0 n1 n[1-2]", "1 n2 n[1-2]"]
    assert "NodeAddr=127.0.0.1" in cluster.run("scontrol", "show", "node", "n2")


def test_every_task_of_an_array_runs(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, f"echo $SLURM_ARRAY_TASK_ID > {tmp_path}/$SLURM_ARRAY_TASK_ID", "--array=0-2", "-J", "three")
    tasks = [queued.id for queued in cluster.squeue() if queued.name == "three"]
    assert sorted(tasks) == [f"{job}_{task}" for task in range(3)]
    cluster.wait_idle(20)
    assert sorted(file.read_text() for file in tmp_path.iterdir()) == ["0\n", "1\n", "2\n"]


def test_signals_reach_a_step_and_leave_it_time(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "said"
    step = tmp_path / "step"
    step.write_text(
        f"""
        trap 'echo USR2 >> {file}' USR2
        trap 'sleep 1; echo saved >> {file}; exit' TERM
        echo ready >> {file}
        while :; do sleep 0.1; done
        """
    )
    job = submit(cluster, f"srun sh {step}")
    wait_until(lambda: lines(file) == ["ready"])
    cluster.run("scancel", "--signal=USR2", job)
    wait_until(lambda: lines(file) == ["ready", "USR2"])
    cluster.run("scancel", job)
    cluster.wait_idle(20)
    assert lines(file) == ["ready", "USR2", "saved"]


def test_jobs_survive_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    file, end = tmp_path / "said", tmp_path / "end"
    both = ("-N2", "--exclusive")
    running = submit(
        cluster, f"echo began >> {file}; until [ -e {end} ]; do sleep 0.1; done; echo ended >> {file}", *both
    )
    waiting = submit(cluster, f"echo after >> {file}", *both)
    wait_until(lambda: lines(file) == ["began"])
    cluster.restart_controller()
    assert [(job.id, job.state) for job in cluster.squeue()] == [(waiting, "PENDING"), (running, "RUNNING")]
    end.touch()
    cluster.wait_idle(20)
    assert lines(file) == ["began", "ended", "after"]


def test_requeued_jobs_and_those_of_a_node_that_goes_down_run_again(cluster: Cluster, tmp_path: Path) -> None:
    requeued, failed = tmp_path / "requeued", tmp_path / "failed"
    jobs = [
        submit(cluster, f"echo $SLURMD_NODENAME $SLURM_RESTART_COUNT >> {file}; [ $SLURM_RESTART_COUNT ] || sleep 60")
        for file in (requeued, failed)
    ]
    wait_until(lambda: lines(requeued) == lines(failed) == ["n1"])
    cluster.run("scontrol", "requeue", jobs[0])
    cluster.node_down("n1")
    cluster.wait_idle(30)
    assert lines(requeued) == lines(failed) == ["n1", "n2 1"]
    cluster.node_up("n1")
    assert cluster.run("srun", "-w", "n1", "printenv", "SLURMD_NODENAME") == "n1\n"


def test_two_sessions_do_not_meet_and_a_killed_one_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    # A job without an environment, and so without a search path, also waits for no login shell to make one.
    sleep = f"{shutil.which('setsid')} {shutil.which('sleep')} 1000"
    code = (
        "from tests.slurm import Cluster\n"
        "with Cluster() as cluster:\n"
        f"    cluster.run('sbatch', '--export=NIL', '-N2', '--wrap', 'srun {sleep}')\n"
        "    print(cluster.folder, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        try:
            assert session.stdout is not None
            folder = session.stdout.readline().strip()
            queue = cluster.squeue()
            wait_until(lambda: any(b"sleep" in _command(pid) for pid in processes_of(folder)), timeout=120)
        finally:
            session.send_signal(signal.SIGKILL)
    assert folder
    assert queue == []
    wait_until(lambda: not processes_of(folder) and not Path(folder).exists())
    cluster.run("srun", "-N2", "true")


def test_what_fails_to_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with pytest.raises(RuntimeError, match=r"dead: slurmctld[^$]*not a valid controller"), Cluster():
        pass


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
