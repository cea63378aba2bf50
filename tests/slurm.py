"""A real Slurm of two nodes on this machine, started and stopped by a test session; the fixture is `cluster`.

It has its own munge, its own free ports and a temporary folder, and touches neither /etc nor the system's services. All
its processes descend from a keeper, which kills them when its owner closes it or dies, in whatever way.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

NODES = ("n1", "n2")
CPUS = 8  # of each node, whatever the machine has
_UP = {"idle", "mix", "alloc", "comp"}
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_PR_SET_CHILD_SUBREAPER = 36

# cred_expire is also how long a requeued job waits. Times are in seconds.
_CONFIGURATION = """\
ClusterName=triptych
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
JobRequeue=1
ReturnToService=1
MaxArraySize=10001
MaxJobCount=50000
MinJobAge=300
InactiveLimit=0
KillWait=10
SlurmctldTimeout=30
SlurmdTimeout=60
MessageTimeout=30
TCPTimeout=10
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Job(NamedTuple):
    """A job of the queue, or a task of an array."""

    id: str  # 12, or 12_3
    state: str  # PENDING, RUNNING, COMPLETING, ...
    nodes: str  # n1, n[1-2], or nothing yet
    reason: str
    name: str


class Cluster:
    """Two nodes, n1 and n2, of `CPUS` each; one partition, debug; no accounting, so no sacct."""

    def __init__(self) -> None:
        # Short, since the names of sockets are limited to 108 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o711)  # munged insists on a socket that all can reach
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._ports = [_reserved_port() for _ in range(1 + len(NODES))]
        self._pids: dict[str, int] = {}
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the session, which then closes it
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every daemon and wait until both nodes are idle."""
        self._configure()
        socket_, key = self.folder / "munge.socket", self.folder / "munge.key"
        files = [f"--{kind}-file={self.folder}/munged.{kind}" for kind in ("pid", "log", "seed")]
        self._start("munged", "--foreground", f"--socket={socket_}", f"--key-file={key}", *files)
        self._wait_for(socket_.exists, "munged")
        self._start_controller()
        for node in NODES:
            self._start(node, "-D", "-N", node, program="slurmd")
        self._wait_for(lambda: self._states() == ["idle"] * len(NODES), "slurmctld", *NODES)

    def stop(self) -> None:
        """Kill every daemon and every process of a job, and remove the folder."""
        self._keeper.communicate(timeout=60)  # Which closes its standard input
        for port in self._ports:
            port.close()

    def restart_controller(self, saved: bool = True) -> None:
        """Kill slurmctld and start it from its state; it knows of its nodes, and starts jobs, some seconds later.

        It writes that up to 6 s late. Unless it has `saved`, newer jobs are lost, and newly started ones pending again.
        """
        if saved:
            began = time.time()
            self.run("scontrol", "reconfigure")  # Which makes it write
            state = self.folder / "state" / "job_state"
            self._wait_for(lambda: state.exists() and state.stat().st_mtime > began, "slurmctld")
        pid = self._pids["slurmctld"]
        os.kill(pid, signal.SIGKILL)
        self._wait_for(lambda: not Path(f"/proc/{pid}").exists())
        self._start_controller()

    def node_down(self, name: str) -> None:
        """Take a node out, as an operator would; its jobs are requeued, or fail where they may not be."""
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def node_up(self, name: str) -> None:
        """Bring it back, and wait until jobs may start on it."""
        self.run("scontrol", "update", f"nodename={name}", "state=resume")
        self._wait_for(lambda: self._states()[NODES.index(name)] in _UP, name)

    def run(self, *command: str, timeout: float = 60) -> str:
        """What a command prints; it must succeed."""
        done = self._try(*command, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def squeue(self) -> list[Job]:
        """Every job that has not ended, tasks of arrays one by one."""
        lines = self.run("squeue", "-r", "-h", "-o", "%i|%T|%N|%r|%j").splitlines()
        return [Job(*line.split("|", 4)) for line in lines]

    def wait_idle(self, timeout: float) -> None:
        """Wait until the queue is empty."""
        end = time.monotonic() + timeout
        while jobs := self.squeue():
            if time.monotonic() > end:
                raise TimeoutError(f"still in the queue after {timeout:g} s: {jobs}")
            time.sleep(0.1)

    def reset(self) -> None:
        """End every job at once and bring every node up, whatever the last test left."""
        self.run("scancel", "--me")
        self._try("scancel", "--me", "--full", "--signal=KILL")  # Fails where none is left
        self.wait_idle(60)
        for node, state in zip(NODES, self._states(), strict=True):
            if state.startswith(("down", "drain")):
                self.node_up(node)
        self._wait_for(lambda: set(self._states()) <= _UP and not self._steps(), *NODES)

    def log(self, name: str) -> str:
        """The log of munged, slurmctld, n1 or n2 (with its jobs' steps); where there is none yet, what it printed."""
        log, output = self.folder / f"{name}.log", self.folder / f"{name}.out"
        return (log if log.exists() else output).read_text(errors="replace")

    def _configure(self) -> None:
        controller, *ports = [port.getsockname()[1] for port in self._ports]
        host = socket.gethostname().split(".")[0]
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=64000"
            for node, port in zip(NODES, ports, strict=True)
        ]
        text = _CONFIGURATION.format(
            host=host,
            controller=controller,
            user=pwd.getpwuid(os.getuid()).pw_name,
            folder=self.folder,
            nodes="\n".join(nodes),
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "state").mkdir()
        key = os.open(self.folder / "munge.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(key, "wb") as file:
            file.write(os.urandom(128))

    def _start(self, name: str, *arguments: str, program: str | None = None) -> None:
        """Have the keeper start a daemon."""
        command = [_program(program or name), *arguments]
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        print(json.dumps({"name": name, "command": command}), file=self._keeper.stdin, flush=True)
        self._pids[name] = int(self._keeper.stdout.readline())

    def _start_controller(self) -> None:
        self._start("slurmctld", "-D")
        self._wait_for(lambda: self._try("scontrol", "ping").returncode == 0, "slurmctld")

    def _states(self) -> list[str]:
        return self._try("sinfo", "-h", "-N", "-o", "%t").stdout.split()

    def _steps(self) -> list[int]:
        """Processes that watch over steps: a step whose node went down may outlive its job by KillWait."""
        names = {pid: Path(f"/proc/{pid}/comm") for pid in _descendants(self._keeper.pid)}
        return [pid for pid, name in names.items() if _text(name) == "slurmstepd\n"]

    def _try(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={**os.environ, **self.environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def _wait_for(self, reached: Callable[[], bool], *daemons: str) -> None:
        """Wait for what those daemons are to bring about; they must live."""
        end = time.monotonic() + 30
        while not reached():
            dead = [name for name in daemons if not Path(f"/proc/{self._pids[name]}").exists()]
            if dead or time.monotonic() > end:
                logs = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in daemons)
                raise RuntimeError(f"{'dead: ' + ', '.join(dead) if dead else 'not ready after 30 s'}\n{logs}")
            time.sleep(0.02)


def missing() -> list[str]:
    """Programs that a cluster needs and this machine lacks."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")
    return [program for program in programs if shutil.which(program, path=_PATH) is None]


def _program(name: str) -> str:
    """Its path; daemons are not on every user's."""
    found = shutil.which(name, path=_PATH)
    assert found, f"{name} is not installed"
    return found


def _reserved_port() -> socket.socket:
    """A free port that only a daemon which reuses addresses can have, until the socket is closed."""
    reserved = socket.socket()
    reserved.bind(("", 0))
    # After the binding, which was exclusive: another session's is refused, Slurm's is not, since we do not listen.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return reserved


def _keep(folder: Path) -> None:
    """Start what standard input asks for; when it is closed, kill every descendant and remove the folder."""
    # Orphans, such as a job's processes, become this process's children.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    for line in sys.stdin:
        asked = json.loads(line)
        with (folder / f"{asked['name']}.out").open("ab") as output:
            daemon = subprocess.Popen(
                asked["command"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=folder
            )
        print(daemon.pid, flush=True)
    while living := _descendants(os.getpid()):
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    shutil.rmtree(folder)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants(root: int) -> list[int]:
    """Processes that descend from `root`, however far."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        if text := _text(file):
            parent = int(text.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _text(file: Path) -> str:
    """Of a file in /proc; nothing where its process has ended."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
