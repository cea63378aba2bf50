"""Files that programs exchange: written so that no reader sees a part, read so that none can do harm."""

from __future__ import annotations

import errno
import os
import stat
import threading
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

import msgspec

from specs.errors import Problem, SpecError

T = TypeVar("T")

RECORD = 1 << 24
"""Bytes that a small record may have: a status, a submission, a lease."""

PLAN = 1 << 30
"""Bytes that a plan may have: one of 10,000 runs has some 50 million."""


def write_atomically(path: Path, data: bytes, *, durably: bool = True) -> None:
    """Replace `path` by `data` so that a reader sees the old bytes or the new, never a part; `durably`, also where the
    machine loses its power, which costs some milliseconds."""
    # Not tempfile: its files are their owner's alone, and people share study folders.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_plain(path: Path) -> BufferedReader:
    """Open a file to read. Raises OSError also where it is no plain file: a stranger's may be a pipe that waits for
    ever, or a device without an end."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is no plain file", str(path))
    return file


def decode(path: Path, decoder: msgspec.json.Decoder[T], largest: int = RECORD) -> T:
    """What a file of JSON says. Raises OSError where it is no plain file or has more than `largest` bytes, and
    msgspec.MsgspecError where it says nothing of that kind."""
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > largest:
            raise OSError(errno.EFBIG, "is too large", str(path))
        data = file.read()
    try:
        return decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def read_plan(file: Path, decoder: msgspec.json.Decoder[T], *, absent: str, broken: str) -> T:
    """What a `plan.json` says. Raises SpecError with what to do: `absent` where there is no file to read, `broken`
    where it holds no plan."""
    try:
        return decode(file, decoder, PLAN)
    except OSError as error:
        what, todo = f"there is no plan here ({error.strerror})", absent
    except msgspec.MsgspecError as error:
        what, todo = f"the plan cannot be read ({error})", broken
    raise SpecError([Problem(str(file), 1, "plan", what, todo)])
