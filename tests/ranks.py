"""Runs a function of this package on several real processes that form one process group."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path


def run_ranks(function: str, ranks: int, folder: Path, *arguments: str) -> None:
    """Call `module:function(rank, ranks, folder, *arguments)` on every rank of a new group; fail where one fails."""
    run_groups(function, [(ranks, *arguments)], folder)


def run_groups(function: str, groups: Sequence[tuple[int | str, ...]], folder: Path) -> None:
    """`run_ranks` for one group after another: each its number of ranks, then its arguments."""
    code = "import sys; from tests.ranks import fork; fork(*sys.argv[1:])"
    output = folder / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code, function, str(folder), json.dumps(groups)],
            cwd=Path(__file__).parent.parent,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=600)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, output.read_text()[-5000:]


def fork(function: str, folder: str, groups: str) -> None:
    """Import what takes long once, then be all ranks of each group by turns."""
    importlib.import_module("runtime.training.trainer")
    module, name = function.split(":")
    called = getattr(importlib.import_module(module), name)
    for place, (ranks, *arguments) in enumerate(json.loads(groups)):
        children = []
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                os._exit(_be(rank, ranks, Path(folder) / f"store-{place}", called, Path(folder), *arguments))
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
