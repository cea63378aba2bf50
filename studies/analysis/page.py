"""The shell of a self-contained HTML page: style, script, and charts drawn by one inlined copy of Vega.

Nothing on the page is fetched, and its policy forbids it. Text passes through `html.escape`; in JSON every `<` is
written as `\\u003c`, so that no value can close its script element.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path

import altair as alt
import msgspec
import vl_convert

from studies.analysis.figures import drawn, encoded
from studies.analysis.themes import WIDTH, printed, theme

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""The version that Altair writes for."""

MOST_SAID = 6
"""Lines of a note that are shown; more are folded away."""
_ASSETS = Path(__file__).parent / "assets"
# Vega makes functions from a chart's expressions, hence unsafe-eval; `connect-src` is for a page that is served.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "media-src data:; base-uri 'none'; form-action 'none'; connect-src "
)


def escape(text: object) -> str:
    """`text` for use between tags or in a quoted attribute."""
    return html.escape(str(text), quote=True)


def data(value: bytes, **attributes: str) -> str:
    """JSON that the page's script reads, as an element with `attributes`."""
    named = "".join(f' {name.replace("_", "-")}="{escape(text)}"' for name, text in attributes.items())
    text = value.decode().replace("<", "\\u003c")
    return f'<script type="application/json"{named}>{text}</script>'


def chart(made: alt.TopLevelMixin, identifier: str, title: str = "", written: set[str] | None = None) -> str:
    """A place on the page where `made` is drawn, with buttons that save it as CSV, PNG and SVG.

    `identifier` is the element's id and the name of saved files; `title` is what a screen reader calls it. Tables that
    are in `written` stand on the page already, and those that are not are added to it.
    """
    written = set() if written is None else written
    figure = drawn(made, title or identifier)
    tables = []
    for name, table in figure.tables.items():
        if name not in written:
            written.add(name)
            tables.append(data(encoded(table), data_rows=name))
    named = escape(title or identifier)
    buttons = "".join(
        f'<button type="button" data-save="{kind}" aria-label="Save {named} as {kind.upper()}">{kind.upper()}</button>'
        for kind in ("csv", "png", "svg")
    )
    spec = data(msgspec.json.encode(figure.spec), data_chart="")
    return (
        f'<div class="figure" role="group" aria-label="{named}"><div class="chart" id="{escape(identifier)}"></div>'
        f'{spec}{"".join(tables)}<div class="save">{buttons}</div></div>'
    )


def section(title: str, text: str, content: str, key: str = "") -> str:
    """A part of the page: `title` is text, `text` (what it shows) and `content` HTML; `key` is its anchor."""
    heading = f'<a href="#{escape(key)}">{escape(title)}</a>' if key else escape(title)
    named = f' id="{escape(key)}"' if key else ""
    shown = f'<p class="soft">{text}</p>' if text else ""
    return f"<section{named}><h2>{heading}</h2>{shown}{content}</section>"


def card(title: str, content: str) -> str:
    """A framed block; `title` is text, `content` HTML."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="card">{heading}{content}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] | None = None) -> str:
    """A table of HTML cells under text headings; the columns `numbers` (default: all but the first) hold numbers.

    A cell that starts with "+" or a minus sign is coloured: minus good, plus bad (losses against a baseline).
    """
    numbered = range(1, len(header)) if numbers is None else numbers

    def cell(tag: str, k: int, content: str) -> str:
        kinds = ["number"] if k in numbered else []
        if tag == "td" and content.startswith(("+", "−")):
            kinds.append("bad" if content.startswith("+") else "good")
        return f'<{tag} class="{" ".join(kinds)}">{content}</{tag}>' if kinds else f"<{tag}>{content}</{tag}>"

    head = "".join(cell("th", k, escape(name)) for k, name in enumerate(header))
    body = "".join("<tr>" + "".join(cell("td", k, c) for k, c in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def note(title: str, items: Sequence[str]) -> str:
    """A block that draws the eye: text `title`, and a list of text items, folded beyond the first few."""
    most = len(items) if len(items) <= MOST_SAID + 1 else MOST_SAID
    folded = f"<details><summary>{len(items) - most} more</summary>{_list(items[most:])}</details>"
    rest = folded if len(items) > most else ""
    return f'<div class="note"><b>{escape(title)}</b>{_list(items[:most])}{rest}</div>'


def _list(items: Sequence[str]) -> str:
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{listed}</ul>" if listed else ""


def page(title: str, body: str, sections: Sequence[tuple[str, str]] = (), live: str = "") -> str:
    """The whole document. `title` is text, `body` HTML made by the functions above.

    `sections` are the anchors and titles of the list at its top; `live` is the version that a served page shows, which
    then looks for newer ones.
    """
    links = "".join(f'<a href="#{escape(key)}">{escape(name)}</a>' for key, name in sections)
    nav = f'<nav class="sections" aria-label="Sections"><div>{links}</div></nav>' if sections else ""
    policy = _POLICY + ("'self'" if live else "'none'")
    version = f' data-live="{escape(live)}"' if live else ""
    told = '<div id="live" role="status"></div>' if live else ""
    bar = (
        '<div id="picked" hidden role="status"><b></b><span></span>'
        '<button type="button" class="plain" data-do="list">List them</button>'
        '<button type="button" class="plain" data-do="clear">Clear selection</button></div>'
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_asset('page.css')}</style>\n</head>\n"
        f"<body{version}>\n{nav}\n<main>\n{body}\n</main>\n"
        f"{bar}{told}\n"
        f"<script>{_vega()}</script>\n<script>const THEMES = {_themes()};\n{_asset('page.js')}</script>\n"
        "</body>\n</html>\n"
    )


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def _themes() -> str:
    configs = {"light": theme(), "dark": theme(dark=True), "print": printed()}
    named = {name: {"config": config} for name, config in configs.items()}
    return msgspec.json.encode({**named, "width": WIDTH}).decode()


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; wrapped, so that its top-level names stay its own."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    return "(function(){" + bundle.replace("</script", "<\\/script") + "})();"
