"""What questions found, as sections of a report."""

from __future__ import annotations

from dataclasses import replace

from studies.analysis.page import escape, note, table
from studies.analysis.report.sections import Card, Section
from studies.analysis.views.question import Answer, Block
from studies.analysis.views.words import Cell, Found, Verdict


def answer_section(answer: Answer) -> Section:
    """The section of one answer: a card for each thing found, its figures next to each other above its tables."""
    key = answer.question.key.replace("_", "-")
    cards = [_card(block, f"{key}-{k}") for k, block in enumerate(answer.blocks())]
    return Section(key, answer.question.title, answer.question.text, cards)


def _card(block: Block, key: str) -> Card:
    figures = [replace(figure, key=f"{key}-{figure.key}") for figure in block.figures]
    # The first table's title is the card's.
    html = "".join(
        (f"<h3>{escape(found.title)}</h3>" if k else "") + found_table(found) for k, found in enumerate(block.tables)
    )
    return Card(block.title, figures, html, "small" if block.small else "grid")


def found_table(found: Found) -> str:
    """A table as HTML, with what is to be said of it and where it is weak."""
    said = "".join(f'<p class="soft">{escape(one)}</p>' for one in found.said)
    warned = note("Read with care", found.warned) if found.warned else ""
    return table(found.header, [[_cell(cell) for cell in row] for row in found.rows]) + said + warned


def _cell(cell: Cell) -> str:
    if isinstance(cell, Verdict):
        return f'<span class="{"good" if cell.good else "bad"}">{escape(cell.text)}</span>'
    first, _, more = cell.partition("\n")
    # A span: signs here are no better or worse, and get no colour.
    return f"<span>{escape(first)}</span>" + (f"<small>{escape(more)}</small>" if more else "")
