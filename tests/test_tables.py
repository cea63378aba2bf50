from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from compiler.plan import Noise, RunPlan, StudyPlan
from compiler.records import Metrics, Status, store_folder
from specs.errors import SpecError
from studies.analysis import digests
from studies.analysis.lines import LONGEST
from studies.analysis.logs import KEPT
from studies.analysis.many import read_studies
from studies.analysis.results import Study, describe_noise, read_study, write_results
from studies.analysis.tables import read_runs
from tests.synthetic import (
    LAWS,
    SIZES,
    TOKENS,
    curve,
    evaluations,
    make_study,
    modality,
    run_plan,
    write_lines,
    write_plan,
)

ONE = {"sizes": {32: 36_000}, "tokens": (2e5,)}
HEADER = "params,tokens,loss\n"


# --- somebody else's runs


def said(file: Path, **options: str) -> list[str]:
    """What is said of a file that cannot be read."""
    with pytest.raises(SpecError) as error:
        read_runs(file, **options)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{file}:") and "; " in line for line in lines)
    return [line.removeprefix(str(file)) for line in lines]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfparams,tokens,loss\n1e6,2e9,3.5\n",
        b"params;tokens;loss\r\n1000000;2000000000;3.5\r\n",
        b"params\ttokens\tloss\n1e6\t2e9\t3.5\n",
        b" params , tokens ,loss,\n\n 1e6 , 2e9 ,3.5,\n\n",
        b'note,params,tokens,loss\n"a, b\nand ""c""",1e6,2e9,3.5\n',
        b'"params","tokens","loss"\n"1e6","2e9","3.5"',
        b",,params,tokens,loss\n0,0,1e6,2e9,3.5\n",
    ],
)
def test_text_is_read_however_it_is_written(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "runs.csv").write_bytes(text)
    assert read_runs(tmp_path / "runs.csv").rows() == [(1e6, 2e9, 3.5)]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (b"params;tokens;loss\n1;2;3,5\n", [":2: loss: 3,5 is not a number; write it with a decimal point"]),
        (b'params,tokens,loss\n"1,000,000",1 000,3\n', [":2: params: 1,000,000 is not", ":2: tokens: 1 000 is not"]),
        (b"params,tokens,loss,loss\n1,2,3,4\n", [":1: loss: the column is there more than once; "]),
        (b"params,tokens,loss\n1,2,3\n1,2,3,4\n", [":1: file: it cannot be read as CSV (line 3 has 4 values for 3"]),
        (b'params,tokens,loss\n1,2,"3\n', [":1: file: it cannot be read as CSV (unexpected end of data)"]),
        (HEADER.encode("utf-16"), [":1: file: it cannot be read as CSV ('utf-8' codec"]),
        (b"params,tokens,loss\n1,2,\xe9\n", [":1: file: it cannot be read as CSV ('utf-8' codec"]),
        (b"\n\n", [":1: file: it cannot be read as CSV (it is empty)"]),
        (b"params,tokens,loss\n1" + 400 * b"0" + b",2,3\n", [":2: params: 1000"]),
        (b"params,tokens,loss\ninf,-1,3\n", [":2: params: inf is not a finite", ":2: tokens: -1 is not a finite"]),
        (
            b'params,tokens,loss\n1,"2\n\n2",3\n1,2,x\n',
            [":4: tokens: 2 2 is not a number", ":5: loss: x is not a number"],
        ),
        (b"params,tokens,loss\n\0\0\0\n", [":2: params: ", ":2: tokens: the value is missing", ":2: loss: the value"]),
        (b"params,tokens,loss\n1,2,\x1b[2J\n", [":2: loss: \ufffd[2J is not a number"]),
        (b"params,tokens,loss\n1,2," + 200_000 * b"9" + b"\n", [":1: file: it cannot be read as CSV (field larger"]),
        (b"params,tokens,loss\n" + 99 * b"1,2,?\n", [f":{line}: loss: ? is not a number" for line in range(2, 12)]),
    ],
)
def test_hostile_text_is_named_with_its_line(tmp_path: Path, text: bytes, problems: list[str]) -> None:
    file = tmp_path / "runs.csv"
    file.write_bytes(text)
    found = said(file)
    assert len(found) == len(problems)
    assert all(one.startswith(start) for one, start in zip(found, problems, strict=True))
    assert all(len(one) < 300 for one in found)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([[1.0], [2.0]], "the column holds List(Float64), not numbers"),
        ([{"a": 1}, {"a": 2}], "the column holds Struct"),
        ([True, False], "the column holds Boolean"),
        ([date(2020, 1, 1)] * 2, "the column holds Date"),
        ([timedelta(1)] * 2, "the column holds Duration"),
        ([b"1", b"2"], "the column holds Binary"),
        ([None, None], "the value is missing"),
        ([-1, 2], "-1 is not a finite number above zero"),
        ([1.0, math.nan], "nan is not a finite number above zero"),
    ],
)
def test_parquet_of_odd_types_is_named(tmp_path: Path, values: list[object], why: str) -> None:
    file = tmp_path / "runs.parquet"
    pl.DataFrame({"params": [1, 2], "tokens": [3, 4], "loss": values}).write_parquet(file)
    assert f": loss: {why}" in said(file)[0]


@pytest.mark.parametrize("kind", [pl.Decimal(10, 2), pl.Float32, pl.UInt64, pl.Categorical, pl.Int8, pl.String])
def test_parquet_of_any_number_is_read(tmp_path: Path, kind: pl.DataType) -> None:
    file = tmp_path / "runs.PARQUET"
    loss = pl.Series(["3", "4"]).cast(kind)
    pl.DataFrame({"params": [1, 2**62], "tokens": [3, 4], "loss": loss}).write_parquet(file)
    assert read_runs(file).rows() == [(1.0, 3.0, 3.0), (2.0**62, 4.0, 4.0)]


def test_what_is_no_file_of_runs_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1" + 99 * b"x")
    for name in ("pipe.csv", "cut.parquet", "none.parquet"):
        assert said(tmp_path / name)[0].startswith(":1: file: ")
    assert said(tmp_path)[0].startswith(":1: file: ")


def test_a_studys_results_are_read_by_modality(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path))
    file = write_results(study)
    mix = study.results().filter(modality="all")
    assert read_runs(file)["loss"].to_list() == mix["nelbo"].to_list()
    assert read_runs(file, n="params_non_embedding")["N"].to_list() == mix["params_non_embedding"].to_list()
    text = study.results().filter(modality="text")
    assert read_runs(file, modality="text")["loss"].to_list() == text["nelbo"].to_list()
    assert read_runs(file, loss="standard_error", modality="text")["loss"].to_list() == [0.01] * len(text)
    assert "no row is of the modality 'imag'; did you mean 'image'?" in said(file, modality="imag")[0]
    # Written as text by others, the rows are named as they stand in the file.
    study.results().with_columns(pl.lit("x").alias("nelbo")).write_csv(tmp_path / "results.csv")
    lines = (tmp_path / "results.csv").read_text().splitlines()
    second = next(k + 1 for k, line in enumerate(lines) if ",text," in line)
    assert said(tmp_path / "results.csv", modality="text")[0].startswith(f":{second}: nelbo: x is not a number")
    (tmp_path / "plain.csv").write_text(HEADER + "1,2,3\n")
    assert said(tmp_path / "plain.csv", modality="text")[0].startswith(":1: modality: there is no such column")


# --- a study's results


def test_results_say_what_was_planned(tmp_path: Path) -> None:
    plans = {
        "text": msgspec.structs.replace(modality("text", 0.75), tokens=1.5e5, noise=Noise(kind="polynomial", power=2)),
        "image": msgspec.structs.replace(modality("image", 0.25), tokens=0.5e5, noise=Noise(kind="cosine")),
    }
    run = msgspec.structs.replace(
        run_plan(32, 36_000, 2e5, 0, plans), epochs={"embedded/text": 0.5, "embedded/image": 4.5}
    )
    folder = done(tmp_path, (run,))
    table = pl.read_parquet(write_results(read_study(folder)))
    by_modality = {row["modality"]: row for row in table.iter_rows(named=True)}
    assert {name: row["noise"] for name, row in by_modality.items()} == {
        "all": None, "text": "polynomial 2", "image": "cosine",
    }  # fmt: skip
    assert {name: row["epochs"] for name, row in by_modality.items()} == {"all": 4.5, "text": 0.5, "image": 4.5}
    assert [by_modality[name]["tokens_modality"] for name in ("all", "text", "image")] == [2e5, 1.5e5, 0.5e5]
    assert [by_modality[name]["weight"] for name in ("all", "text", "image")] == [1.0, 0.75, 0.25]
    assert by_modality["image"]["nelbo:text"] == pytest.approx(by_modality["image"]["nelbo"])
    assert by_modality["image"]["nelbo:special"] == 0.5
    assert by_modality["all"]["nelbo:text"] is None


def test_every_column_of_results_is_in_the_docs(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "results.md").read_text()
    study = read_study(make_study(tmp_path))
    for column in {*study.results().columns, *study.curves().columns, *study.runs.columns}:
        name = "nelbo:PART" if column.startswith("nelbo:") else column
        assert f"| `{name}` |" in text, column


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (Noise(kind="linear"), "linear"),
        (Noise(kind="polynomial", power=2.5), "polynomial 2.5"),
        (Noise(kind="log-linear", eps=1e-3), "log-linear 0.001"),
        (Noise(kind="table", t=(0.0, 1.0), alpha=(1.0, 0.0)), "table 0:1 1:0"),
        (Noise(kind="linear", segments={"image": Noise(kind="cosine")}), "linear (image: cosine)"),
    ],
)
def test_noise_in_words(noise: Noise, words: str) -> None:
    assert describe_noise(noise) == words


def test_results_are_made_once_and_replaced_whole(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, **ONE))
    assert study.results() is study.results()
    path = write_results(study)
    assert write_results(study) == path
    assert [file.name for file in path.parent.glob("*results*")] + [*path.parent.glob(".*")] == ["results.parquet"]


def test_a_mix_is_of_one_step(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **ONE)
    path = next((tmp_path / "store").glob("*/eval.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    early = [{**row, "step": row["step"] // 2, "tokens": row["tokens"] // 2, "nelbo": 9.0} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*early, *rows]))
    study = read_study(folder)
    whole = study.curves()
    assert whole.filter(modality="all")["nelbo"][0] == pytest.approx(9.0)
    assert whole.filter(modality="all")["flops_seen"].to_list() == pytest.approx(
        [study.runs["flops"][0] / 2, study.runs["flops"][0]], rel=0.01
    )
    assert whole.filter(modality="all")["nelbo"][1] == study.results().filter(modality="all")["nelbo"][0]
    # The last row of the last evaluation is not there yet.
    path.write_text("".join(json.dumps(row) + "\n" for row in [*early, *rows[:-1]]))
    results = read_study(folder).results()
    assert set(results["modality"]) == set(LAWS)
    assert len(read_study(folder).curves().filter(modality="all")) == 1


# --- several studies


def done(out: Path, runs: tuple[RunPlan, ...], name: str = "demo") -> Path:
    """A study of `runs` that are done, in one of several under `out`."""
    rng = np.random.default_rng(0)
    folder = out / name
    made = write_plan(out / f"{name}-alone", name, runs)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_bytes((made / "plan.json").read_bytes())
    for run in runs:
        place = store_folder(out, run.id)
        if place.exists():
            continue
        place.mkdir(parents=True)
        laws = {name: LAWS[name] for name in run.modalities}
        (place / "status.json").write_bytes(msgspec.json.encode(Status(state="done", step=run.steps)))
        write_lines(place / "metrics.jsonl", curve(run, laws, run.steps, rng))
        write_lines(place / "eval.jsonl", evaluations(run, laws, 0.0, rng))
    return folder


def runs_of(widths: tuple[int, ...], seeds: int = 1, names: tuple[str, ...] = ("text",)) -> tuple[RunPlan, ...]:
    plans = {name: modality(name, 1 / len(names)) for name in names}
    return tuple(run_plan(width, SIZES[width], 2e5, seed, plans) for width in widths for seed in range(seeds))


def test_studies_hold_each_run_once_and_say_which_have_it(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    one = done(out, runs_of((32, 48), seeds=2), "one")
    done(out, runs_of((48, 64), seeds=2), "two")
    done(other, runs_of((96,), names=("text", "image")), "one")
    studies = read_studies([out, other, one])
    assert list(studies.by_name) == [str(one), "two", str(other / "one")]
    results = studies.results()
    assert len(results.filter(modality="text")) == results.filter(modality="text")["id"].n_unique() == 7
    assert results.filter(modality="text")["id"].to_list() == studies.runs["id"].to_list()
    shared = results.filter(pl.col("studies").list.len() > 1)
    assert set(shared["width"]) == {48}
    assert set(shared["study"]) == {str(one)}
    assert shared["studies"].to_list()[0] == [str(one), "two"]
    # Configurations are numbered over all of them.
    assert studies.runs.group_by("point").agg(pl.col("width").n_unique())["width"].to_list() == [1] * 4
    assert studies.runs["point"].n_unique() == 4
    assert studies.modalities == ["text", "image"]
    assert set(studies.curves()["id"]) == set(results["id"])


def test_a_shared_run_is_told_of_by_the_study_where_it_is_done(tmp_path: Path) -> None:
    runs = runs_of((32, 48))
    one, two = done(tmp_path / "a", runs, "one"), done(tmp_path / "b", runs, "two")
    (store_folder(tmp_path / "a", runs[0].id) / "status.json").unlink()
    studies = read_studies([one, two])
    assert studies.runs["study"].to_list() == ["one", "two"]
    assert len(studies.results().filter(modality="all")) == 2


def test_metrics_of_several_studies_are_lazy(tmp_path: Path, many: None) -> None:
    done(tmp_path, runs_of((32, 48)), "one")
    done(tmp_path, runs_of((48, 64), names=("text", "image")), "two")
    studies = read_studies([tmp_path])
    lazy = studies.scan_metrics()
    assert isinstance(lazy, pl.LazyFrame)
    per_run = lazy.group_by("study", "id").agg(pl.len(), pl.col("loss:image").count().alias("image")).collect()
    together = pl.concat([study.metrics for study in studies.by_name.values()], how="diagonal")
    assert per_run["len"].sum() == len(together.unique(["id", "step"]))
    assert {study for study, *_, image in per_run.iter_rows() if image} == {"two"}
    assert lazy.filter(pl.col("step") == 10).select("loss").head(2).collect().shape == (2, 1)
    one = read_study(tmp_path / "one")
    lazily = one.scan_metrics().collect()
    assert lazily.equals(read_study(tmp_path / "one").metrics)
    few = one.scan_metrics().head(5)
    assert few.filter(pl.col("step") > 20).collect().equals(lazily.head(5).filter(pl.col("step") > 20))
    some = pl.col("step") > 20, pl.col("loss:text") < 4
    picked = one.scan_metrics().filter(*some).select("id", "signal:text", "bands", "loss:text")
    assert picked.collect().equals(lazily.filter(*some).select("id", "signal:text", "bands", "loss:text"))


def test_folders_without_a_study_are_named_all_at_once(tmp_path: Path) -> None:
    done(tmp_path / "good", runs_of((32,)), "one")
    (tmp_path / "bad" / "broken").mkdir(parents=True)
    (tmp_path / "bad" / "broken" / "plan.json").write_text("{")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError) as error:
        read_studies([tmp_path / "good", tmp_path / "bad", tmp_path / "empty"])
    first, second = str(error.value).splitlines()
    assert "broken/plan.json:1: plan: the plan cannot be read" in first
    assert "empty/plan.json:1: plan: the folder holds no study" in second


# --- rows of training


def logged(folder: Path) -> Path:
    return next((folder.parent / "store").glob("*/metrics.jsonl"))


def test_curves_are_means_over_all_rows(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, seeds=2))
    rows = study.metrics.select(
        "id", "tokens", pl.col("loss").alias("all"), *(pl.col(f"loss:{m}").alias(m) for m in LAWS)
    )
    long = rows.unpivot(index=["id", "tokens"], variable_name="modality", value_name="loss").drop_nulls()
    for points, doubling in ((10**6, 12), (2_000, None), (300, None)):
        found = study.curves_of(points)
        assert 0 < len(found) <= points
        assert found["rows"].sum() == len(long)
        totals = found.group_by("id", "modality").agg((pl.col("loss") * pl.col("rows")).sum() / pl.col("rows").sum())
        means = long.group_by("id", "modality").agg(pl.col("loss").mean().alias("mean"))
        both = totals.join(means, on=["id", "modality"])
        assert len(both) == len(study.runs) * 4
        np.testing.assert_allclose(both["loss"], both["mean"])
        if doubling:
            place = (doubling * pl.col("tokens").log(2)).floor().alias("place")
            fine = long.group_by("id", "modality", place).agg(pl.col("loss").mean(), pl.col("tokens").mean())
            ordered = [table.sort("id", "modality", "tokens") for table in (fine, found)]
            assert len(fine) == len(found)
            np.testing.assert_allclose(ordered[0]["loss"], ordered[1]["loss"])
            np.testing.assert_allclose(ordered[0]["tokens"], ordered[1]["tokens"])


def test_curves_of_too_many_runs_leave_some_out(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, seeds=3))
    found = study.curves_of(40)
    assert 0 < len(found) <= 40
    assert 0 < found["id"].n_unique() < len(study.runs)


def row(step: int, **fields: object) -> Metrics:
    """A logged step of 100 tokens."""
    known = {
        "step": step, "tokens": 100 * step, "loss": 2.0, "losses": {}, "lr": 1e-3, "grad_norm": 1.0,
        "tokens_per_second": 1e3, "padding": 0.0, "seconds": 0.1 * step,
    }  # fmt: skip
    return Metrics(**(known | fields))  # type: ignore[arg-type]


def with_rows(tmp_path: Path, rows: list[Metrics]) -> Study:
    folder = make_study(tmp_path, **ONE)
    write_lines(logged(folder), rows)
    return read_study(folder)


def test_utilisation_leaves_the_warm_up_out(tmp_path: Path) -> None:
    rows = [row(1, tokens_per_second=1.0, padding=0.9, data_wait=0.9)]
    rows += [row(k, tokens_per_second=float(k), padding=0.1, data_wait=0.2 if k % 2 else None) for k in range(2, 1001)]
    (found,) = with_rows(tmp_path, rows).utilisation().to_dicts()
    assert (found["rows"], found["step"], found["tokens"]) == (1000, 1000, 100_000)
    assert found["seconds"] == pytest.approx(100)
    assert found["tokens_per_second"] == pytest.approx(501)
    assert found["padding"] == pytest.approx(0.1)
    assert found["data_wait"] == pytest.approx(0.2)
    assert found["mfu"] is None


def test_one_row_is_all_there_is_of_utilisation(tmp_path: Path) -> None:
    (found,) = with_rows(tmp_path, [row(1)]).utilisation().to_dicts()
    assert found["tokens_per_second"] == 1e3


def test_bands_are_those_of_the_second_half(tmp_path: Path) -> None:
    early, late = (9.0, 9.0, 9.0, 9.0), (0.1, 0.2, 0.3, 0.4)
    study = with_rows(tmp_path, [row(k, bands=early if k < 500 else late) for k in range(1, 1101)])
    assert study.bands()["band"].to_list() == [1, 2, 3, 4]
    np.testing.assert_allclose(study.bands()["loss"], late)
    assert with_rows(tmp_path / "none", [row(1)]).bands().is_empty()


def test_nulls_and_steps_logged_twice_count_as_in_the_table_of_all_rows(tmp_path: Path) -> None:
    rows = [row(k, loss=float(k), losses={"text": 1.0} if k % 3 else {}) for k in range(1, 400)]
    rows += [row(k, loss=2.0 * k, losses={"image": 3.0}) for k in range(300, 350)]
    study = with_rows(tmp_path, rows)
    path = logged(study.folder)
    path.write_bytes(path.read_bytes() + b'{"step": 400, "tokens": 40000, "loss": null, "losses": null, "bands": []}\n')
    study = read_study(study.folder)
    assert study.skipped == 0
    assert len(study.metrics) == 400
    found = study.curves_of(10**6)
    for name, column in {"all": "loss", "text": "loss:text", "image": "loss:image"}.items():
        some = found.filter(modality=name)
        assert some["rows"].sum() == study.metrics[column].count()
        mean = (some["loss"] * some["rows"]).sum() / some["rows"].sum()
        assert mean == pytest.approx(study.metrics[column].mean())


@pytest.mark.parametrize(
    "places", [("mfu",), ("mfu", "data_wait"), ("loss", "mfu"), (), ("padding", "tokens_per_second")]
)
@pytest.mark.parametrize("mixed", [False, True])
def test_nulls_may_stand_anywhere(tmp_path: Path, places: tuple[str, ...], mixed: bool) -> None:
    measured = ("loss", "tokens_per_second", "padding", "data_wait", "mfu")
    rows = []
    for k in range(1, 300):
        values: dict[str, object] = {name: k + 1000.0 * n for n, name in enumerate(measured)}
        # As many nulls in each row, in the same places or in others.
        shift = k % len(measured) if mixed else 0
        values |= {measured[(measured.index(name) + shift) % len(measured)]: None for name in places}
        rows.append(row(k, **values, losses={"text": k + 0.5}, bands=(1.0 * k, 2.0 * k, 3.0, 4.0)))
    study = with_rows(tmp_path, rows)
    found = study.logs.stretches
    for name in (*measured, "loss:text"):
        assert found[f"sum:{name}"].sum() == pytest.approx(study.metrics[name].sum())
        assert found[f"count:{name}"].sum() == study.metrics[name].count()
    assert found["sum:band:2"].sum() == pytest.approx(2 * found["sum:band:1"].sum())


# --- a study that is written meanwhile


@pytest.mark.parametrize(
    ("rubbish", "skipped"),
    [
        (b'{"step": 99999, "tok', 1),
        (b'{"step": 99999, "note": "\xe2\x82', 1),
        (b"\0" * 5000 + b"\n", 1),
        (b'{"step": 99999, "note": "' + b"x" * (3 * LONGEST), 1),
        (b'{"step": 99999, "note": "' + b"x" * (3 * LONGEST) + b'"}\n', 1),
        (b"[" * 200_000 + b"\n", 1),
        (b'{}\n5\n"x"\n[]\nnull\n\n \n{"step": null}\n', 6),
        (b'{"step": 1e400, "tokens": 1}\n', 1),
        (b'\n\n{"step": NaN}\n', 1),
    ],
)
def test_what_is_no_row_is_skipped_and_counted(tmp_path: Path, rubbish: bytes, skipped: int) -> None:
    folder = make_study(tmp_path, **ONE)
    before = read_study(folder)
    assert len(before.metrics) > 10
    whole = logged(folder).read_bytes()
    for name in ("metrics.jsonl", "eval.jsonl"):
        path = logged(folder).with_name(name)
        path.write_bytes(path.read_bytes() + rubbish)
    after = read_study(folder)
    assert after.skipped == 2 * skipped
    assert after.metrics.equals(before.metrics)
    assert after.results().equals(before.results())
    assert after.curves_of(10**6).equals(before.curves_of(10**6))
    # The same in the middle, where the run that was killed went on.
    end = b"" if rubbish.endswith(b"\n") else b"\n"
    logged(folder).write_bytes(rubbish + end + whole)
    assert read_study(folder).metrics.equals(before.metrics)


WRITER = """
import sys, time
path, lines = sys.argv[1], open(sys.argv[2], "rb").read().splitlines(keepends=True)
with open(path, "ab", buffering=0) as file:
    print(flush=True)
    for line in lines:
        for part in (line[:7], line[7:31], line[31:]):
            file.write(part)
            time.sleep(0.0005)
"""


def test_a_study_is_read_while_a_process_writes(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **ONE)
    path, source = logged(folder), tmp_path / "rows"
    write_lines(source, [row(k, losses={"text": 1.0}) for k in range(1, 601)])
    path.write_bytes(b"")
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(source)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen: list[tuple[int, int]] = []
        while writer.poll() is None:
            study = read_study(folder)
            steps = study.metrics["step"].to_list()
            assert steps == list(range(1, len(steps) + 1))
            assert study.metrics["tokens"].to_list() == [100 * step for step in steps]
            seen.append((len(steps), study.skipped))
            assert study.skipped <= 1
    assert [count for count, _ in seen] == sorted(count for count, _ in seen)
    assert len({count for count, _ in seen}) > 3
    assert any(skipped for _, skipped in seen)
    after = read_study(folder)
    assert (len(after.metrics), after.skipped) == (600, 0)


# --- many rows


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every study counts as one of many rows."""
    monkeypatch.setattr("studies.analysis.results._FEW", 0)
    monkeypatch.setattr("studies.analysis.digests._WORTH", 0)


def test_a_study_of_many_rows_is_read_when_it_is_asked_for(
    tmp_path: Path, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path)
    study = read_study(folder)
    monkeypatch.setattr("studies.analysis.digests.digest_runs", None)
    monkeypatch.setattr("studies.analysis.reading.Layout.read_metrics", None)
    assert len(study.results()) == len(SIZES) * len(TOKENS) * 4


def test_a_study_of_few_rows_is_as_it_was_when_it_was_read(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path))
    for file in (tmp_path / "store").glob("*/*.jsonl"):
        file.unlink()
    assert len(study.scan_metrics().collect()) == len(study.metrics) > 100
    assert study.utilisation()["rows"].sum() == len(study.metrics)


def test_processes_and_kept_digests_give_the_same(tmp_path: Path, many: None) -> None:
    folder = make_study(tmp_path, seeds=2)
    first = read_study(folder)
    alone = {run: digests.digest_file(path, first.modalities) for run, path in first.logs.files.items()}
    assert first.logs.digests == alone
    assert list(first.logs.digests) == list(first.logs.files)
    assert (folder / KEPT).exists()
    again = read_study(folder)
    assert again.curves_of(10**6).equals(first.curves_of(10**6))
    # A run that has gone on since is read again, and only that.
    run, path = list(first.logs.files.items())[-1]
    write_lines(path, [row(k) for k in range(1, 50)])
    later = read_study(folder).logs.digests
    assert [name for name in later if later[name] != alone[name]] == [run]
    assert later[run].table(first.modalities)[:, 1].sum() == 49


def test_kept_digests_are_used(tmp_path: Path, many: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path)
    before = read_study(folder).curves_of(100)

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("studies.analysis.digests.digest_file", fail)
    assert read_study(folder).curves_of(100).equals(before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: kept.write_bytes(b"\xff\x00" * 50),
        lambda kept: kept.write_bytes(kept.read_bytes()[:-100]),
        lambda kept: kept.write_bytes(kept.read_bytes().replace(b'"values":"', b'"values":"AAAA')),
        lambda kept: kept.write_bytes(kept.read_bytes().replace(b'"text"', b'"other"')),
        lambda kept: (kept.unlink(), kept.mkdir()),
        lambda kept: (kept.unlink(), os.mkfifo(kept)),
    ],
)
def test_spoiled_digests_do_no_harm(tmp_path: Path, many: None, spoil: Callable[[Path], object]) -> None:
    folder = make_study(tmp_path, **ONE)
    before = read_study(folder).curves_of(1000)
    spoil(folder / KEPT)
    assert read_study(folder).curves_of(1000).equals(before)


def test_a_worker_that_dies_is_stood_in_for(tmp_path: Path, many: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.analysis.digests._cores", lambda: 3)
    folder = make_study(tmp_path)
    before = read_study(folder).logs.digests
    (folder / KEPT).unlink()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert read_study(folder).logs.digests == before


def test_the_reader_needs_no_more_memory_for_longer_files(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = msgspec.json.encode(row(1, losses={"text": 1.0})) + b"\n"
    path.write_bytes(b"".join(line.replace(b'"step":1', b'"step":%d' % k) for k in range(1, 200_001)))
    code = (
        "import resource, sys; from pathlib import Path; from studies.analysis.digests import digest_file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(digest_file(Path(sys.argv[1]), ['text']).skipped)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    started = time.process_time()
    made = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    skipped, grown = made.stdout.split()
    assert skipped == "0"
    assert path.stat().st_size > 30e6
    # As numbers 200,000 rows are 19 MB.
    assert float(grown) < 120
    assert time.process_time() - started < 60


def test_a_plan_of_no_runs_has_empty_tables(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **ONE)
    plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=StudyPlan)
    (folder / "plan.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, runs=())))
    study = read_study(folder)
    for table in (
        study.results(),
        study.curves(),
        study.metrics,
        study.curves_of(10),
        study.utilisation(),
        study.bands(),
    ):
        assert table.is_empty()
