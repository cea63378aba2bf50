from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from compiler.plan import RunPlan
from studies.analysis.cli import run_report
from studies.analysis.laws.chinchilla import Law
from studies.analysis.report import write_report
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
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium found: CI must open the report")
        pytest.skip("no Chromium found")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


def open_report(browser: Browser, path: Path, scheme: str = "light", width: int = 1280) -> tuple[Page, list[str]]:
    """The page with the network off, every chart scrolled into view, and whatever the console said."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})  # type: ignore[arg-type]
    context.set_offline(True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request.url))
    page.goto(path.as_uri())
    for chart in page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        chart.locator("svg.marks").wait_for()
    return page, said


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    states = {3: ("failed", f"loss is NaN {STRANGE}"), 5: ("running", ""), 6: ("pending", "")}
    folder = make_study(tmp_path_factory.mktemp("out"), seeds=2, noise=0.004, states=states)  # type: ignore[arg-type]
    return write_report(folder, bootstrap=100)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_opens_without_a_network_and_draws_every_chart(
    browser: Browser, report: Path, tmp_path: Path, scheme: str, width: int
) -> None:
    page, said = open_report(browser, report, scheme, width)
    # Loss curves, and for the mix and each modality: against FLOPs, against tokens, the law.
    assert page.locator(".chart svg.marks").count() == 1 + 3 * (1 + len(LAWS))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.broken") is None
    assert page.locator("svg path[fill='rgba(0,0,0,0)']").count() == 0
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    assert said == []


def test_menu_and_legend_of_the_loss_curves_work(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report)
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


def test_the_theme_follows_the_reader_without_a_reload(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report)
    ink = "document.querySelector('#law-0 .role-axis-label text').getAttribute('fill')"
    before = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => {ink} !== before", arg=before)
    assert said == []


def test_says_what_failed_what_waits_and_how_wide_seed_noise_is(browser: Browser, report: Path) -> None:
    page, _ = open_report(browser, report)
    text = page.locator("main").inner_text()
    assert "21 of 24" in text
    assert f"loss is NaN {STRANGE}" in text
    assert "1 running, 1 pending" in text
    assert "standard deviation" in text.lower()
    for heading in ("Loss curves", "Held-out loss against compute", "The law", "Against token frequencies"):
        assert page.get_by_role("heading", name=heading).count() == 1


def test_names_are_only_strange_names(browser: Browser, tmp_path: Path) -> None:
    names = {
        f"</script>{STRANGE}": Law(E=2.0, A=20.0, B=500.0, alpha=0.3, beta=0.5),
        "<img src=x onerror=alert(1)>": LAWS["text"],
    }
    assert modality("x", 1.0).weight == 1.0
    folder = make_study(tmp_path, laws=names)
    page, said = open_report(browser, write_report(folder, bootstrap=20))
    assert page.locator("img, main b script").count() == 0
    assert page.evaluate("window.broken") is None
    assert page.locator("#loss-curves select option").all_inner_texts() == ["all", *names]
    assert said == []


@pytest.mark.parametrize("state", ["done", "pending", "failed", "running"])
def test_a_study_of_one_run_says_what_is_missing(browser: Browser, tmp_path: Path, state: str) -> None:
    states = {0: (state, "out of memory" if state == "failed" else "")}
    folder = make_study(tmp_path, sizes={32: 36_000}, tokens=(2e5,), states=states)  # type: ignore[arg-type]
    page, said = open_report(browser, write_report(folder))
    text = page.locator("main").inner_text()
    assert "Not fitted" in text
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
    page, said = open_report(browser, write_report(study.folder, bootstrap=20), "dark", 390)
    section = page.locator("section").filter(has=page.get_by_role("heading", name=heading))
    assert section.locator(".chart svg.marks").count() == charts
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    text = page.locator("main").inner_text()
    assert "Not fitted" not in text
    assert page.get_by_role("heading", name="The law").count() == 0
    assert said == []


def test_report_of_no_study_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_report(tmp_path) == 2
    assert "the folder holds no study" in capsys.readouterr().err
