"""What a user writes: a base run and axes over it.

Types and ranges live here; rules that join several values live in the compiler. Descriptions are what
`missing` errors tell the user to write.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic.fields import FieldInfo

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


def keyed_fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by the keys that a study writes: a field's alias, or else its name."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


class ModelSpec(Section):
    """Shape of the transformer. Width is 128 · depth where it is not given (arXiv 2602.21472)."""

    depth: Size = Field(description="model: {depth: 2}")
    width: Size | None = None
    heads: Size | None = None
    ffn: Size | None = None


class ScheduleOfNoise(Section):
    """A noise schedule α(t), t in [0, 1].

    `power` belongs to `polynomial`: α = 1 - t^power. `eps` to `log-linear`: α = 1 - (1 - eps) · t. `alpha` to `table`:
    straight lines from 1 down to 0 through these values, at times `t` or else at equal gaps.
    """

    kind: Literal["linear", "cosine", "polynomial", "log-linear", "table"] = Field(description="kind: linear")
    power: Annotated[float, Field(gt=0, le=100)] = 1.0
    eps: Annotated[float, Field(ge=0, le=0.5)] = 1e-3
    alpha: Annotated[tuple[Share, ...], Field(strict=False, max_length=1000)] = ()
    t: Annotated[tuple[Share, ...], Field(strict=False, max_length=1000)] = ()

    @model_validator(mode="after")
    def _tabulated(self) -> ScheduleOfNoise:
        if self.kind != "table":
            return self
        t = self.t or tuple(i / max(len(self.alpha) - 1, 1) for i in range(len(self.alpha)))
        falling = all(a > b for a, b in itertools.pairwise(self.alpha))
        if len(self.alpha) < 2 or not falling or (self.alpha[0], self.alpha[-1]) != (1, 0):
            raise ValueError("alpha does not fall from 1 to 0; write such as {kind: table, alpha: [1, 0.7, 0.2, 0]}")
        rising = all(a < b for a, b in itertools.pairwise(t))
        if len(t) != len(self.alpha) or not rising or (t[0], t[-1]) != (0, 1):
            raise ValueError("t does not rise from 0 to 1 with a value for each alpha; leave t out for equal gaps")
        return self


class NoiseSpec(ScheduleOfNoise):
    """A modality's noise schedule. `segments` gives segments of its sequences schedules of their own, by the name of
    their vocabulary: another objective (arXiv 2602.21472), while evaluation stays as it is."""

    segments: dict[Word, Annotated[ScheduleOfNoise, BeforeValidator(_names)]] = {}


def _inside(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or "\\" in value or not value.isprintable():
        raise ValueError(
            f"{value[:80]!r} leads out of the study's folder; name a source, or a folder or link beside the file"
        )
    return value


class ModalitySpec(Section):
    """A source of sequences. `weight` is its share of tokens, normalised over the modalities. With probability
    `drop_condition` a training sequence is its last segment alone, the others hidden: what guidance needs."""

    data: Annotated[str, AfterValidator(_inside)] = Field(description="data: embedded/text", min_length=1)
    weight: Annotated[float, Field(ge=0, le=1e9)] = 1.0
    noise: Annotated[NoiseSpec, BeforeValidator(_names)] = NoiseSpec(kind="linear")
    drop_condition: Share = 0.0


class MixSpec(Section):
    """Weights that hold from a point of the training on: `from` is a share of the run's tokens (below 1) or a number of
    tokens. Modalities that are not named keep the weight they had."""

    start: Annotated[float, BeforeValidator(parse_quantity), Field(gt=0, le=1e18, alias="from")]
    weights: Annotated[dict[Word, Annotated[float, Field(ge=0, le=1e9)]], Field(min_length=1)]


class BatchSpec(Section):
    """Sequences per step. None is `auto`.

    An automatic physical batch is the largest that is subcritical (or else at most the logical one), divides over the
    ranks and fits the memory of the accelerator `profile`.
    """

    logical: Annotated[Batch | None, BeforeValidator(_auto)] = None
    physical: Annotated[Positive | None, BeforeValidator(_auto)] = None
    micro: Annotated[Positive | None, BeforeValidator(_auto)] = None
    allow_supercritical: bool = False
    profile: str = "h100"


class ModuleSpec(Section):
    """Factors on what the parameters have whose names match `pattern` (`*` stands for anything), after all transfer;
    of several that match, all apply."""

    pattern: str = Field(description="pattern: 'layers.*.attention.wo.weight'", min_length=1, max_length=200)
    lr: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    eps: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    init: Annotated[float, Field(ge=0, le=1e6)] = 1.0


class OptimizerSpec(Section):
    """AdamW as tuned at the base point. `clip` is the largest gradient norm, null for none. `modules` are exceptions,
    each with a name of your own."""

    lr: Rate = 3e-3
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    eps: Rate = 1e-8
    weight_decay: Annotated[float, Field(ge=0, le=1e9)] = 0.1
    clip: Rate | None = None
    modules: Annotated[dict[Word, ModuleSpec], Field(max_length=32)] = {}


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

    steps: Annotated[float, BeforeValidator(parse_quantity), Field(ge=1e-6, le=1e12)] | None = None
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


class WarmupSpec(Section):
    """Length of the warm-up: logical `steps`, or `tokens`."""

    steps: Annotated[float, Field(ge=0, le=1e12)] | None = None
    tokens: Annotated[float, BeforeValidator(parse_quantity), Field(ge=0, le=1e18)] | None = None

    @model_validator(mode="after")
    def _one(self) -> WarmupSpec:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("needs one of steps and tokens; write 1000, or {tokens: 10M}")
        return self


def _steps(value: object) -> object:
    """`warmup: 1000` is short for `warmup: {steps: 1000}`."""
    return value if isinstance(value, dict | WarmupSpec) else {"steps": value}


class ScheduleSpec(Section):
    """Learning rate over a run. `warmup` is in logical steps or in tokens; `warmup_cap` and `decay` (of `wsd`) are
    shares of all steps, `final` a share of lr."""

    kind: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup: Annotated[WarmupSpec, BeforeValidator(_steps)] = WarmupSpec(steps=1000.0)
    warmup_cap: Share = 0.25
    final: Share = 0.1
    decay: Share = 0.2


class ParallelSpec(Section):
    """Processes of one run: `replicate` groups of `shard` ranks that share the parameters among them (FSDP), each rank
    being `tensor` processes that share every matrix (tensor parallel).

    `activation_checkpoint: full` keeps each block's input only and computes the block again in the backward pass.
    `compile` compiles the blocks and the loss with torch.compile.
    """

    shard: Positive = 1
    replicate: Positive = 1
    tensor: Positive = 1
    activation_checkpoint: Literal["none", "full"] = "none"
    compile: bool = False


class TimeSpec(Section):
    """How the times t of a global batch's sequences are drawn.

    `sampling`: within each modality a shifted `lattice` of equal gaps, `antithetic` pairs, or `independent` numbers.
    `importance`: times as the noise schedule has them (`none`), more often where the loss `weight` makes the estimate
    vary, or where it was seen to vary so far (`learned`, towards the least variance). All estimate the same objective.
    """

    sampling: Literal["lattice", "antithetic", "independent"] = "lattice"
    importance: Literal["none", "weight", "learned"] = "none"


class MonitorSpec(Section):
    """What is measured beside the loss. `gradient_noise` estimates each modality's gradient noise scale every so many
    steps (0: never), `activations` logs the size of every block's output; `tensorboard` and `wandb` write there too."""

    gradient_noise: Count = 0
    activations: bool = False
    tensorboard: bool = False
    wandb: bool = False


class EvaluationSpec(Section):
    """Held-out evaluation: `sequences` per modality, every `every` steps (0: only at the end)."""

    sequences: Positive = 256
    every: Count = 0


class CheckpointSpec(Section):
    """A checkpoint every `every` steps (0: only at the end), the newest `keep` kept; and one every `keep_every` tokens
    that is kept for good."""

    every: Count = 0
    keep: Positive = 2
    keep_every: Quantity | None = None


class Base(Section):
    """One run, before it is resolved. `mix` changes the modalities' weights on the way. `head: modality` scores each
    position over the vocabulary of its own segment and the special tokens only: another, smaller loss."""

    model: ModelSpec = Field(description="model: {depth: 2}")
    modalities: dict[Word, ModalitySpec] = Field(description="modalities: {text: {data: embedded/text}}", min_length=1)
    mix: Annotated[list[MixSpec], Field(max_length=100)] = []
    sequence_length: Annotated[int, Field(ge=2, le=10**7)] = Field(description="sequence_length: 128")
    tokens: Quantity = Field(description="tokens: 20M")
    batch: BatchSpec = Field(description="batch: {physical: 64}")
    optimizer: OptimizerSpec = OptimizerSpec()
    transfer: TransferSpec | None = None
    schedule: ScheduleSpec = ScheduleSpec()
    time: TimeSpec = TimeSpec()
    head: Literal["full", "modality"] = "full"
    seed: Count = 0
    parallel: ParallelSpec = ParallelSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    monitor: MonitorSpec = MonitorSpec()
    log_every: Positive = 10
    dtype: Literal["float32", "bfloat16"] = "float32"


Values: TypeAlias = Annotated[list[Any], Field(min_length=1)]
Settings: TypeAlias = Annotated[dict[str, Any], Field(min_length=1)]
Number = Annotated[float, BeforeValidator(parse_quantity), Field(ge=0, le=1e30)]
Conditions = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class RangeSpec(Section):
    """Numbers `from` … `to`. `multiple` rounds to whole multiples of itself, for widths and batches."""

    low: Number = Field(alias="from", description="from: 1e-4")
    high: Number = Field(alias="to", description="to: 1e-2")
    multiple: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> RangeSpec:
        if self.low >= self.high:
            raise ValueError("from is not below to; swap them")
        return self


class LogSpec(RangeSpec):
    """`points` numbers at equal ratios, both ends among them."""

    points: Annotated[int, Field(ge=2, le=10**6)] = Field(description="points: 5")

    @model_validator(mode="after")
    def _positive(self) -> LogSpec:
        if self.low <= 0:
            raise ValueError("a log range cannot start at 0; give a from above 0")
        return self


class SampleRange(RangeSpec):
    """A range to sample from, uniformly in the number itself or in its logarithm."""

    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _positive(self) -> SampleRange:
        if self.scale == "log" and self.low <= 0:
            raise ValueError("a log range cannot start at 0; give a from above 0")
        return self


def _kind_of_range(value: object) -> str:
    return CHOICES if isinstance(value, list) else RANGE


RANGE, CHOICES = "<range>", "<choices>"
"""Tags of the two kinds of ranges; no part of a path in a study."""

AnyRange: TypeAlias = Annotated[
    Annotated[SampleRange, Tag(RANGE)] | Annotated[Values, Tag(CHOICES)], Discriminator(_kind_of_range)
]


class SampleSpec(Section):
    """A seeded space-filling sample: Latin hypercube (`lhs`) or scrambled Sobol. A list in `ranges` is a choice."""

    points: Annotated[int, Field(ge=1, le=10**6)] = Field(description="points: 32")
    ranges: Annotated[dict[str, AnyRange], Field(min_length=1, max_length=100)] = Field(
        description="ranges: {optimizer.lr: {from: 1e-4, to: 1e-2, scale: log}}"
    )
    method: Literal["lhs", "sobol"] = "lhs"
    seed: Count = 0


class SimplexSpec(Section):
    """Every mix whose weights are multiples of 1 / `parts` and sum to 1, within the bounds. `modalities` are all of the
    base's where not given."""

    parts: Annotated[int, Field(ge=1, le=10_000)] = Field(description="parts: 4")
    modalities: Annotated[list[Word], Field(min_length=1)] | None = None
    min: dict[Word, Share] = {}
    max: dict[Word, Share] = {}


class IsoflopSpec(Section):
    """Budgets of training FLOPs × sizes; tokens follow from the exact FLOP count. Without `sizes`, those of other axes
    or of the base."""

    flops: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1)] = Field(description="flops: [1e18]")
    sizes: Annotated[list[Settings], Field(min_length=1)] | None = None


class Axis(Section):
    """One axis: exactly one of its kinds. Paths start at `base`. `exclude` and `only` filter the product by conditions
    on the plan's quantities, such as `flops > 1e19`."""

    grid: Annotated[dict[str, Values], Field(min_length=1)] | None = None
    zip: Annotated[dict[str, Values], Field(min_length=1)] | None = None
    named: Annotated[list[Settings], Field(min_length=1)] | None = Field(default=None, alias="list")
    log: Annotated[dict[str, LogSpec], Field(min_length=1)] | None = None
    sample: SampleSpec | None = None
    simplex: SimplexSpec | None = None
    isoflop: IsoflopSpec | None = None
    seeds: Any = None
    exclude: Conditions | None = None
    only: Conditions | None = None

    @model_validator(mode="after")
    def _one(self) -> Axis:
        if sum(getattr(self, kind) is not None for kind in type(self).model_fields) != 1:
            kinds = ", ".join(keyed_fields(type(self)))
            raise ValueError(f"an axis has exactly one kind; write one of {kinds}, such as {{seeds: 2}}")
        return self


class Study(Section):
    """The whole file, its base not yet read: axes may supply what the base leaves out."""

    study: Name = Field(description="study: NAME")
    base: dict[str, Any] = Field(description="base: with model, modalities, sequence_length, tokens and batch")
    axes: list[Axis] = []
    cluster: str = "local"
