"""What a user writes about a cluster: a profile, a YAML file outside the study, so that one study runs anywhere."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from specs.document import Document, read_document
from specs.errors import SpecError
from specs.messages import explain
from specs.study import Positive, Section, Size

SLURM_KEYS = (
    "partition",
    "account",
    "qos",
    "constraint",
    "time",
    "array_limit",
    "setup",
    "cpus_per_task",
    "memory",
    "notice",
    "pack",
    "options",
)
"""Keys that mean something to Slurm alone."""

_CLOCK = re.compile(r"(?:(?P<days>\d{1,4})-)?(?P<clock>\d{1,9}(?::\d{1,9}){0,2})")


def parse_minutes(value: object) -> int:
    """A time limit as `sbatch --time` takes it, in whole minutes, rounded up as Slurm does.

    A number is minutes; a string may also be M:S, H:M:S, D-H, D-H:M or D-H:M:S. Raises ValueError, worded for the user.
    """
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a time; write such as 2-12:00:00, 12:00:00 or 90 (minutes)")
    parts = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = parts + [0] * (3 - len(parts))
        hours += 24 * int(match["days"])
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, parts[0], parts[1] if len(parts) == 2 else 0
    total = 60 * hours + minutes + math.ceil(seconds / 60)
    if not 1 <= total <= 2**31 - 1:
        raise ValueError(f"{value!r} is not a time that a job can have; leave it out for the partition's own limit")
    return total


def _named(value: object) -> object:
    """`accelerator: h100` is short for `accelerator: {name: h100}`."""
    return {"name": value} if isinstance(value, str) else value


def _word(value: str) -> str:
    """Slurm's names have no spaces, and one that begins with '-' would be read as an option."""
    if not value or value.startswith("-") or len(value) > 200 or not value.isprintable() or " " in value:
        raise ValueError(f"{value[:60]!r} is not a word to Slurm; write it without spaces, not beginning with '-'")
    return value


def _line(value: str) -> str:
    if "\n" in value:
        raise ValueError("holds a line break; write each line as an entry of its own")
    return value


Flops = Annotated[float, Field(ge=1e6, le=1e21)]
SlurmWord = Annotated[str, AfterValidator(_word)]


class PeakSpec(Section):
    """Peak dense FLOP/s of one device, by the dtype of the training."""

    float32: Flops | None = None
    bfloat16: Flops | None = None


class AcceleratorSpec(Section):
    """A kind of device. What is left out is that of the known accelerator `name`.

    `memory` in bytes; a micro-batch of more than `positions` positions makes it no faster.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="name: h100")
    peak: PeakSpec = PeakSpec()
    memory: Annotated[float, Field(ge=1e6, le=1e15)] | None = None
    positions: Positive | None = None


class ClusterSpec(Section):
    """A profile: `nodes` with `gpus_per_node` devices each, reached `local`ly or through `slurm`.

    `mfu` is the share of the peak that training sustains on model FLOPs. `patience` is how many seconds a rank waits
    for the others, and a step may take. Of Slurm: `time`, a job's limit, and `pack`, how long a job should at least be
    kept busy with runs, are in minutes once read; `notice` is how many seconds before its limit a job is told to save;
    `setup` lines run in the job's shell before the training; `options` are further ones of sbatch.
    """

    kind: Literal["local", "slurm"] = Field(description="kind: local, or kind: slurm")
    accelerator: Annotated[AcceleratorSpec, BeforeValidator(_named)] = Field(description="accelerator: h100")
    mfu: Annotated[float, Field(gt=0, le=1)] = Field(description="mfu: 0.4")
    nodes: Size = 1
    gpus_per_node: Size = Field(description="gpus_per_node: 8")
    partition: SlurmWord | None = None
    account: SlurmWord | None = None
    qos: SlurmWord | None = None
    constraint: SlurmWord | None = None
    time: Annotated[int | None, BeforeValidator(lambda value: None if value is None else parse_minutes(value))] = None
    array_limit: Positive | None = None
    cpus_per_task: Positive | None = None
    memory: SlurmWord | None = None
    notice: Annotated[int, Field(ge=1, le=65535)] = 120
    pack: Annotated[float, Field(ge=0, le=1e6)] = 30
    options: dict[SlurmWord, SlurmWord | int | bool] = Field(default={})
    patience: Annotated[float, Field(ge=1, le=1e6)] = 1800
    setup: Annotated[tuple[Annotated[str, AfterValidator(_line)], ...], Field(strict=False, max_length=1000)] = ()


def read_cluster(path: Path) -> tuple[ClusterSpec, Document]:
    """Read the profile at `path`. Raises SpecError with every mistake at its line."""
    document = read_document(path)
    try:
        spec = ClusterSpec.model_validate(document.data)
    except ValidationError as error:
        raise SpecError(document.problem(*one) for one in explain(error, ClusterSpec)) from None
    if spec.kind == "local":
        todo = "remove it, or write kind: slurm"
        meant = [key for key in SLURM_KEYS if key in document.data]
        if meant:
            raise SpecError(document.problem((key,), "means nothing under kind: local", todo) for key in meant)
    return spec, document
