"""Sampling studies in words: settings, choices and tables, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.sampling import Sampler, Score
from studies.analysis.sampling.front import DIVERSITIES, LEAST_DIVERSITY, Choice, Setting, State, TaskFront, varied
from studies.analysis.views.words import NONE, Cell, Found, Verdict, number

CHOSEN, BEST, FEWEST, ONLY = "default", "best quality", "fewest calls", "the only setting"
REAL = "real held-out data"
STATES: dict[State, str] = {"front": "front", "dominated": "beaten", "too alike": "too alike"}
"""Where a setting stands, in words."""

_NOTHING, _THOUSAND = 1e-12, 999.5
_DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "real": "best where real data are"}


def amount(value: float | None) -> str:
    """Three significant digits; all before the point of a thousand and more, and none of what rounding leaves of 0."""
    if value is not None and abs(value) < _NOTHING:
        return "0"
    if value is None or abs(value) < _THOUSAND:
        return number(value)
    return f"{value:,.0f}"


def setting_words(sampler: Sampler, fields: Sequence[str]) -> str:
    """A setting by its kind and those of `fields` that matter to it, such as: confidence, steps 16, guidance 2."""
    idle = {
        "bound": sampler.kind != "entropy-bounded",
        "annealing": not sampler.gumbel,
        "ramp": sampler.guidance == 1,
    }
    words = [f"{name} {field_words(sampler, name)}" for name in fields if name != "kind" and not idle.get(name)]
    return ", ".join([sampler.kind, *words])


def field_words(sampler: Sampler, name: str) -> str:
    """The value of one field."""
    value = getattr(sampler, name)
    if value is None:
        return "one a token"
    return f"{value:g}" if isinstance(value, float) else str(value)


def score_words(name: str) -> str:
    """What people read for a score, such as: distinct 2."""
    return name.replace("_", " ")


def quality_title(found: TaskFront) -> str:
    """The score that decides, and what is better."""
    return f"{score_words(found.quality)}, {_DIRECTIONS.get(found.better, found.better)}"


def state_words(found: TaskFront, setting: Setting) -> str:
    """Where a setting stands."""
    if setting == found.choice.setting:
        return "default"
    return STATES[setting.state]


def roles(found: TaskFront) -> list[tuple[Setting, str]]:
    """The settings that are worth a look, each with what it is: the one chosen, the best, the one of fewest calls."""
    if len(found.settings) == 1:
        return [(found.settings[0], ONLY)]
    named: dict[Sampler, tuple[Setting, list[str]]] = {}
    for setting, role in ((found.choice.setting, CHOSEN), (found.choice.best, BEST), (found.front[0], FEWEST)):
        named.setdefault(setting.sampler, (setting, []))[1].append(role)
    return [(setting, ", ".join(words)) for setting, words in named.values()]


def choice_words(found: TaskFront) -> tuple[str, ...]:
    """The choice and its reason, a sentence each."""
    choice, fields = found.choice, varied(found.settings)
    chosen, best = choice.setting, choice.best
    among = f" of those with at least {LEAST_DIVERSITY:g} of real data's diversity" if found.diversity else ""
    said = [f"Chosen: {setting_words(chosen.sampler, fields)}: {evidence(choice, found.diversity)}"]
    if choice.rule == "best trade-off":
        said.append(
            f"No setting has {LEAST_DIVERSITY:g} of real data's diversity: this one has the largest product of quality "
            "and diversity, each as a share of real data's and at most 1"
        )
    elif not choice.margin:
        said.append(f"It is the best{among}; {score_words(found.quality)} has no interval within which others could be")
    elif chosen.sampler == best.sampler:
        said.append(f"It is the best{among}, and no other of fewer calls is within {_error(choice)} of it")
    else:
        said.append(
            f"The best{among} is {setting_words(best.sampler, fields)}, with {amount(best.quality.value)} at "
            f"{amount(best.calls)} calls; within {_error(choice)} of it, this one needs the fewest calls"
        )
    return tuple(said)


def _error(choice: Choice) -> str:
    return f"one standard error ({amount(choice.margin)})"


def evidence(choice: Choice, diversity: str | None) -> str:
    """What a choice rests on, in one line."""
    chosen = choice.setting
    score = chosen.quality
    interval = "" if _interval(score) is None else f" [{_interval(score)}]"
    words = [f"{score_words(score.name)} {amount(score.value)}{interval}"]
    if score.real is not None:
        words.append(f"real {amount(score.real)}")
    words.append(f"{amount(chosen.calls)} calls a sample")
    if diversity is not None:
        by = "" if diversity == DIVERSITIES[0] else f" (by {score_words(diversity)})"
        words.append(f"diversity {amount(chosen.diversity)} of real data's{by}")
    return ", ".join(words)


def fit_table(found: TaskFront) -> Found:
    """The settings on a task's front, and the best and the chosen one, by calls: quality with 90 %, and diversity."""
    fields = varied(found.settings)
    worth = [setting for setting, _ in roles(found)]
    shown = [setting for setting in found.settings if setting.state == "front" or setting in worth]
    others = len(found.settings) - len(shown)
    rest = (f"{others} others are beaten or too alike: see `triptych report`, or --json",) if others else ()
    rows = [
        (
            *(_lead(setting, fields)),
            amount(setting.calls),
            _stacked(setting.quality),
            amount(setting.diversity),
            _verdict(found, setting),
        )
        for setting in shown
    ]
    header = (*(fields or ["kind"]), "calls", score_words(found.quality), "diversity", "place")
    # All settings are judged on the same runs, and so against the same real data.
    real = found.choice.setting.quality.real
    title = f"{found.task}: {quality_title(found)}" + ("" if real is None else f", real data {amount(real)}")
    return Found(title, header, tuple(rows), (*choice_words(found), *rest), found.left_out)


def defaults_table(found: Sequence[TaskFront]) -> Found:
    """The default found for each task, with what it rests on."""
    rows: list[tuple[Cell, ...]] = []
    for front in found:
        chosen = front.choice.setting
        enough: Cell = amount(chosen.diversity)
        if front.choice.rule == "best trade-off":
            enough = Verdict(f"{enough}, too low", False)
        words = setting_words(chosen.sampler, varied(front.settings))
        rows.append(
            (
                front.task,
                words,
                amount(chosen.calls),
                _stacked(chosen.quality),
                amount(chosen.quality.real),
                enough,
                score_words(chosen.quality.name),
            )
        )
    header = ("task", "default", "calls a sample", "quality", "real data", "diversity", "judged by")
    return Found("Defaults", header, tuple(rows))


def scores_table(found: TaskFront, settings: Sequence[Setting]) -> Found:
    """All scores of `settings`, under those of real data."""
    fields = varied(found.settings)
    names = list(dict.fromkeys(score.name for setting in settings for score in setting.scores))
    lead = fields or ["kind"]
    real = tuple(_real([score for setting in settings for score in setting.scores if score.name == n]) for n in names)
    rows: list[tuple[Cell, ...]] = [(REAL, *[""] * len(lead), NONE, NONE, *real)]
    rows += [
        (
            *_lead(setting, fields),
            _verdict(found, setting),
            amount(setting.calls),
            amount(setting.tokens_per_second),
            *_cells(setting.scores, names),
        )
        for setting in settings
    ]
    header = (*lead, "place", "calls", "tokens/s", *map(score_words, names))
    return Found("", header, tuple(rows))


def controls_table(found: TaskFront) -> Found | None:
    """The scores of controls beside those of the settings that are worth a look; None where there are none."""
    shown = [(setting, role) for setting, role in roles(found) if setting.controls]
    if not shown:
        having = (setting for setting in found.settings if setting.controls)
        shown = [(setting, setting_words(setting.sampler, varied(found.settings))) for setting in having][:1]
    if not shown:
        return None
    groups = [group for setting, _ in shown for group in (setting.scores, *setting.controls.values())]
    names = list(dict.fromkeys(score.name for group in groups for score in group))
    real = tuple(_real([score for group in groups for score in group if score.name == name]) for name in names)
    rows: list[tuple[Cell, ...]] = [(REAL, "", *real)]
    for setting, role in shown:
        drawn = {"as asked": setting.scores, **setting.controls}
        rows += [(name.replace("-", " "), role, *_cells(scores, names)) for name, scores in drawn.items()]
    return Found("Controls", ("drawn", "setting", *map(score_words, names)), tuple(rows))


def _lead(setting: Setting, fields: Sequence[str]) -> list[str]:
    return [field_words(setting.sampler, name) for name in fields or ["kind"]]


def _verdict(found: TaskFront, setting: Setting) -> Cell:
    words = state_words(found, setting)
    if words == "default":
        return Verdict(words, True)
    return Verdict(words, False) if setting.state == "too alike" else words


def _cells(scores: Sequence[Score], names: Sequence[str]) -> list[str]:
    by_name = {score.name: score for score in scores}
    return [_stacked(by_name[name]) if name in by_name else NONE for name in names]


def _stacked(score: Score) -> str:
    interval = _interval(score)
    return amount(score.value) + (f"\n{interval}" if interval else "")


def _interval(score: Score) -> str | None:
    if score.low is None or score.high is None:
        return None
    return f"{amount(score.low)} to {amount(score.high)}"


def _real(scores: Sequence[Score]) -> str:
    """What real data have, or from where to where it goes over several runs."""
    reals = [score.real for score in scores if score.real is not None]
    if not reals:
        return NONE
    return " to ".join(dict.fromkeys((amount(min(reals)), amount(max(reals)))))
