"""What questions found, as sections of a page."""

from __future__ import annotations

from studies.analysis.page import card, chart, escape, note, section, table
from studies.analysis.views.question import Answer, Block, Figure
from studies.analysis.views.words import Cell, Found, Verdict


def answer_section(answer: Answer) -> str:
    """The HTML section of one answer: a card for each thing found, its figures next to each other above its tables."""
    key = answer.question.key.replace("_", "-")
    cards = [card(block.title, _block(block, f"{key}-{k}")) for k, block in enumerate(answer.blocks())]
    return section(answer.question.title, answer.question.text, "<br>".join(cards))


def _block(block: Block, key: str) -> str:
    figures = "".join(_figure(figure, f"{key}-{figure.key}") for figure in block.figures)
    drawn = f'<div class="{"small" if block.small else "grid"}">{figures}</div>' if figures else ""
    return drawn + "".join(_table(found) for found in block.tables)


def _figure(figure: Figure, identifier: str) -> str:
    heading = f"<h3>{escape(figure.title)}</h3>" if figure.title else ""
    return f"<div>{heading}{chart(figure.draw(), identifier)}</div>"


def _table(found: Found) -> str:
    said = "".join(f'<p class="soft">{escape(one)}</p>' for one in found.said)
    warned = note("Read with care", found.warned) if found.warned else ""
    return table(found.header, [[_cell(cell) for cell in row] for row in found.rows]) + said + warned


def _cell(cell: Cell) -> str:
    if isinstance(cell, Verdict):
        return f'<span class="{"good" if cell.good else "bad"}">{escape(cell.text)}</span>'
    first, _, more = cell.partition("\n")
    # A span: signs here are no better or worse, and get no colour.
    return f"<span>{escape(first)}</span>" + (f"<small>{escape(more)}</small>" if more else "")
