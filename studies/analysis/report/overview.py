"""The head of the report: what the study is, how far it is, what went wrong, and all runs at a glance."""

from __future__ import annotations

from collections import Counter
from functools import partial

import polars as pl

from compiler.records import MIX
from specs.quantities import format_quantity
from studies.analysis.charts import overview as charts
from studies.analysis.page import escape, note
from studies.analysis.report.sections import Card, Section
from studies.analysis.report.wording import counted, nats
from studies.analysis.results import Study
from studies.analysis.views.question import Figure

_FIND = (
    '<div class="find"><label for="find">Select runs whose name, id or state has</label>'
    '<input type="search" id="find" autocomplete="off" placeholder="such as seed=0 done">'
    '<span id="found" role="status"></span></div>'
)


def head(study: Study, results: pl.DataFrame, used: pl.DataFrame, made: str) -> str:
    """Title, tiles, states, failures and warnings, as HTML."""
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in _tiles(study, results, used)
    )
    return (
        f"<h1>{escape(study.plan.study)}</h1>"
        f'<p class="soft">A Triptych scaling study, plan <code>{escape(study.plan.digest)}</code>; {escape(made)}</p>'
        f'<div class="tiles">{cells}</div>{_states(study)}{"".join(_notes(study))}'
    )


def overview(study: Study, results: pl.DataFrame) -> Section:
    """All runs; what is picked here is picked in every figure."""
    text = (
        "Drag over points to select runs: every figure then shows these, and the others faintly. A click or tap "
        "selects one run, with shift one more; Escape clears."
    )
    cards = []
    # Runs of one size and length would all stand at one point.
    if len(study.runs.unique(["params_non_embedding", "tokens"])) > 1:
        cards.append(Card(figures=[Figure("runs-planned", "All runs", partial(charts.planned_runs, study.runs))]))
    modality = MIX if MIX in set(results["modality"]) else next(iter(results["modality"]), None)
    if modality is not None:
        mix = "the mix" if _one_mix(study) else "the mix, of each run its own"
        of = mix if modality == MIX else modality
        cards.append(
            Card(figures=[Figure("runs-outcomes", f"Finished runs: {of}", partial(charts.outcomes, results, modality))])
        )
    return Section("overview", "Overview", text, cards, html=_FIND, beside=True)


def _tiles(study: Study, results: pl.DataFrame, used: pl.DataFrame) -> list[tuple[str, str]]:
    runs = study.runs
    done = Counter(runs["state"].to_list())["done"]
    tiles = [(f"{done} of {len(runs)}", "runs finished")]
    best = results.filter(pl.col("modality") == MIX).sort("nelbo").head(1)
    # Losses of different mixes are of different data: the least of them is not the best.
    if len(best) and _one_mix(study):
        error = best["standard_error"][0]
        within = "" if error is None else f" (± {error:.3f})"
        tiles.append((nats(best["nelbo"][0]), f"best nelbo of the mix, nats per token{within}"))
    trained, planned = float(used["flops"].sum()), float(runs["flops"].sum())
    taken, hours = float(used["hours"].sum()), sum(run.device_hours for run in study.plan.runs)
    return [
        *tiles,
        (_range(runs["params_non_embedding"]), "non-embedding parameters"),
        (_range(runs["tokens"]), "tokens per run"),
        (f"{planned:.2e}", f"training FLOPs planned, {100 * trained / planned if planned else 0:.0f} % done"),
        (f"{taken:.3g}", f"device-hours taken; {hours:.3g} planned for all"),
        (_listed(study.modalities), "modalities" if len(study.modalities) != 1 else "modality"),
    ]


def _one_mix(study: Study) -> bool:
    return all(run.mix == study.plan.runs[0].mix for run in study.plan.runs)


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{len(names)}: {', '.join(names[:5])}, …"


def _states(study: Study) -> str:
    counts = Counter(study.runs["state"].to_list())
    found = [(state, counts[state]) for state in charts.STATES if counts[state]]
    bars = "".join(f'<i class="{state}" style="flex:{n}"></i>' for state, n in found)
    said = "".join(f'<span><i class="{state}"></i>{n} {state}</span>' for state, n in found)
    return f'<div class="states" aria-hidden="true">{bars}</div><div class="states-said">{said}</div>'


def _notes(study: Study) -> list[str]:
    runs = study.runs
    notes = []
    failed = runs.filter(pl.col("state") == "failed")
    if len(failed):
        reasons = [
            f"{run['name'] or run['id']}: {run['reason'] or 'no reason was recorded'}"
            for run in failed.iter_rows(named=True)
        ]
        notes.append(note(counted(len(failed), "run") + " failed", reasons))
    waiting = set(runs["state"]) - {"done", "failed"}
    if waiting:
        notes.append('<p class="soft">Not all runs have ended: this shows what there was when it was written.</p>')
    if study.plan.warnings:
        notes.append(note("The plan warned", list(study.plan.warnings)))
    if study.skipped:
        lines = counted(study.skipped, "half-written line")
        notes.append(note(f"{lines} of the runs' records could not be read and left out.", []))
    return notes


def _range(values: pl.Series) -> str:
    ends = list(dict.fromkeys(format_quantity(v) for v in (values.min(), values.max())))  # type: ignore[arg-type]
    return "–".join(ends)
