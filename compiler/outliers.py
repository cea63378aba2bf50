"""Runs of a plan to look at first: those that stand out from their study, or that will not train as meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from compiler.columns import format_bytes
from compiler.plan import RunPlan, StudyPlan

NAMED = 3
"""Runs named for each reason, the farthest out first."""

COSTLY, COSTLY_SHARE = 10.0, 0.2
"""A run costs much from this many times the median on, if that is this share of the study."""

FEW_STEPS = 100
"""Below this, warm-up and decay are hardly resolved."""

FAR_KAPPA = 4.0
"""Up to this ratio between physical and logical batch (or its inverse), the batch rule is an extrapolation one makes
without a second look."""

FAR = 100.0
"""Ratio to the median from which on a learning rate or batch looks like a slip of the pen."""


def outliers(plan: StudyPlan) -> list[tuple[RunPlan, str]]:
    """Runs to look at first, each with the reason in words; at most `NAMED` for one reason, the last of which says how
    many more there are."""
    runs, accelerator = plan.runs, plan.cluster.accelerator
    hours = _median(runs, lambda run: run.device_hours)
    return [
        *_first(
            [run for run in runs if run.memory.per_rank > accelerator.memory],
            lambda run: run.memory.per_rank,
            lambda run: (
                f"needs {format_bytes(run.memory.per_rank)} on a rank, "
                f"and {accelerator.name} has {format_bytes(accelerator.memory)}"
            ),
        ),
        *_first(
            [
                run
                for run in runs
                if run.device_hours > COSTLY * hours and run.device_hours > COSTLY_SHARE * plan.totals.device_hours
            ],
            lambda run: run.device_hours,
            lambda run: (
                f"costs {run.device_hours:.3g} device-hours, {_times(run.device_hours / hours)} the median and "
                f"{run.device_hours / plan.totals.device_hours:.0%} of the study"
            ),
        ),
        *_first(
            [run for run in runs if run.steps < FEW_STEPS],
            lambda run: -run.steps,
            lambda run: f"has only {run.steps} step{'s' if run.steps != 1 else ''}",
        ),
        *_first(
            [run for run in runs if not 1 / FAR_KAPPA <= run.batch.kappa <= FAR_KAPPA],
            lambda run: _ratio(run.batch.kappa),
            lambda run: (
                f"trains at κ = {run.batch.kappa:.3g}: batch {run.batch.physical} for a logical {run.batch.logical:.4g}"
            ),
        ),
        *_far(runs, "learning rate", lambda run: run.optimizer.lr),
        *_far(runs, "logical batch", lambda run: run.batch.logical),
    ]


def _far(runs: Sequence[RunPlan], what: str, value: Callable[[RunPlan], float]) -> Iterator[tuple[RunPlan, str]]:
    middle = _median(runs, value)

    def reason(run: RunPlan) -> str:
        ratio = value(run) / middle
        side = f"{_times(ratio)} the median" if ratio > 1 else f"the median over {1 / ratio:.3g}"
        return f"has a {what} of {value(run):.3g}, {side} ({middle:.3g})"

    far = [run for run in runs if _ratio(value(run) / middle) > FAR]
    return _first(far, lambda run: _ratio(value(run) / middle), reason)


def _first(
    found: Sequence[RunPlan], distance: Callable[[RunPlan], float], reason: Callable[[RunPlan], str]
) -> Iterator[tuple[RunPlan, str]]:
    named = sorted(found, key=distance, reverse=True)[:NAMED]
    for run in named:
        more = f", and {len(found) - NAMED:,} more" if run is named[-1] and len(found) > NAMED else ""
        yield run, f"{reason(run)}{more}"


def _median(runs: Sequence[RunPlan], value: Callable[[RunPlan], float]) -> float:
    return median(map(value, runs))


def _ratio(value: float) -> float:
    """How far a positive ratio is from 1, on either side."""
    return max(value, 1 / value)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times"
