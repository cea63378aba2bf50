"""The report as one HTML document, and as a file."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from pathlib import Path

from compiler.files import write_atomically
from studies.analysis.how import How
from studies.analysis.page import chart, escape, page, section
from studies.analysis.report.build import report_sections
from studies.analysis.report.sections import Card, Section, figures
from studies.analysis.results import Study, read_study, write_results


def write_report(folder: str | Path, how: How = How()) -> Path:  # noqa: B008
    """Read the study in `folder`, write its `results.parquet` and `report.html`, and give back the report's path.

    Raises `SpecError` where the folder holds no study. Runs that have not finished are named, not waited for.
    """
    study = read_study(folder)
    write_results(study)
    path = study.folder / "report.html"
    write_atomically(path, render(study, how).encode())
    return path


def render(study: Study, how: How = How(), live: str = "") -> str:  # noqa: B008
    """The report of `study` as one HTML document; `live` is the version that a served page shows (`serve`)."""
    made = f"made {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"
    head, sections = report_sections(study, how, made)
    named = figures(sections)
    written: set[str] = set()

    def shown(one: Card) -> str:
        drawn = []
        for identifier, words, figure in islice(named, len(one.figures)):
            heading = f"<h3>{escape(figure.title)}</h3>" if figure.title else ""
            drawn.append(f"<div>{heading}{chart(figure.draw(), identifier, words, written)}</div>")
        heading = f"<h3>{escape(one.title)}</h3>" if one.title else ""
        together = f'<div class="{one.layout}">{"".join(drawn)}</div>' if drawn else ""
        return f'<div class="card">{heading}{one.first}{together}{one.html}</div>'

    def part(one: Section) -> str:
        cards = "".join(map(shown, one.cards))
        cards = f'<div class="grid">{cards}</div>' if cards and one.beside else cards
        return section(one.title, one.text, one.html + cards, one.key)

    body = "\n".join([head, *map(part, sections)])
    return page(f"{study.plan.study} · Triptych", body, [(one.key, one.title) for one in sections], live)
