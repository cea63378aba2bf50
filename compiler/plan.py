"""What a study compiles to: one `StudyPlan` of `RunPlan`s, read by the runtime, the analysis and by people.

The fields are the project's public surface; JSON keys are the field names. Token counts are non-padding tokens,
batches are in sequences, `nats` and `FLOPs` are never scaled.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
"""A run's id, also its folder's name: a plan from elsewhere must not lead out of the store."""

Source = Annotated[str, msgspec.Meta(pattern=r"^(?!/)(?!(?:.*/)?\.\.(?:/|\Z))[^\\\x00-\x1f\x7f]+\Z")]
"""A data source, by a name that stays in the study's folder."""

FolderName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]

NUMERICS = 2
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


class Noise(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A noise schedule α(t), t in [0, 1].

    `linear` 1 - t; `cosine` 1 - cos(π/2 · (1 - t)); `polynomial` 1 - t^power; `log-linear` 1 - (1 - eps) · t, whose
    -log α is that of MDLM (arXiv 2406.07524); `table` straight lines through `alpha` at times `t`. `segments` maps
    vocabulary parts to the schedules of their segments, where a segment has one of its own.
    """

    kind: str
    power: float = 1.0
    eps: float = 0.0
    t: tuple[float, ...] = ()
    alpha: tuple[float, ...] = ()
    segments: dict[str, Noise] = {}


class ModalityPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One source of sequences.

    `weight` is its share of tokens (all weights sum to 1), `share` its share of sequences. `mean_tokens` is the mean
    number of non-padding tokens in one of its sequences, special tokens included. `segments` names the vocabulary
    parts of a sequence in their order; `packed` sources fill each sequence with documents. `drop_condition` is the
    probability that a training sequence has all segments but the last hidden, and out of the loss.
    """

    weight: float
    share: float
    data: Source
    digest: str
    noise: Noise
    segments: tuple[str, ...]
    packed: bool
    mean_tokens: float
    tokens: float
    drop_condition: float = 0.0


class MixStage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a run with one mix, from sequence `start` of the training stream on.

    `weights` are shares of tokens, `shares` of sequences, by modality; each sums to 1.
    """

    start: int
    weights: dict[str, float]
    shares: dict[str, float]


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Sequences per step. `kappa` = physical / logical; `critical` is the largest physical batch at which the SDE
    reparameterization is trusted, None where the study names none. `profile` is the accelerator whose memory an
    automatic physical batch was fitted to, None where the study gives the batch."""

    logical: float
    physical: int
    micro: int
    accumulation: int
    kappa: float
    critical: float | None
    profile: str | None = None


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
    """Processes of one run. `shard` is the FSDP degree, `replicate` the number of such groups (HSDP), `tensor` the
    number of processes that share each matrix and see the same data (tensor parallel).

    `activation_checkpoint`: `none`, or `full`, which keeps each block's input only and computes the block again.
    `compile`: whether torch.compile compiles the blocks and the loss.
    """

    shard: int = 1
    replicate: int = 1
    tensor: int = 1
    activation_checkpoint: str = "none"
    compile: bool = False

    @property
    def data_ranks(self) -> int:
        """Ranks that see a share of the batch of their own."""
        return self.shard * self.replicate

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.data_ranks * self.tensor


class TimePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How times t are drawn: `sampling` is lattice, antithetic or independent; `importance` none, weight or learned."""

    sampling: str = "lattice"
    importance: str = "none"


class MonitorPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured beside the loss: gradient noise every so many steps (0: never), activations with each logged
    row; and where rows go beside `metrics.jsonl`."""

    gradient_noise: int = 0
    activations: bool = False
    tensorboard: bool = False
    wandb: bool = False


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on one rank. `gathered` is what FSDP holds unsharded at a time; 0 on one rank."""

    per_rank: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    gathered: int = 0


class EvaluationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out evaluation: `sequences` per modality, every `every` steps (0: only at the end)."""

    sequences: int
    every: int


class CheckpointPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint every `every` steps (0: only at the end), the newest `keep` kept; and one at the first step at or
    after each multiple of `keep_every` tokens (0: none), kept for good."""

    every: int
    keep: int
    keep_every: float = 0.0


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One training run, complete: the runtime needs nothing else but the data."""

    id: Id
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
    mix: tuple[MixStage, ...]
    """The stages of the mix, one where it does not change; the first starts at 0."""
    batch: BatchPlan
    optimizer: OptimizerPlan
    clip: float | None
    groups: tuple[Group, ...]
    multipliers: Multipliers
    schedule: SchedulePlan
    time: TimePlan
    head: str
    """`full`, or `modality`: each position is scored over its own segment's vocabulary and the special tokens."""
    parallel: ParallelPlan
    evaluation: EvaluationPlan
    checkpoint: CheckpointPlan
    monitor: MonitorPlan
    log_every: int
    dtype: str
    epochs: dict[str, float]
    flops: float
    hardware_flops: float
    peak_flops: float
    """FLOP/s of one device of the plan's cluster at `dtype`: what model FLOPs utilisation is measured against."""
    memory: Memory
    device_hours: float


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the runs."""

    runs: int
    tokens: float
    flops: float
    device_hours: float


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of device. `peak` is dense FLOP/s by dtype, `memory` in bytes; a micro-batch of more than `positions`
    positions makes it no faster."""

    name: str
    peak: dict[str, float]
    memory: int
    positions: int


class Slurm(msgspec.Struct, frozen=True, kw_only=True):
    """What Slurm is asked for. None leaves it to the cluster; `setup` lines run before the job, `options` are further
    ones of sbatch. `notice` is in seconds before the limit, `pack` in minutes that a job is kept busy with runs."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    minutes: int | None = None
    array_limit: int | None = None
    setup: tuple[str, ...] = ()
    cpus_per_task: int | None = None
    memory: str | None = None
    notice: int = 120
    pack: float = 30.0
    options: dict[str, str | int | bool] = {}


class ClusterPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster that a study is costed for. `mfu` is the share of the peak that training sustains on model FLOPs;
    `patience` is how many seconds a rank waits for the others; `slurm` is None for this machine."""

    name: str
    accelerator: Accelerator
    mfu: float
    nodes: int
    gpus_per_node: int
    patience: float = 1800.0
    slurm: Slurm | None = None

    @property
    def has_gpus(self) -> bool:
        """Whether devices are GPUs, to be asked for by number, and not a CPU's cores."""
        return not self.accelerator.name.startswith("cpu")

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.nodes * self.gpus_per_node

    def sustained(self, dtype: str) -> float:
        """Model FLOP/s of one device."""
        return self.accelerator.peak[dtype] * self.mfu


class StudyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled study. `digest` is a hash of totals and runs. `excluded` counts the points that `exclude` and `only`
    took out; `hours` is the wall time of the study on `cluster`."""

    study: FolderName
    digest: str
    warnings: tuple[str, ...]
    cluster: ClusterPlan
    excluded: int
    hours: float
    totals: Totals
    runs: tuple[RunPlan, ...]
