"""How loss falls with size and tokens: the three approaches of Chinchilla (arXiv 2203.15556), and what they predict.

Asked where a study has at least `FEWEST` sizes and as many token counts. Runs that see a source more than four times
are left out of the laws, since repeated tokens are worth less than new ones (arXiv 2305.16264); with them the law that
knows repeats is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars as pl

from studies.analysis.fits import COLUMN, Count, Fits, fit_results, fitted_rows
from studies.analysis.how import How
from studies.analysis.laws import envelope, isoflop, repeats
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.chinchilla import Fit
from studies.analysis.laws.envelope import Envelope
from studies.analysis.laws.held_out import Extrapolated, Predicted, cross_validate, extrapolate
from studies.analysis.laws.isoflop import IsoFlop, PowerLaw
from studies.analysis.laws.repeats import Repeats
from studies.analysis.results import Study
from studies.analysis.settings import fixed_settings, shape_of

FEWEST = 3
FEW = 300
"""Resamples of what stands beside the law: an interval of a prediction needs no more."""

T = TypeVar("T")


class Approaches(msgspec.Struct, frozen=True, kw_only=True):
    """What the runs of one modality say ("all" for the mix), each None where it cannot be told; `missing` says why.

    `rows` are the `Study.results()` of the runs that the laws are fitted to, `repeated` counts those left out for their
    repeats. `law` is approach 3, `isoflop` approach 2, `envelope` approach 1; `held_out` are configurations predicted
    by the law of the others, `extrapolated` the largest budgets by the law of the smaller ones.
    """

    modality: str
    rows: pl.DataFrame
    repeated: int
    law: Fit | None
    isoflop: IsoFlop | None
    envelope: Envelope | None
    held_out: Predicted | None
    extrapolated: Extrapolated | None
    repeats: Repeats | None
    missing: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "modality": self.modality,
            "runs": len(self.rows),
            "repeated": self.repeated,
            "allocation": None if self.law is None else _allocation(self.law),
            "isoflop": None if self.isoflop is None else _isoflop(self.isoflop),
            "envelope": None if self.envelope is None else _envelope(self.envelope),
            "held_out": None if self.held_out is None else _predicted(self.held_out),
            "extrapolated": None if self.extrapolated is None else _extrapolated(self.extrapolated),
            "repeats": None if self.repeats is None else self.repeats.summary(),
            "missing": self.missing,
        }


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """The approaches by modality, the mix first, and the laws of approach 3 as `fits`. N is what `count` says."""

    count: Count
    fits: Fits
    approaches: tuple[Approaches, ...]
    warnings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As plain values, ready for JSON; the laws of approach 3 stand in "fits" of `triptych fit`."""
        return {
            "n": COLUMN[self.count],
            "approaches": [one.plain() for one in self.approaches],
            "warnings": self.warnings,
        }


def scaling(study: Study, how: How) -> tuple[Scaling, ...]:
    """The scaling laws of a study: one thing, or none where the study does not ask or no run has finished."""
    runs = study.plan.runs
    if min(len({run.model.parameters.non_embedding for run in runs}), len({run.tokens for run in runs})) < FEWEST:
        return ()
    results = study.results()
    if results.is_empty():
        return ()
    setting = fixed_settings(runs, ("model", "tokens", "flops"), lambda run: (shape_of(run), run.tokens))
    others = sorted({path for values in setting.values() for path, _ in values})
    pooled = (f"the runs also differ in {', '.join(others)}: the laws take them together",) if others else ()
    return (scale(results, how, pooled),)


def scale(results: pl.DataFrame, how: How, warnings: tuple[str, ...] = ()) -> Scaling:
    """The scaling laws of a `Study.results()` table, also of several studies, or of other runs whose table has its
    columns `id`, `name`, `modality`, `point`, `params`, `params_non_embedding`, `tokens`, `flops`, `nelbo` and
    `epochs`."""
    fits = fit_results(results, how.count, how.bootstrap, how.seed, how.by)
    modalities = results["modality"].unique(maintain_order=True)
    found = [_approaches(results.filter(modality=modality), modality, fits, how) for modality in modalities]
    return Scaling(count=how.count, fits=fits, approaches=tuple(found), warnings=warnings)


def _approaches(rows: pl.DataFrame, modality: str, fits: Fits, how: How) -> Approaches:
    kept = fitted_rows(rows)
    N, D, loss, flops = (kept[name].to_numpy() for name in (COLUMN[how.count], "tokens", "nelbo", "flops"))
    groups = kept["point"].to_numpy()
    law = fits.fits.get(modality)
    missing = {"law": fits.missing[modality]} if modality in fits.missing else {}

    def told(name: str, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except (UnidentifiedError, ValueError) as error:
            missing[name] = str(error)
            return None

    drawn: dict[str, Any] = {"bootstrap": how.bootstrap, "seed": how.seed, "groups": groups, "by": how.by}
    few: dict[str, Any] = {**drawn, "bootstrap": min(how.bootstrap, FEW)}
    repeated = len(rows) - len(kept)
    return Approaches(
        modality=modality,
        rows=kept,
        repeated=repeated,
        law=law,
        isoflop=told("isoflop", lambda: isoflop.fit(N, D, loss, flops, law=law.law if law else None, **drawn)),
        envelope=told("envelope", lambda: envelope.fit(N, D, loss, flops, **drawn)),
        held_out=told("held_out", lambda: cross_validate(N, D, loss, groups=groups, bootstrap=0)) if law else None,
        extrapolated=told("extrapolated", lambda: extrapolate(N, D, loss, flops, **few)) if law else None,
        repeats=told("repeats", lambda: _repeats(rows, how)) if repeated else None,
        missing=missing,
    )


def _repeats(rows: pl.DataFrame, how: How) -> Repeats:
    """The law that knows repeats, of all runs; for the mix the most repeated source stands for all."""
    tokens = rows["tokens"].to_numpy()
    unique = tokens / np.maximum(rows["epochs"].to_numpy(), 1.0)
    N, loss, drawn = rows[COLUMN[how.count]].to_numpy(), rows["nelbo"], min(how.bootstrap, 500)
    return repeats.fit(N, tokens, unique, loss, bootstrap=drawn, seed=how.seed)


def _allocation(law: Fit) -> dict[str, Any]:
    allocation = law.allocation()
    return {"a": allocation.a, "b": allocation.b, "intervals": allocation.intervals}


def _power(law: PowerLaw | None) -> dict[str, Any] | None:
    if law is None:
        return None
    return {name: getattr(law, name) for name in ("exponent", "coefficient", "interval", "r2", "n")}


def _isoflop(found: IsoFlop) -> dict[str, Any]:
    return {
        "budgets": msgspec.to_builtins(found.budgets),
        "N": _power(found.N),
        "D": _power(found.D),
        "residual": found.residual,
        "bias": msgspec.to_builtins(found.bias),
        "warnings": found.warnings,
    }


def _envelope(found: Envelope) -> dict[str, Any]:
    return {
        "N": _power(found.N_law),
        "D": _power(found.D_law),
        "sizes": found.sizes,
        "optimal": found.optimal,
        "warnings": found.warnings,
    }


def _predicted(found: Predicted) -> dict[str, Any]:
    known = {name: getattr(found, name) for name in ("n", "rms", "bias", "coverage")}
    return {name: None if math.isnan(value) else value for name, value in known.items()} | {"warnings": found.warnings}


def _extrapolated(found: Extrapolated) -> dict[str, Any]:
    law = None if found.fit is None else found.fit.summary()
    return _predicted(found.predicted) | {"kept": found.kept, "reach": found.reach, "law": law}
