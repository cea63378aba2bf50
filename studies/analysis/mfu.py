"""`triptych mfu DIR`: the model FLOPs utilisation (MFU) that a study's runs reached, for the cluster's profile.

MFU is the model FLOPs of the tokens that were trained on in a second, over the peak of the devices that trained: what
`compiler.plan.ClusterPlan.sustained` multiplies the peak by, and so what device-hours are planned from.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl

from compiler.clusters import UnknownClusterError, is_shipped, profile_path, user_folder
from compiler.files import write_atomically
from compiler.plan import ClusterPlan, RunPlan
from specs.document import Document, parse
from specs.errors import Problem, SpecError
from studies.analysis.cli import USER, WELL
from studies.analysis.results import read_study

_WARM_UP = 0.1
"""Share of a run's first logged rows that are left out, and at least one: kernels are chosen, caches filled."""
_ENTRY = re.compile(r"""(?P<key>(?<![\w-])["']?mfu["']?\s*:\s*)(?P<value>[^\s,}#]+)""")


class RunMfu(msgspec.Struct, frozen=True, kw_only=True):
    """One run's utilisation. `tokens_per_second` is the median over its logged rows, of all ranks together.

    `peak_hours` is what the whole run would take one device at its peak: the run's weight in `overall`.
    """

    id: str
    name: str
    state: str
    ranks: int
    dtype: str
    flops: float
    tokens_per_second: float
    mfu: float
    peak_hours: float


def measure(folder: Path) -> list[RunMfu]:
    """The utilisation of every run in the study's `folder` that trains or has ended well, in the plan's order.

    Model FLOPs per token are those of the steps done over the tokens seen in them. Raises SpecError where the folder
    holds no study, or no run has logged a step after its warm-up.
    """
    study = read_study(folder)
    warm = pl.max_horizontal(1, (pl.len() * _WARM_UP).floor())
    logged = (
        study.scan_metrics()
        .select("id", "step", "tokens", "tokens_per_second")
        .filter(pl.col("tokens_per_second").is_finite() & (pl.col("tokens") > 0))
        .collect()
        .filter((pl.int_range(pl.len()) >= warm).over("id"))
        .group_by("id")
        .agg(pl.col("tokens_per_second").median(), pl.col("step", "tokens").last())
    )
    rows = study.runs.filter(pl.col("state").is_in(["done", "running"])).select("id", "state").join(logged, on="id")
    by_id = {row["id"]: row for row in rows.iter_rows(named=True)}
    measured = [_run_mfu(run, study.plan.cluster, **by_id[run.id]) for run in study.plan.runs if run.id in by_id]
    if not measured:
        what = "no run that trains or is done has logged a step after its first"
        raise SpecError([Problem(str(folder), 1, "metrics.jsonl", what, "train the study, or lower log_every")])
    return measured


def overall(measured: Sequence[RunMfu]) -> float:
    """The one MFU that gives all measured runs together the device-hours that they took: by FLOPs, and harmonic, since
    hours add up, not rates."""
    return sum(run.peak_hours for run in measured) / sum(run.peak_hours / run.mfu for run in measured)


def write(cluster: str, mfu: float) -> Path:
    """Set `mfu:` in the profile of `cluster`, leaving all else as it is, and give back the file's path.

    A shipped profile is copied to the user's folder first. Raises SpecError where the profile cannot be changed.
    """
    try:
        source = profile_path(cluster)
    except UnknownClusterError as error:
        raise SpecError([Problem(cluster, 1, error.path, error.what, error.todo)]) from None
    value = f"{mfu:.3g}"
    if not 0 < float(value) <= 1:
        what = f"a measured MFU of {value} is more than the accelerator's peak"
        raise SpecError([Problem(str(source), 1, "accelerator", what, "name the accelerator that trained the runs")])
    target = user_folder() / source.name if is_shipped(source) else source
    try:
        text = source.read_bytes().decode("utf-8-sig")
        changed = _set_mfu(text, value, source)
        target.parent.mkdir(parents=True, exist_ok=True)
        # A link would be replaced by a file: the file that it leads to is the profile.
        write_atomically(target.resolve(), changed.encode())
    except OSError as error:
        what = f"the profile cannot be written ({error.strerror or error})"
        raise SpecError([Problem(str(target), 1, "mfu", what, f"set mfu: {value} where you may write")]) from None
    return target


def run_mfu(folder: Path, write_profile: bool = False, as_json: bool = False) -> int:
    """`triptych mfu DIR`: print what each run reached, and all together; with `write_profile` set the profile's `mfu`.

    JSON is {"cluster", "planned", "mfu", "written", "runs": [RunMfu]}. Exit code 2 for bad input.
    """
    try:
        cluster = read_study(folder).plan.cluster
        measured = measure(folder)
        together = overall(measured)
        written = write(cluster.name, together) if write_profile else None
    except SpecError as error:
        if as_json:
            print(msgspec.json.encode({"errors": error.to_json()}).decode())
        else:
            print(error, file=sys.stderr)
        return USER
    if as_json:
        found = {"cluster": cluster.name, "planned": cluster.mfu, "mfu": together, "runs": measured}
        print(msgspec.json.encode({**found, "written": None if written is None else str(written)}).decode())
    else:
        _print(cluster, measured, together, written)
    return WELL


def _run_mfu(
    run: RunPlan, cluster: ClusterPlan, id: str, state: str, tokens_per_second: float, step: int, tokens: int
) -> RunMfu:
    flops_per_token = run.flops * step / run.steps / tokens
    peak = cluster.accelerator.peak[run.dtype]
    return RunMfu(
        id=id,
        name=run.name,
        state=state,
        ranks=run.parallel.ranks,
        dtype=run.dtype,
        flops=run.flops,
        tokens_per_second=tokens_per_second,
        mfu=flops_per_token * tokens_per_second / (run.parallel.ranks * peak),
        peak_hours=run.flops / peak / 3600,
    )


def _set_mfu(text: str, value: str, path: Path) -> str:
    """`text` with its top-level `mfu` set. Raises SpecError where it is written in a way that this cannot follow."""
    document = Document({}, str(path))
    data = parse(text, str(path), document.origins)
    line = document.origin(("mfu",)).line
    start = sum(len(before) + 1 for before in text.split("\n")[: line - 1])
    entry = _ENTRY.search(text, start)
    if entry is not None:
        changed = text[: entry.start("value")] + value + text[entry.end("value") :]
        if parse(changed, str(path), {}) == {**data, "mfu": float(value)}:
            return changed
    what = "the value cannot be replaced where it stands"
    raise SpecError([document.problem(("mfu",), what, f"write mfu: {value} on a line of its own")])


def _print(cluster: ClusterPlan, measured: Sequence[RunMfu], together: float, written: Path | None) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("run")
    table.add_column("state")
    for heading in ("ranks", "tokens/s", "MFU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in measured:
        table.add_row(run.name or run.id, run.state, str(run.ranks), f"{run.tokens_per_second:,.0f}", f"{run.mfu:.3f}")
    console.print(table)
    console.print(
        f"Together: MFU {together:.3g} of {cluster.accelerator.name}; the profile '{cluster.name}' was planned "
        f"with {cluster.mfu:g}."
    )
    if written is None:
        console.print("With --write it is put into the profile.")
    else:
        console.print(f"Written to {written}")
