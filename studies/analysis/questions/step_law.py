"""How the best learning rate and batch move with size and tokens: the power laws of Step Law (arXiv 2503.04715).

Asked where `optimizer.lr` takes at least `FEWEST` values at each of at least `PLACES` sizes or token counts.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.fits import Count, sizes_of
from studies.analysis.laws import optima
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.optima import OptimumLaw, StepLaw
from studies.analysis.outcomes import Outcomes, outcomes
from studies.analysis.questions.learning_rate import PATH
from studies.analysis.results import Study
from studies.analysis.settings import by_setting, label, shape_of

FEWEST = 3
PLACES = 3


class Optima(msgspec.Struct, frozen=True, kw_only=True):
    """The optima of one setting of a study's other axes, and the laws through them (None where they do not give any;
    `warnings` say why). Learning rates are those of the study's file, before any transfer."""

    setting: str
    runs: int
    law: StepLaw | None
    warnings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        found: dict[str, Any] = {"setting": self.setting, "runs": self.runs, "warnings": self.warnings}
        if self.law is not None:
            laws = {"lr": self.law.lr, "batch": self.law.batch}
            found |= {"optima": msgspec.to_builtins(self.law.optima)}
            found |= {name: None if law is None else _law(law) for name, law in laws.items()}
        return found


def step_law(study: Study, count: Count = "non_embedding", bootstrap: int = 1000, seed: int = 0) -> tuple[Optima, ...]:
    """The optima and laws of the mix's final nelbo, one for each setting of a study's other axes."""
    runs = [run for run in study.plan.runs if isinstance(run.point.get(PATH), int | float)]
    paths = (PATH, "batch", "tokens", "model", "flops")
    groups = by_setting(runs, paths, lambda run: (run.tokens, shape_of(run)))
    asked = {setting: members for setting, members in groups.items() if _asks(members)}
    if not asked:
        return ()
    ended = outcomes(study)
    found = (_fit(members, ended, label(setting), count, bootstrap, seed) for setting, members in asked.items())
    return tuple(one for one in found if one.runs)


def _asks(runs: list[RunPlan]) -> bool:
    swept: dict[object, set[object]] = {}
    for run in runs:
        swept.setdefault((run.tokens, shape_of(run)), set()).add(run.point[PATH])
    return sum(len(rates) >= FEWEST for rates in swept.values()) >= PLACES


def _fit(runs: list[RunPlan], ended: Outcomes, setting: str, count: Count, bootstrap: int, seed: int) -> Optima:
    known = [run for run in runs if MIX in ended.get(run.id, {})]
    law, warnings = None, []
    try:
        if not known:
            raise UnidentifiedError("no run has ended")
        law = optima.fit(
            sizes_of(known, count),
            [run.tokens for run in known],
            [float(run.point[PATH] or math.nan) for run in known],
            np.array([ended[run.id][MIX] for run in known]),
            [run.batch.logical for run in known],
            bootstrap,
            seed,
        )
    except (UnidentifiedError, ValueError) as error:
        warnings.append(f"no law of the optima: {error}")
    return Optima(
        setting=setting,
        runs=len(known),
        law=law,
        warnings=(*warnings, *(() if law is None else law.warnings)),
    )


def _law(law: OptimumLaw) -> dict[str, Any]:
    fields = msgspec.structs.asdict(law)
    return {name: value for name, value in fields.items() if name != "samples"}
