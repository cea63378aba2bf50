"""One point of a study, resolved: from what a user wrote to everything that a run needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Literal, TypeVar

from msgspec.structs import replace

from compiler import cost, transfer
from compiler.batch import resolve_batch
from compiler.catalogue import Catalogue
from compiler.composition import Composition, available, compose
from compiler.exceptions import with_exceptions
from compiler.expand import Budget, Point
from compiler.identity import Identity
from compiler.layout import Shape
from compiler.manifest import Manifest
from compiler.names import Scalar
from compiler.parallel import parallel_plan
from compiler.plan import (
    BatchPlan,
    CheckpointPlan,
    ClusterPlan,
    EvaluationPlan,
    ModalityPlan,
    ModelPlan,
    MonitorPlan,
    Noise,
    RunPlan,
    SchedulePlan,
    TimePlan,
    Vocabulary,
)
from compiler.shape import resolve_shape
from compiler.vocabulary import unify
from specs.errors import RuleError
from specs.load import LoadedStudy
from specs.sections import Setting
from specs.study import Base, NoiseSpec, ScheduleOfNoise, ScheduleSpec

T = TypeVar("T")


class Compiler:
    """Resolves the points of one study. What points share is worked out once: sections of a base that are equal are one
    object (`specs.sections`), and results are kept by the identity of what they came from."""

    def __init__(self, loaded: LoadedStudy, catalogue: Catalogue, cluster: ClusterPlan) -> None:
        self.loaded, self.catalogue, self.cluster = loaded, catalogue, cluster
        self.identity = Identity()
        self._kept: dict[Hashable, tuple[Any, object]] = {}

    def resolve(self, point: Point, name: str, values: dict[str, Scalar]) -> RunPlan:
        """The plan of the run at `point`. Raises RuleError where values do not go together, and SpecError."""
        if any(isinstance(setting.value, Budget) for setting in point):
            point = tuple(self._spent(point))
        base = self.loaded.base(point)
        sections = [section for field, section in base.__dict__.items() if field != "seed"]
        unseeded = self._once(lambda: self._run(base), "run", (), *sections)
        run = replace(unseeded, name=name, seed=base.seed, point=values)
        return replace(run, id=self.identity.of(run))

    def _once(self, make: Callable[[], T], kind: str, numbers: tuple[int | float, ...], *sources: object) -> T:
        """`make()`, once for these `numbers` and the same `sources`."""
        key = (kind, numbers, *map(id, sources))
        kept = self._kept.get(key)
        if kept is None:
            # The sources are kept too: another object must not take their identity.
            kept = self._kept[key] = (make(), sources)
        result: T = kept[0]
        return result

    def _spent(self, point: Point) -> Iterable[Setting]:
        """`point`, its FLOP budget turned into tokens."""
        for setting in point:
            if not isinstance(setting.value, Budget):
                yield setting
                continue
            # Any number will do for the sections that tokens follow from, but those of absolute mix stages.
            tokens = 1e18
            for _ in range(4):
                base = self.loaded.base(
                    Setting("tokens", tokens, setting.where) if one is setting else one for one in point
                )
                manifests, vocabulary = self._sources(base)
                shape = self._shape(base, vocabulary)
                mean = tokens / float(self._composition(base, manifests).sequences)
                found = math.floor(setting.value.flops * mean / (cost.position_flops(shape).total * shape.positions))
                if found == tokens:
                    break
                tokens = float(max(found, 1))
            yield Setting("tokens", tokens, setting.where)

    def _sources(self, base: Base) -> tuple[dict[str, Manifest], Vocabulary]:
        """The manifests by modality, in order of name (the order in which a study lists them decides nothing)."""

        def read() -> tuple[dict[str, Manifest], Vocabulary]:
            manifests = {
                modality: self.catalogue.manifest(base.modalities[modality].data, modality)
                for modality in sorted(base.modalities)
            }
            return manifests, unify(manifests)

        return self._once(read, "sources", (), base.modalities)

    def _shape(self, base: Base, vocabulary: Vocabulary) -> Shape:
        return self._once(
            lambda: Shape(*resolve_shape(base.model), vocabulary.size, base.sequence_length),
            "shape",
            (base.sequence_length,),
            base.model,
            vocabulary,
        )

    def _composition(self, base: Base, manifests: dict[str, Manifest]) -> Composition:
        specs = {modality: base.modalities[modality] for modality in manifests}
        length = base.sequence_length
        if base.mix:
            return self._once(
                lambda: compose(specs, base.mix, manifests, length, base.tokens),
                "composition",
                (length, base.tokens),
                base.modalities,
                base.mix,
            )
        one = self._once(lambda: compose(specs, (), manifests, length, 1.0), "composition", (length,), base.modalities)
        return self._once(lambda: one.at(base.tokens), "composed", (base.tokens,), one)

    def _run(self, base: Base) -> RunPlan:
        """The plan of `base`, but for its name, point and id."""
        length = base.sequence_length
        manifests, vocabulary = self._sources(base)
        composition = self._composition(base, manifests)
        shape = self._shape(base, vocabulary)
        mixed = self._once(
            lambda: _modalities(base, manifests, composition),
            "modalities",
            (),
            base.modalities,
            composition.weights,
            composition.shares,
        )
        modalities = self._once(
            lambda: {name: replace(plan, tokens=base.tokens * plan.weight) for name, plan in mixed.items()},
            "tokens",
            (base.tokens,),
            mixed,
        )
        parallel = self._once(lambda: parallel_plan(base.parallel, shape), "parallel", (), base.parallel, shape)
        batch = resolve_batch(base, shape, parallel, self.cluster.accelerator)
        sequences = composition.sequences
        steps = sequences.numerator // (sequences.denominator * batch.physical)
        if steps < 1:
            least = math.ceil(base.tokens * batch.physical / float(sequences))
            what = f"{base.tokens:,.0f} tokens are fewer than one step of {batch.physical} sequences"
            step = ("batch.physical", "batch", "sequence_length")
            raise RuleError("tokens", what, f"give at least {least:,}, or a smaller batch", also=step)
        drawn = steps * batch.physical
        optimizer, clip = self._once(
            lambda: transfer.reparameterize(base.optimizer, batch.kappa), "optimizer", (batch.kappa,), base.optimizer
        )
        scale = self._once(
            lambda: transfer.scale(base.transfer, base.model, shape), "scale", (), base.transfer, base.model, shape
        )
        groups = self._once(
            lambda: with_exceptions(transfer.groups(optimizer, scale, shape), base.optimizer.modules, shape),
            "groups",
            (),
            optimizer,
            scale,
            base.optimizer,
        )
        # Whole steps may end before a late stage begins.
        stages = self._once(
            lambda: tuple(stage for stage in composition.stages if stage.start < drawn), "mix", (drawn,), composition
        )
        epochs = self._once(
            lambda: _epochs(modalities, manifests, composition, drawn, length), "epochs", (drawn,), modalities
        )
        scored = self._once(
            lambda: _scored(mixed, manifests, vocabulary, shape, base.head, base.time.importance),
            "scored",
            (),
            mixed,
            shape,
            base.head,
            base.time,
        )
        positions = float(length * drawn)
        flops = cost.position_flops(shape).total * positions
        return RunPlan(
            id="",
            name="",
            seed=0,
            point={},
            tokens=base.tokens,
            steps=steps,
            sequence_length=length,
            model=self._once(lambda: _model(shape), "model", (), shape),
            vocabulary=vocabulary,
            modalities=modalities,
            mix=stages,
            batch=batch,
            optimizer=optimizer,
            clip=clip,
            groups=groups,
            multipliers=self._once(lambda: transfer.multipliers(scale, shape), "multipliers", (), scale, shape),
            schedule=_schedule(base.schedule, steps, batch, float(sequences) / base.tokens),
            time=TimePlan(sampling=base.time.sampling, importance=base.time.importance),
            head=base.head,
            parallel=parallel,
            evaluation=EvaluationPlan(sequences=base.evaluation.sequences, every=base.evaluation.every),
            checkpoint=CheckpointPlan(
                every=base.checkpoint.every,
                keep=base.checkpoint.keep,
                keep_every=base.checkpoint.keep_every or 0.0,
            ),
            monitor=MonitorPlan(
                gradient_noise=base.monitor.gradient_noise,
                activations=base.monitor.activations,
                tensorboard=base.monitor.tensorboard,
                wandb=base.monitor.wandb,
            ),
            log_every=base.log_every,
            dtype=base.dtype,
            epochs=epochs,
            flops=flops,
            hardware_flops=cost.hardware_flops(shape, scored, parallel.activation_checkpoint) * positions,
            peak_flops=self.cluster.accelerator.peak[base.dtype],
            memory=cost.memory(shape, batch.micro, parallel, base.dtype),
            device_hours=flops / self.cluster.sustained(base.dtype) / 3600,
        )


def _model(shape: Shape) -> ModelPlan:
    return ModelPlan(
        width=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        ffn=shape.ffn,
        vocabulary=shape.vocabulary,
        parameters=cost.count_parameters(shape),
    )


def _modalities(base: Base, manifests: dict[str, Manifest], composition: Composition) -> dict[str, ModalityPlan]:
    """The modalities, their `tokens` still to be set. Raises RuleError where there is no condition to drop."""
    for modality, manifest in manifests.items():
        if base.modalities[modality].drop_condition and len(manifest.segments) == 1:
            path = f"modalities.{modality}.drop_condition"
            what = f"sequences of '{modality}' have one segment, and so no condition to drop"
            raise RuleError(path, what, "leave it out", also=(f"modalities.{modality}.data", f"modalities.{modality}"))
    return {
        modality: ModalityPlan(
            weight=composition.weights[modality],
            share=composition.shares[modality],
            data=base.modalities[modality].data,
            digest=manifest.digest,
            noise=_noise(base.modalities[modality].noise, modality, manifest),
            segments=tuple(segment.vocabulary for segment in manifest.segments),
            packed=manifest.packed,
            mean_tokens=composition.mean_tokens[modality],
            tokens=0.0,
            drop_condition=base.modalities[modality].drop_condition,
        )
        for modality, manifest in manifests.items()
    }


def _noise(spec: NoiseSpec, modality: str, manifest: Manifest) -> Noise:
    """The schedule of a modality, with those of its segments that differ. Raises RuleError where a segment is not one
    of its source's."""
    own = _schedule_of_noise(spec)
    segments = {name: _schedule_of_noise(segment) for name, segment in sorted(spec.segments.items())}
    names = [segment.vocabulary for segment in manifest.segments]
    for name in segments:
        if name not in names:
            path = f"modalities.{modality}.noise.segments.{name}"
            what, todo = f"'{name}' is no segment of '{modality}'", f"use one of: {', '.join(names)}"
            raise RuleError(path, what, todo, also=(f"modalities.{modality}.noise", f"modalities.{modality}"))
    return replace(own, segments={name: noise for name, noise in segments.items() if noise != own})


def _schedule_of_noise(spec: ScheduleOfNoise) -> Noise:
    """Without what has no effect, so that it does not decide the run's id."""
    if spec.kind == "polynomial":
        return Noise(kind=spec.kind, power=spec.power)
    if spec.kind == "log-linear":
        return Noise(kind=spec.kind, eps=spec.eps)
    if spec.kind == "table":
        t = spec.t or tuple(i / (len(spec.alpha) - 1) for i in range(len(spec.alpha)))
        return Noise(kind=spec.kind, t=t, alpha=spec.alpha)
    return Noise(kind=spec.kind)


def _scored(
    modalities: dict[str, ModalityPlan],
    manifests: dict[str, Manifest],
    vocabulary: Vocabulary,
    shape: Shape,
    head: Literal["full", "modality"],
    importance: Literal["none", "weight", "learned"],
) -> float:
    """Share of all positions' logits that the head computes: at masked positions that are not of a dropped condition,
    over the vocabulary or, for `modality`, over a segment's own part of it and the special tokens. Under importance it
    is as if each segment's schedule were that of the whole sequence."""
    total = 0.0
    for name, plan in modalities.items():
        segments = manifests[name].segments
        tokens = sum(segment.tokens for segment in segments)
        for segment in segments:
            noise = plan.noise.segments.get(segment.vocabulary, plan.noise)
            if importance == "none":
                masked = cost.masked_share(noise)
            else:
                masked = cost.masked_share_by_importance(noise, plan.mean_tokens)
            computed = 1.0 if head == "full" else _reach(segment.vocabulary, vocabulary)
            kept = 1.0 if segment is segments[-1] else 1.0 - plan.drop_condition
            share = plan.share * plan.mean_tokens / shape.positions * segment.tokens / tokens
            total += share * kept * masked * computed
    return total


def _reach(part: str, vocabulary: Vocabulary) -> float:
    """Share of the vocabulary that a head of kind `modality` computes at a token of `part`."""
    size = next(one.size for one in vocabulary.parts if one.name == part)
    return (size + len(vocabulary.specials)) / vocabulary.size


def _schedule(spec: ScheduleSpec, steps: int, batch: BatchPlan, sequences_per_token: float) -> SchedulePlan:
    """Physical steps: w logical steps of warm-up are w / κ, at most `warmup_cap` of the run."""
    if spec.warmup.steps is not None:
        wanted = spec.warmup.steps / batch.kappa
    else:
        wanted = (spec.warmup.tokens or 0.0) * sequences_per_token / batch.physical
    warmup = min(round(wanted), math.floor(spec.warmup_cap * steps))
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
    for name, drawn in composition.drawn(sequences).items():
        data = modalities[name].data
        epochs[data] = epochs.get(data, 0.0) + drawn / available(manifests[name], length)
    return epochs
