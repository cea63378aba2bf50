"""The laws of a table of runs: the Chinchilla fit for the mix and for each modality."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
import polars as pl

from compiler.plan import RunPlan
from compiler.records import MIX
from studies.analysis.laws.base import Array, UnidentifiedError
from studies.analysis.laws.chinchilla import Fit, fit
from studies.analysis.laws.repeats import within_epochs
from studies.analysis.laws.resampling import By

Count = Literal["non_embedding", "total"]
"""Which parameters are N: without the embeddings and the head, or all."""

COLUMN: dict[Count, str] = {"non_embedding": "params_non_embedding", "total": "params"}
COUNTED: dict[Count, str] = {
    "non_embedding": "non-embedding parameters",
    "total": "all parameters, embeddings included",
}


class Fits(msgspec.Struct, frozen=True, kw_only=True):
    """What could be fitted, by modality ("all" for the mix), and why the others could not. `count` says which
    parameters are N, None where a file's column does."""

    count: Count | None
    fits: dict[str, Fit]
    missing: dict[str, str]


def sizes_of(runs: Iterable[RunPlan], count: Count) -> Array:
    """N of each run, as the laws count it: (n,)."""
    return np.array([getattr(run.model.parameters, count) for run in runs], float)


def fitted_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of `Study.results()` that laws are fitted to: runs that see no source too often (arXiv 2305.16264)."""
    return rows.filter(pl.Series(within_epochs(rows["epochs"].fill_null(0.0).to_numpy()), dtype=pl.Boolean))


def fit_results(
    results: pl.DataFrame, count: Count = "non_embedding", bootstrap: int = 1000, seed: int = 0, by: By = "run"
) -> Fits:
    """Fit each modality of a `Study.results()` table, on its `fitted_rows`. D is the whole mix's tokens, for every
    modality; runs that differ in seed alone share a `point`."""
    fits, missing = {}, {}
    for modality in results["modality"].unique(maintain_order=True):
        rows = fitted_rows(results.filter(pl.col("modality") == modality))
        try:
            fits[modality] = fit(
                rows[COLUMN[count]], rows["tokens"], rows["nelbo"], bootstrap, seed, by=by, groups=rows["point"]
            )
        except (UnidentifiedError, ValueError) as error:
            missing[modality] = str(error)
    if results.is_empty():
        missing[MIX] = "no run has finished yet"
    return Fits(count=count, fits=fits, missing=missing)
