"""How charts look: one theme for light grounds, one for dark ones, and one for files that stand alone.

Colours are told apart by readers of every kind of colour vision: ordered things take viridis, without the end that the
ground would swallow, and named things the palette of Okabe and Ito, lightened or darkened where the ground asks for it.
"""

from __future__ import annotations

from typing import Any

FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
WIDTH = 720
"""Pixels that a figure is wide in a file, where it has no width of its own."""

_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07800", "#3a9ad0", "#5a6678", "#7a3b00"]
_DARK = ["#56b4e9", "#e98a3a", "#2fc79a", "#dd9cc3", "#f0e442", "#8fb8ff", "#a9b4c2", "#d9a066"]


def theme(dark: bool = False) -> dict[str, Any]:
    """A Vega-Lite config for charts on the page's ground."""
    ink, soft = ("#c3ccd8", "#2c3542") if dark else ("#3b4656", "#e6e9ee")
    text = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": None,
        "range": {
            "ordinal": {"scheme": "viridis", "extent": [0.3, 1] if dark else [0, 0.86]},
            "category": _DARK if dark else _LIGHT,
        },
        "axis": {"labelColor": ink, "titleColor": ink, "gridColor": soft, "domainColor": soft, "tickColor": soft,
                 "titlePadding": 8, "tickCount": 5, **text},
        "legend": {"labelColor": ink, "titleColor": ink, "orient": "bottom", "direction": "horizontal", "columns": 6,
                   "symbolStrokeWidth": 3,
                   "symbolBaseFillColor": ink, "symbolBaseStrokeColor": ink, **text},
        "title": {"color": ink, "subtitleColor": ink, "fontSize": 15, "anchor": "start", "subtitleFontSize": 12,
                  "offset": 14},
        "header": {"labelColor": ink, "titleColor": ink},
        "text": {"color": ink},
        "view": {"stroke": None},
    }  # fmt: skip


def printed() -> dict[str, Any]:
    """The theme of files: on white, framed, in a font that is on every machine which draws them."""
    return {**theme(), "background": "white", "padding": 16, "font": FONT}
