"""The Chinchilla law of each modality in words."""

from __future__ import annotations

from specs.quantities import format_quantity
from studies.analysis.fits import COUNTED, Fits
from studies.analysis.laws.chinchilla import Fit
from studies.analysis.laws.chinchilla_law import NAMES
from studies.analysis.results import modality_title
from studies.analysis.views.words import Found, together

SYMBOLS = dict(zip(NAMES, ("E", "A", "B", "α", "β"), strict=True))
_NOTHING = 1e-6
"""Below what a loss can show."""


def law_table(fits: Fits, title: str = "L(N, D) = E + A/N^α + B/D^β") -> Found:
    """The parameters with their intervals; why modalities have no law, and what is to be read with care."""
    rows = tuple(
        (modality_title(m), *(_estimate(f, name) for name in NAMES), str(f.n), f"{100 * f.residual:.2g} %")
        for m, f in fits.fits.items()
    )
    said = [f"N counts {COUNTED[fits.count]}." if fits.count else "", f"Intervals: {_by(fits)}." if _by(fits) else ""]
    warned = together((modality_title(m), weak) for m, f in fits.fits.items() for weak in f.warnings)
    warned += together((modality_title(m), f"not fitted: {why}") for m, why in fits.missing.items())
    return Found(title, ("", *SYMBOLS.values(), "runs", "rms"), rows, tuple(filter(None, said)), tuple(warned))


def _by(fits: Fits) -> str:
    ways: dict[str, list[str]] = {}
    for m, f in fits.fits.items():
        if f.intervals:
            ways.setdefault(f"{f.drawn} by {f.by}", []).append(modality_title(m))
    whose = [way + (f" ({', '.join(names)})" if len(ways) > 1 else "") for way, names in ways.items()]
    return f"the central 90 % of a bootstrap of {', of '.join(whose)}" if whose else ""


def _estimate(fit: Fit, name: str) -> str:
    point = getattr(fit.law, name)
    value = "0" if abs(point) < _NOTHING else f"{point:.4g}"
    if name not in fit.intervals:
        return value
    low, high = fit.intervals[name]
    ends = dict.fromkeys((_short(low), _short(high)))
    return f"{value}\n{' to '.join(ends)}"


def _short(value: float) -> str:
    return "0" if abs(value) < _NOTHING else format_quantity(float(f"{value:.2g}"))
