"""One point of a study, resolved: from what a user wrote to everything that a run needs."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec

from compiler import cost, transfer
from compiler.accelerators import Device
from compiler.catalogue import Catalogue
from compiler.composition import Composition, available, compose
from compiler.identity import run_id
from compiler.layout import Shape
from compiler.manifest import Manifest
from compiler.names import Scalar
from compiler.plan import (
    BatchPlan,
    CheckpointPlan,
    EvaluationPlan,
    ModalityPlan,
    ModelPlan,
    Noise,
    ParallelPlan,
    RunPlan,
    SchedulePlan,
)
from compiler.shape import resolve_shape
from compiler.vocabulary import unify
from specs.errors import RuleError
from specs.study import Base, BatchSpec, NoiseSpec, ScheduleSpec

MAX_MICRO = 64
"""Largest micro-batch, in sequences, that `auto` chooses."""


def resolve_run(base: Base, catalogue: Catalogue, device: Device, name: str, point: dict[str, Scalar]) -> RunPlan:
    """The plan of one run. Raises RuleError where values do not go together."""
    length = base.sequence_length
    # By name, so that the order in which a study lists its modalities decides nothing.
    specs = {modality: base.modalities[modality] for modality in sorted(base.modalities)}
    manifests = {modality: catalogue.manifest(spec.data, modality) for modality, spec in specs.items()}
    composition = compose(specs, manifests, length)
    vocabulary = unify(manifests)
    shape = Shape(*resolve_shape(base.model), vocabulary.size, length)

    batch = _batch(base)
    steps = math.floor(Fraction(base.tokens) / composition.mean / batch.physical)
    if steps < 1:
        least = math.ceil(composition.mean * batch.physical)
        what = f"{base.tokens:,.0f} tokens are fewer than one step of {batch.physical} sequences"
        step = ("batch.physical", "batch", "sequence_length")
        raise RuleError("tokens", what, f"give at least {least:,}, or a smaller batch", also=step)
    _check_critical(base, batch)
    optimizer, clip = transfer.reparameterize(base.optimizer, batch.kappa)
    scale = transfer.scale(base.transfer, base.model, shape)

    noises = {modality: _noise(spec.noise) for modality, spec in specs.items()}
    modalities = {
        modality: ModalityPlan(
            weight=float(composition.weights[modality]),
            share=float(composition.shares[modality]),
            data=spec.data,
            digest=manifests[modality].digest,
            noise=noises[modality],
            segments=tuple(segment.vocabulary for segment in manifests[modality].segments),
            packed=manifests[modality].packed,
            mean_tokens=float(composition.mean_tokens[modality]),
            tokens=base.tokens * float(composition.weights[modality]),
        )
        for modality, spec in specs.items()
    }
    positions = float(length * batch.physical * steps)
    flops = cost.position_flops(shape)
    shares = {modality: plan.share for modality, plan in modalities.items()}
    means = {modality: plan.mean_tokens for modality, plan in modalities.items()}
    scored = cost.scored_share(noises, shares, means, length)
    run = RunPlan(
        id="",
        name=name,
        seed=base.seed,
        point=point,
        tokens=base.tokens,
        steps=steps,
        sequence_length=length,
        model=ModelPlan(
            width=shape.width,
            depth=shape.depth,
            heads=shape.heads,
            ffn=shape.ffn,
            vocabulary=vocabulary.size,
            parameters=cost.count_parameters(shape),
        ),
        vocabulary=vocabulary,
        modalities=modalities,
        batch=batch,
        optimizer=optimizer,
        clip=clip,
        groups=transfer.groups(optimizer, scale, shape),
        multipliers=transfer.multipliers(scale, shape),
        schedule=_schedule(base.schedule, steps, batch.kappa),
        parallel=ParallelPlan(shard=base.parallel.shard),
        evaluation=EvaluationPlan(sequences=base.evaluation.sequences, every=base.evaluation.every),
        checkpoint=CheckpointPlan(every=base.checkpoint.every, keep=base.checkpoint.keep),
        log_every=base.log_every,
        dtype=base.dtype,
        epochs=_epochs(modalities, manifests, composition, batch.physical * steps, length),
        flops=flops.total * positions,
        hardware_flops=(flops.total - flops.head * (1 - scored)) * positions,
        memory=cost.memory(shape, batch.micro, base.parallel.shard, base.dtype),
        device_hours=cost.device_hours(flops.total * positions, device),
    )
    return msgspec.structs.replace(run, id=run_id(run))


def _noise(spec: NoiseSpec) -> Noise:
    """Without what has no effect, so that it does not decide the run's id."""
    return Noise(kind=spec.kind, power=spec.power if spec.kind == "polynomial" else 1.0)


def _batch(base: Base) -> BatchPlan:
    """Logical, physical and micro batch, in sequences; κ = physical / logical."""
    spec, shard = base.batch, base.parallel.shard
    critical = transfer.critical_batch(base.transfer, base.tokens, base.sequence_length)
    logical = spec.logical
    if logical is None and base.transfer is not None:
        logical = transfer.logical_batch(base.transfer, base.tokens)
    physical = spec.physical or _auto_physical(logical, critical, spec, shard)
    if logical is None:
        logical = float(physical)
    if physical % shard:
        what = f"{physical} sequences do not divide over {shard} ranks"
        raise RuleError("batch.physical", what, f"use a multiple of {shard}", also=("parallel.shard", "batch"))
    local = physical // shard
    micro = spec.micro or max(d for d in range(1, min(local, MAX_MICRO) + 1) if local % d == 0)
    if local % micro:
        what = f"{micro} does not divide the {local} sequences that a rank has of a step"
        also = ("batch.physical", "parallel.shard", "batch")
        raise RuleError("batch.micro", what, f"use a divisor of {local}, or auto", also=also)
    return BatchPlan(
        logical=logical,
        physical=physical,
        micro=micro,
        accumulation=local // micro,
        kappa=physical / logical,
        critical=critical,
    )


def _check_critical(base: Base, batch: BatchPlan) -> None:
    """Raises RuleError where the physical batch is above the critical one and the study does not allow it."""
    if batch.critical is not None and batch.physical > batch.critical and not base.batch.allow_supercritical:
        what = f"{batch.physical} sequences are above the critical batch, {batch.critical:.4g}"
        todo = "lower it, or set batch.allow_supercritical: true"
        also = ("tokens", "sequence_length", "transfer.critical", "transfer")
        raise RuleError("batch.physical", what, todo, also=also)


def _auto_physical(logical: float | None, critical: float | None, spec: BatchSpec, shard: int) -> int:
    """The logical batch as a whole number of sequences: at most the critical batch, a multiple of the ranks."""
    if logical is None:
        what = "auto follows the logical batch, which is auto too without a transfer"
        raise RuleError("batch.physical", what, "give one of them a number", also=("batch.logical", "transfer"))
    most = logical if critical is None or spec.allow_supercritical else min(logical, math.floor(critical))
    return max(shard, round(most) // shard * shard)


def _schedule(spec: ScheduleSpec, steps: int, kappa: float) -> SchedulePlan:
    """Physical steps: w logical steps of warm-up are w / κ, at most `warmup_cap` of the run."""
    warmup = min(round(spec.warmup / kappa), math.floor(spec.warmup_cap * steps))
    decay = round(spec.decay * steps) if spec.kind == "wsd" else 0
    if warmup + decay > steps:
        what = f"{decay} steps of decay and {warmup} of warm-up are more than the run's {steps}"
        raise RuleError(
            "schedule.decay", what, "lower decay or warmup_cap", also=("schedule.warmup_cap", "schedule.warmup")
        )
    final = 1.0 if spec.kind == "constant" else spec.final
    return SchedulePlan(kind=spec.kind, warmup_steps=warmup, final=final, decay_steps=decay)


def _epochs(
    modalities: dict[str, ModalityPlan],
    manifests: dict[str, Manifest],
    composition: Composition,
    sequences: int,
    length: int,
) -> dict[str, float]:
    """Passes over each data source: sequences drawn from it over those it has."""
    epochs: dict[str, float] = {}
    for name, plan in modalities.items():
        drawn = float(sequences * composition.shares[name])
        epochs[plan.data] = epochs.get(plan.data, 0.0) + drawn / available(manifests[name], length)
    return epochs
