"""What a plan's reader should know before running it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compiler.plan import ClusterPlan, RunPlan
from compiler.ranges import balanced
from compiler.timeline import too_large
from specs.load import LoadedStudy

MAX_EPOCHS = 4.0
"""Repetitions up to which repeated data is about as good as new (arXiv 2305.16264)."""

MISSED = 0.01
"""Share of a FLOP budget that a run may leave."""

MICRO = 16
"""Accumulated micro-batches a sequence of one, from which on a batch is badly divided."""

SLOW = 0.5
"""β below which Adam hardly averages."""


def warnings(
    loaded: LoadedStudy, points: Sequence[RunPlan], runs: Sequence[RunPlan], cluster: ClusterPlan
) -> Iterator[str]:
    """Sentences about a study's `points` (a run each) and its distinct `runs`."""
    yield from _repeated(points, runs)
    yield from _epochs(runs)
    for path in sorted({path for run in runs for path in run.point}):
        if loaded.overridden(path):
            yield f"base.{path} on the command line has no effect: an axis sets it"
    if _heads_ambiguous(loaded, runs):
        yield (
            "heads differ between runs and transfer.base.heads is not given: attention is scaled as if each run's "
            "heads were the base's"
        )
    for axis in loaded.study.axes:
        if axis.sample is not None and not balanced(axis.sample):
            yield f"{axis.sample.points} Sobol points are not balanced: use a power of two, or lhs"
    above = [run for run in runs if run.batch.critical is not None and run.batch.physical > run.batch.critical]
    if above:
        yield f"{_some(above, runs)} above the critical batch, as the study allows, such as '{above[0].name}'"
    yield from _budgets(runs)
    yield from _batches(runs)
    limit = cluster.slurm.minutes if cluster.slurm else None
    long = [run for run in runs if limit is not None and run.device_hours / run.parallel.ranks > limit / 60]
    if long:
        what = f"{_some(long, runs)} longer than {cluster.name}'s time limit of {limit} min"
        yield f"{what}, such as '{long[0].name}'"
    large = too_large(runs, cluster)
    if large:
        yield f"{_some(large, runs)} for more than the {cluster.devices} devices of {cluster.name}"


def _repeated(points: Sequence[RunPlan], runs: Sequence[RunPlan]) -> Iterator[str]:
    if len(runs) == len(points):
        return
    kept = {run.id: run.name for run in runs}
    # A repeated value gives points of one name, else the names show what has no effect.
    same = next(((run.name, kept[run.id]) for run in points if run.name != kept[run.id]), None)
    count = f"{len(points) - len(runs)} of {len(points)} points"
    if same:
        what = f"{count} differ from another only in what has no effect and are one run with it"
        yield f"{what}: '{same[0]}' is '{same[1]}'"
    else:
        yield f"{count} are given twice and are one run each"


def _epochs(runs: Sequence[RunPlan]) -> Iterator[str]:
    for source in sorted({source for run in runs for source in run.epochs}):
        most = max(runs, key=lambda run: run.epochs.get(source, 0.0))
        if most.epochs[source] > MAX_EPOCHS:
            over = sum(run.epochs.get(source, 0.0) > MAX_EPOCHS for run in runs)
            what = f"{source} is repeated {most.epochs[source]:.1f} times in '{most.name}'"
            yield f"{what}, more than {MAX_EPOCHS:g} in {over} of {len(runs)} runs (arXiv 2305.16264)"


def _budgets(runs: Sequence[RunPlan]) -> Iterator[str]:
    """Whole steps may leave much of a small budget."""
    spent = [(run, budget) for run in runs if isinstance(budget := run.point.get("flops"), int | float)]
    short = [(run, budget) for run, budget in spent if run.flops < (1 - MISSED) * budget]
    if short:
        run, budget = min(short, key=lambda pair: pair[0].flops / pair[1])
        what = f"{len(short)} of {len(runs)} runs leave more than {MISSED:.0%} of their FLOP budget, being whole steps"
        yield f"{what}, most of all '{run.name}': {run.flops:.3g} of {budget:.3g}"


def _batches(runs: Sequence[RunPlan]) -> Iterator[str]:
    """What an automatic physical batch brought along."""
    fitted = [run for run in runs if run.batch.profile is not None]
    split = [run for run in fitted if run.batch.accumulation > 1 and run.batch.micro * MICRO < run.batch.accumulation]
    if split:
        batch = split[0].batch
        what = f"{_some(split, runs)} accumulated from small micro-batches, such as '{split[0].name}'"
        factors = f"{batch.physical} sequences, {batch.accumulation}x{batch.micro} on a rank"
        yield f"{what}: {factors}; with batch.micro given, the batch is a multiple of it"
    fast = [run for run in fitted if min(run.optimizer.betas) < SLOW]
    if fast:
        run = min(fast, key=lambda run: min(run.optimizer.betas))
        what = f"{_some(fast, runs)} with a β below {SLOW:g}, since κ is large, down to {min(run.optimizer.betas):.2g}"
        yield f"{what} in '{run.name}': a smaller batch.physical, or a larger critical number of steps, keeps it"


def _heads_ambiguous(loaded: LoadedStudy, runs: Sequence[RunPlan]) -> bool:
    """Whether the study sets several numbers of heads and leaves those of the base point open."""
    paths = {path for run in runs for path in run.point}
    transfer = loaded.document.data["base"].get("transfer")
    base = transfer.get("base") if isinstance(transfer, dict) else None
    open_heads = isinstance(base, dict) and "heads" not in base and "transfer.base.heads" not in paths
    return open_heads and "model.heads" in paths and len({run.model.heads for run in runs}) > 1


def _some(some: Sequence[object], runs: Sequence[RunPlan]) -> str:
    return f"{len(some)} of {len(runs)} runs {'is' if len(some) == 1 else 'are'}"
