"""`triptych report DIR --watch`: the report as a live page on this machine, while the study runs.

The server listens on 127.0.0.1 alone and answers GET of two paths, to who asks for this machine by name: a page of
another site that has its own name point here gets nothing. The study is read again when its files have changed, with
rests in between, so that a study which trains on the same machine is not slowed much.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from compiler.records import RESULTS
from specs.errors import Problem, SpecError
from studies.analysis.how import How
from studies.analysis.report import render
from studies.analysis.results import read_study

HOST = "127.0.0.1"
_NAMES = {HOST, "localhost"}
_WATCHED = ("status.json", *RESULTS, "samples")
_REST = 3.0
"""Times as long as the last reading took, the next waits: a quarter of one core at most."""


@dataclass(frozen=True)
class _Made:
    """A version of the page, when it was made, and why the one after it could not be."""

    version: str
    html: bytes
    when: str
    error: str = ""


def serve(
    folder: str | Path,
    port: int = 0,
    how: How = How(bootstrap=200),  # noqa: B008
    every: float = 2.0,
    on_ready: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> None:
    """Serve the report of the study in `folder` until Ctrl-C, or until `stop` is set.

    `port` 0 takes a free one; `on_ready` is given the page's address. Files are looked at `every` so many seconds. A
    reading that fails is said on the page, which keeps what it had. Raises `SpecError` where the folder holds no study
    or the port is taken.
    """
    live = _Live(Path(folder), how)
    ended = stop or threading.Event()
    with contextlib.suppress(KeyboardInterrupt):
        live.build()
        with _served(live, port) as address:
            on_ready(address)
            while not ended.wait(max(every, _REST * live.took)):
                live.refresh()


@contextlib.contextmanager
def _served(live: _Live, port: int) -> Iterator[str]:
    """Answer in the background; gives the page's address."""
    try:
        server = ThreadingHTTPServer((HOST, port), _handler(live))
    except (OSError, OverflowError) as error:
        what = f"port {port} cannot be taken ({getattr(error, 'strerror', None) or error})"
        raise SpecError([Problem("command line", 1, "--port", what, "name another, or none for a free one")]) from None
    server.daemon_threads = True
    answering = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    answering.start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        answering.join()


class _Live:
    """The newest page, and what it was made from."""

    def __init__(self, folder: Path, how: How) -> None:
        self.folder, self.how = folder, how
        self.made = _Made("0", b"", "")
        self.took = 0.0
        self._seen: object = None

    def refresh(self) -> None:
        """Make the page anew if a file has changed; where that fails, keep the old one and say why."""
        if self._signature() == self._seen:
            return
        try:
            self.build()
        except Exception as error:  # whatever it is, the page stays up and says it
            self.made = replace(self.made, error=f"{error or type(error).__name__}")

    def build(self) -> None:
        """Make the page from what the files hold now."""
        begun = time.monotonic()
        # Before reading: what changes meanwhile is seen next time.
        self._seen = self._signature()
        try:
            version = f"{int(self.made.version) + 1}"
            html = render(read_study(self.folder), self.how, live=version).encode()
            self.made = _Made(version, html, f"made {datetime.now():%H:%M:%S}")
        finally:
            self.took = time.monotonic() - begun

    def _signature(self) -> object:
        """Size and time of every file that the page is made from."""
        runs = self.folder / "runs"
        try:
            places = [runs / name for name in sorted(os.listdir(runs))]
        except OSError:
            places = []
        return tuple(map(_stamp, [self.folder / "plan.json", *(place / name for place in places for name in _WATCHED)]))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _handler(live: _Live) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET and HEAD of `/` and `/version`."""

        server_version, sys_version = "triptych", ""
        timeout = 30

        def do_GET(self) -> None:
            made = live.made
            if self._host() not in _NAMES:
                self._answer(HTTPStatus.FORBIDDEN, b"This page is for this machine alone.\n", "text/plain")
            elif self.path == "/":
                self._answer(HTTPStatus.OK, made.html, "text/html; charset=utf-8")
            elif self.path == "/version":
                told = {"version": made.version, "made": made.when, "error": made.error}
                self._answer(HTTPStatus.OK, msgspec.json.encode(told), "application/json")
            else:
                self._answer(HTTPStatus.NOT_FOUND, b"There is one page here: /\n", "text/plain")

        def do_HEAD(self) -> None:
            self.do_GET()

        def _host(self) -> str:
            """The name that was asked for; its port may be another's, where it was forwarded."""
            return self.headers.get("Host", "").rsplit(":", 1)[0].lower()

        def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("X-Frame-Options", "DENY")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the terminal is the user's."""

    return Handler
