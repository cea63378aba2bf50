"""What a study compiles to: one `StudyPlan` of `RunPlan`s, read by the runtime, the analysis and by people.

The fields are the project's public surface; JSON keys are the field names. Token counts are non-padding tokens,
batches are in sequences, `nats` and `FLOPs` are never scaled.
"""

from __future__ import annotations

import msgspec

NUMERICS = 1
"""Version of everything that decides a run's numbers and is not in its plan; raised when results change."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameter counts. `non_embedding` leaves out the input embedding, learned positions and the output head."""

    total: int
    non_embedding: int


class ModelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of the transformer. `vocabulary` is the size of the unified vocabulary, special tokens included."""

    width: int
    depth: int
    heads: int
    ffn: int
    vocabulary: int
    parameters: Parameters

    @property
    def head_dim(self) -> int:
        """Dimension of an attention head."""
        return self.width // self.heads


class VocabularyPart(msgspec.Struct, frozen=True, kw_only=True):
    """One source vocabulary's slice of the unified vocabulary: ids `offset` to `offset + size - 1`."""

    name: str
    offset: int
    size: int


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """The unified vocabulary: the parts, then the special tokens.

    `specials` maps a name to its id: `mask`, `pad`, `end` (of a document), `task:MODALITY` for each modality,
    `begin:PART` and `end:PART` for each part that is not a sequence's first.
    """

    size: int
    parts: tuple[VocabularyPart, ...]
    specials: dict[str, int]


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """A noise schedule α(t). `power` is for `polynomial`: α(t) = 1 - t^power."""

    kind: str
    power: float = 1.0


class ModalityPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One source of sequences.

    `weight` is its share of tokens (all weights sum to 1), `share` its share of sequences. `mean_tokens` is the mean
    number of non-padding tokens in one of its sequences, special tokens included. `segments` names the vocabulary
    parts of a sequence in their order; `packed` sources fill each sequence with documents.
    """

    weight: float
    share: float
    data: str
    digest: str
    noise: Noise
    segments: tuple[str, ...]
    packed: bool
    mean_tokens: float
    tokens: float


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Sequences per step. `kappa` = physical / logical; `critical` is the largest physical batch at which the SDE
    reparameterization is trusted, None where the study names none."""

    logical: float
    physical: int
    micro: int
    accumulation: int
    kappa: float
    critical: float | None


class OptimizerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """AdamW after the batch and token transfer, before width and depth."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """An optimizer group after all transfer: every parameter whose name `pattern` matches in full (a regex)."""

    name: str
    pattern: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    init_std: float | None
    """Standard deviation of the initial values; None where they start at one (norms), 0.0 where at zero."""


class Multipliers(msgspec.Struct, frozen=True, kw_only=True):
    """Factors in the forward pass. `attention` multiplies q·k before the softmax."""

    residual: float
    head: float
    embedding: float
    attention: float


class SchedulePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Learning rate over physical steps: linear warm-up for `warmup_steps`, then `kind` down to `final` of the peak."""

    kind: str
    warmup_steps: int
    final: float
    decay_steps: int = 0
    """Steps of the final decay, for `wsd`."""


class ParallelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Processes of one run. `shard` is the FSDP degree."""

    shard: int = 1

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.shard


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on one rank."""

    per_rank: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int


class EvaluationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out evaluation: `sequences` per modality, every `every` steps (0: only at the end)."""

    sequences: int
    every: int


class CheckpointPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint every `every` steps (0: only at the end), the newest `keep` kept."""

    every: int
    keep: int


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One training run, complete: the runtime needs nothing else but the data."""

    id: str
    name: str
    seed: int
    point: dict[str, int | float | str | bool | None]
    """What the axes set for this run: path to value, as written in the study."""
    tokens: float
    steps: int
    sequence_length: int
    model: ModelPlan
    vocabulary: Vocabulary
    modalities: dict[str, ModalityPlan]
    batch: BatchPlan
    optimizer: OptimizerPlan
    clip: float | None
    groups: tuple[Group, ...]
    multipliers: Multipliers
    schedule: SchedulePlan
    parallel: ParallelPlan
    evaluation: EvaluationPlan
    checkpoint: CheckpointPlan
    log_every: int
    dtype: str
    epochs: dict[str, float]
    flops: float
    hardware_flops: float
    memory: Memory
    device_hours: float


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the runs."""

    runs: int
    tokens: float
    flops: float
    device_hours: float


class StudyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled study. `digest` is a hash of everything below it but the warnings."""

    study: str
    digest: str
    warnings: tuple[str, ...]
    totals: Totals
    runs: tuple[RunPlan, ...]
