"""All sections of a study's report, in their order."""

from __future__ import annotations

import altair as alt

from studies.analysis.asked import answers, laws_of
from studies.analysis.how import How
from studies.analysis.report import costs, listing, overview, references, samples, scaling, training
from studies.analysis.report.answers import answer_section
from studies.analysis.report.sections import Section, figures
from studies.analysis.results import Study
from studies.analysis.utilisation import utilisation


def report_sections(study: Study, how: How, made: str = "") -> tuple[str, list[Section]]:
    """The report's head as HTML, and its sections, none of their figures drawn yet.

    `made` says when and from what the report is. What was found comes first: the answers to what the study asks
    (`asked.QUESTIONS`), and where it asks for scaling laws, the sections on these; then the runs that it is found from.
    """
    results = study.results()
    used = utilisation(study)
    found = answers(study, how)
    laws = laws_of(found)
    scaled: list[Section] = []
    if laws is not None:
        scaled = [scaling.law(laws), *scaling.compute_optimal(laws), *scaling.residuals(laws)]
    elif not found:
        scaled = [scaling.unfitted(results, how)]
    # Where a study was made for something else, how its loss scales says little.
    plain = bool(len(results)) and (laws is not None or not found)
    return overview.head(study, results, used, made), [
        *map(answer_section, found),
        *scaled,
        overview.overview(study, results),
        *(scaling.held_out(results) if plain else []),
        training.loss_curves(study),
        *([references.token_frequencies(study)] if plain else []),
        references.seeds(results),
        *costs.costs(used),
        *samples.samples(study),
        listing.listing(study, results, used),
    ]


def charts_of(study: Study, how: How = How(bootstrap=200)) -> dict[str, alt.TopLevelMixin]:  # noqa: B008
    """Every figure of a study's report, by the name that its files have in `triptych export`."""
    return {name: figure.draw() for name, _, figure in figures(report_sections(study, how)[1])}
