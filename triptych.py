"""The command line. Imports wait until a command needs them: `--help` and `plan` must be quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from compiler.compile import Compiled
    from compiler.plan import StudyPlan
    from runtime.submission import Submitted
    from studies.analysis.fits import Count
    from studies.analysis.how import How
    from studies.analysis.laws.resampling import By as Units

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


Limit = Annotated[int | None, typer.Option(min=1, help="Points that the axes may come to; by default 1,000,000.")]


@contextmanager
def mistakes(as_json: bool) -> Iterator[None]:
    """Print a user's mistakes, one a line (or as JSON on standard output), and exit with 2."""
    from specs.errors import Problem, RuleError, SpecError

    try:
        yield
    except (SpecError, RuleError) as error:
        if isinstance(error, RuleError):  # about an argument, not about a file
            error = SpecError([Problem("command line", 1, error.path, error.what, error.todo)])
        if as_json:
            print(json.dumps({"errors": error.to_json()}))
        else:
            print(error, file=sys.stderr)
        raise typer.Exit(2) from None


def compiled(study: Path, overrides: list[str] | None, as_json: bool, limit: int | None = None) -> Compiled:
    """The plan of a study with what it came from, or exit 2 with what is wrong in it."""
    with mistakes(as_json):
        from compiler.compile import compile_whole
        from compiler.expand import LIMIT

        return compile_whole(study, overrides or [], limit=limit or LIMIT)


@app.command()
def plan(
    study: StudyFile,
    overrides: Overrides = None,
    sort: Annotated[str | None, typer.Option(help="Sort by this column; -COLUMN for the largest first.")] = None,
    group: Annotated[str | None, typer.Option(help="Group by this axis path; none for one table.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show; 0 for all.")] = 60,
    limit: Limit = None,
    gantt: Annotated[Path | None, typer.Option(help="Draw the study on its cluster: .html, .svg or .png.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Build each distinct trainer at its world size.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a row a run, as CSV.")] = False,
    out: Annotated[Path, typer.Option(help="Where finished runs are kept, for a sampling study.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Compile a study and show its runs; run nothing."""
    if _samples(study):
        with mistakes(as_json):
            given = any((sort, group, gantt, verify, as_csv))
            _refuse(
                given, "plan", "a sampling study is only listed", "give no --sort, --group, --gantt, --verify, --csv"
            )
        _plan_sampling(study, overrides, out, limit, as_json)
        return
    result = compiled(study, overrides, as_json, limit).plan
    if gantt is not None:
        from studies.analysis.gantt import write_gantt

        with mistakes(as_json):
            write_gantt(result, gantt)
    if verify:
        raise typer.Exit(_verify(result, as_json))
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    elif as_csv:
        from compiler.columns import write_csv

        write_csv(result, sys.stdout)
    else:
        from rich.console import Console

        from compiler.show import show

        with mistakes(as_json):
            descending = sort is not None and sort.startswith("-")
            column = sort.removeprefix("-") if sort else None
            show(result, Console(), sort=column, descending=descending, group=group, limit=rows or None)


def _verify(plan: StudyPlan, as_json: bool) -> int:
    """Check a plan against the trainers that it becomes; 1 where they differ."""
    import msgspec
    from rich.console import Console

    from runtime.training.verification import show, verify

    console = Console(stderr=True)
    with console.status("building trainers") as status:
        verified = verify(plan.runs, status.update)
    if as_json:
        print(msgspec.json.encode({"study": plan.study, "verified": verified}).decode())
    else:
        show(verified, Console())
    return 1 if any(one.problems for one in verified) else 0


@app.command()
def inspect(
    study: StudyFile,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, id, first digits of the id, or #number.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show one run whole, with the torchtitan configuration that it becomes."""
    import msgspec

    result = compiled(study, overrides, as_json).plan
    with mistakes(as_json):
        from compiler.single import find_run, show_run

        chosen = find_run(result, run)
    from runtime.training.inspection import torchtitan_config

    config = torchtitan_config(chosen, Path("runs") / "store" / chosen.id, study.parent)
    if as_json:
        print(msgspec.json.encode({"run": chosen, "torchtitan": config}).decode())
        return
    import yaml  # type: ignore[import-untyped]
    from rich.console import Console

    console = Console()
    show_run(chosen, console)
    console.print("\ntorchtitan", style="bold")
    print(yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=120), end="")


@app.command()
def explain(
    where: Annotated[Path, typer.Argument(metavar="STUDY.yaml|RUN_FOLDER", help="A study, or the folder of a run.")],
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run, where a study is given.")] = None,
    overrides: Overrides = None,
    path: Annotated[str | None, typer.Option(help="The value, such as optimizer.lr; all without it.")] = None,
    as_json: Json = False,
) -> None:
    """Say where a run's values come from: file and line, and what the compiler made of them."""
    import msgspec

    with mistakes(as_json):
        from compiler.explain import explain as explanations
        from compiler.explain import show_explanations
        from compiler.single import find_run
        from compiler.source import source_of

        if where.is_dir():
            where, overrides, run = source_of(where)
        result = compiled(where, overrides, as_json)
        chosen = find_run(result.plan, run or ("#0" if len(result.plan.runs) == 1 else ""))
        found = explanations(result, chosen, path)
    if as_json:
        print(msgspec.json.encode({"run": chosen.name, "id": chosen.id, "values": found}).decode())
    else:
        from rich.console import Console

        show_explanations(found, chosen, Console())


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A study, a plan.json, or a study's folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What it has become.")],
    as_json: Json = False,
) -> None:
    """Compare two plans: runs added, removed and changed, and which values."""
    with mistakes(as_json):
        from compiler.difference import difference, load_plan, show_difference

        before, after = (
            compiled(one, None, as_json).plan if one.suffix in (".yaml", ".yml") else load_plan(one) for one in (a, b)
        )
        result = difference(before, after)
    if as_json:
        import msgspec

        print(msgspec.json.encode(result).decode())
    else:
        from rich.console import Console

        show_difference(result, Console())


@app.command()
def schema(
    sampling: Annotated[bool, typer.Option("--sampling", help="Of sampling studies.")] = False,
) -> None:
    """Print the JSON Schema of a study, for completion in editors."""
    from specs.schema import json_schema

    print(json.dumps(json_schema(sampling=sampling), indent=1))


@app.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Where to write it.")], as_json: Json = False
) -> None:
    """Write a commented starter study."""
    from specs.starter import write_starter

    with mistakes(as_json):
        write_starter(file)
    _print_paths([file], as_json)


@app.command()
def mfu(
    folder: Folder,
    write: Annotated[bool, typer.Option("--write", help="Write it into the cluster's profile.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the model FLOPs utilisation of earlier runs, for the profile that plans are costed with."""
    from studies.analysis.mfu import run_mfu

    with mistakes(as_json):
        code = run_mfu(folder, write, as_json)
    raise typer.Exit(code)


@app.command()
def run(
    study: StudyFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Where studies and runs are kept.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(min=1, help="Runs trained at once; by default one a core.")] = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Train all runs of a study on this machine, or draw the points of a sampling study. Run again, it continues where
    it was."""
    if _samples(study):
        with mistakes(as_json):
            _refuse(workers is not None, "--workers", "a sampling study draws in one process", "leave it out")
        _run_sampling(study, overrides, out, limit, as_json)
        return
    result = compiled(study, overrides, as_json, limit)
    from rich.console import Console

    from runtime.study import run_study

    with failures():
        code = run_study(result, study, overrides or [], out, workers=workers, console=Console(stderr=as_json))
    if as_json:
        from compiler.records import study_folder

        _print_states(study_folder(out, result.plan.study))
    raise typer.Exit(code)


@app.command()
def submit(
    study: StudyFile,
    overrides: Overrides = None,
    profile: Annotated[str | None, typer.Option(help="The cluster, instead of the study's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the sbatch files; submit nothing.")] = False,
    out: Annotated[Path, typer.Option(help="Where studies and runs are kept; all nodes must see it.")] = Path("runs"),
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Submit the runs of a study to Slurm that are neither done nor queued."""
    given = [*(overrides or []), *([f"cluster={profile}"] if profile else [])]
    result = compiled(study, given, as_json, limit)
    from rich.console import Console

    from runtime.folders import build_sources, prepare
    from runtime.submission import dry_run as sbatch_files
    from runtime.submission import slurm_of
    from runtime.submission import submit as submit_plan

    with mistakes(as_json), failures():
        slurm_of(result.plan.cluster)
        if dry_run:
            files = sbatch_files(result.plan, out)
            print(json.dumps({"sbatch": files}) if as_json else "\n".join(files))
            return
        data_root = study.resolve().parent
        build_sources(result.plan, data_root)
        prepare(result, study, given, out, "submit")
        _print_submitted(submit_plan(result.plan, data_root, out, Console(stderr=True)), as_json)


def _print_submitted(submitted: Submitted, as_json: bool) -> None:
    import msgspec

    from runtime.submission import told

    print(msgspec.json.encode(submitted).decode() if as_json else told(submitted))


@app.command()
def status(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until nothing waits or trains.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks, with --watch.")] = 2.0,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show, those that train or failed first; 0 for all.")] = 60,
    as_json: Json = False,
) -> None:
    """What is done, running, waiting, failed and why."""
    with mistakes(as_json):
        if as_json:
            _print_states(folder)
            return
        from rich.console import Console

        from runtime.status import show, study_states
        from runtime.status import watch as keep_showing

        if watch:
            keep_showing(folder, Console(), rows or None, every)
        else:
            show(study_states(folder), Console(), rows or None)


Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RUN]...", help="Runs by name, id, its first digits or #number; or all."),
]


@app.command()
def cancel(folder: Folder, runs: Runs = None, as_json: Json = False) -> None:
    """Cancel a study's runs: what trains is saved and stops, what waits never begins."""
    import msgspec

    with mistakes(as_json), failures():
        from compiler.difference import load_plan
        from runtime.orders import cancel as cancel_runs

        done = cancel_runs(load_plan(folder), runs or [], folder.absolute().parent)
    if as_json:
        print(msgspec.json.encode(done).decode())
    else:
        print(f"{len(done.cancelled)} runs cancelled, {len(done.asked)} asked to save and stop, {len(done.done)} done")


@app.command()
def retry(
    folder: Folder,
    runs: Runs = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed, not the cancelled.")] = False,
    as_json: Json = False,
) -> None:
    """Take up failed and cancelled runs again, from what was saved, here or on the cluster as before."""
    with mistakes(as_json), failures():
        from rich.console import Console

        from compiler.difference import load_plan
        from compiler.source import launcher_of
        from runtime.orders import relaunch
        from runtime.orders import retry as take_up

        plan, source, out = load_plan(folder), launcher_of(folder), folder.absolute().parent
        console = Console(stderr=True)
        again = {run.id for run in take_up(plan, runs or [], out, failed_only=failed)}
        console.print(f"{len(again)} runs are taken up again", highlight=False)
        ended = relaunch(source, plan, again, out, console)
        if not isinstance(ended, int):
            _print_submitted(ended, as_json)
            return
        if as_json:
            _print_states(folder)
    raise typer.Exit(ended)


@app.command()
def logs(
    where: Annotated[Path, typer.Argument(metavar="DIR|RUN_FOLDER", help="A study's folder, or a run's.")],
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run, where a study is given.")] = None,
    lines: Annotated[int, typer.Option(min=0, help="Last lines to print; 0 for all.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Go on printing until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Print what a run has logged, and what its Slurm job has."""
    with mistakes(as_json):
        from runtime.logs import follow as keep_printing
        from runtime.logs import locate, log_files, logs_json, print_logs

        home, study = locate(where, run)
        files = log_files(home, study)
    if as_json:
        print(logs_json(files, lines))
    else:
        print_logs(files, lines, sys.stdout)
        if follow:
            keep_printing(home, sys.stdout)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/demo/runs/ID.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="The sampler's, such as steps=16 guidance=2.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="text, text-to-image, text-to-speech, image-to-text, speech-to-text, infill, …")
    ] = "text",
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to go by: text, or a PNG or WAV file; held-out data without it.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, max=1_000_000, help="Samples.")] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    modality: Annotated[str | None, typer.Option(help="Which modality to infill.")] = None,
    judged: Annotated[bool, typer.Option("--judge", help="Say what judges say, beside real held-out data.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write; by default RUN/samples.")] = None,
    as_json: Json = False,
) -> None:
    """Sample from a trained run: text, pictures, speech, one given another, or what is missing."""
    with mistakes(as_json), failures():
        from rich.console import Console

        from runtime.sampling.command import Wanted, show
        from runtime.sampling.command import sample as draw

        wanted = Wanted(task, n, prompt or [], settings or [], seed, modality, judged, out)
        sampled = draw(folder, wanted, Console(stderr=True))
    if as_json:
        import msgspec

        print(msgspec.json.encode(sampled).decode())
    else:
        show(sampled, Console())


def _samples(study: Path) -> bool:
    from specs.sampling import is_sampling_study

    return is_sampling_study(study)


def _sampled(folder: Path) -> bool:
    """Whether `folder` is a sampling study's."""
    from compiler.sampling import PLAN

    return (folder / PLAN).is_file()


def _refuse(given: bool, path: str, what: str, todo: str) -> None:
    """Raise RuleError where something is `given` that a study of this kind does not take."""
    from specs.errors import RuleError

    if given:
        raise RuleError(path, what, todo)


def _plan_sampling(study: Path, overrides: list[str] | None, out: Path, limit: int | None, as_json: bool) -> None:
    with mistakes(as_json):
        from compiler.expand import LIMIT
        from compiler.sampled import compile_sampling

        plan = compile_sampling(study, overrides or [], out, limit=limit or LIMIT)
    if as_json:
        import msgspec

        print(msgspec.json.encode(plan).decode())
    else:
        from rich.console import Console

        from compiler.show import show_sampling

        show_sampling(plan, Console())


def _run_sampling(study: Path, overrides: list[str] | None, out: Path, limit: int | None, as_json: bool) -> None:
    with mistakes(as_json), failures():
        from rich.console import Console

        from compiler.expand import LIMIT
        from compiler.sampled import compile_sampling
        from runtime.sampling.study import run_sampling

        plan = compile_sampling(study, overrides or [], out, limit=limit or LIMIT)
        judged = run_sampling(plan, study, out, Console(stderr=as_json))
    if as_json:
        import msgspec

        print(msgspec.json.encode(judged).decode())


Params = Annotated[
    Literal["non_embedding", "total"], typer.Option(help="Which parameters of a study's runs are the law's N.")
]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples for the intervals; 0 for none.")]
By = Annotated[
    Literal["run", "seed"], typer.Option(help="What is drawn for intervals: runs, or settings with all their seeds.")
]
Value = Annotated[
    list[str] | None, typer.Option(metavar="MODALITY=WEIGHT", help="What a nat of a modality counts for in a mix.")
]


def _how(params: Count, bootstrap: int, by: Units = "run", value: list[str] | None = None) -> How:
    from studies.analysis.how import How, values_of

    return How(params, bootstrap, by=by, values=values_of(value or []))


@app.command()
def fit(
    sources: Annotated[
        list[Path], typer.Argument(metavar="DIR...|FILE", help="Studies' folders (or one of many), or a table of runs.")
    ],
    n: Annotated[str, typer.Option(help="A file's column of model sizes.")] = "params",
    d: Annotated[str, typer.Option(help="A file's column of tokens.")] = "tokens",
    loss: Annotated[str, typer.Option(help="A file's column of losses.")] = "loss",
    flops: Annotated[str | None, typer.Option(help="A file's column of FLOPs; without it, 6 N D.")] = None,
    modality: Annotated[str | None, typer.Option(help="The rows of a file, by its column of this name.")] = None,
    approaches: Annotated[bool, typer.Option("--approaches", help="Of a file, also approaches 1 and 2.")] = False,
    params: Params = "non_embedding",
    bootstrap: Bootstrap = 1000,
    by: By = "run",
    value: Value = None,
    write: Annotated[
        Path | None, typer.Option(help="Of a sampling study: the file of defaults to put those found into.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit the Chinchilla law L(N, D) = E + A/N^alpha + B/D^beta; and what else a study asks, such as its best mix, or
    the best sampler."""
    if any(map(_sampled, sources)):
        from studies.analysis.sampling.cli import run_sampling_fit

        with mistakes(as_json):
            _refuse(len(sources) > 1, "DIR", "a sampling study is fitted by itself", "give that folder alone")
            raise typer.Exit(run_sampling_fit(sources[0], as_json, write))
    from studies.analysis.cli import run_fit
    from studies.analysis.tables import Columns

    with mistakes(as_json):
        columns = Columns(n, d, loss, modality, flops)
        _refuse(write is not None, "--write", "only a sampling study finds defaults", "leave it out")
        code = run_fit(sources, columns, _how(params, bootstrap, by, value), approaches, as_json)
    raise typer.Exit(code)


@app.command()
def report(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Serve a live page on this machine until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 for a free one.")] = 0,
    params: Params = "non_embedding",
    bootstrap: Annotated[int | None, typer.Option(min=0, help="Resamples; by default 1000, 200 with --watch.")] = None,
    by: By = "run",
    value: Value = None,
    as_json: Json = False,
) -> None:
    """Write report.html and results.parquet into a study's folder, or show it while the study runs."""
    if _sampled(folder):
        from studies.analysis.sampling.cli import run_sampling_report

        with mistakes(as_json):
            _refuse(watch, "--watch", "a sampling study has no live page", "leave it out, and report again later")
            raise typer.Exit(run_sampling_report(folder, as_json))
    from studies.analysis.cli import run_report, run_serve

    with mistakes(as_json):
        how = _how(params, (200 if watch else 1000) if bootstrap is None else bootstrap, by, value)
        code = run_serve(folder, port, how, as_json) if watch else run_report(folder, how, as_json)
    raise typer.Exit(code)


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Where to write; by default DIR/export.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Of figures: some of csv,png,svg.")] = "csv,png,svg",
    params: Params = "non_embedding",
    bootstrap: Bootstrap = 1000,
    by: By = "run",
    value: Value = None,
    as_json: Json = False,
) -> None:
    """Write a study's results, and every figure of its report as data and pictures."""
    from studies.analysis.cli import run_export

    with mistakes(as_json):
        code = run_export(folder, out, formats.split(","), _how(params, bootstrap, by, value), as_json)
    raise typer.Exit(code)


@app.command("next")
def next_study(
    folder: Folder,
    budget: Annotated[str, typer.Option(metavar="FLOPS", help="Training FLOPs to spend, such as 1e21.")],
    out: Annotated[Path | None, typer.Option(help="The study file to write.")] = None,
    runs: Annotated[int, typer.Option(min=0, help="Most runs of the study that narrows the law; 0 for none.")] = 12,
    design_budget: Annotated[str | None, typer.Option(metavar="FLOPS", help="What those may cost in all.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over files that are there.")] = False,
    params: Params = "non_embedding",
    bootstrap: Bootstrap = 1000,
    value: Value = None,
    as_json: Json = False,
) -> None:
    """The best use of a budget by a study's laws, as a study ready to plan; and the runs that would narrow them."""
    from studies.analysis.next_cli import run_next

    given = {"bootstrap": bootstrap, "count": params, "overwrite": overwrite, "as_json": as_json}
    raise typer.Exit(run_next(folder, budget, value or [], out, runs, design_budget, **given))


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
    """Print why data cannot be had, Slurm does not take jobs, or files cannot be written; and exit with 1."""
    from runtime.data import DataError
    from runtime.scheduler import SchedulerError

    try:
        yield
    except (DataError, SchedulerError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        raise typer.Exit(1) from None


def _print_states(folder: Path) -> None:
    import msgspec

    from runtime.status import study_states

    print(msgspec.json.encode(study_states(folder)).decode())


def main() -> None:
    """The `triptych` command."""
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # the reader, such as `head`, has had enough
            os._exit(0)
        raise
