"""The simple noise scale of a study that monitors its gradient noise (arXiv 1812.06162)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import polars as pl

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.statistics import central
from studies.analysis.results import Study


class NoiseScale(msgspec.Struct, frozen=True, kw_only=True):
    """B_simple = tr Σ / |G|² in sequences (arXiv 1812.06162, equation 2.9), over the second half of the runs.

    Each of the two is a mean over all `estimates`; `medians` says that it is a mean of the runs' medians, weighted by
    their numbers of estimates, as times were drawn so that tr Σ has no mean. inf where |G|² is not above zero.
    `interval` is the central 90 % of a bootstrap over runs, None for one run.
    """

    simple: float
    interval: Interval | None
    runs: int
    estimates: int
    medians: bool


def noise_scale(study: Study, runs: Sequence[RunPlan], bootstrap: int = 1000, seed: int = 0) -> NoiseScale | None:
    """B_simple of the mix in `runs`; None where no gradient noise was estimated."""
    if not any(run.monitor.gradient_noise for run in runs):
        return None
    steps = pl.DataFrame({"id": [run.id for run in runs], "half": [run.steps / 2 for run in runs]})
    rows = (
        study.scan_metrics()
        .select("id", "step", signal=f"signal:{MIX}", noise=f"noise:{MIX}")
        .drop_nulls()
        .collect()
        .join(steps, on="id")
        .filter(pl.col("step") > pl.col("half"))
    )
    if rows.is_empty():
        return None
    # Without importance sampling of times tr Σ has no mean under these schedules: see `compiler.records.GradientNoise`.
    medians = any(
        run.time.importance == "none" and any(m.noise.kind in ("linear", "cosine") for m in run.modalities.values())
        for run in runs
    )
    both = pl.col("signal", "noise")
    table = rows.group_by("id", maintain_order=True).agg(both.median() if medians else both.mean(), pl.len())
    # A run's share in the sums is that of its estimates.
    signal, noise = (table[name].to_numpy() * table["len"].to_numpy() for name in ("signal", "noise"))
    drawn = np.random.default_rng(seed).integers(len(table), size=(bootstrap, len(table)))
    samples = _over(noise[drawn].sum(axis=1), signal[drawn].sum(axis=1))
    return NoiseScale(
        simple=float(_over(noise.sum(keepdims=True), signal.sum(keepdims=True))[0]),
        interval=central(samples) if len(table) > 1 else None,
        runs=len(table),
        estimates=len(rows),
        medians=medians,
    )


def _over(noise: Array, signal: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(signal > 0, noise / signal, np.inf)
