"""The Python interface, as a notebook uses it."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import studies.analysis
from tests.synthetic import make_study


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(studies.analysis)
    assert outcome.attempted >= 7
    assert outcome.failed == 0


def test_all_that_is_promised_is_there() -> None:
    for name in studies.analysis.__all__:
        assert callable(getattr(studies.analysis, name))
    with pytest.raises(AttributeError, match="nothing_such"):
        importlib.import_module("studies.analysis").nothing_such  # noqa: B018
