"""How each run of a study ended: its final loss, or that it diverged."""

from __future__ import annotations

import math

from compiler.records import MIX
from studies.analysis.results import Study

Outcomes = dict[str, dict[str, float]]


def outcomes(study: Study) -> Outcomes:
    """Final held-out nelbo by run id and modality (`MIX` for the mix), in nats per token.

    A run that failed, or whose last evaluation is not finite, is infinitely bad: inf. A run that has not finished, or
    a modality that was not evaluated, has no entry.
    """
    finite: Outcomes = {}
    for row in study.results().select("id", "modality", "nelbo").iter_rows(named=True):
        finite.setdefault(row["id"], {})[row["modality"]] = row["nelbo"]
    evaluated = set(study.evaluations.select("id", "modality").unique().iter_rows())
    ended = {}
    for run, state in zip(study.plan.runs, study.runs["state"], strict=True):
        if state == "failed":
            ended[run.id] = dict.fromkeys((MIX, *run.modalities), math.inf)
        elif state == "done":
            found = finite.get(run.id, {})
            lost = [name for name in run.modalities if name not in found and (run.id, name) in evaluated]
            ended[run.id] = {**found, **dict.fromkeys((MIX, *lost) if lost else (), math.inf)}
    return ended
