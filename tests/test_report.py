"""The report, driven in Chromium with the network off."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from compiler.plan import RunPlan
from specs.errors import SpecError
from studies.analysis.cli import run_report
from studies.analysis.figures import drawn, one_table
from studies.analysis.how import How
from studies.analysis.laws.chinchilla import fit
from studies.analysis.laws.chinchilla_law import Law
from studies.analysis.optimum import flops_per_token, frontier
from studies.analysis.page import note
from studies.analysis.questions.scaling import scale
from studies.analysis.report import report_sections, write_report
from studies.analysis.report.scaling import residual_rows
from studies.analysis.report.sections import figures
from studies.analysis.results import read_study
from studies.analysis.utilisation import utilisation
from tests.browser import chromium, open_report
from tests.experiments import (
    RATES,
    Loss,
    Runs,
    bent,
    bowl,
    dependence,
    finished,
    grows,
    never,
    rate,
    rescaled,
    sweeps,
    swept,
    watched,
)
from tests.synthetic import LAWS, make_study, modality

STRANGE = "<script>window.broken = 1</script>"
RUNS = 24


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    states = {3: ("failed", f"loss is NaN {STRANGE}"), 5: ("running", ""), 6: ("pending", "")}
    folder = make_study(tmp_path_factory.mktemp("out"), seeds=2, noise=0.004, states=states)  # type: ignore[arg-type]
    return write_report(folder, How(bootstrap=100))


def faint(chart: Locator, marks: str = ".mark-symbol path") -> int:
    """How many marks of a chart stand back."""
    return int(
        chart.evaluate(f"e => [...e.querySelectorAll('{marks}')].filter(p => p.getAttribute('opacity') < 0.2).length")
    )


def brush(page: Page, chart: str) -> None:
    """Drag over the left half of a chart."""
    place = page.locator(f"{chart} svg.marks .background").first
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 1, steps=4)
    page.mouse.up()


def bar(page: Page) -> str:
    return page.locator("#picked b").inner_text() if page.locator("#picked").is_visible() else ""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_opens_without_a_network_and_draws_every_chart(
    browser: Browser, report: Path, tmp_path: Path, scheme: str, width: int
) -> None:
    page, said = open_report(browser, report, scheme, width)
    # Two of all runs, loss curves and three of costs; for the mix and each modality: against FLOPs, against tokens, the
    # law, two of its frontier, four of its residuals.
    assert page.locator(".chart svg.marks").count() == 6 + 9 * (1 + len(LAWS))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.broken") is None
    assert page.locator("svg path[fill='rgba(0,0,0,0)']").count() == 0
    # Every figure has a name for those who do not see it, and none is the other's.
    names = page.locator(".figure").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    assert len(set(names)) == len(names) > 0
    page.screenshot(path=tmp_path / f"report-{scheme}-{width}.png", full_page=True)
    assert said == []


def test_menu_and_legend_of_the_loss_curves_work(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report, charts="#loss-curves")
    curves = page.locator("#loss-curves")
    lines = curves.locator("g.mark-line path")
    before = lines.first.get_attribute("d")
    curves.locator("select").select_option("image")
    page.wait_for_function(
        "d => document.querySelector('#loss-curves g.mark-line path').getAttribute('d') !== d", arg=before
    )
    curves.locator("g.role-legend-label text").first.click()
    page.wait_for_function("""() => new Set([...document.querySelectorAll('#loss-curves g.mark-line path')]
        .map(p => p.getAttribute('opacity'))).size > 1""")
    assert said == []


def test_the_theme_follows_the_reader_without_a_reload_and_keeps_what_was_chosen(
    browser: Browser, report: Path
) -> None:
    page, said = open_report(browser, report, charts="#loss-curves, #runs-outcomes, #law-0")
    page.locator("#loss-curves select").select_option("audio")
    brush(page, "#runs-outcomes")
    page.wait_for_function("document.querySelector('#picked b').textContent")
    chosen = bar(page)
    ink = "document.querySelector('#law-0 .role-axis-label text').getAttribute('fill')"
    before = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => {ink} !== before", arg=before)
    page.wait_for_function("document.querySelector('#loss-curves select')?.value === 'audio'")
    assert bar(page) == chosen
    assert said == []


def test_a_brush_picks_runs_in_every_figure_and_keys_clear_it(browser: Browser, report: Path, tmp_path: Path) -> None:
    charts = ["#law-0", "#flops-1", "#residuals-n-0", "#costs-hours", "#runs-planned"]
    page, said = open_report(browser, report, charts=", ".join([*charts, "#loss-curves, #runs-outcomes, #tokens-0"]))
    assert [faint(page.locator(chart)) for chart in charts] == [0] * len(charts)
    brush(page, "#runs-outcomes")
    page.wait_for_function("document.querySelector('#picked b').textContent")
    picked = int(bar(page).split()[0])
    assert bar(page) == f"{picked} of {RUNS} runs selected"
    assert 0 < picked < RUNS - 3
    finished = RUNS - 3
    assert [faint(page.locator(chart)) for chart in charts[:3]] == [finished - picked] * 3
    assert faint(page.locator("#runs-planned")) == RUNS - picked
    assert faint(page.locator("#loss-curves"), "g.mark-line path") == RUNS - 1 - picked
    page.screenshot(path=tmp_path / "report-brushed.png", full_page=True)

    page.keyboard.press("Escape")
    assert bar(page) == ""
    assert [faint(page.locator(chart)) for chart in charts] == [0] * len(charts)
    assert page.locator("#runs-outcomes .brush_brush path").evaluate_all(
        "all => all.every(p => p.getBoundingClientRect().width < 2)"
    )

    # Another figure's brush does the same; the button is reached by keys.
    brush(page, "#tokens-0")
    page.wait_for_function("!document.querySelector('#picked').hidden")
    assert faint(page.locator("#law-0")) > 0
    page.locator("#picked [data-do=clear]").focus()
    page.keyboard.press("Enter")
    assert bar(page) == ""
    assert said == []


def test_a_tap_and_a_word_pick_runs(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report, width=390, charts="#runs-planned", has_touch=True)
    page.locator("#runs-planned .mark-symbol.role-mark path").last.tap()
    assert bar(page) == f"1 of {RUNS} runs selected"
    page.locator("#find").fill("seed=1 width=32")
    page.wait_for_function("document.querySelector('#picked b').textContent.startsWith('3 ')")
    page.locator("#find").fill("nothing of the kind")
    page.wait_for_function("document.querySelector('#picked').hidden")
    assert page.locator("#found").inner_text() != ""
    small = page.locator(".save button, #find, .plain:visible").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().height && e.getBoundingClientRect().height < 44).length"
    )
    assert small == 0
    assert said == []


def test_the_list_of_runs_sorts_and_selects(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report, charts="#law-0")
    listed = page.locator("#run-list")
    assert listed.locator("tr").count() == 0
    listed.locator("summary").click()
    # A list is built when it has opened, which the page is told a little after the click.
    expect(listed.locator("tbody tr")).to_have_count(RUNS)
    listed.get_by_role("button", name="the mix").click()
    listed.get_by_role("button", name="the mix").click()
    assert page.locator("th[aria-sort=descending]").count() == 1
    column = listed.locator("tbody tr td:nth-last-child(4)").all_inner_texts()
    losses = [float(text) for text in column if text != "–"]
    assert losses == sorted(losses, reverse=True)
    assert column[-3:] == ["–"] * 3
    box = listed.locator("tbody input").first
    box.focus()
    page.keyboard.press("Space")
    assert bar(page) == f"1 of {RUNS} runs selected"
    assert faint(page.locator("#law-0")) == RUNS - 4
    listed.locator(".only input").check()
    expect(listed.locator("tbody tr")).to_have_count(1)
    assert said == []


def saved(page: Page, identifier: str, kind: str) -> bytes:
    """What a figure's button saves; pressed by key."""
    button = page.locator(f".figure:has(#{identifier}) [data-save={kind}]")
    button.focus()
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert waiting.value.suggested_filename == f"{identifier}.{kind}"
    return Path(waiting.value.path()).read_bytes()


@pytest.mark.parametrize("identifier", ["runs-planned", "law-0", "residuals-c-2", "costs-waste"])
def test_figures_are_saved_as_their_data_and_as_pictures(browser: Browser, report: Path, identifier: str) -> None:
    page, said = open_report(browser, report, "dark", 700, charts=f"#{identifier}")
    named = {
        name: figure for name, _, figure in figures(report_sections(read_study(report.parent), How(bootstrap=100))[1])
    }
    expected = one_table(drawn(named[identifier].draw()))
    found = pl.read_csv(io.BytesIO(saved(page, identifier, "csv")), infer_schema_length=None)
    assert found.columns == expected.columns
    assert len(found) == len(expected)
    for name in found.columns:
        if found[name].dtype.is_numeric():
            # Pages keep seven digits.
            close = (found[name] - expected[name]).abs() <= 1e-6 * expected[name].abs()
            assert (close | (found[name].is_null() & expected[name].is_null())).all(), name
        else:
            assert found[name].to_list() == expected[name].to_list(), name

    png = saved(page, identifier, "png")
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) > (1000, 300)
    svg = ElementTree.fromstring(saved(page, identifier, "svg"))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    # Files are for light grounds, whatever the page is on.
    grounds = [e.get("fill") for e in svg.iter("{http://www.w3.org/2000/svg}rect")][:1]
    assert grounds == ["white"]
    assert said == []


def test_figures_are_saved_before_they_are_drawn(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report, charts="#none")
    for identifier in page.locator(".chart").evaluate_all("all => all.map(e => e.id)")[::7]:
        assert len(saved(page, identifier, "csv")) > 100
    assert said == []


def test_says_what_failed_what_waits_and_how_wide_seed_noise_is(browser: Browser, report: Path) -> None:
    page, _ = open_report(browser, report, charts="#none")
    text = page.locator("main").inner_text()
    assert "21 of 24" in text
    assert f"loss is NaN {STRANGE}" in text
    assert "1 running" in text
    assert "1 pending" in text
    assert "standard deviation" in text.lower()
    for heading in ("Loss curves", "Held-out loss against compute", "The law", "Against token frequencies"):
        assert page.get_by_role("heading", name=heading, exact=True).count() == 1


def test_sections_are_listed_and_found(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report, width=390, charts="#none")
    links = page.locator("nav.sections a")
    targets = links.evaluate_all("all => all.map(e => e.hash)")
    assert len(targets) == len(set(targets)) == page.locator("main > section").count()
    links.filter(has_text="Residuals").click()
    page.wait_for_function("Math.abs(document.querySelector('#residuals').getBoundingClientRect().top) < 80")
    page.wait_for_function("document.querySelector('nav [aria-current]')?.hash === '#residuals'")
    assert said == []


def test_names_are_only_strange_names(browser: Browser, tmp_path: Path) -> None:
    names = {
        f"</script>{STRANGE}": Law(E=2.0, A=20.0, B=500.0, alpha=0.3, beta=0.5),
        "<img src=x onerror=alert(1)>": LAWS["text"],
        "=HYPERLINK(0)": LAWS["image"],
    }
    assert modality("x", 1.0).weight == 1.0
    folder = make_study(tmp_path, laws=names)
    plan = json.loads((folder / "plan.json").read_text())
    for run in plan["runs"]:
        run["name"] = f"=1+{run['seed']}{STRANGE}{run['id']}"
    (folder / "plan.json").write_text(json.dumps(plan))
    page, said = open_report(browser, write_report(folder, How(bootstrap=20)))
    assert page.locator("img, main b script").count() == 0
    assert page.evaluate("window.broken") is None
    assert page.locator("#loss-curves select option").all_inner_texts() == ["all", *names]
    page.locator("#run-list summary").click()
    page.locator("#run-list th").first.wait_for()
    assert page.locator("#run-list th").all_inner_texts()[-3:] == list(names)
    page.locator("#flops-0 .mark-symbol path").first.scroll_into_view_if_needed()
    page.locator("#flops-0 .mark-symbol path").first.hover()
    page.locator("#vg-tooltip-element.visible").wait_for()
    assert STRANGE in page.locator("#vg-tooltip-element").inner_text()
    # A spreadsheet runs what begins with =.
    table = pl.read_csv(io.BytesIO(saved(page, "loss-curves", "csv")), infer_schema_length=None)
    assert set(table["modality"]) == {"all", *list(names)[:2], "'=HYPERLINK(0)"}
    assert table["run"].str.starts_with("'=1+").all()
    assert page.evaluate("window.broken") is None
    assert said == []


def test_samples_are_shown_within_bounds(browser: Browser, tmp_path: Path) -> None:
    folder = make_study(tmp_path, sizes={32: 36_000}, tokens=(2e5, 4e5))
    place = next((folder / "runs").iterdir()) / "samples"
    place.mkdir()
    (place / "a.txt").write_text(f"once upon a time {STRANGE}")
    (place / "b.png").write_bytes(picture())
    (place / "c.wav").write_bytes(b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(24))
    (place / "d.png").write_bytes(b"<svg onload=alert(1)>")
    (place / "e.wav").write_bytes(b"RIFF" + bytes(1_000_000))
    (place / "f.html").write_text(STRANGE)
    (place / "g.txt").symlink_to("/etc/hostname")
    page, said = open_report(browser, write_report(folder))
    section = page.locator("#samples")
    assert STRANGE in section.locator("pre").inner_text()
    assert section.locator("img").evaluate_all("all => all.map(i => i.naturalWidth)") == [3]
    assert section.locator("audio").count() == 1
    left = section.locator(".note").inner_text()
    assert "d.png: is no PNG file" in left
    assert "e.wav: larger than" in left
    assert section.locator(".sample").count() == 3
    assert page.evaluate("window.broken") is None
    assert said == []


def picture() -> bytes:
    """A PNG of 3 × 1 grey pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 3, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0abc")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("state", ["done", "pending", "failed", "running"])
def test_a_study_of_one_run_says_what_is_missing(browser: Browser, tmp_path: Path, state: str) -> None:
    states = {0: (state, "out of memory" if state == "failed" else "")}
    folder = make_study(tmp_path, sizes={32: 36_000}, tokens=(2e5,), states=states)  # type: ignore[arg-type]
    page, said = open_report(browser, write_report(folder))
    text = page.locator("main").inner_text()
    assert "not fitted" in text
    assert ("no run has finished yet" in text) == (state != "done")
    assert ("No run has logged a step yet" in text) == (state == "pending")
    assert ("out of memory" in text) == (state == "failed")
    assert "Not measured: no configuration has two finished runs" in text
    assert said == []


def test_the_page_is_one_file_with_one_copy_of_vega(report: Path) -> None:
    html = report.read_text()
    assert html.count("vegaEmbed=") + html.count("vegaEmbed =") <= 2
    assert 'src="http' not in html
    assert 'href="http' not in html
    assert len(html) < 3_000_000
    assert (report.parent / "results.parquet").exists()


@pytest.mark.parametrize(
    ("runs", "loss", "activations", "heading", "charts"),
    [
        # Sweeps of width and depth, with and without transfer, of 5 kinds of activation.
        (watched, never, grows(0.5, 0.5), "Coordinate check", 2 * 2 * 5),
        (swept, bowl(lambda run: RATES[2 if run.model.width == 64 else 0]), None, "Learning-rate transfer", 2),
        (swept, lambda run, _: math.inf if rate(run) > RATES[3] else 3.0, None, "Learning-rate transfer", 2),
        (rescaled, dependence(0.01, 0.1, 0.4), None, "Batch invariance", 3),
        (sweeps, bent(0.3), None, "The logical batch and the horizon", 2),
    ],
)
def test_experiments_are_drawn_and_a_study_made_for_them_is_not_scolded_for_lacking_a_law(
    browser: Browser,
    tmp_path: Path,
    runs: Callable[[], Runs],
    loss: Loss,
    activations: Callable[[RunPlan, int], dict[str, float]] | None,
    heading: str,
    charts: int,
) -> None:
    study = finished(runs(), loss, activations, noise=0.01, out=tmp_path)
    page, said = open_report(browser, write_report(study.folder, How(bootstrap=20)), "dark", 390)
    section = page.locator("section").filter(has=page.get_by_role("heading", name=heading))
    assert section.locator(".chart svg.marks").count() == charts
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    text = page.locator("main").inner_text()
    assert "not fitted" not in text
    assert page.get_by_role("heading", name="The law", exact=True).count() == 0
    assert said == []


def test_what_was_found_comes_first_and_long_warnings_are_folded(report: Path) -> None:
    sections = [one.key for one in report_sections(read_study(report.parent), How(bootstrap=0))[1]]
    assert sections.index("law") < sections.index("overview") < sections.index("curves")
    few, many = note("Care", [f"say {k}" for k in range(7)]), note("Care", [f"say {k}" for k in range(9)])
    assert "<details>" not in few
    assert many.index("say 5") < many.index("<summary>3 more") < many.index("say 6")


def test_report_of_no_study_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the folder holds no study"):
        run_report(tmp_path)


# --- the numbers behind the figures


def test_the_frontier_of_a_known_law_is_that_in_closed_form() -> None:
    law = Law(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    C = 6 * N * D
    found = frontier(fit(N, D, law(N, D), bootstrap=20), N, D, C, reach=100)
    share = law.beta / (law.alpha + law.beta)
    scale = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    flops = found["flops"].to_numpy()
    best = scale * (flops / 6) ** share
    np.testing.assert_allclose(found["N"].to_numpy(), best, rtol=2e-3)
    np.testing.assert_allclose(found["D"].to_numpy(), flops / 6 / best, rtol=2e-3)
    np.testing.assert_allclose(found["nelbo"].to_numpy(), law(best, flops / 6 / best), rtol=1e-6)
    assert flops[-1] == pytest.approx(100 * C.max())
    assert found["beyond"].to_list() == [c > 1.001 * C.max() for c in flops]


def test_a_token_costs_what_it_costs_in_the_runs_shapes() -> None:
    N = np.array([1e4, 4e4, 16e4, 64e4])
    width = np.sqrt(N)
    D = np.full(4, 1e6)
    cost = 6 * N + 6 * 1900 * width
    np.testing.assert_allclose(flops_per_token(N, D, cost * D, N), cost)
    np.testing.assert_allclose(flops_per_token(N, D, cost * D, 1e8), 6e8 + 6 * 1900 * 1e4, rtol=1e-6)
    with pytest.raises(ValueError, match="one size only"):
        flops_per_token([1e4, 1e4], [1e6, 2e6], [1e10, 2e10], 1e5)


def residuals_of(results: pl.DataFrame) -> pl.DataFrame:
    found = scale(results, How(bootstrap=0))
    return residual_rows(next(one for one in found.approaches if one.modality == "text"), found)


def test_runs_of_most_compute_are_predicted_without_having_been_fitted(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, noise=0.0, laws={"text": LAWS["text"]}))
    results = study.results()
    rows = residuals_of(results)
    held, fitted = rows.filter(part="held out"), rows.filter(part="fitted")
    assert 0 < len(held) < len(fitted)
    assert held["C"].min() > fitted["C"].max()
    assert rows["error"].abs().max() < 1e-3
    # Runs that are off are off by so much, though the law is not fitted to them.
    raised = pl.when(pl.col("flops") >= held["C"].min()).then(1.05 * pl.col("nelbo")).otherwise("nelbo")
    rows = residuals_of(results.with_columns(nelbo=raised))
    assert rows.filter(part="held out")["error"].to_list() == pytest.approx([5.0] * len(held), abs=0.01)
    assert rows.filter(part="fitted")["error"].abs().max() < 0.01


def test_costs_are_planned_for_the_steps_that_are_done(tmp_path: Path) -> None:
    states = {0: ("running", ""), 1: ("pending", "")}
    study = read_study(make_study(tmp_path, sizes={32: 36_000}, laws={"text": LAWS["text"]}, states=states))  # type: ignore[arg-type]
    half, none, whole = utilisation(study).iter_rows(named=True)
    assert none["share"] is None
    assert none["hours"] is None
    assert half["share"] == pytest.approx(0.5, abs=0.05)
    assert half["planned_hours"] == pytest.approx(0.01 * half["share"])
    assert half["flops"] == pytest.approx(half["planned_flops"] * half["share"])
    steps = round(whole["share"] * study.plan.runs[2].steps)
    assert whole["hours"] == pytest.approx(0.05 * steps / 3600)
    assert whole["tokens_per_second"] == pytest.approx(2e4)
    assert whole["padding"] == pytest.approx(0.1)
    assert whole["mfu"] is None
