"""What a user writes of sampling: how tokens are drawn, and studies of that on finished runs.

Types and ranges live here; what fits which run, the compiler decides.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, field_validator, model_serializer

from specs.document import parse
from specs.errors import SpecError
from specs.interpolation import Kind
from specs.reuse import compose
from specs.study import Axis, Count, Name, Section

OF_TASK: Any = "the task's default"
"""The value of what a sampler leaves out. None is a value of its own: `steps: null`."""

OF_TRAINING = ("simplex", "isoflop")
"""Kinds of axes that say nothing of finished runs."""

ALIASES = {"audio": "speech"}
"""Segments that tasks call by another name."""

TO, JOINED = "-to-", "+"
"""What stands between condition and target in a task's name, and between the segments of a condition of several."""

Steps = Annotated[int, Field(ge=1, le=10**6)]
Factor = Annotated[float, Field(ge=0, le=1000)]


class SamplerSpec(Section):
    """How masked positions are filled; what is left out is the task's default.

    `ancestral` settles positions in random order, `confidence` the likeliest first, `entropy-bounded` as many of the
    surest at once as `bound` nats of joint entropy allow; in at most `steps` (null: one a token), so many by when as
    `schedule` says. Tokens are drawn at `temperature` among the `top_k` likeliest (0: all) and the fewest that sum to
    `top_p`. `gumbel` is noise on the confidence, falling as `annealing` says; `remask` the share of settled tokens
    masked again at each step; `guidance` the weight of the condition, rising from 1 where `ramp` is linear; `lengths`
    the number of lengths that are tried, `draws` times each; `rescore` the number of masks over which candidates
    are compared by what the model says of the condition given them.
    """

    kind: Literal["ancestral", "confidence", "entropy-bounded"] = OF_TASK
    steps: Steps | None = OF_TASK
    schedule: Literal["linear", "cosine", "training"] = OF_TASK
    temperature: Factor = OF_TASK
    top_k: Count = OF_TASK
    top_p: Annotated[float, Field(gt=0, le=1)] = OF_TASK
    gumbel: Factor = OF_TASK
    annealing: Literal["constant", "linear"] = OF_TASK
    bound: Factor = OF_TASK
    remask: Annotated[float, Field(ge=0, lt=1)] = OF_TASK
    guidance: Factor = OF_TASK
    ramp: Literal["constant", "linear"] = OF_TASK
    lengths: Annotated[int, Field(ge=1, le=64)] = OF_TASK
    draws: Annotated[int, Field(ge=1, le=64)] = OF_TASK
    rescore: Annotated[int, Field(ge=0, le=64)] = OF_TASK

    @model_serializer
    def written(self) -> dict[str, Any]:
        """The settings that are not left out."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


Control = Literal["condition-masked", "other-length", "one-length", "lookup"]


class SamplingBase(Section):
    """One point, before it is resolved: `n` samples of a `task` from a run.

    A task is SEGMENT, or SEGMENT-to-SEGMENT where the first is given, or `infill`. `controls` are drawn and judged
    beside it.
    """

    task: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="task: text-to-image")
    n: Annotated[int, Field(ge=1, le=10**6)] = 256
    seed: Count = 0
    controls: list[Control] = Field(default_factory=list)
    sampler: SamplerSpec = Field(default_factory=SamplerSpec)


class SamplingAxis(Axis):
    """As an axis of training studies, but for the kinds that are about training."""

    @field_validator(*OF_TRAINING, mode="before")
    @classmethod
    def _of_training(cls, value: object) -> object:
        raise ValueError("this kind of axis is about training, and the runs here are finished; use grid, zip or sample")


def _of_study(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/.+)?", value):
        raise ValueError(f"{value[:80]!r} names no study; write STUDY, a folder under --out, or STUDY/RUN")
    return value


class SamplingStudy(Section):
    """The whole file, its base not yet read. `runs` are finished: all those of STUDY, or STUDY/RUN by name or id."""

    study: Name = Field(description="study: NAME")
    runs: Annotated[list[Annotated[str, AfterValidator(_of_study)]], Field(min_length=1, max_length=1000)] = Field(
        description="runs: [STUDY]"
    )
    base: dict[str, Any] = Field(description="base: {task: text-to-image}")
    axes: list[SamplingAxis] = Field(default_factory=list)


SAMPLING = Kind(SamplingStudy, SamplingBase)


def is_sampling_study(path: Path) -> bool:
    """Whether a file is a sampling study: one with `runs` at its root. False also where it cannot be read."""
    try:
        return "runs" in compose(path).data
    except SpecError:
        return False


def spoken(task: str) -> str:
    """A task with segments by the names that tasks call them: text-to-audio is text-to-speech."""
    sides = [side.split(JOINED) for side in task.split(TO)]
    return TO.join(JOINED.join(ALIASES.get(segment, segment) for segment in side) for side in sides)


def default_sampler(task: str) -> dict[str, Any]:
    """The settings that a task is sampled with where none are given, by name: those of `samplers.yaml`, what is left
    out there for the task being `default`'s."""
    table = _shipped()
    return table["default"].written() | table.get(spoken(task), SamplerSpec()).written()


@lru_cache(maxsize=1)
def _shipped() -> dict[str, SamplerSpec]:
    text = files("specs").joinpath("samplers.yaml").read_text("utf-8")
    return TypeAdapter(dict[str, SamplerSpec]).validate_python(parse(text, "samplers.yaml", {}))
