"""What runs cost, beside what was planned, and how well they used their devices."""

from __future__ import annotations

import polars as pl

from studies.analysis.results import Study


def utilisation(study: Study) -> pl.DataFrame:
    """A row for each run, in the plan's order; null in what is measured where no step is logged.

    Columns: `id`, `run`, `state`, `params_non_embedding`; `share`, of its steps that are done; `planned_flops` and
    `flops` (model FLOPs planned and done), `planned_hours` and `hours` (device-hours planned for the steps that are
    done, and taken: training time, without evaluation and start), `planned_tokens` (for those steps) and `tokens_seen`;
    `tokens_per_second`, `mfu`, `data_wait` and `padding`, means over the logged steps but the first ones, as in
    `Study.utilisation`.
    """
    plan = pl.DataFrame(
        [(run.id, run.parallel.ranks, run.device_hours) for run in study.plan.runs],
        schema={"id": pl.String, "ranks": pl.Int64, "device_hours": pl.Float64},
        orient="row",
    )
    logged = study.utilisation().rename({"step": "logged", "tokens": "tokens_seen"})
    share = (pl.col("logged") / pl.col("steps")).clip(0, 1)
    return (
        study.runs.select("id", "state", "params_non_embedding", "steps", "flops", "tokens", run="name")
        .join(plan, on="id", maintain_order="left")
        .join(logged, on="id", how="left", maintain_order="left")
        .select(
            "id",
            "run",
            "state",
            "params_non_embedding",
            share.alias("share"),
            pl.col("flops").alias("planned_flops"),
            (pl.col("flops") * share).alias("flops"),
            (pl.col("device_hours") * share).alias("planned_hours"),
            (pl.col("seconds") * pl.col("ranks") / 3600).alias("hours"),
            (pl.col("tokens") * share).alias("planned_tokens"),
            "tokens_seen",
            "tokens_per_second",
            "mfu",
            "data_wait",
            "padding",
        )
    )
