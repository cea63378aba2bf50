"""A plan as people and spreadsheets see it: the table, its outliers, CSV, and one run whole."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from compiler.columns import columns, find_column, write_csv
from compiler.outliers import outliers
from compiler.plan import MixStage, Noise, RunPlan, StudyPlan, TimePlan
from compiler.show import duration, show
from compiler.single import find_run, show_run
from specs.errors import RuleError
from tests.compiling import compile_data, study

RATES = [1e-3, 2e-3, 4e-3]


@functools.cache
def plan() -> StudyPlan:
    """Three widths x three learning rates x two seeds."""
    data = study()
    data["axes"] = [{"grid": {"model.width": [32, 128, 64], "optimizer.lr": RATES}}, {"seeds": 2}]
    return compile_data(data)


def seen(run: Any, *arguments: Any, width: int | None = None, **options: Any) -> str:
    """What `run(*arguments, console)` prints, to a terminal of `width` columns or else to a file."""
    file = io.StringIO()
    run(*arguments, Console(file=file, width=width, force_terminal=width is not None, color_system=None), **options)
    return file.getvalue()


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("width=")]


def with_runs(*runs: RunPlan) -> StudyPlan:
    return replace(plan(), runs=runs)


# The table


def test_runs_stand_below_their_axis_with_subtotals() -> None:
    text = seen(show, plan())
    headings = [line for line in text.splitlines() if line.startswith("model.width = ")]
    assert [line.partition(":")[0] for line in headings] == [f"model.width = {width}" for width in (32, 128, 64)]
    flops = sum(run.flops for run in plan().runs if run.model.width == 128)
    hours = sum(run.device_hours for run in plan().runs if run.model.width == 128)
    assert headings[1] == f"model.width = 128: 6 runs, {flops:.3g} FLOPs, {hours:.3g} device-hours"
    assert len(rows(text)) == 18
    below = text[text.index("model.width = 128") : text.index("model.width = 64")]
    assert len(rows(below)) == 6
    assert all(row.startswith("width=128") and "128x2x" in row for row in rows(below))
    assert len({len(row) for row in rows(text)}) == 1, "columns stand below one another"


def test_another_axis_groups_by_its_short_name() -> None:
    text = seen(show, plan(), group="lr")
    assert [line.partition(":")[0] for line in text.splitlines() if line.startswith("optimizer.lr = ")] == [
        f"optimizer.lr = {rate:g}" for rate in RATES
    ]
    assert "model.width =" not in seen(show, plan(), group="none")
    with pytest.raises(RuleError, match=re.escape("did you mean 'model.width'")):
        seen(show, plan(), group="model.widht")


def test_few_runs_and_values_that_never_repeat_make_one_table() -> None:
    assert "width = " not in seen(show, with_runs(*plan().runs[:6]))
    scattered = with_runs(*(replace(run, point={"a": i, "b": -i}) for i, run in enumerate(plan().runs)))
    assert "a = " not in seen(show, scattered)


@pytest.mark.parametrize(
    ("sort", "value"),
    [
        ("FLOPs", lambda run: run.flops),
        ("hours", lambda run: run.device_hours),
        ("point.optimizer.lr", lambda run: run.point["optimizer.lr"]),
        ("model.parameters.total", lambda run: run.model.parameters.total),
        ("run", lambda run: run.name),
        ("epochs.prose", lambda run: run.epochs["prose"]),
    ],
)
@pytest.mark.parametrize("descending", [False, True])
def test_rows_are_sorted(sort: str, value: Any, descending: bool) -> None:
    text = seen(show, plan(), sort=sort, descending=descending)
    expected = [run.id for run in sorted(plan().runs, key=value, reverse=descending)]
    assert [row.split()[-1] for row in rows(text)] == expected


def test_runs_without_a_value_come_last() -> None:
    runs = [replace(run, clip=clip) for run, clip in zip(plan().runs, (2.0, None, 1.0), strict=False)]
    for descending, order in ((False, (2, 0, 1)), (True, (0, 2, 1))):
        text = seen(show, with_runs(*runs), sort="clip", descending=descending)
        assert [row.split()[-1] for row in rows(text)] == [runs[index].id for index in order]


@pytest.mark.parametrize(
    ("word", "todo"), [("flps", "did you mean 'flops'"), ("weight", "modalities.text.weight"), ("zzzz", "use one of")]
)
def test_an_unknown_column_is_refused(word: str, todo: str) -> None:
    with pytest.raises(RuleError, match=todo) as refused:
        find_column(plan(), word)
    assert refused.value.path == "--sort"


def test_a_long_table_is_cut_and_says_so() -> None:
    text = seen(show, plan(), limit=7)
    assert len(rows(text)) == 7
    assert "11 more runs: --rows 0 shows all, --csv and --json write all" in text
    assert "model.width = 64: 6 runs" in text, "groups beyond the limit are named"
    assert len(rows(seen(show, plan(), limit=None))) == 18
    assert "more runs" not in seen(show, plan(), limit=18)


def test_a_narrow_terminal_goes_without_columns_and_a_file_has_them_all() -> None:
    whole = seen(show, plan())
    assert all(run.id in whole for run in plan().runs)
    for width in (40, 80, 120):
        narrow = seen(show, plan(), width=width)
        table = [line for line in narrow.splitlines() if line.startswith(("run ", "width="))]
        assert len(table) == 19
        assert all(len(line) <= width for line in table)
        assert "κ" not in table[0]
    assert "FLOPs" in seen(show, plan(), width=100)


def test_a_long_name_is_broken_not_cut() -> None:
    name = "width=" + "9" * 100
    text = seen(show, with_runs(replace(plan().runs[0], name=name)), width=80)
    digits = "".join(re.findall(r"^(?:width=)?(9+)", text, flags=re.M))
    assert digits == "9" * 100


def test_the_end_says_what_it_takes() -> None:
    base = plan()
    cluster = replace(base.cluster, name="h100", nodes=8, gpus_per_node=8, mfu=0.4)
    accelerator = replace(cluster.accelerator, name="h100")
    runs = tuple(replace(run, batch=replace(run.batch, profile="a100")) for run in base.runs[:5]) + base.runs[5:]
    whole = replace(base, cluster=replace(cluster, accelerator=accelerator), hours=76.1, excluded=3, runs=runs)
    text = seen(show, whole)
    assert "on h100: 8 nodes x 8 h100 at MFU 0.40, about 3 d 4 h, 64 devices" in text
    assert "excluded: 3 points" in text
    assert "fitted to the memory of a100 in 5 runs" in text
    totals = base.totals
    assert f"18 runs, 1.8M tokens, {totals.flops:.3g} FLOPs, {totals.device_hours:.3g} device-hours" in text
    [epochs] = [line for line in text.splitlines() if line.startswith("epochs: ")]
    assert f"prose {base.runs[0].epochs['prose']:.2f}" in epochs


@pytest.mark.parametrize(
    ("hours", "text"),
    [(76.1, "3 d 4 h"), (23.99, "1 d"), (5.2, "5 h 12 min"), (0.9999, "1 h"), (0.08, "4.8 min"), (0.01, "36 s")],
)
def test_durations(hours: float, text: str) -> None:
    assert duration(hours) == text


def test_ten_thousand_runs_are_shown_quickly() -> None:
    some = plan().runs
    many = tuple(
        replace(run, id=f"{i}{run.id}", name=f"{run.name},x={i}", point={**run.point, "x": i})
        for i in range(10_000 // len(some) + 1)
        for run in some
    )
    large = replace(plan(), runs=many)
    every: list[dict[str, Any]] = [{}, {"sort": "flops"}, {"group": "x"}, {"limit": None}]
    for options in every:
        start = time.perf_counter()
        text = seen(show, large, **options)
        assert time.perf_counter() - start < 10  # 0.05 s, and 0.5 s for all rows, on an idle machine
        assert len(text.splitlines()) < 150 or options == {"limit": None}


# Outliers


def reasons(*runs: RunPlan) -> dict[str, str]:
    return {run.name: reason for run, reason in outliers(with_runs(*runs))}


def test_a_study_of_likes_has_no_outliers() -> None:
    calm = [replace(run, steps=500) for run in plan().runs]
    assert reasons(*calm) == {}
    assert reasons(calm[0]) == {}


def test_what_stands_out_is_named_with_the_reason() -> None:
    calm = [replace(run, steps=500) for run in plan().runs]
    memory = plan().cluster.accelerator.memory
    odd = calm[0]
    cases = {
        "needs 8GB on a rank, and cpu-core has 4GB": replace(odd, memory=replace(odd.memory, per_rank=2 * memory)),
        "has only 1 step": replace(odd, steps=1),
        "κ = 8: batch 16 for a logical 2": replace(odd, batch=replace(odd.batch, kappa=8.0, logical=2.0)),
        "learning rate of 5, 2,500 times the median (0.002)": replace(odd, optimizer=replace(odd.optimizer, lr=5.0)),
        "the median over 200": replace(odd, optimizer=replace(odd.optimizer, lr=1e-5)),
        "logical batch of 1.6e+04": replace(odd, batch=replace(odd.batch, logical=16_000.0, kappa=1.0)),
    }
    for reason, run in cases.items():
        found = reasons(run, *calm[1:])
        assert list(found) == [odd.name], reason
        assert reason in found[odd.name]


def test_a_run_that_costs_most_of_the_study_is_an_outlier() -> None:
    calm = [replace(run, steps=500) for run in plan().runs]
    costly = replace(calm[3], device_hours=100 * calm[3].device_hours)
    runs = (*calm[:3], costly, *calm[4:])
    total = sum(run.device_hours for run in runs)
    whole = replace(with_runs(*runs), totals=replace(plan().totals, device_hours=total))
    [(run, reason)] = outliers(whole)
    assert run is costly
    assert f"{costly.device_hours / total:.0%} of the study" in reason


def test_outliers_of_one_reason_are_few() -> None:
    short = [replace(run, steps=index + 1) for index, run in enumerate(plan().runs)]
    found = outliers(with_runs(*short))
    assert [reason for _, reason in found] == ["has only 1 step", "has only 2 steps", "has only 3 steps, and 15 more"]
    text = seen(show, with_runs(*short))
    assert text.index("look at width=32") < text.index("tiny (")
    assert text.startswith("warning") == bool(plan().warnings)


# CSV


def test_csv_has_a_row_a_run_of_plain_numbers() -> None:
    file = io.StringIO(newline="")
    write_csv(plan(), file)
    assert file.getvalue().count("\r\n") == 19
    table = list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))
    assert list(table[0])[:5] == ["point.model.width", "point.optimizer.lr", "point.seed", "id", "name"]
    for row, run in zip(table, plan().runs, strict=True):
        data = json.loads(msgspec.json.encode(run))
        assert (row["id"], row["name"]) == (run.id, run.name)
        for name in row:
            value: Any = data
            if name.startswith("point."):
                value = run.point[name.removeprefix("point.")]
            elif name.startswith("epochs."):
                value = run.epochs[name.removeprefix("epochs.")]
            elif name == "parallel.ranks":
                value = run.parallel.ranks
            else:
                for part in name.split("."):
                    value = value[int(part)] if isinstance(value, list) else value[part]
            if isinstance(value, str | bool):
                assert row[name] == (value if isinstance(value, str) else str(value).lower())
            else:
                assert row[name] == "" if value is None else float(row[name]) == value
    assert {"flops", "batch.kappa", "memory.per_rank", "modalities.image.weight", "epochs.pictures"} <= set(table[0])


def test_csv_quotes_and_unfolds_quantities() -> None:
    odd = replace(plan().runs[0], name='a,"b"\nc', point={"tokens": "1.5M", "x": True, "data": "prose"})
    file = io.StringIO(newline="")
    write_csv(with_runs(odd, plan().runs[1]), file)
    first, second = csv.DictReader(io.StringIO(file.getvalue(), newline=""))
    assert first["name"] == odd.name
    assert float(first["point.tokens"]) == 1.5e6
    assert (first["point.x"], first["point.data"], second["point.x"]) == ("true", "prose", "")


def test_columns_have_names_of_their_own() -> None:
    names = [column.name for column in columns(plan())]
    assert len(set(names)) == len(names)


# One run


def test_a_run_whole() -> None:
    run = plan().runs[-1]
    text = seen(show_run, run)
    values = {}
    for line in text.splitlines():
        match = re.match(r"(\S+)\s+(\d+(?:x\d+)?)\s+(\d+)\s+([\d,]+)\s+(\w+)\s", line)
        if match:
            values[match[1]] = int(match[4].replace(",", ""))
    assert sum(values.values()) == run.model.parameters.total, "every parameter is listed once"
    assert values["layers.{i}.attention.wo.weight"] == run.model.width**2 * run.model.depth
    for group in run.groups:
        assert re.search(rf"^{group.name}\s+[\d,]+\s+{re.escape(f'{group.lr:.6g}')}\s", text, flags=re.M)
    assert f"κ = B / B~ = {run.batch.kappa:.6g}" in text
    assert f"{run.schedule.warmup_steps:,} steps" in text
    assert f"{run.flops:.6g} of the model" in text
    assert re.search(r"heads at masked positions only save [\d.e+]+ \(\d+\.\d%\)", text)
    assert re.search(r"^image\s+0\.5\s.*cosine\s+pictures", text, flags=re.M)
    assert re.search(r"^all\s+.*100\.0%", text, flags=re.M)
    assert "the mix changes" not in text


def test_what_decides_the_objective_is_shown() -> None:
    run = plan().runs[0]
    noise = Noise(kind="polynomial", power=2.0, segments={"words": Noise(kind="linear")})
    image = replace(run.modalities["image"], drop_condition=0.25, noise=noise)
    changed = replace(run, modalities=run.modalities | {"image": image}, head="modality")
    text = seen(show_run, replace(changed, time=TimePlan(sampling="antithetic", importance="weight")))
    assert re.search(r"^image\s.*0\.25\s+polynomial, power 2; words linear\s", text, flags=re.M)
    assert re.search(r"^text\s.*\s0\s+linear\s", text, flags=re.M)
    assert re.search(r"^times\s+antithetic, importance weight$", text, flags=re.M)
    assert re.search(r"^head\s+modality$", text, flags=re.M)


def test_a_run_s_mix_stages_are_shown_where_there_are_several() -> None:
    run = plan().runs[0]
    half = run.steps * run.batch.physical // 2
    late = MixStage(start=half, weights={"image": 0.75, "text": 0.25}, shares={"image": 0.75, "text": 0.25})
    text = seen(show_run, replace(run, mix=(*run.mix, late)))
    assert re.search(rf"^{half:,}\s+50\.0%\s+0\.75\s+0\.25\s*$", text, flags=re.M)


@pytest.mark.parametrize("kind", ["wsd", "constant", "linear"])
def test_schedules_in_words(kind: str) -> None:
    run = plan().runs[0]
    schedule = replace(run.schedule, kind=kind, warmup_steps=20, decay_steps=40 if kind == "wsd" else 0)
    text = seen(show_run, replace(run, schedule=schedule))
    assert (f"constant for {run.steps - 60:,}, decay over the last 40" in text) == (kind == "wsd")
    assert ("of the peak" in text) == (kind != "constant")


def test_a_run_is_found_by_name_id_start_and_number() -> None:
    runs = plan().runs
    for index, run in enumerate(runs):
        starts = next(n for n in range(1, 17) if sum(one.id.startswith(run.id[:n]) for one in runs) == 1)
        for word in (run.name, run.id, run.id[:starts], f"#{index}"):
            assert find_run(plan(), word) is run


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("", "the study has 18 runs"),
        ("#18", "numbered #0 to #17"),
        ("#x", "numbered #0 to #17"),
        ("width=33,lr=0.001,seed=0", "did you mean 'width=32,lr=0.001,seed=0'"),
        ("nothing like it", "lists all 18"),
    ],
)
def test_a_run_that_is_not_there(word: str, says: str) -> None:
    with pytest.raises(RuleError, match=re.escape(says)):
        find_run(plan(), word)


def test_a_start_that_several_ids_have() -> None:
    runs = [replace(run, id=f"abc{index}") for index, run in enumerate(plan().runs[:3])]
    with pytest.raises(RuleError, match="the ids of 3 runs start with 'abc'"):
        find_run(with_runs(*runs), "abc")


def test_a_plan_that_was_written_is_shown_the_same(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(msgspec.json.encode(plan()))
    again = msgspec.json.decode(path.read_bytes(), type=StudyPlan)
    assert seen(show, again) == seen(show, plan())
