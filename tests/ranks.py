"""Runs a function of this package on several real processes that form one process group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_ranks(function: str, ranks: int, folder: Path, *arguments: str) -> None:
    """Call `module:function(rank, ranks, folder, *arguments)` on every rank of a new group; fail where one fails."""
    module, name = function.split(":")
    code = (
        "import sys; from pathlib import Path; from runtime.training.platform import start_process_group;"
        "import torch, torch.distributed as dist; torch.set_num_threads(1);"
        f"from {module} import {name};"
        "rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]);"
        "store = dist.FileStore(str(folder / 'store'), ranks) if ranks > 1 else dist.HashStore();"
        f"start_process_group(store, rank, ranks); {name}(rank, ranks, folder, *sys.argv[4:]);"
        "dist.destroy_process_group()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(ranks), str(folder), *arguments],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)},
            stderr=(folder / f"stderr-{rank}").open("wb"),
            cwd=Path(__file__).parent.parent,
        )
        for rank in range(ranks)
    ]
    codes = [process.wait(timeout=200) for process in processes]
    assert codes == [0] * ranks, (folder / f"stderr-{max(range(ranks), key=lambda i: abs(codes[i]))}").read_text()[
        -3000:
    ]
