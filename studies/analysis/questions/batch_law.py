"""Loss against batch and horizon as one law of size, steps and batch (arXiv 2607.01487), and the best batch by it.

Asked where runs have at least `FEWEST` logical batches at each of at least as many token counts.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.fits import Count, sizes_of
from studies.analysis.laws import three_term
from studies.analysis.laws.base import Interval, UnidentifiedError
from studies.analysis.laws.three_term import ThreeTerm
from studies.analysis.outcomes import outcomes
from studies.analysis.results import Study
from studies.analysis.settings import by_setting, label, shape_of

FEWEST = 3


class BestBatch(msgspec.Struct, frozen=True, kw_only=True):
    """At `tokens`: the best and the critical logical batch by the law, in sequences, with 90 % intervals; and the batch
    of the lowest mean loss among those that were run."""

    tokens: float
    best: float
    best_interval: Interval
    critical: float
    critical_interval: Interval
    lowest: float


class BatchLaw(msgspec.Struct, frozen=True, kw_only=True):
    """The three-term law of one setting of a study's other axes, on `runs` runs that ended, `failed` more diverged.

    Steps and batch are logical ones; `sequence` is how many tokens a sequence holds. `law` is None where it cannot be
    fitted, and `warnings` say why.
    """

    setting: str
    runs: int
    failed: int
    sequence: float
    law: ThreeTerm | None
    horizons: tuple[BestBatch, ...]
    warnings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        summary: dict[str, Any] = {"setting": self.setting, "runs": self.runs, "failed": self.failed}
        if self.law is not None:
            summary |= self.law.summary() | {"horizons": msgspec.to_builtins(self.horizons)}
        return summary | {"warnings": list(self.warnings)}


def batch_law(
    study: Study, count: Count = "non_embedding", bootstrap: int = 500, seed: int = 0
) -> tuple[BatchLaw, ...]:
    """The three-term laws of the mix's final nelbo, one for each setting of a study's other axes."""
    runs = study.plan.runs
    paths = ("batch", "transfer", "tokens", "model", "flops")
    groups = by_setting(runs, paths, lambda run: (run.batch.logical, run.tokens, shape_of(run)))
    asked = {setting: members for setting, members in groups.items() if _asks(members)}
    if not asked:
        return ()
    ended = outcomes(study)
    found = []
    for setting, members in asked.items():
        losses = {run.id: ended[run.id][MIX] for run in members if MIX in ended.get(run.id, {})}
        known = [run for run in members if math.isfinite(losses.get(run.id, math.inf))]
        if known:
            failed = sum(map(math.isinf, losses.values()))
            found.append(_fit(known, losses, failed, label(setting), count, bootstrap, seed))
    return tuple(found)


def _asks(runs: list[RunPlan]) -> bool:
    # A batch that follows the horizon is no sweep: steps and batch then rise together.
    batches: dict[float, set[float]] = {}
    for run in runs:
        batches.setdefault(run.tokens, set()).add(run.batch.logical)
    return sum(len(swept) >= FEWEST for swept in batches.values()) >= FEWEST


def _fit(
    runs: list[RunPlan], losses: dict[str, float], failed: int, setting: str, count: Count, bootstrap: int, seed: int
) -> BatchLaw:
    # Padding makes a sequence shorter than `sequence_length`; it is the same throughout a setting, to rounding.
    sequence = float(np.median([run.tokens / (run.steps * run.batch.physical) for run in runs]))
    N = sizes_of(runs, count)
    D = np.array([run.tokens for run in runs])
    batch = sequence * np.array([run.batch.logical for run in runs])
    warnings: list[str] = []
    horizons: tuple[BestBatch, ...] = ()
    law = None
    try:
        law = three_term.fit(N, D / batch, batch, [losses[run.id] for run in runs], bootstrap, seed)
        horizons = tuple(_best(law, tokens, sequence, runs, losses) for tokens in sorted(set(D.tolist())))
    except (UnidentifiedError, ValueError) as error:
        warnings.append(f"the law cannot be fitted: {error}")
    return BatchLaw(
        setting=setting,
        runs=len(runs),
        failed=failed,
        sequence=sequence,
        law=law,
        horizons=horizons,
        warnings=(*warnings, *(() if law is None else law.warnings)),
    )


def _best(law: ThreeTerm, tokens: float, sequence: float, runs: list[RunPlan], losses: dict[str, float]) -> BestBatch:
    means: dict[float, list[float]] = {}
    for run in runs:
        if run.tokens == tokens:
            means.setdefault(run.batch.logical, []).append(losses[run.id])

    def in_sequences(pair: Interval) -> Interval:
        return pair[0] / sequence, pair[1] / sequence

    return BestBatch(
        tokens=tokens,
        best=law.optimal_batch(tokens) / sequence,
        best_interval=in_sequences(law.optimal_batch_interval(tokens)),
        critical=law.critical_batch(tokens) / sequence,
        critical_interval=in_sequences(law.critical_batch_interval(tokens)),
        lowest=min(means, key=lambda batch: float(np.mean(means[batch]))),
    )
