"""What a user writes: a base run and axes over it.

Types and ranges live here; rules that join several values live in the compiler. Descriptions are what
`missing` errors tell the user to write.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from specs.quantities import parse_quantity


def _auto(value: object) -> object:
    return None if value == "auto" else value


def _names(value: object) -> object:
    """`noise: linear` is short for `noise: {kind: linear}`."""
    return {"kind": value} if isinstance(value, str) else value


# Upper bounds are far above any use; they keep costs within what numbers can hold.
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Size = Annotated[int, Field(ge=1, le=10**6)]
Quantity = Annotated[float, BeforeValidator(parse_quantity), Field(ge=1, le=1e18)]
Batch = Annotated[float, Field(ge=1e-6, le=1e9)]
Rate = Annotated[float, Field(gt=0, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,39}$")]


class Section(BaseModel):
    """A mapping in a study: unknown keys, and values of another type, are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSpec(Section):
    """Shape of the transformer. Width is 128 · depth where it is not given (arXiv 2602.21472)."""

    depth: Size = Field(description="model: {depth: 2}")
    width: Size | None = None
    heads: Size | None = None
    ffn: Size | None = None


class NoiseSpec(Section):
    """A noise schedule. `power` belongs to `polynomial`: α(t) = 1 - t^power."""

    kind: Literal["linear", "cosine", "polynomial"] = Field(description="kind: linear")
    power: Annotated[float, Field(gt=0, le=100)] = 1.0


class ModalitySpec(Section):
    """A source of sequences. `weight` is its share of tokens, normalised over the modalities."""

    data: str = Field(description="data: embedded/text", min_length=1)
    weight: Annotated[float, Field(ge=0, le=1e9)] = 1.0
    noise: Annotated[NoiseSpec, BeforeValidator(_names)] = NoiseSpec(kind="linear")


class BatchSpec(Section):
    """Sequences per step. None is `auto`."""

    logical: Annotated[Batch | None, BeforeValidator(_auto)] = None
    physical: Annotated[Positive | None, BeforeValidator(_auto)] = None
    micro: Annotated[Positive | None, BeforeValidator(_auto)] = None
    allow_supercritical: bool = False


class OptimizerSpec(Section):
    """AdamW as tuned at the base point. `clip` is the largest gradient norm, null for none."""

    lr: Rate = 3e-3
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    eps: Rate = 1e-8
    weight_decay: Annotated[float, Field(ge=0, le=1e9)] = 0.1
    clip: Rate | None = None


class BasePoint(Section):
    """Where the optimizer was tuned. `heads` and `ffn` are the tuned model's, where its defaults are not meant."""

    depth: Size = Field(description="depth: 2")
    width: Size | None = None
    heads: Size | None = None
    ffn: Size | None = None
    batch: Batch = Field(description="batch: 64")
    tokens: Quantity = Field(description="tokens: 20M")


class CriticalSpec(Section):
    """The largest batch at which the SDE reparameterization is trusted: S_crit `steps`, or a `batch`."""

    steps: Annotated[float, Field(ge=1e-6, le=1e12)] | None = None
    batch: Batch | None = None

    @model_validator(mode="after")
    def _one(self) -> CriticalSpec:
        if (self.steps is None) == (self.batch is None):
            raise ValueError("needs one of steps and batch; write {steps: 500} or {batch: 256}")
        return self


class TransferSpec(Section):
    """Hyperparameter transfer from a base point: CompleteP in width and depth, the SDE rules in batch and tokens."""

    base: BasePoint = Field(description="base: {width: 128, depth: 2, batch: 64, tokens: 20M}")
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.44
    critical: CriticalSpec | None = None


class ScheduleSpec(Section):
    """Learning rate over a run. `warmup` is in logical steps; `warmup_cap` and `decay` (of `wsd`) are shares of all
    steps, `final` a share of lr."""

    kind: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, le=1e12)] = 1000.0
    warmup_cap: Share = 0.25
    final: Share = 0.1
    decay: Share = 0.2


class ParallelSpec(Section):
    """Processes of one run. `shard` is the FSDP degree."""

    shard: Positive = 1


class EvaluationSpec(Section):
    """Held-out evaluation: `sequences` per modality, every `every` steps (0: only at the end)."""

    sequences: Positive = 256
    every: Count = 0


class CheckpointSpec(Section):
    """A checkpoint every `every` steps (0: only at the end), the newest `keep` kept."""

    every: Count = 0
    keep: Positive = 2


class Base(Section):
    """One run, before it is resolved."""

    model: ModelSpec = Field(description="model: {depth: 2}")
    modalities: dict[Word, ModalitySpec] = Field(description="modalities: {text: {data: embedded/text}}", min_length=1)
    sequence_length: Annotated[int, Field(ge=2, le=10**7)] = Field(description="sequence_length: 128")
    tokens: Quantity = Field(description="tokens: 20M")
    batch: BatchSpec = Field(description="batch: {physical: 64}")
    optimizer: OptimizerSpec = OptimizerSpec()
    transfer: TransferSpec | None = None
    schedule: ScheduleSpec = ScheduleSpec()
    seed: Count = 0
    parallel: ParallelSpec = ParallelSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    log_every: Positive = 10
    dtype: Literal["float32", "bfloat16"] = "float32"


class Axis(Section):
    """One axis: exactly one of its kinds. Paths start at `base`."""

    grid: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)] | None = None
    zip: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)] | None = None
    seeds: Any = None

    @model_validator(mode="after")
    def _one(self) -> Axis:
        if sum(kind is not None for kind in (self.grid, self.zip, self.seeds)) != 1:
            raise ValueError("an axis is one of grid, zip and seeds; write such as {seeds: 2}")
        return self


class Study(Section):
    """The whole file, its base not yet read: axes may supply what the base leaves out."""

    study: Name = Field(description="study: NAME")
    base: dict[str, Any] = Field(description="base: with model, modalities, sequence_length, tokens and batch")
    axes: list[Axis] = []
    cluster: str = "local"
