"""The live page: it grows with its study, stays where its reader is, and answers nobody else."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Browser

from compiler.plan import RunPlan
from compiler.records import Status
from specs.errors import SpecError
from studies.analysis.how import How
from studies.analysis.serve import serve
from tests.browser import chromium, draw, listened
from tests.synthetic import LAWS, curve, evaluations, make_study, write_lines


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@contextmanager
def served(folder: Path) -> Iterator[str]:
    addresses: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    options = {"how": How(bootstrap=20), "every": 0.1, "on_ready": addresses.put, "stop": stop}
    thread = threading.Thread(target=serve, args=[folder], kwargs=options)
    thread.start()
    try:
        yield addresses.get(timeout=120)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def small(out: Path) -> Path:
    """A study of six runs, of which the last two are not done."""
    sizes = {32: 36_000, 64: 151_000}
    return make_study(out, sizes=sizes, states={4: ("running", ""), 5: ("pending", "")}, laws={"text": LAWS["text"]})


def finish(folder: Path, number: int) -> None:
    """What the trainer leaves when run `number` ends."""
    runs = json.loads((folder / "plan.json").read_text())["runs"]
    run = msgspec.convert(runs[number], RunPlan)
    place, rng, laws = folder / "runs" / run.id, np.random.default_rng(1), {"text": LAWS["text"]}
    write_lines(place / "metrics.jsonl", curve(run, laws, run.steps, rng))
    write_lines(place / "eval.jsonl", evaluations(run, laws, 0.002, rng))
    (place / "status.json").write_bytes(msgspec.json.encode(Status(state="done", attempts=1, step=run.steps)))


def answer(address: str, path: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_the_page_grows_with_its_study_and_its_reader_stays(browser: Browser, tmp_path: Path) -> None:
    folder = small(tmp_path)
    with served(folder) as address:
        page, said = listened(browser, offline=False, viewport={"width": 1000, "height": 700})
        page.goto(address)
        assert "4 of 6" in page.locator("main").inner_text()
        draw(page, "#runs-planned, #loss-curves")
        page.locator("#loss-curves select").select_option("text")
        page.locator("#find").fill("width=32")
        page.wait_for_function("document.querySelector('#picked b').textContent === '3 of 6 runs selected'")
        page.locator("#run-list summary").focus()
        page.keyboard.press("Enter")
        page.locator("#loss-curves").evaluate("e => e.scrollIntoView()")
        place = page.locator("#loss-curves").bounding_box()
        finish(folder, 4)
        page.wait_for_function("document.querySelector('main').innerText.includes('5 of 6')", timeout=60_000)
        page.wait_for_function("document.querySelectorAll('#loss-curves[data-drawn] g.mark-line path').length === 5")
        now = page.locator("#loss-curves").bounding_box()
        assert place is not None
        assert now is not None
        assert abs(now["y"] - place["y"]) < 2
        assert page.locator("#loss-curves select").input_value() == "text"
        assert page.locator("#picked b").inner_text() == "3 of 6 runs selected"
        assert page.locator("#run-list").get_attribute("open") is not None
        assert page.locator("#find").input_value() == "width=32"
        assert "made" in page.locator("#live").inner_text()
        page.screenshot(path=tmp_path / "live.png")

        # What cannot be read is said, and the page stays.
        plan = (folder / "plan.json").read_bytes()
        (folder / "plan.json").write_bytes(plan[:1000])
        page.locator("#live", has_text="could not be shown").wait_for(timeout=60_000)
        assert "5 of 6" in page.locator("main").inner_text()
        (folder / "plan.json").write_bytes(plan)
        finish(folder, 5)
        page.wait_for_function("document.querySelector('main').innerText.includes('6 of 6')", timeout=60_000)
    page.locator("#live", has_text="No longer served").wait_for(timeout=60_000)
    # The browser itself says that the server has gone.
    assert [text for text in said if "ERR_CONNECTION" not in text] == []


def test_only_this_machine_gets_the_two_pages_that_there_are(tmp_path: Path) -> None:
    with served(small(tmp_path)) as address:
        port = urlsplit(address).port
        assert answer(address, "/")[0] == 200
        version = json.loads(answer(address, "/version")[1])
        assert answer(address, "/version", host="localhost:9999")[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "", "localhost.evil.example", "127.0.0.1.evil.example"):
            assert answer(address, "/", host=host)[0] == 403
        for path in ("/plan.json", "/../plan.json", "/runs/", "/version/", "/%2e%2e/plan.json", "/?x", "*"):
            assert answer(address, path)[0] == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert answer(address, "/", method)[0] in (405, 501)
        assert answer(address, "/", "HEAD") == (200, b"")
        # Nothing changed, so nothing was made anew.
        assert json.loads(answer(address, "/version")[1]) == version
        with socket.socket() as listening, pytest.raises(OSError, match="refused"):
            listening.connect(("127.0.0.2", port))


def test_what_is_wrong_at_the_start_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the folder holds no study"):
        serve(tmp_path)
    folder = small(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SpecError, match="cannot be taken"):
            serve(folder, port=taken.getsockname()[1], how=How(bootstrap=0))


def test_control_c_ends_it_well(tmp_path: Path) -> None:
    code = f"from studies.analysis.serve import serve; serve({str(small(tmp_path))!r})"
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"http://127.0.0.1:")
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
