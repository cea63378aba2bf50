"""The laws of a study: the Chinchilla fit for the mix and for each modality."""

from __future__ import annotations

from typing import Literal

import msgspec
import polars as pl

from compiler.records import MIX
from studies.analysis.laws.chinchilla import Fit, UnidentifiedError, fit
from studies.analysis.laws.repeats import MOST_EPOCHS

Count = Literal["non_embedding", "total"]
"""Which parameters are N: without the embeddings and the head, or all."""

COLUMN: dict[Count, str] = {"non_embedding": "params_non_embedding", "total": "params"}


def fitted_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of `Study.results()` that laws are fitted to: runs that see no source too often (arXiv 2305.16264)."""
    return rows.filter(pl.col("epochs").fill_null(0.0) <= MOST_EPOCHS)


class Fits(msgspec.Struct, frozen=True, kw_only=True):
    """What could be fitted, by modality ("all" for the mix), and why the others could not."""

    count: Count
    fits: dict[str, Fit]
    missing: dict[str, str]


def fit_results(results: pl.DataFrame, count: Count = "non_embedding", bootstrap: int = 1000, seed: int = 0) -> Fits:
    """Fit each modality of a `Study.results()` table, on its `fitted_rows`. D is the whole mix's tokens, for every
    modality."""
    fits, missing = {}, {}
    for modality in results["modality"].unique(maintain_order=True):
        rows = fitted_rows(results.filter(pl.col("modality") == modality))
        try:
            fits[modality] = fit(rows[COLUMN[count]], rows["tokens"], rows["nelbo"], bootstrap, seed)
        except (UnidentifiedError, ValueError) as error:
            missing[modality] = str(error)
    if results.is_empty():
        missing[MIX] = "no run has finished yet"
    return Fits(count=count, fits=fits, missing=missing)
