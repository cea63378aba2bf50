"""The command line. Imports wait until a command needs them: `--help` and `plan` must be quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from compiler.plan import StudyPlan
    from runtime.status import RunState

app = typer.Typer(
    help="Declarative scaling studies of multimodal masked-diffusion models: plan, run, fit, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="The data sources that ship with the project.", no_args_is_help=True)
app.add_typer(data_app, name="data")

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values to set, such as base.batch.physical=32.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder, such as runs/demo.")]


@contextmanager
def mistakes(as_json: bool) -> Iterator[None]:
    """Print a user's mistakes, one a line (or as JSON on standard output), and exit with 2."""
    from specs.errors import SpecError

    try:
        yield
    except SpecError as error:
        if as_json:
            print(json.dumps({"errors": error.to_json()}))
        else:
            print(error, file=sys.stderr)
        raise typer.Exit(2) from None


def compiled(study: Path, overrides: list[str] | None, as_json: bool) -> StudyPlan:
    """The plan of a study, or exit 2 with what is wrong in it."""
    with mistakes(as_json):
        from compiler.compile import compile_study

        return compile_study(study, overrides or [])


@app.command()
def plan(study: StudyFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Compile a study and show its runs; run nothing."""
    result = compiled(study, overrides, as_json)
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        from rich.console import Console

        from compiler.show import show

        show(result, Console())


@app.command()
def run(
    study: StudyFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Where studies and runs are kept.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(min=1, help="Runs trained at once; by default one a core.")] = None,
    as_json: Json = False,
) -> None:
    """Train all runs of a study on this machine. Run again, it continues where it was."""
    result = compiled(study, overrides, as_json)
    from rich.console import Console

    from runtime.study import run_study

    with failures():
        code = run_study(result, study, out, workers=workers, console=Console(stderr=as_json))
    if as_json:
        from compiler.records import study_folder

        _print_states(study_folder(out, result.study))
    raise typer.Exit(code)


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """What is done, running, failed and why."""
    with mistakes(as_json):
        if as_json:
            _print_states(folder)
            return
        from rich.console import Console

        from runtime.status import show

        show(*_states(folder), Console())


Params = Annotated[
    Literal["non_embedding", "total"], typer.Option(help="Which parameters of a study's runs are the law's N.")
]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples for the intervals; 0 for none.")]


@app.command()
def fit(
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE.csv", help="A study's folder, or a table of runs.")],
    n: Annotated[str, typer.Option(help="A file's column of model sizes.")] = "params",
    d: Annotated[str, typer.Option(help="A file's column of tokens.")] = "tokens",
    loss: Annotated[str, typer.Option(help="A file's column of losses.")] = "loss",
    params: Params = "non_embedding",
    bootstrap: Bootstrap = 1000,
    as_json: Json = False,
) -> None:
    """Fit the Chinchilla law L(N, D) = E + A/N^alpha + B/D^beta."""
    from studies.analysis.cli import run_fit

    raise typer.Exit(run_fit(source, n=n, d=d, loss=loss, count=params, bootstrap=bootstrap, as_json=as_json))


@app.command()
def report(
    folder: Folder, params: Params = "non_embedding", bootstrap: Bootstrap = 1000, as_json: Json = False
) -> None:
    """Write report.html and results.parquet into a study's folder."""
    from studies.analysis.cli import run_report

    raise typer.Exit(run_report(folder, count=params, bootstrap=bootstrap, as_json=as_json))


@data_app.command("build")
def data_build(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Sources, such as embedded/text.")],
    folder: Annotated[Path, typer.Option(help="The folder that names of your own sources start from.")] = Path(),
    as_json: Json = False,
) -> None:
    """Build data sources, check them against their manifests, and print where they are."""
    from runtime.data import build

    with failures():
        _print_paths({name: build(name, folder) for name in names}.values(), as_json)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A source, such as embedded/image.")],
    out: Annotated[Path, typer.Option(help="Where to write the examples.")] = Path("examples"),
    n: Annotated[int, typer.Option(min=1, help="How many held-out sequences.")] = 8,
    folder: Annotated[Path, typer.Option(help="The folder that names of your own sources start from.")] = Path(),
    as_json: Json = False,
) -> None:
    """Decode examples of a source to files that one can look at and listen to."""
    from runtime.data.showing import show

    with failures():
        _print_paths(show(name, folder, out, n), as_json)


def _print_paths(paths: Iterable[Path], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"paths": [str(path) for path in paths]}))
    else:
        print(*paths, sep="\n")


@contextmanager
def failures() -> Iterator[None]:
    """Print why data cannot be had, and exit with 1."""
    from runtime.data import DataError

    try:
        yield
    except DataError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def _states(folder: Path) -> tuple[StudyPlan, list[RunState]]:
    """A study's plan and where its runs stand. Raises SpecError where `folder` is not a study's."""
    import msgspec

    from runtime.status import study_states
    from specs.errors import Problem, SpecError

    todo = "give the folder of a study that `triptych run` has made, such as runs/demo"
    try:
        return study_states(folder)
    except OSError:
        raise SpecError([Problem(str(folder), 1, "plan.json", "there is no plan here", todo)]) from None
    except msgspec.MsgspecError as error:
        what = f"the plan cannot be read ({error})"
        raise SpecError([Problem(str(folder / "plan.json"), 1, "plan", what, "run the study again")]) from None


def _print_states(folder: Path) -> None:
    import msgspec

    plan, states = _states(folder)
    print(msgspec.json.encode({"study": plan.study, "runs": states}).decode())


def main() -> None:
    """The `triptych` command."""
    app()
