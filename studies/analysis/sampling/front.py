"""Quality against network calls: the settings that none beats in both, and the one to use by default, task by task.

A setting is a sampler. Where a study draws with it on several runs or seeds, its scores and calls are means over these,
and settings are compared over the same runs: their intervals hold the error of drawing samples, not that of training.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist, fmean
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from compiler.plan import Id
from compiler.sampling import Judged, Sampler, Score
from studies.analysis.sampling.results import SamplingStudy, headline

DIVERSITIES = ("diversity", "speech_diversity", "distinct_2")
"""Scores that say how various samples are; the first that a task has is its diversity."""
LEAST_DIVERSITY = 0.85
"""The share of real data's diversity that a default must have."""

State = Literal["front", "dominated", "too alike"]
"""`too alike` are settings below `LEAST_DIVERSITY`, or without a diversity where others have one: quality is easily had
by drawing the same few samples."""
Rule = Literal["one standard error", "best trade-off"]

_Z = NormalDist().inv_cdf(0.95)
"""Half the width of a 90 % interval, in standard errors."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One sampler on one task, over its `points`. `calls` of the network for each sample, `quality` the score that
    decides, `relative` quality / real, `diversity` also relative to real data (None: not measured)."""

    sampler: Sampler
    points: tuple[Id, ...]
    calls: float
    tokens_per_second: float | None
    quality: Score
    relative: float | None
    diversity: float | None
    scores: tuple[Score, ...]
    controls: dict[str, tuple[Score, ...]]
    state: State = "dominated"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The default that a study finds for `task`, and why.

    By the rule of one standard error (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3):
    `best` has the best quality of all settings with at least `LEAST_DIVERSITY`; of those whose quality is no farther
    from it than `margin`, its standard error (half its 90 % interval / 1.645), `setting` needs the fewest calls, and of
    several that need so few it is the best. Where no setting is diverse enough, the best trade-off is the one
    whose quality and diversity, each as a share of real data's and at most 1, have the largest product.
    """

    task: str
    rule: Rule
    setting: Setting
    best: Setting
    margin: float


class TaskFront(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one task on `runs`, by calls. `quality` and `better` are the name and direction of the score that
    decides, `diversity` the name of the score that limits (None: there is none); `left_out` says which points are not
    compared, and why."""

    task: str
    runs: tuple[Id, ...]
    quality: str
    better: str
    diversity: str | None
    settings: tuple[Setting, ...]
    choice: Choice
    left_out: tuple[str, ...]

    @property
    def front(self) -> list[Setting]:
        """The settings that none beats, by calls."""
        return [setting for setting in self.settings if setting.state == "front"]


def fronts(study: SamplingStudy) -> tuple[TaskFront, ...]:
    """What the study found of each task that has a result, in the plan's order."""
    found = (_front(task, [judged for judged in study.points if judged.task == task], study) for task in study.tasks)
    return tuple(front for front in found if front is not None)


def goodness(score: Score) -> float:
    """A number that is higher where `score` is better. Raises ValueError where that cannot be told."""
    if score.better == "higher":
        return score.value
    if score.better == "lower":
        return -score.value
    if score.better == "real" and score.real is not None:
        return -abs(score.value - score.real)
    raise ValueError(f"{score.name} has no real data to be compared with")


def pareto(calls: NDArray[np.float64], good: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of K settings none dominates, (K,): none has as few `calls` and is as `good`, both (K,), and is ahead in
    one of them."""
    front = np.zeros(len(calls), dtype=bool)
    last = (math.nan, -math.inf)
    for k in np.lexsort((-good, calls)):
        if good[k] > last[1] or (calls[k], good[k]) == last:
            front[k] = True
            last = (calls[k], good[k])
    return front


def standard_error(score: Score) -> float:
    """Of a score's value, by its 90 % interval; 0 where it has none."""
    if score.low is None or score.high is None:
        return 0.0
    return (score.high - score.low) / (2 * _Z)


def varied(settings: Sequence[Setting]) -> list[str]:
    """The fields of samplers in which `settings` differ; of one alone, in which it differs from sampling plainly."""
    samplers = [setting.sampler for setting in settings]
    if len(samplers) == 1:
        samplers.append(Sampler())
    return [name for name in Sampler.__struct_fields__ if len({getattr(one, name) for one in samplers}) > 1]


def _front(task: str, points: Sequence[Judged], study: SamplingStudy) -> TaskFront | None:
    rated, left_out = _rated(points)
    if not rated:
        return None
    runs, compared, others = _comparable(rated)
    left_out += [f"{_named(point)}: its sampler is not judged on all runs that are compared" for point in others]
    every = [score for points in compared.values() for point in points for score in point.scores]
    present = {score.name for score in every if score.real}
    diversity = next((name for name in DIVERSITIES if name in present), None)
    settings = [_setting(sampler, points, diversity) for sampler, points in compared.items()]
    settings.sort(key=lambda setting: (setting.calls, -goodness(setting.quality)))
    eligible = [diversity is None or (one.diversity or 0.0) >= LEAST_DIVERSITY for one in settings]
    settings = _with_states(settings, eligible)
    return TaskFront(
        task=task,
        runs=tuple(run for run in study.plan.runs if run in runs),
        quality=settings[0].quality.name,
        better=settings[0].quality.better,
        diversity=diversity,
        settings=tuple(settings),
        choice=_choose(task, settings, any(eligible)),
        left_out=tuple(left_out),
    )


def _rated(points: Sequence[Judged]) -> tuple[list[Judged], list[str]]:
    """The points whose quality is of the kind that most have and says what is better; why others are left out."""
    kinds = Counter((point.quality, headline(point).better) for point in points)
    usual = kinds.most_common(1)[0][0] if kinds else None
    rated, left_out = [], []
    for point in points:
        score = headline(point)
        if (score.name, score.better) != usual:
            left_out.append(f"{_named(point)}: judged by {score.name} ({score.better}), not as the others")
        elif score.better not in ("higher", "lower") and score.real is None:
            left_out.append(f"{_named(point)}: {score.name} has no real data to be compared with")
        else:
            rated.append(point)
    return rated, left_out


def _comparable(points: Sequence[Judged]) -> tuple[frozenset[Id], dict[Sampler, list[Judged]], list[Judged]]:
    """The runs to compare on, so that the most points take part; the points on these of each sampler that was judged
    on all; and the others."""
    by_sampler: dict[Sampler, list[Judged]] = {}
    for point in points:
        by_sampler.setdefault(point.sampler, []).append(point)
    runs = {sampler: frozenset(point.run for point in found) for sampler, found in by_sampler.items()}

    def taking_part(chosen: frozenset[Id]) -> int:
        return sum(point.run in chosen and chosen <= runs[point.sampler] for point in points)

    chosen = max(dict.fromkeys(runs.values()), key=taking_part)
    compared = {
        sampler: [point for point in found if point.run in chosen]
        for sampler, found in by_sampler.items()
        if chosen <= runs[sampler]
    }
    return chosen, compared, [p for p in points if p.run not in chosen or p.sampler not in compared]


def _setting(sampler: Sampler, points: Sequence[Judged], diversity: str | None) -> Setting:
    scores = _pooled([point.scores for point in points])
    quality = next(score for score in scores if score.name == points[0].quality)
    measured = next((score for score in scores if score.name == diversity), None)
    seconds = sum(point.seconds for point in points)
    controls = dict.fromkeys(name for point in points for name in point.controls)
    return Setting(
        sampler=sampler,
        points=tuple(point.id for point in points),
        calls=fmean(point.calls for point in points),
        tokens_per_second=sum(point.tokens for point in points) / seconds if seconds > 0 else None,
        quality=quality,
        relative=_relative(quality),
        diversity=None if measured is None else _relative(measured),
        scores=scores,
        controls={name: _pooled([p.controls[name] for p in points if name in p.controls]) for name in controls},
    )


def _pooled(groups: Sequence[Sequence[Score]]) -> tuple[Score, ...]:
    """Scores of several points as one for each name."""
    by_name: dict[str, list[Score]] = {}
    for group in groups:
        for score in group:
            by_name.setdefault(score.name, []).append(score)
    return tuple(map(_mean, by_name.values()))


def _mean(scores: Sequence[Score]) -> Score:
    """The mean of independent scores of one name; of one alone itself."""
    first = scores[0]
    if len(scores) == 1:
        return first
    value = fmean(score.value for score in scores)
    reals = [score.real for score in scores if score.real is not None]
    known = all(score.low is not None and score.high is not None for score in scores)
    half = _Z * math.hypot(*map(standard_error, scores)) / len(scores)
    return Score(
        name=first.name,
        value=value,
        n=sum(score.n for score in scores),
        better=first.better,
        low=value - half if known else None,
        high=value + half if known else None,
        real=fmean(reals) if len(reals) == len(scores) else None,
    )


def _with_states(settings: Sequence[Setting], eligible: Sequence[bool]) -> list[Setting]:
    """`settings` with their places: the front is of those that are `eligible`, and of all where none is."""
    among = np.array(eligible if any(eligible) else [True] * len(settings))
    calls = np.array([setting.calls for setting in settings])
    good = np.array([goodness(setting.quality) for setting in settings])
    front = np.zeros(len(settings), dtype=bool)
    front[among] = pareto(calls[among], good[among])
    states: list[State] = [
        "front" if on else "dominated" if fit else "too alike" for fit, on in zip(among, front, strict=True)
    ]
    return [msgspec.structs.replace(one, state=state) for one, state in zip(settings, states, strict=True)]


def _choose(task: str, settings: Sequence[Setting], diverse: bool) -> Choice:
    """The default among `settings`; `diverse` says whether any of them may be chosen by quality and calls alone."""
    fit = [setting for setting in settings if setting.state != "too alike"]
    best = max(fit, key=lambda setting: (goodness(setting.quality), -setting.calls))
    margin = standard_error(best.quality)
    if not diverse:
        chosen = max(settings, key=lambda setting: (_trade_off(setting, best), -setting.calls))
        return Choice(task=task, rule="best trade-off", setting=chosen, best=best, margin=margin)
    near = [one for one in fit if goodness(one.quality) >= goodness(best.quality) - margin]
    chosen = min(near, key=lambda setting: (setting.calls, -goodness(setting.quality)))
    return Choice(task=task, rule="one standard error", setting=chosen, best=best, margin=margin)


def _trade_off(setting: Setting, best: Setting) -> float:
    """The product of quality and diversity as shares of real data's (of the best's, without these), at most 1 each."""
    value, score = setting.quality.value, setting.quality
    aim = best.quality.value if score.real is None else score.real
    if value <= 0 or aim <= 0:
        return 0.0
    share = {"higher": value / aim, "lower": aim / value}.get(score.better, min(value / aim, aim / value))
    return min(share, 1.0) * min(setting.diversity or 0.0, 1.0)


def _relative(score: Score) -> float | None:
    return score.value / score.real if score.real else None


def _named(point: Judged) -> str:
    return point.name or point.id
