"""Runs a function of this package on several real processes that form one process group."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

PRELOADED = "runtime.training.trainer"
multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])


def run_ranks(function: str, ranks: int, folder: Path, *arguments: str, fresh: bool = False) -> None:
    """Call `module:function(rank, ranks, folder, *arguments)` on every rank of a new group; fail where one fails.

    Ranks are forks of one process that has imported what takes long; those of a `fresh` group of one that imports anew.
    """
    run_groups(function, [(ranks, *arguments)], folder, fresh=fresh)


def run_groups(function: str, groups: Sequence[tuple[int | str, ...]], folder: Path, *, fresh: bool = False) -> None:
    """`run_ranks` for one group after another: each its number of ranks, then its arguments."""
    output = folder / "output.txt"
    output.touch()
    process = multiprocessing.get_context("spawn" if fresh else "forkserver").Process(
        target=_lead, args=(dict(os.environ), output, function, groups, folder)
    )
    process.start()
    try:
        process.join()
    finally:
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.exitcode == 0, output.read_text()[-5000:]


def _lead(
    environment: dict[str, str], output: Path, function: str, groups: Sequence[tuple[int | str, ...]], folder: Path
) -> None:
    """Be the parent of all ranks of each group by turns, in a process group to be killed as one."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    module, name = function.split(":")
    importlib.import_module(PRELOADED)
    called = getattr(importlib.import_module(module), name)
    for place, (ranks, *arguments) in enumerate(groups):
        children = []
        (folder / f"store-{place}").unlink(missing_ok=True)  # of an earlier group in the same folder
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                os._exit(_be(rank, ranks, folder / f"store-{place}", called, folder, *arguments))
            children.append(child)
        for _ in children:
            child, status = os.wait()
            if status:
                sys.exit(f"rank {children.index(child)} of {ranks} ended with {os.waitstatus_to_exitcode(status)}")


def _be(rank: int, ranks: int, store: Path, called: Callable[..., None], *arguments: object) -> int:
    """Be that rank; returns an exit status."""
    import torch
    import torch.distributed as dist

    from runtime.training.platform import start_process_group

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    try:
        torch.set_num_threads(1)
        start_process_group(dist.FileStore(str(store), ranks) if ranks > 1 else dist.HashStore(), rank, ranks)
        called(rank, ranks, *arguments)
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
