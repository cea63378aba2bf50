"""A study's file to its plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from compiler.accelerators import CLUSTERS
from compiler.catalogue import Catalogue
from compiler.expand import dimensions, points
from compiler.identity import plan_digest
from compiler.names import display_name, flatten, short_paths
from compiler.plan import RunPlan, StudyPlan, Totals
from compiler.run import resolve_run
from specs.errors import Problem, RuleError, SpecError
from specs.load import LoadedStudy, load_study
from specs.suggest import suggestion

MAX_PROBLEMS = 20
"""Distinct problems after which a study's remaining points are not looked at."""

MAX_EPOCHS = 4.0
"""Repetitions up to which repeated data is about as good as new (arXiv 2305.16264)."""


def compile_study(path: Path, overrides: Sequence[str] = ()) -> StudyPlan:
    """Compile the study at `path` with `key=value` overrides (keys from the root).

    The same study gives the same plan, byte for byte. Raises SpecError with all that is wrong in the study.
    """
    loaded = load_study(path, overrides)
    if loaded.study.cluster not in CLUSTERS:
        todo = suggestion(loaded.study.cluster, CLUSTERS)
        raise SpecError([loaded.document.problem(("cluster",), f"no profile '{loaded.study.cluster}'", todo)])
    runs = _resolve(loaded, path.parent)
    first: dict[str, RunPlan] = {}
    for run in runs:
        first.setdefault(run.id, run)
    unique = tuple(first.values())
    totals = Totals(
        runs=len(unique),
        tokens=math.fsum(run.tokens for run in unique),
        flops=math.fsum(run.flops for run in unique),
        device_hours=math.fsum(run.device_hours for run in unique),
    )
    return StudyPlan(
        study=loaded.study.study,
        digest=plan_digest(totals, unique),
        warnings=tuple(_warnings(loaded, runs, unique)),
        totals=totals,
        runs=unique,
    )


def _resolve(loaded: LoadedStudy, folder: Path) -> list[RunPlan]:
    """Every point's run, in the order of the axes."""
    factors = dimensions(loaded)
    short = short_paths(factors)
    catalogue, device = Catalogue(folder), CLUSTERS[loaded.study.cluster]
    runs: list[RunPlan] = []
    problems: dict[Problem, None] = {}
    for point in points(factors):
        values = flatten(point)
        try:
            runs.append(resolve_run(loaded.base(point), catalogue, device, display_name(values, short), values))
        except SpecError as error:
            problems |= dict.fromkeys(error.problems)
        except RuleError as fault:
            problems[loaded.problem(fault, point)] = None
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise SpecError(problems)
    return runs


def _warnings(loaded: LoadedStudy, runs: Sequence[RunPlan], unique: Sequence[RunPlan]) -> Iterable[str]:
    if len(unique) < len(runs):
        kept = {run.id: run.name for run in unique}
        names = [(run.name, kept[run.id]) for run in runs]
        # A repeated value gives points of one name, else the names show what has no effect.
        same = next((pair for pair in names if pair[0] != pair[1]), None)
        what = f"{len(runs) - len(unique)} of {len(runs)} points differ from another only in what has no effect"
        yield (
            f"{what} and are one run with it: '{same[0]}' is '{same[1]}'"
            if same
            else (f"{len(runs) - len(unique)} of {len(runs)} points are given twice and are one run each")
        )
    for source in sorted({source for run in unique for source in run.epochs}):
        most = max(unique, key=lambda run: run.epochs.get(source, 0.0))
        if most.epochs[source] > MAX_EPOCHS:
            over = sum(run.epochs.get(source, 0.0) > MAX_EPOCHS for run in unique)
            what = f"{source} is repeated {most.epochs[source]:.1f} times in '{most.name}'"
            yield f"{what}, more than {MAX_EPOCHS:g} in {over} of {len(unique)} runs (arXiv 2305.16264)"
    for path in sorted({path for run in unique for path in run.point}):
        if loaded.overridden(path):
            yield f"base.{path} on the command line has no effect: an axis sets it"
    if _heads_ambiguous(loaded, unique):
        yield (
            "heads differ between runs and transfer.base.heads is not given: attention is scaled as if each run's "
            "heads were the base's"
        )


def _heads_ambiguous(loaded: LoadedStudy, runs: Sequence[RunPlan]) -> bool:
    """Whether the study sets several numbers of heads and leaves those of the base point open."""
    paths = {path for run in runs for path in run.point}
    transfer = loaded.document.data["base"].get("transfer")
    base = transfer.get("base") if isinstance(transfer, dict) else None
    open_heads = isinstance(base, dict) and "heads" not in base and "transfer.base.heads" not in paths
    return open_heads and "model.heads" in paths and len({run.model.heads for run in runs}) > 1
