"""The list of all runs: its rows are data, from which the page makes those that are looked at."""

from __future__ import annotations

import msgspec
import polars as pl

from compiler.records import MIX
from studies.analysis.figures import encoded
from studies.analysis.page import data
from studies.analysis.report.sections import Section
from studies.analysis.report.wording import counted
from studies.analysis.results import Study, modality_title

_COLUMNS = (
    ("run", "run", "text"),
    ("state", "state", "text"),
    ("shape", "width × depth", "text"),
    ("params_non_embedding", "non-embedding", "quantity"),
    ("params", "parameters", "quantity"),
    ("tokens", "tokens", "quantity"),
    ("steps", "steps", "count"),
    ("batch_physical", "batch", "count"),
    ("flops", "FLOPs", "power"),
    ("hours", "device-hours", "quantity"),
    ("tokens_per_second", "tokens/s", "quantity"),
    ("mfu", "MFU", "share"),
)


def listing(study: Study, results: pl.DataFrame, used: pl.DataFrame) -> Section:
    """Every run with its plan, its cost and its held-out losses."""
    names = [m for m in (MIX, *study.modalities) if m in set(results["modality"])]
    # Columns are numbered: a modality may be called as one of those above.
    losses = [
        results.filter(pl.col("modality") == m).select("id", pl.col("nelbo").alias(f"nelbo-{k}"))
        for k, m in enumerate(names)
    ]
    rows = study.runs.with_columns(
        run=pl.when(pl.col("name") == "").then(pl.lit("base")).otherwise("name"),
        shape=pl.format("{} × {}", "width", "depth"),
    ).join(used.select("id", "hours", "tokens_per_second", "mfu"), on="id", how="left", maintain_order="left")
    for loss in losses:
        rows = rows.join(loss, on="id", how="left", maintain_order="left")
    columns = [*_COLUMNS, *((f"nelbo-{k}", modality_title(m), "nats") for k, m in enumerate(names))]
    columns = [column for column in columns if not rows[column[0]].is_null().all()] if len(rows) else columns
    head = [{"key": key, "title": title, "kind": kind} for key, title, kind in columns]
    table = encoded(rows.select("id", *(key for key, _, _ in columns)))
    content = data(msgspec.json.encode({"head": head, "table": msgspec.Raw(table)}), id="runs-data")
    html = (
        f'{content}<details class="more" id="run-list"><summary>All {counted(len(rows), "run")}</summary>'
        '<div class="card runs"></div></details>'
    )
    return Section("runs", "Runs", html=html)
