"""`triptych export DIR`: a study's results and every figure of its report as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import vl_convert

from compiler.files import write_atomically
from specs.errors import Problem, SpecError
from studies.analysis.figures import Drawn, drawn, flat, inlined, one_table
from studies.analysis.how import How
from studies.analysis.page import VEGA_LITE
from studies.analysis.report.build import report_sections
from studies.analysis.report.sections import figures
from studies.analysis.results import read_study
from studies.analysis.themes import WIDTH, printed

Format = Literal["csv", "png", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)

Progress = Callable[[int, int, str], None]
"""Called before each figure: how many are done, of how many, and which is next."""


def export(
    folder: str | Path,
    out: str | Path | None = None,
    formats: Sequence[str] = FORMATS,
    how: How = How(),  # noqa: B008
    on_progress: Progress = lambda done, of, name: None,
) -> list[Path]:
    """Write the study's results and its report's figures into `out` (`DIR/export`), and give back the files' paths.

    `results.parquet` and `results.csv` are the table of `Study.results`. Each figure becomes `NAME.csv` (all that is
    drawn), `NAME.png` and `NAME.svg`, as `formats` say, named as the report's own buttons name them; one is drawn at a
    time. In CSV, text that a spreadsheet would run as a formula stands behind a `'`. Raises `SpecError` where the
    folder holds no study, a format is none of `FORMATS`, or a file cannot be written.
    """
    chosen = _formats(formats)
    study = read_study(folder)
    place = Path(out) if out is not None else study.folder / "export"
    results = study.results()
    sections = report_sections(study, how)[1]
    named = list(figures(sections))
    written = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        written += [place / "results.parquet", place / "results.csv"]
        results.write_parquet(written[0])
        flat(results).write_csv(written[1])
        for done, (name, words, figure) in enumerate(named):
            on_progress(done, len(named), name)
            made = drawn(figure.draw(), words)
            for kind in chosen:
                path = place / f"{name}.{kind}"
                write_atomically(path, _file(made, kind), durably=False)
                written.append(path)
    except OSError as error:
        what = f"the figures cannot be written ({error.strerror or error})"
        raise SpecError([Problem(str(place), 1, "out", what, "name a folder where you may write")]) from None
    on_progress(len(named), len(named), "")
    return written


def _formats(given: Iterable[str]) -> list[Format]:
    names = [name.strip().lower() for name in given]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        what = f"{', '.join(map(repr, unknown))} is no format of figures" if unknown else "no format is named"
        raise SpecError([Problem("command line", 1, "--format", what, f"name some of {', '.join(FORMATS)}")])
    return [kind for kind in FORMATS if kind in names]


def _file(made: Drawn, kind: Format) -> bytes:
    if kind == "csv":
        return one_table(made).write_csv().encode()
    spec = inlined(made, WIDTH)
    if kind == "svg":
        return str(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, config=printed())).encode()
    return bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, config=printed(), scale=2))
