"""torchtitan's checkpoints (DCP), kept by the plan's policy, sealed with checksums, and read without running anything.

A checkpoint is a folder `checkpoint/step-N`. Each rank that wrote it seals its own files with a `seal-RANK.json` when
they are all on disk, and the first rank also puts in the rows measured so far: what is not sealed, or differs from its
seal, was torn or damaged, and the one before it is used.
"""

from __future__ import annotations

import errno
import io
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint._nested_dict import set_element  # type: ignore[attr-defined]
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.checkpointer.dcp import AsyncMode
from torchtitan.tools.logging import logger

from compiler.files import write_atomically
from compiler.plan import RunPlan
from compiler.records import RESULTS, checkpoint_steps
from runtime.seals import differing, is_sealed, seal


class Checkpoints(CheckpointManager):
    """torchtitan's manager. It writes while training goes on; the last checkpoint, and one before a stop, at once."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        """The run whose policy is kept."""

        run: RunPlan

    def __init__(self, config: Config, *, base_folder: str = "", **parts: Any) -> None:
        super().__init__(config, base_folder=base_folder, **parts)
        self.run, self.home = config.run, Path(base_folder)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.check: Callable[[], None] = lambda: None
        """Raises where this process may write no more."""
        self.newest = 0
        """Step of the newest checkpoint that was loaded or asked for."""
        self._sealer = ThreadPoolExecutor(1)

    def at(self, step: int) -> Path:
        """The folder of that step's checkpoint."""
        return Path(self.folder) / f"step-{step}"

    def save_now(self, step: int) -> None:
        """Save that step, unless it was, and wait until it is on disk."""
        if self.newest != step:
            self.save(step, last_step=True)
        self.maybe_wait_for_saving()

    def dcp_save(self, state_dict: dict[str, Any], checkpoint_id: str, async_mode: AsyncMode, **options: Any) -> Any:
        """Save and seal; the future that comes back where that goes on in the background is of both."""
        self.check()
        folder = Path(checkpoint_id)
        if self.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for name in RESULTS:
                rows = self.home / name
                write_atomically(folder / name, rows.read_bytes() if rows.exists() else b"")
        saved = super().dcp_save(state_dict, checkpoint_id, async_mode, **options)
        self.newest = int(folder.name.removeprefix("step-"))
        if isinstance(saved, Future):
            return self._sealer.submit(self._seal, folder, saved)
        self._seal(folder)
        return saved

    def _seal(self, folder: Path, saved: Future[Any] | None = None) -> None:
        if saved is not None:
            saved.result()
        names = [path.name for path in folder.glob(f"__{self.rank}_*.distcp")]
        if self.rank == 0:
            names += [".metadata", *RESULTS]
        seal(folder, self.rank, self.ranks, names)

    def _load(self, step: int = -1) -> bool:
        """Load the newest whole checkpoint and remove what is not whole. Every rank must call."""
        assert step == -1
        for place in (Path(self.folder), *map(self.at, checkpoint_steps(self.home))):
            if place.is_symlink():
                raise OSError(errno.ELOOP, "is a link; a run's checkpoints are kept in its own folder", str(place))
        for candidate in self._agreed(checkpoint_steps(self.home)):
            mine = differing(self.at(candidate), self.rank, self.ranks)
            found = [problem for problem in self._gathered(mine) if problem]
            if not found:
                self.newest = candidate
                return super()._load(candidate)
            logger.warning("checkpoint of step %d is not whole, it is left out: %s", candidate, found[0])
            if self.rank == 0:
                shutil.rmtree(self.at(candidate))
        return False

    def _agreed(self, found: list[int]) -> list[int]:
        """What the first rank has found: on a shared file system others may see less, or later."""
        return cast("list[int]", self._gathered(found)[0])

    def _gathered(self, mine: Any) -> list[Any]:
        everyones: list[Any] = [None] * self.ranks
        dist.all_gather_object(everyones, mine, group=self.pg)
        return everyones

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, **_options: Any) -> None:
        """Load into `state_dict`, running nothing that the files may hold."""
        load(state_dict, storage_reader=PlainReader(checkpoint_id), planner=PlainPlanner(), process_group=self.pg)
        self.states["model"].load_state_dict(state_dict)

    def _should_save(self, curr_step: int, last_step: bool = False) -> bool:
        return super()._should_save(curr_step, last_step) or is_kept(self.run, curr_step)

    def _save_last_step(self, curr_step: int) -> None:
        super()._save_last_step(curr_step)
        self._purge_stale_checkpoints()

    def _purge_stale_checkpoints(self) -> None:
        """Remove all but the newest that are sealed, those that the plan keeps, and what is newer."""
        if not self._should_purge():
            return
        keep = self.run.checkpoint.keep
        sealed = [step for step in checkpoint_steps(self.home) if is_sealed(self.at(step))]
        for step in checkpoint_steps(self.home):
            if len(sealed) >= keep and step < sealed[keep - 1] and not is_kept(self.run, step):
                self.purge_queue.put(str(self.at(step)))

    def _close(self) -> None:
        self._sealer.shutdown()
        super()._close()


def is_kept(run: RunPlan, step: int) -> bool:
    """Whether the plan keeps that step's checkpoint for good: the first at or after each multiple of its tokens."""
    each = run.checkpoint.keep_every
    return bool(each) and int(run.tokens * step / run.steps / each) > int(run.tokens * (step - 1) / run.steps / each)


class PlainReader(FileSystemReader):
    """DCP's reader, whose metadata is a pickle, restricted to the names that DCP itself writes there."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's metadata. Raises pickle.UnpicklingError where it holds anything else."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata) or metadata.storage_meta is None:
            raise pickle.UnpicklingError(".metadata holds no metadata")
        for place in (metadata.storage_data or {}).values():
            if Path(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError(f"{place.relative_path} leaves the checkpoint's folder")
        metadata.storage_meta.load_id = self.load_id
        return metadata


class PlainPlanner(DefaultLoadPlanner):
    """DCP's planner, reading what is no tensor by torch's own restricted unpickler."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put one value into the state."""
        loaded = torch.load(value, weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], loaded)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _METADATA:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not a part of a checkpoint's metadata")


_METADATA = {
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch", "bfloat16"),
    ("torch", "float32"),
    ("torch", "float64"),
    ("torch", "int64"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.metadata", "BytesStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
}
