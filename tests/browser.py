"""Chromium for tests of pages: what they open, and what is kept of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium found: CI must open the report")
        pytest.skip("no Chromium found")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


def listened(browser: Browser, offline: bool = True, **options: Any) -> tuple[Page, list[str]]:
    """A new page, with the network off, and whatever its console says or it asks for elsewhere."""
    context = browser.new_context(**options)
    context.set_offline(offline)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    if offline:
        own = ("file:", "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else said.append(request.url))
    return page, said


def open_report(
    browser: Browser, path: Path, scheme: str = "light", width: int = 1280, charts: str = ".chart", **options: Any
) -> tuple[Page, list[str]]:
    """The page with the network off, its `charts` (by selector) scrolled into view and drawn, and whatever the console
    said."""
    page, said = listened(browser, color_scheme=scheme, viewport={"width": width, "height": 900}, **options)
    page.goto(path.as_uri())
    draw(page, charts)
    return page, said


def draw(page: Page, charts: str = ".chart") -> None:
    for chart in page.locator(charts).all():
        chart.evaluate("e => e.scrollIntoView()")
        chart.locator("xpath=self::*[@data-drawn]").wait_for()
