"""Is the plan what torchtitan builds? Each distinct model's real trainer, at its full world size, in this process.

torchtitan's fake backend gives one process the place of rank 0 among any number of ranks, none of which exist: the
sharding and the optimizer groups are the real ones. Data and checkpoints are left out.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist
from rich.console import Console
from rich.text import Text
from torch.distributed.tensor import DTensor
from torchtitan.components.dataloader import BaseDataLoader

from compiler.cost import shard_shape
from compiler.layout import Module, modules, shape_of
from compiler.plan import Group, RunPlan
from runtime.training.model import MaskedDiffusionModel
from runtime.training.trainer import DiffusionTrainer, trainer_config

SHOWN = 20
"""Problems listed of one trainer; of more, the number is given."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for one distinct trainer. `runs` are the names of those it stands for; bytes are those of rank 0's
    parameters, as built and as planned; `seconds` is what building and comparing took. No problems: all is as planned.
    """

    runs: list[str]
    ranks: int
    parameters: int
    shard_bytes: int
    planned_bytes: int
    seconds: float
    problems: list[str]


class Built(NamedTuple):
    """A parameter as built: its whole and its local shape, local bytes, and its optimizer group: which one of the
    plan's, and torch's settings of it (None where no optimizer has it)."""

    shape: tuple[int, ...]
    shard: tuple[int, ...]
    bytes: int
    group: int | None
    settings: Mapping[str, Any]


class Unfilled(MaskedDiffusionModel):
    """The model without initial values. They are not compared, and billions take minutes to draw; and memory that is
    never written to is never taken, so that a shard may be larger than this machine."""

    @dataclass(kw_only=True, slots=True)
    class Config(MaskedDiffusionModel.Config):
        """As the model's."""

    def init_states(self, *, buffer_device: torch.device | None = None) -> None:
        """Leave parameters and buffers as they are."""


class NoData(BaseDataLoader):
    """Stands where training would read its data."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """Has no settings."""

    def __init__(self, config: Config, **_unused: Any) -> None:
        self.config = config

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """No batches."""
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """No position."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """No position."""


def verify(runs: Sequence[RunPlan], progress: Callable[[str], None]) -> list[Verified]:
    """Build the trainer of each distinct model, layout over ranks, dtype and set of optimizer groups among `runs`, and
    compare every parameter's name, shapes, bytes and optimizer settings with the plan.

    Runs that differ otherwise only (in learning rates, data, batch) are one trainer's: the first is built. `progress`
    gets a line before each. Raises RuntimeError where this process has a process group already.
    """
    if dist.is_initialized():
        raise RuntimeError("this process is a rank of a process group; verify from another")
    distinct: dict[object, list[RunPlan]] = {}
    for run in runs:
        groups = tuple((group.name, group.pattern) for group in run.groups)
        plan = (run.model.parameters, run.memory.parameters)
        distinct.setdefault((shape_of(run), run.parallel, run.dtype, groups, plan), []).append(run)
    verified = []
    for alike in distinct.values():
        run = alike[0]
        progress(f"{run.name}: {run.model.parameters.total:,} parameters on {run.parallel.ranks} ranks")
        verified.append(_verify(run, [one.name for one in alike]))
    return verified


def _verify(run: RunPlan, names: list[str]) -> Verified:
    started = time.perf_counter()
    built: dict[str, Built] = {}
    try:
        with _ranks(run.parallel.ranks), tempfile.TemporaryDirectory() as folder:
            built = _built(run, Path(folder))
    except Exception as error:  # whatever keeps torchtitan from building it is what the caller wants to know
        problems = [f"the trainer cannot be built: {type(error).__name__}: {error}"]
    else:
        problems = list(_compare(run, built))
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"and {len(problems) - SHOWN} more"]
    return Verified(
        runs=names,
        ranks=run.parallel.ranks,
        parameters=run.model.parameters.total,
        shard_bytes=sum(parameter.bytes for parameter in built.values()),
        planned_bytes=run.memory.parameters,
        seconds=time.perf_counter() - started,
        problems=problems,
    )


@contextmanager
def _ranks(ranks: int) -> Iterator[None]:
    """An environment that says "rank 0 of `ranks`", and silence: torchtitan warns of what the fake world lacks.
    Afterwards there is no process group, and environment, random numbers and garbage collection are as before."""
    environment, disabled = dict(os.environ), logging.root.manager.disable
    collecting, threads = gc.isenabled(), torch.autograd.is_multithreading_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    random = torch.get_rng_state()
    # torchtitan reads the size of a fake world from NGPU.
    os.environ.update({"NGPU": str(ranks), "WORLD_SIZE": str(ranks), "RANK": "0", "LOCAL_RANK": "0"})
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
        if dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(environment)
        torch.set_rng_state(random)
        torch.use_deterministic_algorithms(deterministic)
        torch.autograd.set_multithreading_enabled(threads)
        if collecting:
            gc.enable()
        gc.collect()  # modules refer to themselves, and the next trainer needs the memory


def _built(run: RunPlan, folder: Path) -> dict[str, Built]:
    config = trainer_config(run, folder, folder)
    assert config.model_spec is not None
    config.model_spec.model = Unfilled.Config(**_fields(config.model_spec.model))
    config.comm.mode = "fake_backend"
    config.dataloader = NoData.Config()
    config.validator.enable = False
    config.checkpoint.enable = False
    config.compile.enable = False  # it changes no parameter
    trainer = DiffusionTrainer(config)
    try:
        return _parameters(trainer)
    finally:
        trainer.close()


def _fields(config: MaskedDiffusionModel.Config) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _parameters(trainer: DiffusionTrainer) -> dict[str, Built]:
    groups: dict[str, tuple[int, Mapping[str, Any]]] = {}
    settings = [group for optimizer in trainer.optimizers.optimizers for group in optimizer.param_groups]
    for place, group in enumerate(settings):
        for name in group["param_names"]:
            groups[name] = (place, group)
    built = {}
    for name, parameter in trainer.model_parts[0].named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        size = local.numel() * local.element_size()
        built[name] = Built(tuple(parameter.shape), tuple(local.shape), size, *groups.get(name, (None, {})))
    return built


def _compare(run: RunPlan, built: Mapping[str, Built]) -> Iterator[str]:
    """What differs between the plan and what was built of it."""
    shape = shape_of(run)
    unplanned = set(built)
    for module in modules(shape):
        for name in module.names(shape.depth):
            if name in built:
                unplanned.discard(name)
                for problem in _differences(run, module, name, built[name]):
                    yield f"{name}: {problem}"
            else:
                yield f"{name}: planned, but not built"
    for name in sorted(unplanned):
        yield f"{name}: built, but not planned"
    total = sum(torch.Size(parameter.shape).numel() for parameter in built.values())
    if total != run.model.parameters.total:
        yield f"{total:,} parameters are built, {run.model.parameters.total:,} planned"
    size = sum(parameter.bytes for parameter in built.values())
    if size != run.memory.parameters:
        yield f"rank 0 holds {size:,} bytes of parameters, {run.memory.parameters:,} planned"


def _differences(run: RunPlan, module: Module, name: str, built: Built) -> Iterator[str]:
    if built.shape != module.shape:
        yield f"has shape {built.shape}, planned {module.shape}"
    shard = shard_shape(module, run.parallel)
    if built.shard != shard:
        yield f"rank 0 holds {built.shard} of it, planned {shard}"
    # Exceptions split a group; a part's name starts with that of the group.
    planned = [
        (place, group)
        for place, group in enumerate(run.groups)
        if group.name.split("+")[0] == module.group and re.fullmatch(group.pattern, name)
    ]
    if len(planned) != 1:
        yield f"is in {len(planned)} of the plan's groups of kind '{module.group}', not in one"
        return
    place, group = planned[0]
    if built.group is None:
        yield f"is in no optimizer group, planned '{group.name}'"
    elif built.group != place:
        yield f"is in optimizer group '{run.groups[built.group].name}', planned '{group.name}'"
    yield from _settings(group, built.settings)


def _settings(group: Group, settings: Mapping[str, Any]) -> Iterator[str]:
    planned = {"lr": group.lr, "betas": group.betas, "eps": group.eps, "weight_decay": group.weight_decay}
    # Once a schedule is attached, `lr` is that of the first step.
    found = {**settings, "lr": settings.get("initial_lr", settings.get("lr"))}
    for key, value in planned.items():
        if found.get(key) != value:
            yield f"{key} is {found.get(key)}, planned {value}"


def show(verified: Sequence[Verified], console: Console) -> None:
    """Print what was built, and where it differs from the plan."""
    for one in verified:
        first, more = one.runs[0], len(one.runs) - 1
        name = f"{first} and {more} more" if more else first
        console.print(
            Text(
                f"{'differs' if one.problems else 'as planned'}  {name}: {one.parameters:,} parameters on {one.ranks} "
                f"rank{'s' if one.ranks != 1 else ''}, {one.shard_bytes:,} bytes of them on rank 0 "
                f"({one.planned_bytes:,} planned), {one.seconds:.1f} s",
                style="red" if one.problems else "",
            ),
            soft_wrap=True,
        )
        for problem in one.problems:
            console.print(Text(f"  {problem}"), soft_wrap=True)
