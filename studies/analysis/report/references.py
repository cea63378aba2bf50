"""The sections that say what a loss is to be compared with: token frequencies, and other seeds."""

from __future__ import annotations

import polars as pl

from specs.quantities import format_quantity
from studies.analysis.baselines import comparison, study_baselines
from studies.analysis.noise import seed_noise
from studies.analysis.page import card, escape, note, table
from studies.analysis.report.sections import Section
from studies.analysis.report.wording import difference, nats
from studies.analysis.results import Study, modality_title


def token_frequencies(study: Study) -> Section:
    """Held-out loss beside what token frequencies alone give."""
    baselines = study_baselines(study)
    compared = comparison(study, baselines)
    # Runs of most tokens may all be of one size, as where compute is equal.
    one_size = bool((compared["largest"] == compared["smallest"]).all())
    rows = [
        [
            escape(row["modality"]),
            format_quantity(row["tokens"]),
            nats(row["largest"]),
            *([] if one_size else [nats(row["smallest"])]),
            nats(row["unigram"]),
            nats(row["positioned"]),
            difference(row["largest"], row["positioned"]),
            nats(row["conditional"]),
            nats(row["last_unigram"]),
            nats(row["last_positioned"]),
            difference(row["conditional"], row["last_positioned"]),
        ]
        for row in compared.iter_rows(named=True)
    ]
    header = [
        "modality",
        "tokens",
        *(["nelbo"] if one_size else ["largest model", "smallest model"]),
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
        "Differences are from the position-known entropy, of the largest model at these tokens: below zero is better."
    )
    html = card("", table(header, rows))
    unknown = [name for name in study.modalities if name not in baselines]
    if unknown:
        html += note("No baseline", [f"{name}: its data's manifest was not found from here" for name in unknown])
    return Section("baselines", "Against token frequencies", text, html=html)


def seeds(results: pl.DataFrame) -> Section:
    """How far apart runs lie that differ in nothing but their seed."""
    noise = seed_noise(results)
    if noise.is_empty():
        text = (
            "Not measured: no configuration has two finished runs that differ in their seed alone. Differences between "
            "neighbouring sizes may lie within it."
        )
        return Section("seeds", "Seed noise", text)
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
    return Section("seeds", "Seed noise", text, html=card("", table(header, rows)))
