"""Did you mean."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MOST = 16
"""Names that are listed where none is near."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """What to do about unknown `word`: the nearest of `known`, or else all of them."""
    names = list(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    shown = ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
    return f"use one of: {shown}" if names else "remove it"
