"""The Chinchilla law of each modality in words."""

from __future__ import annotations

from specs.quantities import format_quantity
from studies.analysis.fits import COUNTED, Fits
from studies.analysis.laws.chinchilla import Fit
from studies.analysis.laws.chinchilla_law import NAMES
from studies.analysis.results import modality_title
from studies.analysis.views.words import Found

SYMBOLS = dict(zip(NAMES, ("E", "A", "B", "α", "β"), strict=True))


def law_table(fits: Fits, title: str = "L(N, D) = E + A/N^α + B/D^β") -> Found:
    """The parameters with their intervals; why modalities have no law, and what is to be read with care."""
    rows = tuple(
        (modality_title(m), *(_estimate(f, name) for name in NAMES), str(f.n), f"{100 * f.residual:.2g} %")
        for m, f in fits.fits.items()
    )
    said = [f"N counts {COUNTED[fits.count]}." if fits.count else "", f"Intervals: {_by(fits)}." if _by(fits) else ""]
    warned = [f"{modality_title(m)}: {_symbols(weak)}" for m, f in fits.fits.items() for weak in f.warnings]
    warned += [f"{modality_title(m)}: not fitted: {why}" for m, why in fits.missing.items()]
    return Found(title, ("", *SYMBOLS.values(), "runs", "rms"), rows, tuple(filter(None, said)), tuple(warned))


def _by(fits: Fits) -> str:
    ways = {(f.by, f.drawn) for f in fits.fits.values() if f.intervals}
    return " or ".join(f"the central 90 % of a bootstrap of {drawn} by {by}" for by, drawn in sorted(ways))


def _estimate(fit: Fit, name: str) -> str:
    value = f"{getattr(fit.law, name):.4g}"
    if name not in fit.intervals:
        return value
    low, high = fit.intervals[name]
    return f"{value}\n{_short(low)}–{_short(high)}"


def _short(value: float) -> str:
    # Below what a loss can show, an interval's end is nothing.
    return "0" if abs(value) < 1e-6 else format_quantity(float(f"{value:.2g}"))


def _symbols(text: str) -> str:
    return text.replace("alpha", "α").replace("beta", "β")
