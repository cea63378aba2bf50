"""Names that follow from content: a run's id and a plan's digest."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from compiler.plan import NUMERICS, RunPlan, Totals


def _hash(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]


def run_id(run: RunPlan) -> str:
    """Hash of what decides a run's numbers, 16 hexadecimal digits.

    Not in it: micro-batch, accumulation, parallel layout, cluster, names, and how often to log, checkpoint and
    evaluate. The number of evaluated sequences is: it decides the published nelbo.
    """
    modalities = {
        name: (plan.weight, plan.digest, plan.noise, plan.segments, plan.packed)
        for name, plan in run.modalities.items()
    }
    return _hash(
        {
            "numerics": NUMERICS,
            "model": run.model,
            "vocabulary": run.vocabulary,
            "modalities": modalities,
            "sequence_length": run.sequence_length,
            "tokens": run.tokens,
            "batch": (run.batch.logical, run.batch.physical),
            "optimizer": run.optimizer,
            "clip": run.clip,
            "groups": run.groups,
            "multipliers": run.multipliers,
            "schedule": run.schedule,
            "seed": run.seed,
            "dtype": run.dtype,
            "evaluation": run.evaluation.sequences,
        }
    )


def plan_digest(totals: Totals, runs: tuple[RunPlan, ...]) -> str:
    """Hash of a plan's totals and runs."""
    return _hash((totals, runs))
