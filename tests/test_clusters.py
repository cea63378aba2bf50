"""Clusters: profiles outside the study, the timeline on them, its chart, and the MFU put back into a profile."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.clusters import (
    ACCELERATORS,
    UnknownClusterError,
    find_cluster,
    known_clusters,
    profile_path,
    user_folder,
)
from compiler.plan import (
    BatchPlan,
    CheckpointPlan,
    ClusterPlan,
    EvaluationPlan,
    Memory,
    ModelPlan,
    MonitorPlan,
    Multipliers,
    OptimizerPlan,
    ParallelPlan,
    Parameters,
    RunPlan,
    SchedulePlan,
    Slurm,
    StudyPlan,
    TimePlan,
    Totals,
    Vocabulary,
)
from compiler.records import Metrics, State, Status, store_folder, study_folder
from compiler.timeline import Span, study_hours, timeline, too_large
from specs.cluster import parse_minutes
from specs.errors import SpecError
from studies.analysis import gantt as charts
from studies.analysis.gantt import write_gantt
from studies.analysis.mfu import RunMfu, measure, overall, run_mfu, write

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of profiles of one's own, and a home with none."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    monkeypatch.setenv("TRIPTYCH_CLUSTERS", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def profile(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> list[str]:
    """What is said about a profile, each as LINE: PATH: WHAT; TODO."""
    path = profile(folder, text)
    with pytest.raises(SpecError) as caught:
        find_cluster("mine")
    assert all(problem.file == str(path) for problem in caught.value.problems)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def run(
    name: str = "run", ranks: int = 1, device_hours: float = 1.0, point: dict[str, Any] | None = None, **changes: Any
) -> RunPlan:
    plan = RunPlan(
        id=hashlib.sha256(name.encode()).hexdigest()[:16],
        name=name,
        seed=0,
        point=point or {},
        tokens=1e6,
        steps=100,
        sequence_length=128,
        model=ModelPlan(
            width=8, depth=1, heads=1, ffn=32, vocabulary=9, parameters=Parameters(total=9, non_embedding=9)
        ),
        vocabulary=Vocabulary(size=9, parts=(), specials={}),
        modalities={},
        mix=(),
        batch=BatchPlan(logical=8.0, physical=8, micro=8, accumulation=1, kappa=1.0, critical=None),
        optimizer=OptimizerPlan(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
        clip=None,
        groups=(),
        multipliers=Multipliers(residual=1.0, head=1.0, embedding=1.0, attention=1.0),
        schedule=SchedulePlan(kind="cosine", warmup_steps=1, final=0.1),
        time=TimePlan(),
        head="full",
        parallel=ParallelPlan(shard=ranks),
        evaluation=EvaluationPlan(sequences=1, every=0),
        checkpoint=CheckpointPlan(every=0, keep=1),
        monitor=MonitorPlan(),
        log_every=10,
        dtype="float32",
        epochs={},
        flops=1e12,
        hardware_flops=1e12,
        peak_flops=1e11,
        memory=Memory(per_rank=1, parameters=1, gradients=1, optimizer=1, activations=1),
        device_hours=device_hours,
    )
    return msgspec.structs.replace(plan, **changes)


def cluster(devices: int, array_limit: int | None = None) -> ClusterPlan:
    return ClusterPlan(
        name="test",
        accelerator=ACCELERATORS["cpu-core"],
        mfu=0.25,
        nodes=1,
        gpus_per_node=devices,
        slurm=None if array_limit is None else Slurm(array_limit=array_limit),
    )


def study(runs: list[RunPlan], on: ClusterPlan) -> StudyPlan:
    return StudyPlan(
        study="demo",
        digest="0",
        warnings=(),
        cluster=on,
        excluded=0,
        hours=study_hours(timeline(runs, on)),
        totals=Totals(runs=len(runs), tokens=1.0, flops=1.0, device_hours=sum(one.device_hours for one in runs)),
        runs=tuple(runs),
    )


# Profiles


def test_the_shipped_profiles_are_found_without_any_of_ones_own() -> None:
    local, h100 = find_cluster("local"), find_cluster("h100")
    assert known_clusters() == ["h100", "local"]
    assert (local.devices, local.slurm, local.accelerator.name) == (2, None, "cpu-core")
    assert local.sustained("float32") == 0.25 * 80e9
    assert (h100.nodes, h100.gpus_per_node, h100.slurm) == (8, 8, Slurm())
    assert h100.sustained("bfloat16") == 0.4 * 989e12


@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_known_accelerator_can_be_planned_for(name: str, own: Path) -> None:
    profile(own, f"kind: local\naccelerator: {name}\nmfu: 0.3\ngpus_per_node: 1\n")
    found = find_cluster("mine").accelerator
    assert found == ACCELERATORS[name]
    assert set(found.peak) == {"float32", "bfloat16"}
    assert found.peak["bfloat16"] >= found.peak["float32"] > 0
    assert min(found.memory, found.positions) > 0


def test_all_that_slurm_is_asked_for_is_read(own: Path) -> None:
    text = """\
kind: slurm
accelerator: {name: new, peak: {bfloat16: 1e15, float32: 5e13}, memory: 100e9, positions: 65536}
mfu: 0.5
nodes: 2
gpus_per_node: 4
partition: gpu
account: lab
qos: high
constraint: a100&nvlink
time: 2-12:00:00
array_limit: 16
setup: [module load cuda, "export A=1"]
"""
    profile(own, text)
    found = find_cluster("mine")
    assert found.slurm == Slurm(
        partition="gpu",
        account="lab",
        qos="high",
        constraint="a100&nvlink",
        minutes=60 * 60,
        array_limit=16,
        setup=("module load cuda", "export A=1"),
    )
    assert found.devices == 8
    assert (found.accelerator.name, found.accelerator.memory) == ("new", 10**11)


def test_a_known_accelerator_may_be_changed_in_part(own: Path) -> None:
    profile(own, "kind: local\naccelerator: {name: h100, memory: 94e9}\nmfu: 0.4\ngpus_per_node: 8\n")
    assert find_cluster("mine").accelerator == msgspec.structs.replace(ACCELERATORS["h100"], memory=94 * 10**9)


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        (90, 90), ("90", 90), ("90:00", 90), ("90:01", 91), ("12:00:00", 720), ("0:00:30", 1), ("2-12", 3600),
        ("2-12:30", 3630), ("2-12:00:00", 3600), ("1-0", 1440),
    ],
)  # fmt: skip
def test_times_are_read_as_sbatch_reads_them(written: object, minutes: int) -> None:
    assert parse_minutes(written) == minutes


@pytest.mark.parametrize("written", [0, -5, 1.5, True, None, "soon", "1:2:3:4", "-5", "2-", "9" * 30, ["1"]])
def test_what_is_no_time_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="; "):
        parse_minutes(written)


VALID = "kind: slurm\naccelerator: h100\nmfu: 0.4\nnodes: 1\ngpus_per_node: 8\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (VALID.replace("slurm", "slrum"), "1: kind: 'slrum' is not known here; did you mean 'slurm'?"),
        (VALID.replace("h100", "h10"), "2: accelerator: 'h10' is not a known accelerator; did you mean 'h100'?"),
        (VALID.replace("0.4", "40"), "3: mfu: 40 is out of range; give a number at most 1"),
        (VALID.replace("nodes: 1", "nodes: many"), "4: nodes: 'many' is not a whole number; write digits, such as 64"),
        (VALID.replace("mfu: 0.4\n", ""), "1: mfu: missing; write mfu: 0.4"),
        (VALID + "time: soon\n", "6: time: 'soon' is not a time; write such as 2-12:00:00, 12:00:00 or 90 (minutes)"),
        (VALID + "partion: gpu\n", "6: partion: unknown key 'partion'; did you mean 'partition'?"),
        (VALID + "partition: a b\n", "6: partition: 'a b' is not a word to Slurm; write it without spaces"),
        (VALID + "account: --wrap=x\n", "6: account: '--wrap=x' is not a word to Slurm"),
        (VALID + "setup: [1]\n", "6: setup.0: 1 is not text; write a word"),
        (VALID + "mfu: 0.4\n", "6: mfu: the key is written twice; keep one of them"),
        (VALID.replace("h100", "{name: new}"), "2: accelerator: 'new' is not a known accelerator, and peak.float32,"),
        (VALID.replace("h100", "{name: h100, peak: {tf32: 1e15}}"), "2: accelerator.peak.tf32: unknown key 'tf32'"),
    ],
)
def test_a_mistake_in_a_profile_is_told_at_its_line(own: Path, text: str, said: str) -> None:
    (problem,) = refused(own, text)
    assert problem.startswith(said)


def test_slurm_keys_mean_nothing_to_a_local_cluster(own: Path) -> None:
    text = VALID.replace("slurm", "local") + "partition: gpu\narray_limit: 4\n"
    assert refused(own, text) == [
        "6: partition: means nothing under kind: local; remove it, or write kind: slurm",
        "7: array_limit: means nothing under kind: local; remove it, or write kind: slurm",
    ]


def test_ones_own_profiles_come_before_the_shipped_and_earlier_folders_before_later(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, home = tmp_path / "later", tmp_path / "home/.config/triptych/clusters"
    for folder, names in ((own, ("a", "local")), (later, ("a", "b")), (home, ("b", "c"))):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            profile(folder, VALID, name)
    monkeypatch.setenv("TRIPTYCH_CLUSTERS", os.pathsep.join(["", str(own), str(later)]))
    assert [profile_path(name).parent for name in ("a", "b", "c", "local")] == [own, later, home, own]
    assert known_clusters() == ["a", "b", "c", "h100", "local"]
    assert user_folder() == own
    monkeypatch.delenv("TRIPTYCH_CLUSTERS")
    assert user_folder() == home


@pytest.mark.parametrize("name", ["locale", "", "../local", "/etc/hosts", "x" * 300, "a\0b"])
def test_an_unknown_cluster_names_the_known_and_where_profiles_are(name: str, own: Path) -> None:
    with pytest.raises(UnknownClusterError) as caught:
        find_cluster(name)
    assert "local" in caught.value.todo
    assert str(own) in caught.value.todo
    assert caught.value.path == "cluster"


# The timeline

RUNS = st.lists(
    st.tuples(st.integers(1, 12), st.floats(0, 1e4, allow_subnormal=False)).map(lambda one: run("r", *one)),
    max_size=40,
)


def busy_at(spans: list[Span], hour: float) -> list[Span]:
    return [span for span in spans if span.start_hours <= hour < span.end_hours]


@given(RUNS, st.integers(1, 12), st.none() | st.integers(1, 5))
def test_no_device_is_held_twice_and_no_more_runs_train_than_the_limit(
    runs: list[RunPlan], devices: int, limit: int | None
) -> None:
    spans = timeline(runs, cluster(devices, limit))
    assert sorted(span.ranks for span in spans) == sorted(one.parallel.ranks for one in runs)
    for span in spans:
        assert span.devices == min(span.ranks, devices)
        together = busy_at(spans, span.start_hours)
        held = [first + k for other in together for first, count in other.blocks for k in range(count)]
        assert len(set(held)) == len(held)
        assert not held or 0 <= min(held) <= max(held) < devices
        assert limit is None or len(together) <= limit


@given(RUNS, st.integers(1, 12), st.none() | st.integers(1, 5))
def test_device_hours_are_conserved_and_bound_the_study(runs: list[RunPlan], devices: int, limit: int | None) -> None:
    spans = timeline(runs, cluster(devices, limit))
    total = sum(one.device_hours for one in runs)
    longest = max((one.device_hours / min(one.parallel.ranks, devices) for one in runs), default=0.0)
    assert sum(span.hours * span.devices for span in spans) == pytest.approx(total, rel=1e-9, abs=1e-6)
    assert study_hours(spans) >= max(longest, total / devices) * (1 - 1e-12)
    assert study_hours(spans) <= sum(span.hours for span in spans) * (1 + 1e-12)


@given(RUNS, st.integers(1, 12))
def test_no_run_waits_while_devices_for_it_are_free(runs: list[RunPlan], devices: int) -> None:
    spans = timeline(runs, cluster(devices))
    ends = {span.end_hours for span in spans}
    for span in spans:
        for moment in sorted(end for end in ends | {0.0} if end < span.start_hours):
            free = devices - sum(other.devices for other in busy_at(spans, moment))
            assert free < span.devices


def test_most_ranks_go_first_then_longest_and_of_equals_the_first_in_the_plan() -> None:
    runs = [run("short", 1, 1), run("a", 1, 5), run("b", 1, 5), run("wide", 2, 1), run("wider", 2, 8)]
    assert [span.name for span in timeline(runs, cluster(2))] == ["wider", "wide", "a", "b", "short"]


def test_small_runs_fill_the_devices_that_a_wide_one_cannot_have() -> None:
    spans = {span.name: span for span in timeline([run("w1", 3, 6), run("w2", 3, 3), run("s", 1, 1)], cluster(4))}
    assert (spans["w1"].start_hours, spans["w2"].start_hours, spans["s"].start_hours) == (0, 2, 0)
    assert spans["s"].slot == 3


def test_a_run_too_large_for_the_cluster_is_named_and_runs_alone() -> None:
    runs = [run("small", 1, 4), run("large", 8, 8)]
    assert too_large(runs, cluster(4)) == ["large"]
    large, small = timeline(runs, cluster(4))
    assert (large.ranks, large.devices, large.hours, small.start_hours) == (8, 4, 2.0, 2.0)


def test_a_cluster_of_many_devices_costs_no_more_than_a_small_one() -> None:
    on = msgspec.structs.replace(cluster(10**6), nodes=10**6)
    assert study_hours(timeline([run("r", 10**6, 10**7) for _ in range(100)], on)) == 10


# The chart


def grid(widths: int, tokens: int, seeds: int) -> list[RunPlan]:
    return [
        run(f"{w},{d},{s}", 1, w * d * 1e-2, {"model.width": 64 * w, "tokens": f"{d}M", "seed": s})
        for w, d, s in itertools.product(range(1, widths + 1), range(1, tokens + 1), range(seeds))
    ]


KINDS = ("data-chart", "data-rows")


def test_the_page_holds_all_it_needs_and_a_bar_for_every_run(tmp_path: Path) -> None:
    runs = [*grid(2, 2, 2), run("</script><b>", 1, 1, {"model.width": 8})]
    write_gantt(study(runs, cluster(2)), tmp_path / "new" / "gantt.html")
    text = (tmp_path / "new" / "gantt.html").read_text()
    assert "</script><b>" not in text
    assert "vegaEmbed" in text
    assert "src=" not in text.split("<script>")[0]
    spec, rows = (json.loads(text.split(f"{kind}=", 1)[1].split(">", 1)[1].split("</script>")[0]) for kind in KINDS)
    assert set(rows["columns"]["run"]) == {one.name for one in runs}
    assert spec["encoding"]["color"]["legend"]["title"] == "model.width"


@pytest.mark.parametrize("runs", [grid(2, 2, 2), grid(4, 5, 4), [run("alone")], [run("nothing", device_hours=0.0)], []])
def test_every_size_of_study_is_drawn_as_an_svg(tmp_path: Path, runs: list[RunPlan]) -> None:
    write_gantt(study(runs, cluster(4)), tmp_path / "gantt.svg")
    root = ET.parse(tmp_path / "gantt.svg").getroot()
    drawn = [path.get("aria-label") for path in root.iter("{http://www.w3.org/2000/svg}path")]
    assert sum(label is not None and "run: " in label for label in drawn) == len(runs)


def test_runs_that_hold_scattered_devices_are_drawn_on_each_of_them(tmp_path: Path) -> None:
    runs = [run(f"{k}", k % 3 + 1, k % 7 + 1) for k in range(charts.MOST_RUN_ROWS + 1)]
    plan = study(runs, cluster(5))
    blocks = [block for span in timeline(runs, plan.cluster) for block in span.blocks]
    (rows,) = charts.gantt(plan).to_dict()["datasets"].values()
    assert [(row["first"], row["last"] - row["first"]) for row in rows] == blocks


def test_very_many_runs_become_devices_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(charts, "MOST_BARS", 100)
    runs = grid(5, 5, 5)
    plan = study(runs, cluster(4))
    (rows,) = charts.gantt(plan).to_dict()["datasets"].values()
    by_width = {
        str(width): sum(one.device_hours for one in runs if one.point["model.width"] == width)
        for width in range(64, 321, 64)
    }
    hours = 1 / 60 if plan.hours < 2 else 1.0
    for width, expected in by_width.items():
        drawn = sum(row["devices"] * (row["end"] - row["start"]) for row in rows if row["value"] == width)
        assert drawn * hours == pytest.approx(expected, rel=1e-3)
    assert max(row["above"] for row in rows) == pytest.approx(4)
    write_gantt(plan, tmp_path / "gantt.png")
    assert (tmp_path / "gantt.png").read_bytes().startswith(PNG)
    write_gantt(study([run(f"{k}", device_hours=0.0) for k in range(101)], cluster(4)), tmp_path / "nothing.svg")


def test_runs_too_large_for_the_cluster_are_counted_on_the_chart(tmp_path: Path) -> None:
    write_gantt(study([run("large", 8), run("small")], cluster(4)), tmp_path / "gantt.svg")
    assert "1 needs more devices than there are" in (tmp_path / "gantt.svg").read_text()


def test_points_that_leave_the_first_axis_alone_are_coloured_as_the_base(tmp_path: Path) -> None:
    runs = [run("a", point={"model.width": 64}), run("b", point={"model.depth": 2})]
    (rows,) = charts.gantt(study(runs, cluster(2))).to_dict()["datasets"].values()
    assert {row["run"]: row["value"] for row in rows} == {"a": "64", "b": "as in the base"}


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    for name, said in (("gantt.pdf", "'.pdf' is not a kind of file"), ("gantt", "has no suffix")):
        with pytest.raises(SpecError, match=said):
            write_gantt(study([run()], cluster(1)), tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be written"):
        write_gantt(study([run()], cluster(1)), tmp_path / "file" / "gantt.svg")


# MFU


def trained(out: Path, *entries: tuple[RunPlan, State, list[float]]) -> Path:
    """A study's folder; each run logged tokens/s at step 1 and every tenth, with 1000 tokens and 10 GFLOPs a step."""
    folder = study_folder(out, "demo")
    folder.mkdir(parents=True)
    plan = study([one for one, _, _ in entries], find_cluster("local"))
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    for one, state, speeds in entries:
        place = store_folder(out, one.id)
        place.mkdir(parents=True)
        (place / "status.json").write_bytes(msgspec.json.encode(Status(state=state)))
        rows = [
            Metrics(
                step=max(1, 10 * k),
                tokens=max(1, 10 * k) * 1000,
                loss=1.0,
                losses={},
                lr=1e-3,
                grad_norm=1.0,
                tokens_per_second=speed,
                padding=0.0,
                seconds=1.0 + k,
            )
            for k, speed in enumerate(speeds)
        ]
        (place / "metrics.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return folder


def test_utilisation_is_of_the_peak_of_all_ranks_and_leaves_the_warm_up_out(tmp_path: Path) -> None:
    folder = trained(
        tmp_path,
        (run("one"), "done", [1.0, 2000.0, 2000.0, 2000.0, 10.0]),
        (run("two", 2), "running", [1.0, 2000.0]),
        (run("failed"), "failed", [1.0, 9000.0]),
        (run("fresh"), "running", [1.0]),
        (run("waits"), "pending", []),
    )
    # 10 MFLOPs a token, 2000 tokens/s: 20 of a core's 80 GFLOP/s.
    one, two = measure(folder)
    assert (one.name, one.state, one.ranks) == ("one", "done", 1)
    assert one.mfu == pytest.approx(0.25)
    assert (two.name, two.state, two.ranks) == ("two", "running", 2)
    assert two.mfu == pytest.approx(0.125)


def test_all_runs_together_reach_what_their_device_hours_say(tmp_path: Path) -> None:
    runs = [run("slow"), run("fast", flops=3e12)]
    measured = measure(trained(tmp_path, (runs[0], "done", [1.0, 800.0]), (runs[1], "done", [1.0, 800.0])))
    assert [one.mfu for one in measured] == [pytest.approx(0.1), pytest.approx(0.3)]
    seconds = 1e12 / (0.1 * 80e9) + 3e12 / (0.3 * 80e9)
    assert overall(measured) == pytest.approx(4e12 / seconds / 80e9)


def test_a_study_that_has_logged_nothing_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(tmp_path, (run("fresh"), "running", [1.0]))
    with pytest.raises(SpecError, match="no run that trains or is done has logged a step after its first") as caught:
        measure(folder)
    assert len(caught.value.problems) == 1
    assert run_mfu(folder) == 2
    assert run_mfu(tmp_path / "nowhere", as_json=True) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert json.loads(said.out)["errors"][0]["what"] == "the folder holds no study"


def test_a_measured_mfu_goes_into_ones_own_copy_of_a_shipped_profile(own: Path) -> None:
    shipped = profile_path("local")
    before = shipped.read_text()
    path = write("local", 0.123456)
    assert path == own / "local.yaml" == profile_path("local")
    assert shipped.read_text() == before
    assert path.read_text() == before.replace("mfu: 0.25", "mfu: 0.123")
    assert find_cluster("local").mfu == 0.123
    write("local", 0.5)
    assert find_cluster("local").mfu == 0.5


@pytest.mark.parametrize(
    "text",
    [
        VALID,
        "# mfu: 0.9 was wrong\n" + VALID + "# mfu: as well\n",
        VALID.replace("mfu: 0.4", "mfu:   .4   # guessed: mfu: 0.3").replace("\n", "\r\n"),
        VALID.replace("mfu: 0.4", '"mfu": 4e-1'),
        VALID.replace("mfu: 0.4", "mfu:\n  0.4"),
        "{kind: slurm, accelerator: {name: h100}, mfu: 0.4, gpus_per_node: 8}  # short",
        VALID + "setup:\n  - 'export mfu: 0.4'\n",
    ],
)
def test_writing_changes_the_number_and_nothing_else(own: Path, text: str) -> None:
    path = own / "mine.yaml"
    path.write_bytes(text.encode())
    before = find_cluster("mine")
    write("mine", 0.3141)
    assert find_cluster("mine") == msgspec.structs.replace(before, mfu=0.314)
    after = path.read_bytes().decode()
    assert len([None for a, b in itertools.zip_longest(text.split(), after.split()) if a != b]) == 1


@pytest.mark.parametrize(
    ("text", "mfu", "said"),
    [
        (VALID, 1.7, "a measured MFU of 1.7 is more than the accelerator's peak"),
        (VALID.replace("mfu: 0.4", "mfu: &share 0.4"), 0.3, "3: mfu: the value cannot be replaced where it stands"),
    ],
)
def test_what_cannot_be_written_leaves_the_profile_as_it_was(own: Path, text: str, mfu: float, said: str) -> None:
    path = profile(own, text)
    with pytest.raises(SpecError, match=said):
        write("mine", mfu)
    assert path.read_text() == text
    with pytest.raises(SpecError, match="there is no cluster profile 'other'"):
        write("other", 0.3)


def test_the_command_prints_a_table_or_an_object(tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(tmp_path, (run("one"), "done", [1.0, 2400.0, 2400.0]))
    assert run_mfu(folder) == 0
    assert "0.300" in capsys.readouterr().out
    assert not list(own.iterdir())
    assert run_mfu(folder, True, True) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["cluster"], said["planned"], said["mfu"]) == ("local", 0.25, pytest.approx(0.3))
    assert msgspec.convert(said["runs"], list[RunMfu])[0].tokens_per_second == 2400
    assert said["written"] == str(own / "local.yaml")
    assert find_cluster("local").mfu == 0.3
