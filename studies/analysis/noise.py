"""How far apart runs lie that differ in nothing but their seed."""

from __future__ import annotations

import polars as pl


def seed_noise(results: pl.DataFrame) -> pl.DataFrame:
    """The pooled standard deviation of `nelbo` across seeds, per modality, from a `Study.results()` table.

    Columns: `modality`; `deviation`, sqrt(Σ (n_i - 1) s_i² / Σ (n_i - 1)) over the configurations i that have n_i ≥ 2
    seeds, in nats per token; `widest`, the largest gap between two seeds of one configuration; `configurations` and
    `runs`, how many went in. Modalities without a repeated seed have no row, so an empty table means: not measured.
    """
    return (
        results.group_by("modality", "point", maintain_order=True)
        .agg(
            pl.len().alias("runs"),
            pl.col("nelbo").var().alias("variance"),
            (pl.col("nelbo").max() - pl.col("nelbo").min()).alias("gap"),
        )
        .filter(pl.col("runs") >= 2)
        .group_by("modality", maintain_order=True)
        .agg(
            ((pl.col("variance") * (pl.col("runs") - 1)).sum() / (pl.col("runs") - 1).sum()).sqrt().alias("deviation"),
            pl.col("gap").max().alias("widest"),
            pl.len().alias("configurations"),
            pl.col("runs").sum(),
        )
    )
