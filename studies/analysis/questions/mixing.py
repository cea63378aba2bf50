"""The mix of modalities: which one gives the least weighted loss, by regression over the simplex?

Asked where runs of one shape, token count and setting have at least `FEWEST` mixes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import polars as pl

from compiler.plan import RunPlan
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.mixes import Mix
from studies.analysis.laws.repeats import MOST_EPOCHS
from studies.analysis.laws.simplex import Best, best_mix
from studies.analysis.laws.simplex_regression import FEWEST
from studies.analysis.noise import seed_noise
from studies.analysis.outcomes import Outcomes, outcomes
from studies.analysis.questions.base import base_modalities
from studies.analysis.results import Study
from studies.analysis.settings import Shape, by_place, is_weight, label, shape_of


class Mixing(msgspec.Struct, frozen=True, kw_only=True):
    """The mixes of one shape at one token count and setting.

    `modalities` name the weights of a mix in their order. `mixes` and `losses` are of each run that ended well: its
    weights, and the final nelbo of each modality in nats per token, also of those that it did not train on (NaN where
    there is no evaluation). `failed` runs diverged, `missing` ones have not ended; `planned` counts mixes.

    `values` are what a nat of each modality counts for, `equal` whether that is for want of others. `base` is the mix
    that the best one is compared with: the study's own, or (`own_base` false) equal weights where its file cannot be
    read. `best` is None where the runs do not determine it; `warnings` then say why. `seed_noise` is the standard
    deviation between runs that differ in seed alone, by modality where it was measured.
    """

    tokens: float
    width: int
    depth: int
    setting: str
    modalities: tuple[str, ...]
    planned: int
    mixes: tuple[Mix, ...]
    losses: tuple[tuple[float, ...], ...]
    failed: int
    missing: int
    values: dict[str, float]
    equal: bool
    base: Mix
    own_base: bool
    best: Best | None
    seed_noise: dict[str, float]
    warnings: tuple[str, ...]


def mixing(
    study: Study, bootstrap: int = 1000, seed: int = 0, values: Mapping[str, float] | None = None
) -> tuple[Mixing, ...]:
    """The best mix for each token count, shape and setting at which the study has mixes enough.

    `values` are what a nat of each modality counts for; those not named count nothing, and none at all means that all
    count alike. Runs whose mix changes on the way take no part.
    """
    runs = [run for run in study.plan.runs if len(run.mix) == 1]
    names = tuple(study.modalities)
    weights = {path for run in runs for path in run.point if is_weight(path)}
    groups = by_place(runs, weights, lambda run: _place(run, names))
    asked = {key: members for key, members in groups.items() if len({_mix(run, names) for run in members}) >= FEWEST}
    if not asked:
        return ()
    ended = outcomes(study)
    results = study.results()
    base, own_base = _base(study, names)
    worth, equal, ignored = _values(names, values)
    found = []
    for (tokens, (width, depth), setting), members in sorted(asked.items(), key=lambda entry: str(entry[0])):
        known = [run for run in members if run.id in ended and not _diverged(run, ended)]
        if not any(run.id in ended for run in members):
            continue
        failed = sum(run.id in ended for run in members) - len(known)
        mixes = [_mix(run, names) for run in known]
        losses = [tuple(ended[run.id].get(name, math.nan) for name in names) for run in known]
        best, lacking = _best(mixes, losses, list(worth.values()), base, bootstrap, seed)
        noise = seed_noise(results.filter(pl.col("id").is_in([run.id for run in known])))
        found.append(
            Mixing(
                tokens=tokens,
                width=width,
                depth=depth,
                setting=label(setting),
                modalities=names,
                planned=len({_mix(run, names) for run in members}),
                mixes=tuple(mixes),
                losses=tuple(losses),
                failed=failed,
                missing=len(members) - len(known) - failed,
                values=worth,
                equal=equal,
                base=base,
                own_base=own_base,
                best=best,
                seed_noise={name: s for name, s in noise.select("modality", "deviation").iter_rows() if name in names},
                warnings=(*ignored, *lacking, *_repeats(known), *(() if best is None else _warnings(best, names))),
            )
        )
    return tuple(found)


def _mix(run: RunPlan, names: Sequence[str]) -> Mix:
    weights = [run.modalities[name].weight if name in run.modalities else 0.0 for name in names]
    return tuple(round(weight / math.fsum(weights), 9) for weight in weights)


def _place(run: RunPlan, names: Sequence[str]) -> tuple[Mix, float, Shape]:
    return _mix(run, names), run.tokens, shape_of(run)


def _diverged(run: RunPlan, ended: Outcomes) -> bool:
    return math.inf in ended[run.id].values()


def _base(study: Study, names: Sequence[str]) -> tuple[Mix, bool]:
    """The base's mix, and whether that could be read."""
    own = base_modalities(study)
    weights = [own[name].weight if name in own else 0.0 for name in names]
    if not sum(weights):
        return (1 / len(names),) * len(names), False
    return tuple(weight / math.fsum(weights) for weight in weights), True


def _values(names: Sequence[str], values: Mapping[str, float] | None) -> tuple[dict[str, float], bool, list[str]]:
    """What each modality counts for, whether that is alike for want of usable `values`, and what is to be said."""
    given = {name: float((values or {}).get(name, 0.0)) for name in names}
    unknown = [f"values name {name!r}, which is no modality here" for name in values or {} if name not in given]
    unusable = not all(math.isfinite(value) and value >= 0 for value in given.values()) or not sum(given.values())
    if unusable:
        said = "the values given are negative, or none is of a modality here: all modalities count alike instead"
        return dict.fromkeys(names, 1 / len(names)), True, [*unknown, said] if values else []
    total = math.fsum(given.values())
    return {name: value / total for name, value in given.items()}, False, unknown


def _best(
    mixes: list[Mix],
    losses: list[tuple[float, ...]],
    values: list[float],
    base: Mix,
    bootstrap: int,
    seed: int,
) -> tuple[Best | None, list[str]]:
    try:
        if not mixes:
            raise UnidentifiedError("no run has ended well")
        return best_mix(np.array(mixes), np.array(losses), values, base, bootstrap, seed), []
    except UnidentifiedError as error:
        return None, [f"the best mix cannot be told: {error}"]


def _repeats(runs: Sequence[RunPlan]) -> list[str]:
    """Where sources are repeated so often that tokens are worth less than new ones (arXiv 2305.16264)."""
    often = {run.id: max(run.epochs.values(), default=0.0) for run in runs}
    count = sum(epochs > MOST_EPOCHS for epochs in often.values())
    if not count:
        return []
    return [
        f"{count} of {len(runs)} runs see a source more than {MOST_EPOCHS:g} times (up to {max(often.values()):.3g}): "
        "repeated tokens are worth less than new ones, and the best mix is that of this much data"
    ]


def _warnings(best: Best, names: Sequence[str]) -> list[str]:
    said = list(best.warnings)
    corners = np.array(best.corners)
    for name, weight, low, high in zip(names, best.mix, corners.min(axis=0), corners.max(axis=0), strict=True):
        if high - low < 1e-9:
            continue
        for bound, word, beyond in ((low, "least", low > 0), (high, "most", high < 1)):
            if beyond and abs(weight - bound) < 1e-6:
                said.append(
                    f"the best mix lies at {100 * bound:.3g} % {name}, the {word} at which all is known: "
                    "the true one may lie beyond"
                )
    for name, one in zip(names, best.regressions, strict=True):
        if one is None:
            said.append(f"{name}: too few runs for a regression")
            continue
        if one.explained < 0.5:
            said.append(f"{name}: the mix explains little of its loss ({100 * max(one.explained, 0):.0f} % left out)")
        untried = [candidate.form for candidate in one.tried if candidate.error is None]
        if untried:
            said.append(f"{name}: too few mixes for the forms {', '.join(untried)}")
    return said
