"""What a study compiles to: one `StudyPlan` of `RunPlan`s, read by the runtime, the analysis and by people.

The fields are the project's public surface; JSON keys are the field names. Token counts are non-padding tokens,
batches are in sequences, `nats` and `FLOPs` are never scaled.
"""

from __future__ import annotations

import msgspec

NUMERICS = 1
"""Version of everything that decides a run's numbers and is not in its plan; raised when results change."""


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all plan records: immutable and keyword-only."""


class Parameters(Frozen):
    """Parameter counts. `non_embedding` leaves out the input embedding, learned positions and the output head."""

    total: int
    non_embedding: int


class ModelPlan(Frozen):
    """Shape of the transformer. `vocabulary` is the size of the unified vocabulary, special tokens included."""

    width: int
    depth: int
    heads: int
    ffn: int
    vocabulary: int
    parameters: Parameters

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class VocabularyPart(Frozen):
    """One source vocabulary's slice of the unified vocabulary: ids `offset` to `offset + size - 1`."""

    name: str
    offset: int
    size: int


class Vocabulary(Frozen):
    """The unified vocabulary: the parts, then the special tokens.

    `specials` maps a name to its id: `mask`, `pad`, `end` (of a document), `task:MODALITY` for each modality,
    `begin:PART` and `end:PART` for each part that is not a sequence's first.
    """

    size: int
    parts: tuple[VocabularyPart, ...]
    specials: dict[str, int]


class Noise(Frozen):
    """A noise schedule α(t). `power` is for `polynomial`: α(t) = 1 - t^power."""

    kind: str
    power: float = 1.0


class ModalityPlan(Frozen):
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


class BatchPlan(Frozen):
    """Sequences per step. `kappa` = physical / logical; `critical` is the largest physical batch at which the SDE
    reparameterization is trusted, None where the study names none."""

    logical: float
    physical: int
    micro: int
    accumulation: int
    kappa: float
    critical: float | None


class OptimizerPlan(Frozen):
    """AdamW after the batch and token transfer, before width and depth."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class Group(Frozen):
    """An optimizer group after all transfer: every parameter whose name `pattern` matches in full (a regex)."""

    name: str
    pattern: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    init_std: float | None
    """Standard deviation of the initial values; None where they start at one (norms), 0.0 where at zero."""


class Multipliers(Frozen):
    """Factors in the forward pass. `attention` multiplies q·k before the softmax."""

    residual: float
    head: float
    embedding: float
    attention: float


class SchedulePlan(Frozen):
    """Learning rate over physical steps: linear warm-up over `warmup_steps`, then `kind` down to `final` of the peak."""

    kind: str
    warmup_steps: int
    final: float
    decay_steps: int = 0
    """Steps of the final decay, for `wsd`."""


class ParallelPlan(Frozen):
    """Processes of one run. `shard` is the FSDP degree."""

    shard: int = 1

    @property
    def ranks(self) -> int:
        return self.shard


class Memory(Frozen):
    """Bytes on one rank."""

    per_rank: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int


class EvaluationPlan(Frozen):
    """Held-out evaluation: `sequences` per modality, every `every` steps (0: only at the end)."""

    sequences: int
    every: int


class CheckpointPlan(Frozen):
    """A checkpoint every `every` steps (0: only at the end), the newest `keep` kept."""

    every: int
    keep: int


class RunPlan(Frozen):
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


class Totals(Frozen):
    """Sums over the runs."""

    runs: int
    tokens: float
    flops: float
    device_hours: float


class StudyPlan(Frozen):
    """A compiled study. `digest` is a hash of everything below it but the warnings."""

    study: str
    digest: str
    warnings: tuple[str, ...]
    totals: Totals
    runs: tuple[RunPlan, ...]
