"""The batch of a run: logical, physical and micro, in sequences."""

from __future__ import annotations

import math
from functools import lru_cache

from compiler import cost, transfer
from compiler.clusters import ACCELERATORS
from compiler.layout import Shape
from compiler.plan import Accelerator, BatchPlan, ParallelPlan
from specs.errors import RuleError
from specs.study import Base
from specs.suggest import suggestion

USABLE = 0.9
"""Share of a device's memory that a plan fills: allocators and libraries want the rest."""


def resolve_batch(base: Base, shape: Shape, parallel: ParallelPlan, accelerator: Accelerator) -> BatchPlan:
    """The batch of a run on `accelerator`; κ = physical / logical. Raises RuleError.

    The physical batch decides a run's id, so an automatic one is fitted to the accelerator that the study names, not to
    the one at hand; micro-batch and accumulation decide nothing and follow the one at hand.
    """
    spec = base.batch
    critical = transfer.critical_batch(base.transfer, base.tokens, base.sequence_length)
    logical = spec.logical
    if logical is None and base.transfer is not None:
        logical = transfer.logical_batch(base.transfer, base.tokens)
    physical = spec.physical or _largest(base, shape, parallel, logical, critical)
    if logical is None:
        logical = float(physical)
    if critical is not None and physical > critical and not spec.allow_supercritical:
        what = f"{physical} sequences are above the critical batch, {critical:.4g}"
        todo = "lower it, or set batch.allow_supercritical: true"
        cause = ("tokens", "sequence_length", "transfer.critical", "transfer")
        raise RuleError("batch.physical", what, todo, also=cause)
    if physical % parallel.data_ranks:
        what = f"{physical} sequences do not divide over {parallel.data_ranks} ranks"
        ways = ("parallel.shard", "parallel.replicate", "batch")
        raise RuleError("batch.physical", what, f"use a multiple of {parallel.data_ranks}", also=ways)
    local = physical // parallel.data_ranks
    micro = spec.micro or _micro(
        local, _room(shape, parallel, base.dtype, accelerator.memory), accelerator.positions // shape.positions
    )
    if local % micro:
        what = f"{micro} does not divide the {local} sequences that a rank has of a step"
        also = ("batch.physical", "parallel.shard", "parallel.replicate", "batch")
        raise RuleError("batch.micro", what, f"use a divisor of {local}, or auto", also=also)
    return BatchPlan(
        logical=logical,
        physical=physical,
        micro=micro,
        accumulation=local // micro,
        kappa=physical / logical,
        critical=critical,
        profile=spec.profile if spec.physical is None else None,
    )


@lru_cache(maxsize=4096)
def _room(shape: Shape, parallel: ParallelPlan, dtype: str, memory: int) -> int:
    """Sequences that fit on one rank of so many bytes at once; 0 where none does."""
    one, two = (cost.memory(shape, micro, parallel, dtype).per_rank for micro in (1, 2))
    return max(0, math.floor((USABLE * memory - (2 * one - two)) / max(two - one, 1)))


@lru_cache(maxsize=65536)
def _micro(local: int, room: int, useful: int) -> int:
    """The largest divisor of a rank's sequences that fits and that still makes the device faster."""
    most = min(local, max(1, min(room, useful)))
    return next(micro for micro in range(most, 0, -1) if local % micro == 0)


def _largest(base: Base, shape: Shape, parallel: ParallelPlan, logical: float | None, critical: float | None) -> int:
    """The largest physical batch that is subcritical, keeps β in (0, 1), divides over the ranks (and into the
    micro-batch, where given) and fits: without a micro-batch all of it at once, else that micro-batch. Where the study
    knows no critical batch, the logical one is the largest that is safe."""
    spec = base.batch
    accelerator = ACCELERATORS.get(spec.profile)
    if accelerator is None:
        raise RuleError("batch.profile", f"no accelerator '{spec.profile}'", suggestion(spec.profile, ACCELERATORS))
    if logical is None and critical is None:
        what = "auto follows the critical or else the logical batch, and the study gives neither"
        todo = "give batch.physical or batch.logical a number, or a transfer with critical"
        raise RuleError("batch.physical", what, todo, also=("batch.logical", "transfer"))
    most = critical if critical is not None else logical or 1.0
    if spec.allow_supercritical and logical is not None:
        most = max(most, logical)
    if logical is not None:
        slowest = min(base.optimizer.betas)
        most = min(most, math.nextafter(logical / (1 - slowest), 0) * (1 - 1e-9))
    room = _room(shape, parallel, base.dtype, accelerator.memory)
    if room < (spec.micro or 1):
        needed = cost.memory(shape, spec.micro or 1, parallel, base.dtype).per_rank
        what = f"a micro-batch of {spec.micro or 1} needs {needed / 1e9:.3g} GB on a rank, of {spec.profile}'s "
        what += f"{accelerator.memory / 1e9:.3g} GB"
        todo = "raise parallel.shard, or set parallel.activation_checkpoint: full"
        raise RuleError("batch.physical", what, todo, also=("batch.micro", "parallel.shard", "model", "batch"))
    unit = parallel.data_ranks * (spec.micro or 1)
    if spec.micro is None:
        most = min(most, room * parallel.data_ranks)
    return max(unit, math.floor(most + 0.5 if critical is None else most) // unit * unit)
