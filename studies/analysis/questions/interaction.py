"""What tokens of one modality are worth to another: laws of own tokens against laws in which all tokens count.

Asked where a study has at least six mixes, and several sizes or token counts. Two sizes do not show how loss falls with
size: then each has laws of its own.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from compiler.plan import RunPlan
from studies.analysis.fits import Count, sizes_of
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.interaction import Interaction, fit_interaction
from studies.analysis.laws.joint_comparison import Comparison, compare
from studies.analysis.laws.simplex_regression import FEWEST
from studies.analysis.outcomes import outcomes
from studies.analysis.results import Study
from studies.analysis.settings import by_setting, in_words, is_weight, label, shape_of

FEWEST_SIZES = 3


class JointLaws(msgspec.Struct, frozen=True, kw_only=True):
    """The joint laws of one setting of a study's other axes, on `runs` runs that ended.

    `comparisons` has one for each modality; empty where they cannot be fitted. `interaction` is the law of the mean
    loss (arXiv 2301.03728), None where the runs do not give it; `N` and `D` are the largest size and token count of the
    mixed runs, at which its synergy is told. `warnings` say what is lacking.
    """

    setting: str
    runs: int
    modalities: tuple[str, ...]
    N: float
    D: float
    comparisons: tuple[Comparison, ...]
    interaction: Interaction | None
    warnings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "setting": self.setting,
            "runs": self.runs,
            "modalities": {
                one.modality: {
                    "additive": one.additive.summary(),
                    "transfer": one.transfer.summary(),
                    "difference": one.difference,
                    "difference_interval": one.difference_interval,
                    "p_value": one.p_value,
                    "significant": one.significant,
                    "preferred": one.preferred,
                    "warnings": one.warnings,
                }
                for one in self.comparisons
            },
            "interaction": None if self.interaction is None else self.interaction.summary(),
            "warnings": self.warnings,
        }


def joint_laws(
    study: Study, count: Count = "non_embedding", bootstrap: int = 500, seed: int = 0
) -> tuple[JointLaws, ...]:
    """The joint laws of a study, one for each setting of its other axes; N is what `count` says.

    Runs whose mix changes on the way take no part.
    """
    runs = [run for run in study.plan.runs if len(run.mix) == 1]
    names = tuple(study.modalities)
    weights = {path for run in runs for path in run.point if is_weight(path)}
    groups = by_setting(runs, {*weights, "tokens", "model", "flops"}, lambda run: (run.tokens, shape_of(run)))
    asked = [(words, some) for setting, members in groups.items() for words, some in _apart(members, label(setting))]
    asked = [(words, members) for words, members in asked if _asks(members)]
    if not asked:
        return ()
    ended = outcomes(study)
    found = []
    for words, members in asked:
        known = [run for run in members if run.id in ended and math.inf not in ended[run.id].values()]
        if known:
            losses = np.array([[ended[run.id].get(name, math.nan) for name in names] for run in known])
            found.append(_fit(known, losses, names, words, count, bootstrap, seed))
    return tuple(found)


def _apart(runs: list[RunPlan], words: str) -> list[tuple[str, list[RunPlan]]]:
    """`runs` in words; by shape where those are too few for a law over sizes."""
    shapes = sorted({shape_of(run) for run in runs})
    if len(shapes) >= FEWEST_SIZES:
        return [(words, runs)]
    return [
        (in_words(words, f"{width} × {depth}"), [run for run in runs if shape_of(run) == (width, depth)])
        for width, depth in shapes
    ]


def _asks(runs: list[RunPlan]) -> bool:
    mixes = {tuple(sorted((name, one.weight) for name, one in run.modalities.items())) for run in runs}
    return len(mixes) >= FEWEST and len({(run.tokens, shape_of(run)) for run in runs}) > 1


def _fit(
    runs: list[RunPlan],
    losses: np.ndarray[Any, np.dtype[np.float64]],
    names: tuple[str, ...],
    setting: str,
    count: Count,
    bootstrap: int,
    seed: int,
) -> JointLaws:
    N = sizes_of(runs, count)
    weights = [[run.modalities[m].weight if m in run.modalities else 0.0 for m in names] for run in runs]
    tokens = np.array(weights) * np.array([[run.tokens] for run in runs])
    warnings = []
    comparisons: tuple[Comparison, ...] = ()
    interaction = None
    try:
        comparisons = compare(N, tokens, losses, names, bootstrap, seed)
    except (UnidentifiedError, ValueError) as error:
        warnings.append(f"what tokens are worth to other modalities cannot be told: {error}")
    try:
        interaction = fit_interaction(N, tokens, losses, names, bootstrap, seed)
    except (UnidentifiedError, ValueError) as error:
        warnings.append(f"no law of the mean loss: {error}")
    return JointLaws(
        setting=setting,
        runs=len(runs),
        modalities=names,
        N=float(N.max()),
        D=float(max(run.tokens for run in runs)),
        comparisons=comparisons,
        interaction=interaction,
        warnings=tuple(warnings),
    )
