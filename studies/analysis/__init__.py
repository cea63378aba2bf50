"""What runs leave on disk, as tables, laws, figures and reports. No torch here: it reads files and draws.

From a study's folder to a chart, as Altair draws it in a notebook:

    >>> from studies.analysis import charts_of, read_study
    >>> study = read_study("runs/demo")
    >>> charts_of(study)["loss-curves"]  # doctest: +ELLIPSIS
    alt...Chart(...)

Tables are polars, and so are the results of other people's runs; what a study asks is answered as by the command line
and the report:

    >>> study.results().select("id", "modality", "params", "tokens", "nelbo").head(1).shape
    (1, 5)
    >>> from studies.analysis import How, answers
    >>> found = {answer.question.key: answer.found for answer in answers(study, How(bootstrap=20))}
    >>> found["scaling"][0].fits.fits["all"].law  # doctest: +ELLIPSIS
    Law(E=..., A=..., B=..., alpha=..., beta=...)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.analysis.asked import answers
    from studies.analysis.how import How
    from studies.analysis.many import read_studies
    from studies.analysis.report.build import charts_of
    from studies.analysis.results import Study, read_study
    from studies.analysis.tables import read_runs

__all__ = ["How", "Study", "answers", "charts_of", "read_runs", "read_studies", "read_study"]

_HOMES = {
    "How": "how",
    "Study": "results",
    "answers": "asked",
    "charts_of": "report.build",
    "read_runs": "tables",
    "read_studies": "many",
    "read_study": "results",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: who only reads tables need not wait for laws and figures.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
