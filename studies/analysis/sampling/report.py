"""The report of a sampling study: one HTML document, with the pictures and sounds that were drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath

from compiler.files import write_atomically
from compiler.plan import Id
from compiler.sampling import SamplingPoint
from studies.analysis.page import card, chart, escape, note, page, section
from studies.analysis.report.answers import found_table
from studies.analysis.report.wording import counted
from studies.analysis.samples import Sample
from studies.analysis.sampling.charts import diversity_chart, pareto_chart
from studies.analysis.sampling.examples import read_examples
from studies.analysis.sampling.front import LEAST_DIVERSITY, Setting, TaskFront, fronts, varied
from studies.analysis.sampling.results import SamplingStudy, read_sampling, table
from studies.analysis.sampling.show import (
    amount,
    choice_words,
    controls_table,
    defaults_table,
    quality_title,
    roles,
    scores_table,
    setting_words,
)

_MOST_ROWS = 12
"""Settings that a table shows at once; of more, those on the front, the others folded away."""
_MOST_VALUES = 12

_ABOUT = (
    "Quality is what a judge says that has never seen the model; brackets and bars hold 90 %. A call is one evaluation "
    "of the network for one sample: a guided step counts twice. A setting is on the front if no other is as good with "
    f"as few calls and ahead in one of them; those below {LEAST_DIVERSITY:g} of real data’s diversity take no part. "
    "The default is the setting of fewest calls within one standard error of the best."
)


def write_sampling_report(folder: str | Path) -> Path:
    """Read the sampling study in `folder`, write its `results.parquet` and `report.html`, and give back the report's
    path. Raises `SpecError` where the folder holds none. Points without results are named, not waited for."""
    study = read_sampling(folder)
    data = io.BytesIO()
    table(study).write_parquet(data)
    write_atomically(study.folder / "results.parquet", data.getvalue())
    path = study.folder / "report.html"
    write_atomically(path, render(study).encode())
    return path


def render(study: SamplingStudy) -> str:
    """The report of `study` as one HTML document."""
    found = fronts(study)
    looked_at = {setting.points[0] for front in found for setting, _ in roles(front)}
    examples, left_out = read_examples(study.folder, [judged for judged in study.points if judged.id in looked_at])
    written: set[str] = set()
    parts = [
        section(front.task, _task_text(front, study), _task(front, f"task-{k}", examples, written), f"task-{k}")
        for k, front in enumerate(found)
    ]
    left = note("Examples left out", left_out) if left_out else ""
    anchors = [(f"task-{k}", front.task) for k, front in enumerate(found)]
    return page(f"{study.plan.study} · Triptych", "\n".join([_head(study, found), *parts, left]), anchors)


def _head(study: SamplingStudy, found: Sequence[TaskFront]) -> str:
    """Title, tiles, what was asked, the defaults found, and what is missing."""
    plan = study.plan
    made = f"made {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in _tiles(study)
    )
    text = f"A Triptych sampling study, plan <code>{escape(plan.digest)}</code>; {escape(made)}"
    asked = card("What was asked", f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in _asked(study))}</ul>")
    chosen = (
        card("Defaults found", f'{found_table(defaults_table(found))}<p class="soft">{_ABOUT}</p>') if found else ""
    )
    return (
        f'<h1>{escape(plan.study)}</h1><p class="soft">{text}</p><div class="tiles">{cells}</div><br>'
        f"{''.join(_notes(study))}{chosen}{asked}"
    )


def _tiles(study: SamplingStudy) -> list[tuple[str, str]]:
    plan = study.plan
    hours = sum(judged.seconds for judged in study.points) / 3600
    ns = sorted({point.n for point in plan.points})
    return [
        (f"{len(study.points)} of {len(plan.points)}", "points judged"),
        (f"{len(study.tasks)}", "task" if len(study.tasks) == 1 else "tasks"),
        (f"{len(plan.runs)}", "trained run" if len(plan.runs) == 1 else "trained runs"),
        ("–".join(dict.fromkeys(f"{n:,}" for n in (*ns[:1], *ns[-1:]))), "samples a point"),
        (amount(hours), "hours of sampling"),
    ]


def _asked(study: SamplingStudy) -> list[str]:
    """The runs, and what the axes set, a line each."""
    runs = [study.plan.names.get(run) or run for run in study.plan.runs]
    paths = dict.fromkeys(path for point in study.plan.points for path in point.point)
    return [f"runs: {_listed(runs)}", *(f"{path}: {_listed(_values(study.plan.points, path))}" for path in paths)]


def _values(points: Sequence[SamplingPoint], path: str) -> list[str]:
    values = dict.fromkeys(point.point[path] for point in points if path in point.point)
    return ["null" if value is None else str(value) for value in values]


def _listed(values: Sequence[str]) -> str:
    more = f", … ({len(values)} in all)" if len(values) > _MOST_VALUES else ""
    return ", ".join(values[:_MOST_VALUES]) + more


def _notes(study: SamplingStudy) -> list[str]:
    notes = []
    if study.broken:
        notes.append(note(f"Results of {counted(len(study.broken), 'point')} cannot be used", study.broken))
    if study.missing:
        names = [point.name or point.id for point in study.missing]
        notes.append(note(f"{counted(len(names), 'point')} without results yet", names))
    if study.plan.warnings:
        notes.append(note("The plan warned", list(study.plan.warnings)))
    return notes


def _task_text(front: TaskFront, study: SamplingStudy) -> str:
    names = [study.plan.names.get(run) or run for run in front.runs]
    on = f"on {names[0]}" if len(names) == 1 else f"means over {len(names)} runs, {_listed(names)}"
    return escape(f"Judged by {quality_title(front)}; {on}.")


def _task(front: TaskFront, key: str, examples: dict[Id, list[Sample]], written: set[str]) -> str:
    said = "".join(f"<p>{escape(sentence)}.</p>" for sentence in choice_words(front))
    made = chart(pareto_chart(front), f"{key}-calls", f"{front.task}: quality against calls", written)
    drawn = card("Quality against network calls", made)
    if any(setting.diversity is not None for setting in front.settings):
        made = chart(diversity_chart(front), f"{key}-diversity", f"{front.task}: quality against diversity", written)
        drawn += card("Quality against diversity", made)
    left = note("Not compared", front.left_out) if front.left_out else ""
    controls = controls_table(front)
    more = card("Controls", found_table(controls)) if controls else ""
    return f'{card("", said)}{left}<div class="grid">{drawn}</div>{_settings(front)}{more}{_examples(front, examples)}'


def _settings(front: TaskFront) -> str:
    """The table of all scores, long ones folded."""
    if len(front.settings) <= _MOST_ROWS:
        return card("All settings", found_table(scores_table(front, front.settings)))
    first = [one for one in front.settings if one.state == "front" or one == front.choice.setting]
    summary = f"All {counted(len(front.settings), 'setting')}"
    every = f'<div class="card">{found_table(scores_table(front, front.settings))}</div>'
    return (
        card("Settings on the front", found_table(scores_table(front, first)))
        + f'<details class="more"><summary>{summary}</summary>{every}</details>'
    )


def _examples(front: TaskFront, examples: dict[Id, list[Sample]]) -> str:
    """What the settings that are worth a look have drawn, a card for each."""
    fields = varied(front.settings)
    cards = [
        _drawn(setting_words(setting.sampler, fields), role, setting, examples[setting.points[0]])
        for setting, role in roles(front)
        if setting.points[0] in examples
    ]
    return f'<div class="grid">{"".join(cards)}</div>' if cards else ""


def _drawn(name: str, role: str, setting: Setting, samples: Sequence[Sample]) -> str:
    quality = setting.quality
    real = "" if quality.real is None else f", real data {amount(quality.real)}"
    said = f"{name}: {amount(setting.calls)} calls a sample, {quality.name} {amount(quality.value)}{real}."
    wide = "".join(_example(sample, name) for sample in samples if sample.kind != ".wav")
    sounds = "".join(_example(sample, name) for sample in samples if sample.kind == ".wav")
    close = f'<div class="close">{sounds}</div>' if sounds else ""
    return card(f"Drawn: {role}", f'<p class="soft">{escape(said)}</p>{wide}{close}')


def _example(sample: Sample, setting: str) -> str:
    encoded = base64.b64encode(sample.data).decode()
    if sample.kind == ".txt":
        caption = "In brackets, what was asked" if sample.data.startswith(b"[") else "Texts, a paragraph each"
        text, what = escape(sample.data.decode(errors="replace")), escape(f"Text by {setting}")
        shown = f'<pre tabindex="0" role="region" aria-label="{what}">{text}</pre>'
    elif sample.kind == ".png":
        caption = "Under each picture, what was asked"
        what = escape(f"Pictures by {setting}, with what was asked")
        shown = f'<img class="sheet" src="data:image/png;base64,{encoded}" alt="{what}">'
    else:
        caption = _asked_of(sample.name)
        what = escape(f"{caption}, by {setting}")
        shown = f'<audio controls preload="none" aria-label="{what}" src="data:audio/wav;base64,{encoded}"></audio>'
    return f'<figure class="sample"><figcaption>{escape(caption)}</figcaption>{shown}</figure>'


def _asked_of(name: str) -> str:
    """What a sound was asked to say, by its file, such as text-to-speech.03.three-seven.wav."""
    return PurePosixPath(name).stem.rpartition(".")[2].replace("-", " ").replace("_", " ")
