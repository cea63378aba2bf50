"""What a report is made of, before anything is drawn: sections of cards of figures. The page and `export` share it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from studies.analysis.views.question import Figure

Layout = Literal["grid", "close", "small"]


@dataclass(frozen=True)
class Card:
    """A framed part: `first`, figures next to each other (`close` or `small` where many stand in a row), then `html`.

    The keys of the figures are unique in the whole report.
    """

    title: str = ""
    figures: Sequence[Figure] = ()
    html: str = ""
    layout: Layout = "grid"
    first: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report: `key` is its anchor, `title` plain text, `text` (what it shows) and `html` (which stands
    above the cards) are HTML. Cards stand one above the other, or next to each other where there is room (`beside`)."""

    key: str
    title: str
    text: str = ""
    cards: Sequence[Card] = ()
    html: str = ""
    beside: bool = False


def figures(sections: Sequence[Section]) -> Iterator[tuple[str, str, Figure]]:
    """All figures in their order: the identifier that names the figure's element and its files, what the figure is
    called in words, and the figure. Identifiers are safe as file names and differ, also without regard to case."""
    taken: set[str] = set()
    for section in sections:
        for card in section.cards:
            for figure in card.figures:
                name = plain = re.sub(r"[^A-Za-z0-9._-]+", "-", figure.key).strip("-.")[:80] or "figure"
                count = 1
                while name.lower() in taken:
                    count += 1
                    name = f"{plain}-{count}"
                taken.add(name.lower())
                words = dict.fromkeys(filter(None, (section.title, card.title, figure.title)))
                yield name, ", ".join(words), figure
