"""A finished run, its model loaded from the newest whole checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import torch
from torch.distributed.checkpoint.state_dict_loader import load

from compiler.files import decode
from compiler.plan import RunPlan
from compiler.records import checkpoint_steps
from compiler.source import source_of
from runtime.seals import differing
from runtime.training.checkpoints import PlainPlanner, PlainReader
from runtime.training.model import MaskedDiffusionModel, model_config
from runtime.training.platform import ON_CPU
from specs.errors import Problem, SpecError

_RUNS = msgspec.json.Decoder(RunPlan)


@dataclass(frozen=True)
class Trained:
    """A run's plan and model, the step of its checkpoint, and the folder that its data names are relative to."""

    run: RunPlan
    model: MaskedDiffusionModel
    step: int
    folder: Path
    data_root: Path


def load_trained(folder: Path) -> Trained:
    """The model of the run in `folder`, DIR/STUDY/runs/ID or DIR/store/ID; of a study's folder, that of its only run.

    Raises SpecError where there is no run, its study is gone, or no checkpoint is whole.
    """
    folder = only_run(folder)
    try:
        run = decode(folder / "run.json", _RUNS)
    except FileNotFoundError:
        raise _problem(folder, "run", "this is no run's folder", "give one such as runs/demo/runs/ID") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise _problem(folder / "run.json", "run", f"cannot be read ({error})", "run the study again") from None
    study, _, _ = source_of(folder)
    step = next((step for step in checkpoint_steps(folder) if not differing(_checkpoint(folder, step))), None)
    if step is None:
        found = "has no whole checkpoint" if checkpoint_steps(folder) else "has no checkpoint"
        raise _problem(folder, "checkpoint", found, "let the run train until it has saved one")
    model = cast(MaskedDiffusionModel, model_config(run).build())
    model.to_empty(device="cpu")
    model.init_buffers(torch.device("cpu"))  # initial values would be overwritten
    state = model.state_dict()
    reader = PlainReader(_checkpoint(folder, step))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # there is one process, as is meant
        load(state, storage_reader=reader, planner=PlainPlanner(), no_dist=True)
    model.load_state_dict(state)
    model.to("cpu" if ON_CPU else "cuda")
    return Trained(run, model, step, folder, study.parent)


def only_run(folder: Path) -> Path:
    """`folder`, or where it is a study's, its only run's. Raises SpecError where it has several."""
    if not (folder / "plan.json").is_file():
        return folder
    runs = sorted((folder / "runs").glob("*"))
    if len(runs) == 1:
        return runs[0]
    listed = ", ".join(run.name for run in runs[:3]) + (", …" if len(runs) > 3 else "")
    raise _problem(folder, "run", f"the study has {len(runs)} runs ({listed})", f"give one, such as {folder}/runs/ID")


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoint" / f"step-{step}"


def _problem(where: Path, path: str, what: str, todo: str) -> SpecError:
    return SpecError([Problem(str(where), 1, path, what, todo)])
