"""One owner of a folder at a time: contended for, killed, silent, damaged, and seen through caches that are behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import lease as leases
from runtime.lease import Lease, LeaseLost, Owner, Watch, is_held, machine, owner_of

FAR = 3600.0
"""Seconds of patience that no test has."""


def owned_elsewhere(folder: Path, generation: int = 0, host: str = "elsewhere") -> Path:
    """Let a process of another machine own `folder`; returns the lease's file."""
    owner = Owner(machine=f"a boot of {host}", host=host, pid=os.getpid(), born=1, job="", token="0")
    path = folder / f"lease-{generation}"
    path.write_bytes(msgspec.json.encode(owner))
    return path


def start_owner(folder: Path) -> subprocess.Popen[str]:
    """A process that owns `folder` until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from runtime.lease import Lease\n"
        "lease = Lease.take(Path(sys.argv[1])); print(lease.generation, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    return process


def test_a_folder_is_owned_until_it_is_let_go(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    first = Lease.take(tmp_path, job="12_3")
    assert first is not None
    owner = owner_of(tmp_path)
    assert owner is not None
    assert (owner.pid, owner.machine, owner.job) == (os.getpid(), machine(), "12_3")
    assert is_held(tmp_path)
    assert Lease.take(tmp_path) is None
    assert Watch(tmp_path, FAR).evictable() is None
    first.beat()
    first.release()
    assert not is_held(tmp_path)
    assert owner_of(tmp_path) is None
    with Lease.take(tmp_path) or pytest.fail("it is free") as second:
        assert second.generation == first.generation + 1
    assert sorted(os.listdir(tmp_path)) == [f"lease-{second.generation}.free"]


def test_a_live_owner_keeps_its_folder_and_a_killed_one_loses_it_at_once(tmp_path: Path) -> None:
    process = start_owner(tmp_path)
    try:
        os.utime(tmp_path / "lease-0", (0, 0))  # how old it looks says nothing where the process can be looked for
        assert is_held(tmp_path)
        assert Lease.take(tmp_path) is None
    finally:
        process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not buried: a zombie
    assert not is_held(tmp_path)
    assert Watch(tmp_path, FAR).evictable() == 0
    taken = Lease.take(tmp_path)
    assert taken is not None
    assert taken.generation == 1
    process.wait()
    taken.beat()


def test_a_stopped_process_is_not_a_dead_one(tmp_path: Path) -> None:
    process = start_owner(tmp_path)
    try:
        process.send_signal(signal.SIGSTOP)
        assert Lease.take(tmp_path) is None
    finally:
        process.kill()
        process.wait()


def test_another_process_with_the_owner_s_number_does_not_keep_its_folder(tmp_path: Path) -> None:
    process = start_owner(tmp_path)
    owner = owner_of(tmp_path)
    assert owner is not None
    process.kill()
    process.wait()
    reused = msgspec.structs.replace(owner, pid=os.getpid())  # which is alive, and was born later
    (tmp_path / "lease-0").write_bytes(msgspec.json.encode(reused))
    assert not is_held(tmp_path)
    assert Lease.take(tmp_path) is not None


def test_an_owner_elsewhere_is_evicted_after_silence_by_the_watcher_s_clock(tmp_path: Path) -> None:
    path = owned_elsewhere(tmp_path, 4)
    watch = Watch(tmp_path, patience=0.4)
    assert Lease.take(tmp_path) is None
    for age in (0, -86_400, 86_400, 10**9):  # its server's clock jumps; what counts is that it was touched
        assert watch.evictable() is None
        assert not watch.is_silent()
        time.sleep(0.25)
        os.utime(path, (0, time.time() - age))
    assert watch.evictable() is None
    time.sleep(0.45)
    assert watch.is_silent()
    assert watch.evictable() == 4
    assert Lease.take(tmp_path) is None  # only on the word of a watch
    taken = Lease.take(tmp_path, evict=4)
    assert taken is not None
    assert taken.generation == 5
    assert Watch(tmp_path, FAR).evictable() is None


@pytest.mark.parametrize("touched", [0.0, 1e9, 4e9])
def test_how_old_or_new_a_lease_looks_does_not_matter(
    tmp_path: Path, touched: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(owned_elsewhere(tmp_path), (touched, touched))
    watch = Watch(tmp_path, patience=0.2)
    assert watch.evictable() is None
    real = time.time
    for jump in (1e6, -1e6, 4e9):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert watch.evictable() is None
    time.sleep(0.25)
    assert watch.evictable() == 0


def test_an_evicted_owner_finds_out_and_leaves_its_successor_alone(tmp_path: Path) -> None:
    first = Lease.take(tmp_path)
    second = Lease.take(tmp_path, evict=0)
    assert first is not None
    assert second is not None
    with pytest.raises(LeaseLost):
        first.beat()
    first.release()
    second.beat()
    assert os.listdir(tmp_path) == ["lease-1"]
    assert Lease.take(tmp_path) is None
    second.release()
    third = Lease.take(tmp_path)
    assert third is not None
    with pytest.raises(LeaseLost):
        first.beat()
    first.release()
    third.beat()


def test_an_owner_that_cannot_see_its_successor_yet_finds_its_own_lease_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As through a client that has cached that the successor is not there and the lease is: only what changes a file is
    sure to ask the server."""
    first = Lease.take(tmp_path)
    assert first is not None
    assert Lease.take(tmp_path, evict=0) is not None
    monkeypatch.setattr(Path, "exists", lambda path: path.name == "lease-0")
    with pytest.raises(LeaseLost):
        first.beat()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "random": lambda path: path.write_bytes(random.Random(1).randbytes(4096)),
    "half": lambda path: path.write_bytes(owned_elsewhere(path.parent, 3).read_bytes()[:40]),
    "other": lambda path: path.write_text('{"machine": 1}'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "numbers": lambda path: path.write_text(json.dumps({"pid": 10**400})),
    "unreadable": lambda path: path.symlink_to(path),
    "nowhere": lambda path: path.symlink_to("nothing"),
    "a folder": lambda path: path.mkdir(),
    "a terabyte": _sparse,
    "a pipe": _fifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


def _after_damage(folder: str) -> None:
    """Get the folder as a launcher does, with little patience and little memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    watch = Watch(Path(folder), patience=0.2)
    is_held(Path(folder))
    owner_of(Path(folder))
    while (evict := watch.evictable()) is None:
        time.sleep(0.05)
    taken = Lease.take(Path(folder), evict=evict)
    assert taken is not None
    assert taken.generation == 4
    taken.beat()
    taken.release()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_lease_blocks_nobody_for_ever(tmp_path: Path, damage: str) -> None:
    DAMAGE[damage](tmp_path / "lease-3")
    process = start(_after_damage, str(tmp_path))
    process.join(5)
    ended = process.exitcode
    process.kill()
    assert ended == 0
    assert (tmp_path / "lease-4.free").exists()


def test_the_last_generation_there_can_be_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / f"lease-{'9' * 15}").write_bytes(b"")
    watch = Watch(tmp_path, patience=0.0)
    watch.evictable()
    evict = watch.evictable()
    assert evict is not None
    with contextlib.suppress(OSError):  # that may be said, if it is not waited for
        assert Lease.take(tmp_path, evict=evict) is not None


def test_names_that_are_no_leases_are_left_alone(tmp_path: Path) -> None:
    for name in ("lease-", "lease-1x", "lease--1", "lease-1.free.free", "Lease-7", ".lease.7", "lease-7 "):
        (tmp_path / name).write_bytes(b"")
    before = sorted(os.listdir(tmp_path))
    taken = Lease.take(tmp_path)
    assert taken is not None
    assert taken.generation == 0
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "lease-0"])


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can write, root neither."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], capture_output=True).returncode:
        pytest.skip("root can write any folder, and may not mount one read-only here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_folder_that_cannot_be_written_is_an_error(read_only: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Read-only|Permission"):
        Lease.take(read_only)
    with pytest.raises(FileNotFoundError):
        Lease.take(tmp_path / "nothing")
    assert not os.listdir(read_only)


# Many processes. Owners write what they do into one log: in it generations must never decrease, else one that had an
# owner after it went on.

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.test_lease"])


def start(function: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def contend(
    folder: str, log: str, seed: int, seconds: float, elsewhere: str = "", patience: float = FAR, killed: float = 0.0
) -> None:
    """Own the folder again and again for a moment; now and then be killed meanwhile, with that probability, or, on a
    machine named so, be silent for longer than others are patient."""
    if elsewhere:
        leases.machine = lambda: elsewhere  # type: ignore[assignment]
    rng, watch, end = random.Random(seed), Watch(Path(folder), patience), time.monotonic() + seconds
    with open(log, "ab", buffering=0) as file:
        while time.monotonic() < end:
            evict = watch.evictable()
            lease = None if evict is None else Lease.take(Path(folder), evict=evict)
            if lease is None:
                time.sleep(rng.uniform(0, 0.002))
                continue
            try:
                _own(lease, file.write, rng, patience, killed)
            except LeaseLost:
                file.write(b"lost\n")
            lease.release()


def _own(lease: Lease, write: Callable[[bytes], object], rng: random.Random, patience: float, killed: float) -> None:
    line = f"{lease.generation} {os.getpid()}\n".encode()
    write(line)
    if patience < FAR and rng.random() < 0.4:
        if rng.random() < 0.7:
            time.sleep(1.5 * patience)
        else:  # it looks often whether it may go on: what it has seen may be cached
            until = time.monotonic() + 1.5 * patience
            while time.monotonic() < until:
                time.sleep(0.02)
                lease.beat()
                write(line)
    for _ in range(rng.randrange(4)):
        time.sleep(rng.uniform(0, 0.001))
        lease.beat()
        write(line)
        if rng.random() < killed:
            os.kill(os.getpid(), signal.SIGKILL)


def owners(log: Path) -> list[int]:
    """The generations that owned, in their order. Fails where one went on after another had begun, or two processes
    had one."""
    lines = [tuple(map(int, line.split())) for line in log.read_text().splitlines() if line != "lost"]
    assert [generation for generation, _ in lines] == sorted(generation for generation, _ in lines)
    distinct = sorted(set(lines))
    assert len({generation for generation, _ in distinct}) == len(distinct)
    return [generation for generation, _ in distinct]


def test_eight_processes_that_are_killed_own_a_folder_by_turns(tmp_path: Path) -> None:
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    rng, end, seeds = random.Random(0), time.monotonic() + 3, itertools.count()

    def contender() -> multiprocessing.process.BaseProcess:
        return start(contend, str(folder), str(log), next(seeds), end - time.monotonic(), "", FAR, 0.02)

    processes, kills = [contender() for _ in range(8)], 0
    while time.monotonic() < end - 0.5:
        time.sleep(0.02)
        processes[rng.randrange(8)].kill()  # wherever it is: also between two steps of the protocol
        for place, process in enumerate(processes):
            if not process.is_alive():
                kills += process.exitcode == -signal.SIGKILL
                processes[place] = contender()
    for process in processes:
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    taken = owners(log)
    assert len(taken) > 50
    assert kills > 2
    assert taken[-1] < 2 * len(taken)  # few generations had no owner: those killed as they took the lease
    final = Lease.take(folder)
    assert final is not None
    assert final.generation >= taken[-1]
    assert sorted(name for name in os.listdir(folder) if not name.startswith(".")) == [f"lease-{final.generation}"]


def test_silent_owners_on_several_machines_are_evicted_and_find_out(tmp_path: Path) -> None:
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    processes = [start(contend, str(folder), str(log), n, 2.5, f"machine {n % 3}", 0.25) for n in range(6)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(owners(log)) > 10
    assert "lost" in log.read_text()


# Every order in which the steps of several processes can follow one another.


class Steps:
    """Runs actors in threads of which one moves at a time, from one call of the file system to the next; `choose` says
    which, and how far behind a listing is. A client that has changed a folder sees at least its own change, and what
    came before it."""

    CALLS = ("listdir", "link", "unlink", "rename", "utime")

    def __init__(self, folder: Path, choose: Callable[[int], int], *, behind: bool) -> None:
        self.folder, self.choose, self.behind = folder, choose, behind
        self.real = {name: getattr(os, name) for name in self.CALLS}
        self.listings: list[list[str]] = [os.listdir(folder)]
        self.seen: dict[int, int] = {}
        self.actor = threading.local()
        self.owner: int | None = None
        self.taken: list[int] = []
        self.errors: list[BaseException] = []

    def run(self, actors: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns = [threading.Semaphore(0) for _ in actors]
        self.moved = threading.Semaphore(0)
        self.waiting = set(range(len(actors)))
        with monkeypatch.context() as patch:
            for name in self.CALLS:
                patch.setattr(os, name, self._step(name))
            threads = [threading.Thread(target=self._act, args=(n, actor)) for n, actor in enumerate(actors)]
            for thread in threads:
                thread.start()
            while self.waiting:
                ready = sorted(self.waiting)
                self.turns[ready[self.choose(len(ready))]].release()
                self.moved.acquire()
            for thread in threads:
                thread.join()
        if self.errors:
            raise self.errors[0]

    def _act(self, number: int, actor: Callable[[], None]) -> None:
        self.actor.number = number
        self.turns[number].acquire()
        try:
            actor()
        except BaseException as error:
            self.errors.append(error)
        self.waiting.discard(number)
        self.moved.release()

    def pause(self) -> None:
        self.moved.release()
        self.turns[self.actor.number].acquire()

    def _step(self, name: str) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            if not hasattr(self.actor, "number"):
                return self.real[name](*arguments, **options)
            self.pause()
            if name == "listdir":
                return self._listing()
            try:
                return self.real[name](*arguments, **options)
            finally:
                if name != "utime":  # which does not change the folder
                    self.listings.append(self.real["listdir"](self.folder))
                    self.seen[self.actor.number] = len(self.listings) - 1

        return step

    def _listing(self) -> list[str]:
        oldest, newest = self.seen.get(self.actor.number, 0), len(self.listings) - 1
        chosen = newest - (self.choose(newest - oldest + 1) if self.behind else 0)
        self.seen[self.actor.number] = chosen
        return self.listings[chosen]

    def turn(self, tries: int, evict: int) -> None:
        """Own the folder, alone, and let it go; or try so often in vain."""
        for _ in range(tries):
            lease = Lease.take(self.folder, evict=evict)
            if lease is not None:
                assert self.owner is None, "two owners"
                assert all(lease.generation > earlier for earlier in self.taken)
                self.owner = self.actor.number
                self.taken.append(lease.generation)
                lease.beat()
                lease.beat()
                self.owner = None
                lease.release()
                return


def _gone(folder: Path) -> None:
    """A process of this machine that is no more owned it."""
    owner = Owner(machine=machine(), host="here", pid=os.getpid(), born=1, job="", token="0")
    (folder / "lease-0").write_bytes(msgspec.json.encode(owner))


def _free(folder: Path) -> None:
    (folder / "lease-0.free").write_bytes(b"")


BEFORE: dict[str, tuple[Callable[[Path], object], int]] = {
    "new": (lambda folder: None, -1),
    "free": (_free, -1),
    "gone": (_gone, -1),
    "silent": (owned_elsewhere, 0),
}
"""What is in the folder before, and the generation that a watch says may be evicted."""


def every_order() -> Iterator[Callable[[int], int]]:
    """Choosers that, one after another, go through all ways to choose."""
    path: list[tuple[int, int]] = []
    while True:
        place = 0

        def choose(options: int) -> int:
            nonlocal place
            if place == len(path):
                path.append((0, options))
            place += 1
            assert path[place - 1][1] == options
            return path[place - 1][0]

        yield choose
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return
        path[-1] = (path[-1][0] + 1, path[-1][1])


@contextlib.contextmanager
def fresh(root: Path, before: str) -> Iterator[Path]:
    folder = root / "folder"
    folder.mkdir()
    BEFORE[before][0](folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("before", BEFORE)
def test_in_every_order_of_steps_there_is_one_owner_at_a_time(
    tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = 0
    for choose in every_order():
        with fresh(tmp_path, before) as folder:
            steps = Steps(folder, choose, behind=False)
            steps.run([lambda steps=steps: steps.turn(1, BEFORE[before][1])] * 2, monkeypatch)
            assert steps.taken
            assert Lease.take(folder, evict=BEFORE[before][1]) is not None
        orders += 1
    assert orders > 300


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(before=st.sampled_from(sorted(BEFORE)), choices=st.lists(st.integers(0, 11), max_size=150), rest=st.integers(0))
def test_with_listings_that_are_behind_there_is_one_owner_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, before: str, choices: list[int], rest: int
) -> None:
    left, rng = iter(choices), random.Random(rest)

    def choose(options: int) -> int:
        return next(left, rng.randrange(1 << 20)) % options

    with fresh(tmp_path_factory.mktemp("steps"), before) as folder, pytest.MonkeyPatch.context() as monkeypatch:
        steps = Steps(folder, choose, behind=True)
        steps.run([lambda: steps.turn(3, BEFORE[before][1])] * 3, monkeypatch)
        assert Lease.take(folder, evict=BEFORE[before][1]) is not None


# Two clients of one folder, with caches of their own.


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Callable[[float], tuple[Path, Path]]]:
    """Mounts one folder twice, through FUSE, each client caching attributes, names and missing names that long."""
    missing = [name for name in ("bindfs", "fusermount3", "fusermount") if shutil.which(name) is None]
    if "bindfs" in missing or len(missing) > 1 or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("no bindfs or no /dev/fuse: on Debian `apt-get install bindfs`, and a machine that may mount FUSE")
    (tmp_path / "server").mkdir()
    places = (tmp_path / "client 0", tmp_path / "client 1")

    def mount(seconds: float) -> tuple[Path, Path]:
        for place in places:
            place.mkdir()
            caches = ",".join(f"{what}_timeout={seconds:g}" for what in ("attr", "entry", "negative"))
            subprocess.run(["bindfs", "-o", caches, tmp_path / "server", place], check=True, timeout=10)
        return places

    yield mount
    unmount = shutil.which("fusermount3") or shutil.which("fusermount")
    for place in places:
        if place.is_mount():
            subprocess.run([str(unmount), "-u", "-z", place], check=True, timeout=10)


def test_two_clients_whose_caches_are_behind_have_one_owner_at_a_time(
    clients: Callable[[float], tuple[Path, Path]], tmp_path: Path
) -> None:
    log, patience = tmp_path / "log", 0.6
    places = clients(0.4)
    processes = [start(contend, str(places[n % 2]), str(log), n, 5.0, f"machine {n % 2}", patience) for n in range(4)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(owners(log)) > 5
    assert "lost" in log.read_text()


def test_an_owner_finds_out_at_once_though_its_client_has_cached_that_it_has_no_successor(
    clients: Callable[[float], tuple[Path, Path]],
) -> None:
    mine, theirs = clients(60.0)
    first = Lease.take(mine)
    assert first is not None
    first.beat()
    second = Lease.take(theirs, evict=0)
    assert second is not None
    with pytest.raises(LeaseLost):
        first.beat()
    first.release()
    second.beat()
    assert Lease.take(mine) is None
