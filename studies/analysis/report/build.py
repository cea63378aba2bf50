"""All sections of a study's report, in their order."""

from __future__ import annotations

from studies.analysis.asked import answers
from studies.analysis.fits import Count, fit_results
from studies.analysis.report import costs, equal_compute, listing, overview, references, samples, scaling, training
from studies.analysis.report.answers import answer_section
from studies.analysis.report.sections import Section
from studies.analysis.results import Study
from studies.analysis.utilisation import utilisation
from studies.analysis.views.question import How


def report_sections(
    study: Study, count: Count = "non_embedding", bootstrap: int = 1000, made: str = ""
) -> tuple[str, list[Section]]:
    """The report's head as HTML, and its sections, none of their figures drawn yet.

    `count` says which parameters are the law's N, `made` when and from what the report is. The answers to what the
    study asks come first (`asked.QUESTIONS`). Where it asks something, and no law can be fitted, the sections on
    scaling are left out: it was not made for them.
    """
    results = study.results()
    used = utilisation(study)
    fits = fit_results(results, count, bootstrap)
    found = answers(study, How(count, bootstrap))
    laws: list[Section] = []
    if fits.fits or not found:
        laws = [
            *(scaling.held_out(results) if len(results) else []),
            *equal_compute.isoflop(results, fits, bootstrap),
            scaling.law(results, fits),
            *scaling.compute_optimal(results, fits),
            *scaling.residuals(results, fits),
            *([references.token_frequencies(study)] if len(results) else []),
        ]
    return overview.head(study, results, used, made), [
        overview.overview(study, results),
        *map(answer_section, found),
        training.loss_curves(study),
        *laws,
        references.seeds(results),
        *costs.costs(used),
        *samples.samples(study),
        listing.listing(study, results, used),
    ]
