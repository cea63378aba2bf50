"""How each run of a study ended: its final loss, or that it diverged."""

from __future__ import annotations

import math

from compiler.records import MIX
from studies.analysis.results import Study

Outcomes = dict[str, dict[str, float]]


def outcomes(study: Study) -> Outcomes:
    """Final held-out nelbo by run id and modality (`MIX` for the mix), in nats per token.

    A run that diverged, or whose last evaluation is not finite, is infinitely bad: inf. A run that has not finished,
    also because it failed of something else, or a modality that was not evaluated, has no entry.
    """
    finite: Outcomes = {}
    for row in study.results().select("id", "modality", "nelbo").iter_rows(named=True):
        finite.setdefault(row["id"], {})[row["modality"]] = row["nelbo"]
    evaluated = set(study.evaluations.select("id", "modality").unique().iter_rows())
    ended = {}
    for run, (state, diverged) in zip(study.plan.runs, study.runs.select("state", "diverged").iter_rows(), strict=True):
        if diverged:
            ended[run.id] = dict.fromkeys((MIX, *run.modalities), math.inf)
        elif state == "done":
            found = finite.get(run.id, {})
            lost = [name for name in run.modalities if name not in found and (run.id, name) in evaluated]
            ended[run.id] = {**found, **dict.fromkeys((MIX, *lost) if lost else (), math.inf)}
    return ended
