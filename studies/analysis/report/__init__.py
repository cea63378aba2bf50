"""`report.html`: what a study found, on one page that opens without a network."""

from studies.analysis.report.build import report_sections
from studies.analysis.report.sections import Card, Section
from studies.analysis.report.write import render, write_report

__all__ = ["Card", "Section", "render", "report_sections", "write_report"]
