"""The report of a large study: how long it is written, how large it is, and how soon a browser has drawn it.

python -m tests.benchmarks.dashboard [--runs 1000] [--bootstrap 200] [--rounds 3] [--out DIR] [--json]

The study is synthetic: sizes × tokens × seeds of three modalities, a row each ten steps. Drawn means: from the opening
of the file to the last chart that is in view or near it, and, counted anew after that, all others as well.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from studies.analysis.how import How
from studies.analysis.report import render
from studies.analysis.results import read_study
from tests.browser import chromium, listened
from tests.synthetic import make_study

NEAR = "[...document.querySelectorAll('.chart')].filter(e => e.getBoundingClientRect().top < innerHeight + 600)"


def study(out: Path, runs: int) -> Path:
    """A study of at least `runs` runs of 10 sizes and 10 token counts."""
    sizes = {16 * (k + 2): round(36_000 * 1.8**k) for k in range(10)}
    tokens = tuple(np.geomspace(2e5, 4e6, 10).round(-3).tolist())
    return make_study(out, sizes=sizes, tokens=tokens, seeds=math.ceil(runs / 100))


def draw(path: Path, rounds: int) -> dict[str, float]:
    """Median seconds until the charts in view are drawn, and until all are, how many there are, and what the page's
    main thread worked in all, which other programs on the machine do not lengthen much."""
    seen, whole, worked, charts = [], [], [], 0
    with chromium() as browser:
        for _ in range(rounds):
            page, said = listened(browser, viewport={"width": 1280, "height": 900})
            devtools = page.context.new_cdp_session(page)
            devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
            begun = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_function(f"{NEAR}.length > 0 && {NEAR}.every(e => e.dataset.drawn === '')", polling=20)
            seen.append(time.perf_counter() - begun)
            page.evaluate("drawAll()")
            whole.append(time.perf_counter() - begun)
            figures = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
            worked.append(figures["TaskDuration"])
            charts = page.locator(".chart[data-drawn]").count()
            if said:
                raise SystemExit("\n".join(said))
            page.context.close()
    medians = {name: statistics.median(v) for name, v in (("in_view", seen), ("all", whole), ("worked", worked))}
    return {**{f"{name}_seconds": value for name, value in medians.items()}, "charts": charts}


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the study and its report are kept")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        place = out / "demo"
        if not place.exists():
            study(out, arguments.runs)
        begun = time.perf_counter()
        read = read_study(place)
        reading = time.perf_counter() - begun
        html = render(read, How(bootstrap=arguments.bootstrap))
        rendering = time.perf_counter() - begun - reading
        path = place / "report.html"
        path.write_text(html)
        result = {
            "runs": len(read.runs),
            "rows": read.utilisation()["rows"].sum(),
            "read_seconds": reading,
            "render_seconds": rendering,
            "megabytes": path.stat().st_size / 1e6,
            **draw(path, arguments.rounds),
        }
    if arguments.json:
        print(json.dumps(result))
        return
    print(
        f"{result['runs']:,} runs, {result['rows']:,} rows: read in {result['read_seconds']:.2f} s, rendered in "
        f"{result['render_seconds']:.2f} s, {result['megabytes']:.2f} MB\n"
        f"drawn: what is in view {result['in_view_seconds']:.2f} s, all {result['charts']} charts "
        f"{result['all_seconds']:.2f} s, of which the main thread worked {result['worked_seconds']:.2f} s"
    )


if __name__ == "__main__":
    main()
