"""What questions found, as sections of a report."""

from __future__ import annotations

import re
from dataclasses import replace

from studies.analysis.page import escape, note, table
from studies.analysis.report.sections import Card, Section
from studies.analysis.views.question import Answer, Block
from studies.analysis.views.words import NONE, Cell, Found, Verdict


def answer_section(answer: Answer) -> Section:
    """The section of one answer: a card for each thing found, its figures next to each other above its tables."""
    key = answer.question.key.replace("_", "-")
    title = answer.question.title
    cards = [_card(block, f"{key}-{k}", title) for k, block in enumerate(answer.blocks())]
    return Section(key, title, answer.question.text, cards)


def _card(block: Block, key: str, section: str) -> Card:
    """What was found first: the first table, whose title is the card's unless the section says it; then figures, and
    only then where that table is weak, which may be long."""
    figures = [replace(figure, key=f"{key}-{figure.key}") for figure in block.figures]
    first, more = block.tables[:1], block.tables[1:]
    html = "".join(map(_warned, first))
    html += "".join(f"<h3>{escape(found.title)}</h3>{found_table(found)}" for found in more)
    title = "" if block.title.lower() in section.lower() else block.title
    return Card(title, figures, html, "small" if block.small else "grid", "".join(map(_rows_and_said, first)))


def found_table(found: Found) -> str:
    """A table as HTML, with what is to be said of it and where it is weak."""
    return _rows_and_said(found) + _warned(found)


def _rows_and_said(found: Found) -> str:
    sentences = (one if one.endswith(".") else f"{one}." for one in found.said)
    said = f'<p class="soft">{escape(" ".join(sentences))}</p>' if found.said else ""
    shown = table(found.header, [[_cell(cell) for cell in row] for row in found.rows], _numbers(found))
    return (shown if found.rows else "") + said


def _warned(found: Found) -> str:
    return note("Read with care", found.warned) if found.warned else ""


def _numbers(found: Found) -> set[int]:
    """The columns that hold numbers, perhaps with words behind them."""

    def is_number(cell: Cell) -> bool:
        return isinstance(cell, str) and bool(re.match(r"[<×+−-]?\s*[0-9∞](?!.? [A-Za-z]{3})", cell))

    columns = enumerate(zip(*found.rows, strict=True))
    return {
        k for k, cells in columns if k and 2 * sum(map(is_number, cells)) >= sum(c not in ("", NONE) for c in cells)
    }


def _cell(cell: Cell) -> str:
    if isinstance(cell, Verdict):
        return f'<span class="{"good" if cell.good else "bad"}">{escape(cell.text)}</span>'
    first, _, more = cell.partition("\n")
    # A span: signs here are no better or worse, and get no colour.
    return f"<span>{escape(first)}</span>" + (f"<small>{escape(more)}</small>" if more else "")
