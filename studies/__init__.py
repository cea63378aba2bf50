"""The studies, one folder each, and the analysis that reads their results."""
