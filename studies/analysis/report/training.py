"""The section on loss curves."""

from __future__ import annotations

from functools import partial

from studies.analysis.charts import runs as charts
from studies.analysis.report.sections import Card, Section
from studies.analysis.results import Study
from studies.analysis.views.question import Figure


def loss_curves(study: Study) -> Section:
    """The training objective of all runs."""
    if study.utilisation().is_empty():
        return Section("curves", "Loss curves", "No run has logged a step yet.")
    text = (
        "The training objective as runs went, averaged over short stretches. Choose a modality from the menu; click a "
        "size in the legend to see it alone, a line to select its run; drag to move, shift and scroll to zoom."
    )
    return Section(
        "curves", "Loss curves", text, [Card(figures=[Figure("loss-curves", "", partial(charts.loss_curves, study))])]
    )
