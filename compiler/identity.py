"""Names that follow from content: a run's id and a plan's digest."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from compiler.plan import NUMERICS, RunPlan, Totals

_encoder = msgspec.json.Encoder(order="deterministic")


class Identity:
    """Run ids: hashes of what decides a run's numbers, 16 hexadecimal digits.

    Not in them: micro-batch, accumulation, parallel layout, cluster, names, and how often to log, checkpoint and
    evaluate. The number of evaluated sequences is: it decides the published nelbo.
    """

    def __init__(self) -> None:
        self._encoded: dict[int, tuple[bytes, object]] = {}

    def of(self, run: RunPlan) -> str:
        """The id of `run`. Parts that runs share are encoded once."""
        batch = run.batch
        parts = (
            self._shared(run.vocabulary),
            self._shared(run.modalities),
            self._shared(run.model),
            self._shared(run.groups),
            _encoder.encode(
                (
                    NUMERICS,
                    run.mix,
                    run.sequence_length,
                    run.tokens,
                    (batch.logical, batch.physical),
                    run.optimizer,
                    run.clip,
                    run.multipliers,
                    run.schedule,
                    run.time,
                    run.head,
                    run.seed,
                    run.dtype,
                    run.evaluation.sequences,
                )
            ),
        )
        return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]

    def _shared(self, part: Any) -> bytes:
        known = self._encoded.get(id(part))
        if known is None:
            known = self._encoded[id(part)] = (_encoder.encode(_deciding(part)), part)
        return known[0]


def _deciding(part: Any) -> Any:
    """What of a part decides numbers: of modalities, not the name of their data."""
    if not isinstance(part, dict):
        return part
    return {
        name: (plan.weight, plan.digest, plan.noise, plan.segments, plan.packed)
        + ((plan.drop_condition,) if plan.drop_condition else ())
        for name, plan in part.items()
    }


def plan_digest(totals: Totals, runs: tuple[RunPlan, ...]) -> str:
    """Hash of a plan's totals and runs."""
    digest = hashlib.sha256(_encoder.encode(totals))
    for run in runs:
        digest.update(_encoder.encode(run))
    return digest.hexdigest()[:16]
