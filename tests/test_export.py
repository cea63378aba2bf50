"""A study's figures as files: those of the report, under the same names."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from specs.errors import SpecError
from studies.analysis.export import export
from studies.analysis.figures import drawn, encoded, flat, one_table
from studies.analysis.how import How
from studies.analysis.report import report_sections, write_report
from studies.analysis.report.sections import Card, Section, figures
from studies.analysis.results import read_study
from studies.analysis.views.question import Figure
from tests.synthetic import LAWS, make_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("out"), laws={"=text": LAWS["text"]}, states={0: ("pending", "")})


def test_every_figure_of_the_report_becomes_a_table(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    written = export(
        folder, tmp_path / "figures", ["csv"], How(bootstrap=20), on_progress=lambda *now: told.append(now)
    )
    html = write_report(folder, How(bootstrap=20)).read_text()
    names = [path.stem for path in written[2:]]
    assert len(names) == len(set(names)) > 10
    assert all(f'id="{name}"' in html for name in names)
    assert html.count('class="chart"') == len(names)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in written)
    assert [(done, of) for done, of, _ in told] == [(k, len(names)) for k in range(len(names) + 1)]

    study = read_study(folder)
    assert_frame_equal(pl.read_parquet(written[0]), study.results())
    results = pl.read_csv(written[1])
    assert len(results) == len(study.results())
    assert set(results["modality"]) == {"all", "'=text"}
    found = pl.read_csv(tmp_path / "figures" / "flops-0.csv")
    table = next(part for _, part in found.group_by("table", maintain_order=True) if part["id"][0] is not None)
    assert table["nelbo"].to_list() == study.results().filter(modality="all")["nelbo"].to_list()


def test_pictures_are_drawn_without_a_network(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path, ["svg", "png"], How(bootstrap=20))
    svg = ElementTree.parse(tmp_path / "law-0.svg").getroot()
    text = "".join(svg.itertext())
    assert "held-out nelbo, nats per token" in text
    assert len([e for e in svg.iter() if "aria-roledescription" in e.attrib]) > 5
    for path in tmp_path.glob("*.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert (width, height) > (1400, 300)
    assert not list(tmp_path.glob("*.csv"))[1:]


def test_what_is_asked_for_wrongly_is_the_users_mistake(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'pdf' is no format"):
        export(folder, tmp_path, ["csv", "pdf"])
    with pytest.raises(SpecError, match="the folder holds no study"):
        export(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="cannot be written"):
        export(folder, tmp_path / "file", ["csv"], How(bootstrap=0))


def test_names_of_files_are_safe_and_differ() -> None:
    keys = ["a", "A", "../../etc/passwd", "<img src=x>", "", "a", "x" * 300, "con/../aux"]
    made = [Figure(key, "", lambda: None) for key in keys]  # type: ignore[arg-type, return-value]
    names = [name for name, _, _ in figures([Section("s", "S", cards=[Card(figures=made)])])]
    assert len({name.lower() for name in names}) == len(keys)
    assert all(re.fullmatch(r"\w[\w.-]{0,89}", name, re.ASCII) for name in names)


def test_text_that_a_spreadsheet_would_run_is_only_text() -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "plain", "", None, "a=b"]
    made = flat(pl.DataFrame({"text": texts, "number": [-1.0] * len(texts), "list": [[1, 2]] * len(texts)}))
    assert made["text"].to_list() == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx", "plain", "", None, "a=b"]
    assert made["number"].to_list() == [-1.0] * len(texts)
    assert made["list"][0] == "[1,2]"


def test_tables_on_a_page_are_by_columns_with_each_text_once() -> None:
    table = pl.DataFrame({"run": ["a", "a", "b", "a"], "loss": [1.23456789, float("nan"), float("inf"), None]})
    assert encoded(table) == (
        b'{"rows":4,"columns":{"run":{"of":["a","b"],"at":[0,0,1,0]},"loss":[1.234568,null,null,null]}}'
    )


def test_figures_share_the_tables_that_are_alike(folder: Path) -> None:
    _, sections = report_sections(read_study(folder), How(bootstrap=0))
    made = {name: drawn(figure.draw()) for name, _, figure in figures(sections)}
    assert set(made["flops-0"].tables) & set(made["tokens-0"].tables)
    assert one_table(made["loss-curves"]).columns == ["id", "modality", "tokens", "loss", "run", "size"]
