"""One owner at a time for a folder, on any file system that many machines share.

`lease-N` names the owner of generation N; `lease-N.free` says that it has let go. Generations only grow. Who takes the
next one makes its file, which only one can; an owner of an earlier one finds that file and stops. An owner shows that
it lives by touching its file: who sees the same time on it for `PATIENCE` seconds of its own clock takes it for dead,
so that no two clocks need agree. Where the owner's machine is this one, it is also dead when its process is.

Linking and renaming are atomic on NFS too; a folder listing that a client has cached delays the next owner, and hides a
successor from one taken for dead for as long as the cache may be old, nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import time
from functools import cache
from pathlib import Path

import msgspec

from compiler.files import decode, open_plain

BEAT = 10.0
"""Seconds between an owner's signs of life."""

PATIENCE = 90.0
"""Seconds without one after which an owner is taken for dead; longer than NFS clients cache attributes by default."""

_NAME = re.compile(r"lease-(\d{1,15})(\.free)?")


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease's file says. `machine` is a boot of a machine and a space of process numbers on it; `born` is when
    process `pid` was, in the kernel's ticks; `job` is the scheduler's."""

    machine: str
    host: str
    pid: int
    born: int
    job: str
    token: str


_OWNERS = msgspec.json.Decoder(Owner)


class LeaseLost(RuntimeError):  # noqa: N818
    """Another process has taken this one for dead and owns the folder."""


class Lease:
    """A folder's ownership by this process, from `take` to `release`."""

    def __init__(self, folder: Path, generation: int) -> None:
        self.path = folder / f"lease-{generation}"
        self.generation = generation
        self._successor = folder / f"lease-{generation + 1}"

    @classmethod
    def take(cls, folder: Path, *, job: str = "", evict: int = -1) -> Lease | None:
        """Own `folder`; None where another does. An owner of generation `evict` or earlier is taken for dead, on the
        word of the caller's `Watch`. Raises OSError where the folder cannot be written."""
        newest = _newest(folder)
        if newest is not None and not newest.free and newest.generation > evict and not _is_gone(newest.path):
            return None
        generation = newest.generation + 1 if newest is not None else 0
        lease = cls(folder, generation)
        if _NAME.fullmatch(lease.path.name) is None:
            raise OSError(errno.EOVERFLOW, "has no further generation of leases", str(folder))
        owner = Owner(
            machine=machine(),
            host=socket.gethostname(),
            pid=os.getpid(),
            born=_born(os.getpid()),
            job=job,
            token=secrets.token_hex(8),
        )
        temporary = folder / f".lease.{owner.token}"
        temporary.write_bytes(msgspec.json.encode(owner))
        try:
            os.link(temporary, lease.path)
        except FileExistsError:
            # A reply that was lost on the way is asked for again, and the link is there.
            if temporary.stat().st_nlink == 1:
                return None
        finally:
            temporary.unlink()
        newest = _newest(folder)
        if newest is None or newest.generation != generation or newest.free:
            # This generation had come and gone while this process looked.
            lease.path.unlink(missing_ok=True)
            return None
        _forget_before(folder, generation)
        return lease

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def beat(self) -> None:
        """Show that the owner lives, and see that it still owns. Raises LeaseLost where it does not, or OSError."""
        # A successor removes this file before it begins. Whether a name is there may be answered from a client's cache;
        # a change never is.
        try:
            os.utime(self.path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                raise LeaseLost(f"{self.path.parent} has another owner") from None
            raise
        if self._successor.exists():
            raise LeaseLost(f"{self.path.parent} has another owner")

    def release(self) -> None:
        """Let go. Nothing happens where the lease is lost already."""
        with contextlib.suppress(OSError):
            self.path.rename(self.path.with_name(self.path.name + ".free"))


class Watch:
    """Watches a folder's owner from outside."""

    def __init__(self, folder: Path, patience: float = PATIENCE) -> None:
        self.folder, self.patience = folder, patience
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def evictable(self) -> int | None:
        """The generation that may be evicted now, -1 where there is none: of an owner that has let go, is surely gone,
        or has shown no sign of life for `patience` seconds of watching. None where its owner lives."""
        newest = _newest(self.folder)
        if newest is None:
            return -1
        if newest.free or _is_gone(newest.path) or self._silent(newest):
            return newest.generation
        return None

    def is_silent(self) -> bool:
        """Whether there is an owner that has shown no sign of life for `patience` seconds of watching."""
        newest = _newest(self.folder)
        return newest is not None and not newest.free and self._silent(newest)

    def _silent(self, newest: _Entry) -> bool:
        seen = (newest.generation, _touched(newest.path))
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since >= self.patience


def is_held(folder: Path) -> bool:
    """Whether a folder has an owner that, as far as one look can tell, lives: its process is there, or, where that is
    on another machine, it was touched not long ago by this machine's clock."""
    newest = _newest(folder)
    if newest is None or newest.free or _is_gone(newest.path):
        return False
    owner = _read(newest.path)
    if owner is not None and owner.machine == machine():
        return True
    return time.time() - _touched(newest.path) / 1e9 < 2 * PATIENCE


def owner_of(folder: Path) -> Owner | None:
    """Who owns a folder, dead or alive; None where nobody does."""
    newest = _newest(folder)
    return None if newest is None or newest.free else _read(newest.path)


class _Entry(msgspec.Struct, frozen=True, order=True):
    generation: int
    free: bool
    path: Path


def _newest(folder: Path) -> _Entry | None:
    """The file of the newest generation; that it was let go where both are there."""
    entries = [
        _Entry(int(match[1]), match[2] is not None, folder / match[0])
        for match in map(_NAME.fullmatch, os.listdir(folder))
        if match is not None
    ]
    return max(entries, key=lambda entry: (entry.generation, entry.free), default=None)


def _forget_before(folder: Path, generation: int) -> None:
    for name in os.listdir(folder):
        match = _NAME.fullmatch(name)
        if (match is not None and int(match[1]) < generation) or _is_left_over(folder, name):
            # A folder of that name is nobody's lease.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                (folder / name).unlink()


def _is_left_over(folder: Path, name: str) -> bool:
    """Whether a file was to become a lease, of a process that died over it a day ago or before."""
    return name.startswith(".lease.") and time.time() - _touched(folder / name) / 1e9 > 86400


def _read(path: Path) -> Owner | None:
    try:
        return decode(path, _OWNERS)
    except (OSError, msgspec.MsgspecError):
        return None


def _is_gone(path: Path) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    owner = _read(path)
    return owner is not None and owner.machine == machine() and _born(owner.pid) != owner.born


def _touched(path: Path) -> int:
    """When a file was last touched, in nanoseconds by its server's clock; opened first, as NFS asks the server then."""
    try:
        with open_plain(path) as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:  # also where it goes while it is open, as on NFS
        return 0


@cache
def machine() -> str:
    """This boot of this machine and, in containers, its space of process numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():  # not Linux
        return socket.gethostname()
    return f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def _born(pid: int) -> int:
    """When process `pid` was started, in ticks since boot; 0 where there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self").exists():
            return 0
        with contextlib.suppress(OSError):  # not Linux: existence must do
            os.kill(pid, 0)
            return 1
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
