"""`report.html`: what a study found, on one page that opens without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import altair as alt
import polars as pl

from compiler.files import write_atomically
from compiler.records import MIX
from specs.quantities import format_quantity
from studies.analysis.asked import answers
from studies.analysis.baselines import Baseline, comparison, study_baselines
from studies.analysis.blocks import answer_section
from studies.analysis.charts import runs as charts
from studies.analysis.fits import Count, Fits, fit_results
from studies.analysis.laws.chinchilla import NAMES, Fit
from studies.analysis.noise import seed_noise
from studies.analysis.page import card, chart, escape, note, page, section, table
from studies.analysis.results import Study, modality_title, read_study, write_results
from studies.analysis.views.question import How

SYMBOLS = dict(zip(NAMES, ("E", "A", "B", "α", "β"), strict=True))
_COUNTED: dict[Count, str] = {
    "non_embedding": "non-embedding parameters",
    "total": "all parameters, embeddings included",
}


def write_report(folder: str | Path, count: Count = "non_embedding", bootstrap: int = 1000) -> Path:
    """Read the study in `folder`, write its `results.parquet` and `report.html`, and give back the report's path.

    Raises `SpecError` where the folder holds no study. Runs that have not finished are named, not waited for.
    """
    study = read_study(folder)
    write_results(study)
    path = study.folder / "report.html"
    write_atomically(path, render(study, count, bootstrap).encode())
    return path


def render(study: Study, count: Count = "non_embedding", bootstrap: int = 1000) -> str:
    """The report of `study` as one HTML document; `count` says which parameters are the law's N.

    The answers to what the study asks come first (`asked.QUESTIONS`). Where it asks something, and no law can be
    fitted, the sections on scaling are left out: it was not made for them.
    """
    results = study.results()
    fits = fit_results(results, count, bootstrap)
    found = answers(study, How(count, bootstrap))
    scaling: list[str] = []
    if fits.fits or not found:
        scaling = [
            *(_against(results) if len(results) else []),
            _laws(results, fits),
            _baselines(study, study_baselines(study)) if len(results) else "",
        ]
    sections = [
        _summary(study, results),
        *map(answer_section, found),
        _loss_curves(study),
        *scaling,
        _seed_noise(results),
        _runs(study, results),
    ]
    return page(f"{study.plan.study} · Triptych", "\n".join(sections))


def _summary(study: Study, results: pl.DataFrame) -> str:
    runs = study.runs
    states = Counter(runs["state"].to_list())
    tiles = [
        (f"{states['done']} of {len(runs)}", "runs finished"),
        (_range(runs["params_non_embedding"]), "non-embedding parameters"),
        (_range(runs["tokens"]), "tokens per run"),
        (f"{runs['flops'].sum():.2e}", "training FLOPs in all"),
        (", ".join(study.modalities), "modalities" if len(study.modalities) != 1 else "modality"),
    ]
    best = results.filter(pl.col("modality") == MIX).sort("nelbo").head(1)
    if len(best):
        tiles.insert(1, (f"{best['nelbo'][0]:.3f}", "best nelbo of the mix, nats per token"))
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )
    notes = []
    failed = runs.filter(pl.col("state") == "failed")
    if len(failed):
        reasons = [
            f"{run['name'] or run['id']}: {run['reason'] or 'no reason was recorded'}"
            for run in failed.iter_rows(named=True)
        ]
        notes.append(note(_count(len(failed), "run") + " failed", reasons))
    waiting = {state: n for state, n in states.items() if state not in ("done", "failed")}
    if waiting:
        listed = ", ".join(f"{n} {state}" for state, n in waiting.items())
        notes.append(note(f"Not finished: {listed}. This report shows what there was when it was written.", []))
    if study.plan.warnings:
        notes.append(note("The plan warned", study.plan.warnings))
    if study.skipped:
        notes.append(
            note(
                f"{_count(study.skipped, 'half-written line')} of the runs' records could not be read and left out.", []
            )
        )
    return (
        f"<h1>{escape(study.plan.study)}</h1>"
        f'<p class="soft">A Triptych scaling study, plan <code>{escape(study.plan.digest)}</code></p>'
        f'<div class="tiles">{cells}</div>{"".join(notes)}'
    )


def _loss_curves(study: Study) -> str:
    text = (
        "The training objective as runs went, averaged over short stretches. Choose a modality from the menu; click a "
        "size in the legend to see it alone; drag to move, shift and scroll to zoom."
    )
    if study.metrics.is_empty():
        return section("Loss curves", "No run has logged a step yet.", "")
    return section("Loss curves", text, card("", chart(charts.loss_curves(study), "loss-curves")))


def _against(results: pl.DataFrame) -> list[str]:
    modalities = results["modality"].unique(maintain_order=True).to_list()

    def cards(draw: Callable[[pl.DataFrame, str], alt.LayerChart], kind: str) -> str:
        made = [card(modality_title(m), chart(draw(results, m), f"{kind}-{k}")) for k, m in enumerate(modalities)]
        return f'<div class="grid">{"".join(made)}</div>'

    held_out = (
        "Negative ELBO on held-out data, in nats per non-padding token of whole sequences, one noise level for all "
        "tokens. Points are runs, lines join a size's mean over seeds."
    )
    return [
        section("Held-out loss against compute", held_out, cards(charts.loss_against_flops, "flops")),
        section(
            "Held-out loss against tokens",
            "The same runs over their training tokens (of all modalities together), by size.",
            cards(charts.loss_against_tokens, "tokens"),
        ),
    ]


def _laws(results: pl.DataFrame, fits: Fits) -> str:
    text = (
        "L(N, D) = E + A / N<sup>α</sup> + B / D<sup>β</sup>, fitted by Huber loss (δ = 0.001) on log L. "
        f"N counts {_COUNTED[fits.count]}; D counts the tokens of all modalities together. Bands and brackets hold the "
        "central 90 % of a bootstrap over runs; bands are of the law, without a single run's noise."
    )
    parts = []
    if fits.missing:
        parts.append(note("Not fitted", [f"{modality_title(m)}: {why}" for m, why in fits.missing.items()]))
    if fits.fits:
        drawn = [
            card(modality_title(m), chart(charts.law(results, m, f, fits.count), f"law-{k}"))
            for k, (m, f) in enumerate(fits.fits.items())
        ]
        parts.append(f'<div class="grid">{"".join(drawn)}</div><br>')
        rows = [
            [
                escape(modality_title(m)),
                *(_estimate(f, name) for name in NAMES),
                str(f.n),
                f"{f.objective:.3g}",
                f"{100 * f.residual:.2g} %",
            ]
            for m, f in fits.fits.items()
        ]
        header = ["modality", *SYMBOLS.values(), "runs", "objective", "rms error of L"]
        parts.append(card("", table(header, rows)))
        warned = [f"{modality_title(m)}: {_symbols(said)}" for m, f in fits.fits.items() for said in f.warnings]
        if warned:
            parts.append(note("Read with care", warned))
    return section("The law", text, "".join(parts))


def _baselines(study: Study, baselines: dict[str, Baseline]) -> str:
    rows = []
    for row in comparison(study, baselines).iter_rows(named=True):
        rows.append(
            [
                escape(row["modality"]),
                format_quantity(row["tokens"]),
                _nats(row["largest"]),
                _nats(row["smallest"]),
                _nats(row["unigram"]),
                _nats(row["positioned"]),
                _difference(row["largest"], row["positioned"]),
                _nats(row["conditional"]),
                _nats(row["last_unigram"]),
                _nats(row["last_positioned"]),
                _difference(row["conditional"], row["last_positioned"]),
            ]
        )
    header = [
        "modality",
        "tokens",
        "largest model",
        "smallest model",
        "unigram entropy",
        "position known",
        "difference",
        "last segment",
        "its unigram entropy",
        "its position known",
        "difference",
    ]
    text = (
        "Held-out nelbo at the largest token count against what token frequencies alone give, in nats per token. "
        "“Position known”: the entropy when the place inside a frame of interleaved codes is known, the fairer "
        "baseline. The last four columns are of the last segment (image codes, speech codes) given the clean rest. "
        "Differences are of the largest model from the position-known entropy: below zero is better."
    )
    parts = [card("", table(header, rows))]
    unknown = [name for name in study.modalities if name not in baselines]
    if unknown:
        parts.append(note("No baseline", [f"{name}: its data's manifest was not found from here" for name in unknown]))
    return section("Against token frequencies", text, "".join(parts))


def _seed_noise(results: pl.DataFrame) -> str:
    noise = seed_noise(results)
    if noise.is_empty():
        text = (
            "Not measured: no configuration has two finished runs that differ in their seed alone. Differences between "
            "neighbouring sizes may lie within it."
        )
        return section("Seed noise", text, "")
    text = (
        "The pooled standard deviation of held-out nelbo between runs that differ in their seed alone. Two runs that "
        "differ by less than about twice this cannot be told apart."
    )
    rows = [
        [
            escape(modality_title(row["modality"])),
            f"{row['deviation']:.4f}",
            f"{row['widest']:.4f}",
            str(row["configurations"]),
            str(row["runs"]),
        ]
        for row in noise.iter_rows(named=True)
    ]
    header = ["modality", "standard deviation, nats", "widest gap, nats", "configurations", "runs"]
    return section("Seed noise", text, card("", table(header, rows)))


def _runs(study: Study, results: pl.DataFrame) -> str:
    wide = results.pivot("modality", index="id", values="nelbo") if len(results) else pl.DataFrame({"id": []})
    by_id = {row["id"]: row for row in wide.iter_rows(named=True)}
    names = [m for m in (MIX, *study.modalities) if m in wide.columns]
    rows = [
        [
            escape(run["name"] or "base") + f"<small>{escape(run['id'])}</small>",
            escape(run["state"]),
            f"{run['width']} × {run['depth']}",
            format_quantity(run["params_non_embedding"]),
            format_quantity(run["params"]),
            format_quantity(run["tokens"]),
            f"{run['steps']:,}",
            str(run["batch_physical"]),
            f"{run['flops']:.2e}",
            *(_nats(by_id.get(run["id"], {}).get(m)) for m in names),
        ]
        for run in study.runs.iter_rows(named=True)
    ]
    header = [
        "run",
        "state",
        "width × depth",
        "non-embedding",
        "parameters",
        "tokens",
        "steps",
        "batch",
        "FLOPs",
        *map(modality_title, names),
    ]
    listing = card("", table(header, rows, numbers=len(header) - 2))
    return f'<details class="more"><summary>All {_count(len(rows), "run")}</summary>{listing}</details>'


def _symbols(text: str) -> str:
    return text.replace("alpha", "α").replace("beta", "β")


def _estimate(fit: Fit, name: str) -> str:
    value = _number(getattr(fit.law, name))
    if name not in fit.intervals:
        return value
    low, high = fit.intervals[name]
    return f"{value}<small>{_number(low)} to {_number(high)}</small>"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e3 <= value < 1e7 else f"{value:.3g}"


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _difference(value: float | None, baseline: float | None) -> str:
    if value is None or baseline is None:
        return "–"
    return f"{'−' if value < baseline else '+'}{abs(value - baseline):.3f}"


def _range(values: pl.Series) -> str:
    ends = list(dict.fromkeys(format_quantity(v) for v in (values.min(), values.max())))  # type: ignore[arg-type]
    return "–".join(ends)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
