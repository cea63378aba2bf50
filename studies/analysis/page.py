"""The shell of a self-contained HTML page: style, theme, and charts drawn by one inlined copy of Vega.

Nothing on the page is fetched. Text passes through `html.escape`; a chart's JSON has every `<` written as `\\u003c`, so
that no value can close its script element.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from functools import cache

import altair as alt
import msgspec
import vl_convert

# Altair writes for this version.
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5a6678; --line: #e1e5eb; --accent: #0072b2;
  --good: #00795a; --bad: #b34700; --bad-soft: #fdf1e9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151b; --card: #1a2029; --ink: #e6eaf0; --soft: #9aa6b6; --line: #2c3542; --accent: #56b4e9;
    --good: #3fc79a; --bad: #f0a35e; --bad-soft: #2b2219;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 6px; letter-spacing: -0.005em; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 10px; overflow-wrap: anywhere; }
p { margin: 0 0 14px; max-width: 78ch; }
.soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 22px 0 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 20px; font-weight: 600; line-height: 1.3; }
.tile span { color: var(--soft); font-size: 13px; line-height: 1.35; display: block; }
.card { padding: 16px 18px; min-width: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.grid > div { min-width: 0; }
.small { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 145px), 1fr)); gap: 12px 16px;
  margin-bottom: 12px; }
.small > div { min-width: 0; }
.chart { width: 100%; min-width: 0; }
.chart.vega-embed { padding-right: 0 !important; }
.chart .chart-wrapper:has(form) { display: flex; flex-direction: column; }
.chart form.vega-bindings { order: -1; margin: 0 0 10px; }
.chart form.vega-bindings:empty { display: none; }
.chart .vega-bindings label { color: var(--soft); font-size: 13px; }
.chart .vega-bindings select {
  font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 3px 8px; max-width: 60vw;
}
.chart.vega-embed details { opacity: 0.25; }
.chart.vega-embed details:hover, .chart.vega-embed details:focus-within { opacity: 1; }
.scroll { overflow-x: auto; }
.scroll + p { margin-top: 12px; }
.card > :last-child { margin-bottom: 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
td small { color: var(--soft); display: block; white-space: nowrap; font-size: 12px; }
th.number, td.number { text-align: right; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); }
.note { border-left: 3px solid var(--bad); background: var(--bad-soft); padding: 10px 14px; border-radius: 0 8px 8px 0;
  margin: 14px 0; max-width: none; overflow-wrap: anywhere; }
.note ul { margin: 4px 0 0; padding-left: 20px; }
details.more > summary { cursor: pointer; color: var(--accent); margin: 44px 0 12px; font-size: 19px;
  font-weight: 600; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.92em; }
#vg-tooltip-element.vg-tooltip { font: 13px system-ui, "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--card); border: 1px solid var(--line); font-variant-numeric: tabular-nums; }
#vg-tooltip-element table tr td.key { color: var(--soft); }
#vg-tooltip-element td { border: 0; padding: 2px 6px; }
@media (max-width: 560px) {
  main { padding: 20px 14px 48px; }
  h1 { font-size: 23px; }
  .card { padding: 12px; }
}
"""

# The ordinal range is viridis without the end that the page's own background would swallow.
_SCRIPT = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 560px)");
function theme() {
  const ink = dark.matches ? "#c3ccd8" : "#3b4656", soft = dark.matches ? "#2c3542" : "#e6e9ee";
  const font = getComputedStyle(document.body).fontFamily;
  return {
    background: null, font,
    range: {ordinal: {scheme: "viridis", extent: dark.matches ? [0.3, 1] : [0, 0.86]}},
    axis: {labelColor: ink, titleColor: ink, gridColor: soft, domainColor: soft, tickColor: soft, labelFontSize: 12,
      titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8, tickCount: narrow.matches ? 3 : 5},
    legend: {labelColor: ink, titleColor: ink, orient: "bottom", direction: "horizontal", labelFontSize: 12,
      titleFontSize: 12, titleFontWeight: "normal", columns: narrow.matches ? 3 : 6, symbolStrokeWidth: 3},
    view: {stroke: null},
  };
}
const drawn = new Map();
function draw(script) {
  const place = script.previousElementSibling;
  return vegaEmbed(place, JSON.parse(script.textContent), {
    config: theme(), renderer: "svg",
    actions: {export: true, source: false, compiled: false, editor: false},
    downloadFileName: place.id,
  }).then(result => { drawn.get(script)?.finalize(); drawn.set(script, result); });
}
const scripts = [...document.querySelectorAll("script[type='application/json'][data-chart]")];
// Charts below the fold are drawn when they come near, so that a long page opens at once.
const near = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) {
    near.unobserve(entry.target);
    draw(entry.target.nextElementSibling);
  }
}, {rootMargin: "600px"});
for (const script of scripts) near.observe(script.previousElementSibling);
for (const query of [dark, narrow]) query.addEventListener("change", () => [...drawn.keys()].forEach(draw));
window.addEventListener("beforeprint", () => scripts.filter(s => !drawn.has(s)).forEach(draw));
"""


def escape(text: object) -> str:
    """`text` for use between tags or in a quoted attribute."""
    return html.escape(str(text), quote=True)


def chart(made: alt.TopLevelMixin, identifier: str) -> str:
    """A place on the page where `made` is drawn; `identifier` is the element's id and the name of saved images."""
    with alt.data_transformers.enable("default", max_rows=None):
        spec = made.to_dict()
    # The page's theme gives all of the looks; Altair's default config would override it.
    spec.pop("config", None)
    data = msgspec.json.encode(spec).decode().replace("<", "\\u003c")
    return (
        f'<div class="chart" id="{escape(identifier)}"></div><script type="application/json" data-chart>{data}</script>'
    )


def section(title: str, text: str, content: str) -> str:
    """A part of the page: `title` is text, `text` (what it shows) and `content` HTML."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{text}</p>{content}</section>'


def card(title: str, content: str) -> str:
    """A framed block; `title` is text, `content` HTML."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="card">{heading}{content}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int | None = None) -> str:
    """A table of HTML cells under text headings; the last `numbers` columns (default: all but the first) are numbers.

    A cell that starts with "+" or a minus sign is coloured: minus good, plus bad (losses against a baseline).
    """
    first = len(header) - (len(header) - 1 if numbers is None else numbers)

    def cell(tag: str, k: int, content: str) -> str:
        kinds = ["number"] if k >= first else []
        if tag == "td" and content.startswith(("+", "−")):
            kinds.append("bad" if content.startswith("+") else "good")
        return f'<{tag} class="{" ".join(kinds)}">{content}</{tag}>' if kinds else f"<{tag}>{content}</{tag}>"

    head = "".join(cell("th", k, escape(name)) for k, name in enumerate(header))
    body = "".join("<tr>" + "".join(cell("td", k, c) for k, c in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def note(title: str, items: Iterable[str]) -> str:
    """A block that draws the eye: text `title`, and a list of text items."""
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<div class="note"><b>{escape(title)}</b>{f"<ul>{listed}</ul>" if listed else ""}</div>'


def page(title: str, body: str) -> str:
    """The whole document. `title` is text, `body` HTML made by the functions above."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{_vega()}</script>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; wrapped, so that its top-level names stay its own."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _VEGA_LITE)
    return "(function(){" + bundle.replace("</script", "<\\/script") + "})();"
