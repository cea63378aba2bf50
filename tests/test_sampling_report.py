"""Sampling studies as found: fronts, defaults, tables, and the page with its pictures and sounds."""

from __future__ import annotations

import io
import json
import math
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from playwright.sync_api import Browser

from compiler.sampling import JUDGED, PLAN, POINTS, Judged, Sampler, SamplingPlan, SamplingPoint, Score
from specs.errors import SpecError
from studies.analysis.sampling.charts import pareto_chart, setting_rows
from studies.analysis.sampling.cli import run_sampling_fit, run_sampling_report
from studies.analysis.sampling.defaults import defaults_text, write_defaults
from studies.analysis.sampling.front import TaskFront, fronts, goodness, pareto, standard_error
from studies.analysis.sampling.report import write_sampling_report
from studies.analysis.sampling.results import COLUMNS, SamplingStudy, read_sampling, table
from tests.browser import chromium, open_report

STRANGE = "<script>window.broken = 1</script>"
RUN, OTHER = "a" * 16, "b" * 16

Judge = Callable[[str, Sampler, str], dict[str, Any]]
"""Of a task, a sampler and a run to the fields of `Judged` that they decide."""


def score(name: str, value: float, half: float | None = None, **more: Any) -> Score:
    ends = {} if half is None else {"low": value - half, "high": value + half}
    return Score(name=name, value=value, **{"n": 500, "better": "higher", **ends, **more})


def make(out: Path, samplers: dict[str, list[Sampler]], judge: Judge, runs: tuple[str, ...] = (RUN,)) -> Path:
    """A sampling study's folder with a result for every task, sampler and run for which `judge` has one."""
    folder = out / "samplers"
    points = [
        SamplingPoint(
            id=f"{k:016x}",
            name=f"{run[0]}/steps={sampler.steps}",
            run=run,
            task=task,
            n=500,
            seed=0,
            sampler=sampler,
            controls=(),
            point={"sampler.kind": sampler.kind, "sampler.steps": sampler.steps, "task": task},
        )
        for k, (run, task, sampler) in enumerate(
            (run, task, sampler) for run in runs for task, some in samplers.items() for sampler in some
        )
    ]
    plan = SamplingPlan(
        study="samplers",
        digest="0123456789abcdef",
        warnings=(),
        runs={run: f"runs/store/{run}" for run in runs},
        names={run: f"run-{run[0]}" for run in runs},
        points=tuple(points),
    )
    (folder / POINTS).mkdir(parents=True)
    (folder / PLAN).write_bytes(msgspec.json.encode(plan))
    for point in points:
        found = judge(point.task, point.sampler, point.run)
        if not found:
            continue
        about = {key: getattr(point, key) for key in ("id", "run", "name", "task", "sampler", "n", "seed")}
        measured = {"calls": float(point.sampler.steps or 64), "tokens": 32_000, "seconds": 16.0}
        (folder / POINTS / point.id).mkdir()
        place(folder, point.id).write_bytes(msgspec.json.encode(Judged(**{**about, **measured, **found})))
    return folder


def place(folder: Path, point: str) -> Path:
    return folder / POINTS / point / JUDGED


def steps(*counts: int, **more: Any) -> list[Sampler]:
    return [Sampler(steps=count, **more) for count in counts]


def found_of(
    out: Path, values: dict[int, tuple[Score, ...]], task: str = "text-to-image", quality: str = "read"
) -> TaskFront:
    """What is found where each count of steps has these scores."""
    judge = lambda task, sampler, run: {"quality": quality, "scores": values[sampler.steps]}  # noqa: E731
    (front,) = fronts(read_sampling(make(out, {task: steps(*values)}, judge)))
    return front


# Fronts


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=40))
def test_no_point_of_the_front_is_dominated_and_every_other_is(points: list[tuple[int, int]]) -> None:
    calls = np.array([point[0] for point in points], dtype=float)
    good = np.array([point[1] for point in points], dtype=float)
    front = pareto(calls, good)
    for k in range(len(points)):
        ahead = (calls < calls[k]) | (good > good[k])
        dominated = bool(((calls <= calls[k]) & (good >= good[k]) & ahead).any())
        assert front[k] == (not dominated)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 30),
            st.floats(0, 1, allow_nan=False).map(lambda x: round(x, 2)),
            st.floats(0.5, 1.1, allow_nan=False).map(lambda x: round(x, 2)),
        ),
        min_size=1,
        max_size=12,
        unique_by=lambda point: point[0],
    ),
    st.floats(0.001, 0.1),
)
def test_the_default_needs_the_fewest_calls_of_all_that_are_diverse_and_near_the_best(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[int, float, float]], half: float
) -> None:
    scores = {
        count: (score("read", value, half, real=1.0), score("diversity", diversity, real=1.0, better="real"))
        for count, value, diversity in points
    }
    front = found_of(tmp_path_factory.mktemp("study"), scores)
    choice = front.choice
    diverse = [point for point in points if point[2] >= 0.85]
    if not diverse:
        assert choice.rule == "best trade-off"
        assert choice.setting.quality.value * min(choice.setting.diversity or 0, 1) == pytest.approx(
            max(value * min(diversity, 1) for _, value, diversity in points)
        )
        return
    margin = 2 * half / (2 * 1.6448536269514722)
    near = [point for point in diverse if point[1] >= max(one[1] for one in diverse) - margin]
    assert choice.rule == "one standard error"
    assert choice.setting.calls == min(near)[0]
    assert choice.setting in front.front
    assert all((setting.state == "too alike") == (setting.diversity < 0.85) for setting in front.settings)  # type: ignore[operator]


def test_a_lower_perplexity_wins_only_at_the_real_texts_diversity(tmp_path: Path) -> None:
    def scores(perplexity: float, distinct: float) -> tuple[Score, ...]:
        lower = score("perplexity", perplexity, 2.0, better="lower", real=50.0)
        return lower, score("distinct_2", distinct, better="real", real=0.5)

    values = {8: scores(20, 0.2), 16: scores(60, 0.45), 32: scores(55, 0.48), 64: scores(54.5, 0.48)}
    front = found_of(tmp_path, values, "text", "perplexity")
    # 54.5 is the best of those that are diverse; its standard error is 1.2, within which 55 needs half the calls.
    assert (front.choice.best.calls, front.choice.setting.calls) == (64, 32)
    assert [setting.state for setting in front.settings] == ["too alike", "front", "front", "front"]
    assert front.choice.setting.diversity == pytest.approx(0.96)
    assert front.choice.setting.relative == pytest.approx(1.1)


def test_where_none_is_diverse_enough_the_trade_off_is_chosen_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 0.9 · 0.5 against 0.8 · 0.8 against 0.5 · 0.84, each of real data's.
    values = {
        count: (score("read", value, 0.02, real=1.0), score("diversity", diversity, real=1.0, better="real"))
        for count, value, diversity in ((4, 0.9, 0.5), (8, 0.8, 0.8), (16, 0.5, 0.84))
    }
    assert found_of(tmp_path, values).choice.setting.calls == 8
    assert run_sampling_fit(tmp_path / "samplers") == 0
    assert "No setting has 0.85 of real data's diversity" in " ".join(capsys.readouterr().out.split())


def test_a_score_that_is_best_where_real_data_are_is_judged_by_its_distance(tmp_path: Path) -> None:
    values = {
        count: (score("length", value, better="real", real=10.0),) for count, value in ((4, 7), (8, 10.5), (16, 12))
    }
    front = found_of(tmp_path, values, quality="length")
    assert [setting.state for setting in front.settings] == ["front", "front", "dominated"]
    assert front.choice.setting.calls == 8
    with pytest.raises(ValueError, match="no real data"):
        goodness(score("length", 1.0, better="real"))


def test_settings_are_compared_over_the_same_runs_and_their_errors_are_pooled(tmp_path: Path) -> None:
    # On the run that is easy, the setting of 4 steps looks best; it was not judged on the other.
    values = {(4, RUN): 0.99, (8, RUN): 0.95, (16, RUN): 0.96, (8, OTHER): 0.65, (16, OTHER): 0.70}

    def judge(task: str, sampler: Sampler, run: str) -> dict[str, Any]:
        value = values.get((sampler.steps or 0, run))
        return {} if value is None else {"quality": "read", "scores": (score("read", value, 0.03, real=1.0),)}

    (front,) = fronts(read_sampling(make(tmp_path, {"text-to-image": steps(4, 8, 16)}, judge, (RUN, OTHER))))
    assert front.runs == (RUN, OTHER)
    assert [setting.quality.value for setting in front.settings] == pytest.approx([0.80, 0.83])
    assert standard_error(front.settings[0].quality) == pytest.approx(0.03 / 1.6448536 / math.sqrt(2))
    assert front.choice.setting.calls == 16
    assert front.left_out == ("a/steps=4: its sampler is not judged on all runs that are compared",)


# Reading


def plain(task: str, sampler: Sampler, run: str) -> dict[str, Any]:
    return {"quality": "read", "scores": (score("read", 0.9, 0.02, real=0.99), score("copies", 0.0, better="lower"))}


def test_the_table_has_a_row_for_each_judged_point_and_a_column_for_each_score(tmp_path: Path) -> None:
    def judge(task: str, sampler: Sampler, run: str) -> dict[str, Any]:
        if task == "text":
            return {"quality": "perplexity", "scores": (score("perplexity", 40, better="lower"),), "seconds": 0.0}
        return {**plain(task, sampler, run), "controls": {"lookup": (score("read", 1.0),)}}

    folder = make(tmp_path, {"text-to-image": steps(4, 8), "text": [Sampler()]}, judge)
    rows = table(read_sampling(folder))
    scored = ["score", "real", "low", "high"]
    extra = [f"{end}:{name}" for name in ("read", "copies") for end in scored] + ["control:lookup:read"]
    assert rows.columns == [*COLUMNS, *extra, *(f"{end}:perplexity" for end in scored)]
    assert rows["steps"].to_list() == [4, 8, None]
    assert rows["run_name"].to_list() == ["run-a"] * 3
    assert rows["tokens_per_second"].to_list() == [2000, 2000, None]
    assert rows["relative"].to_list() == [pytest.approx(0.9 / 0.99)] * 2 + [None]
    assert rows["quality"].to_list() == [0.9, 0.9, 40]
    assert rows["score:read"].to_list() == [0.9, 0.9, None]
    assert rows["control:lookup:read"].to_list() == [1, 1, None]


def test_points_that_are_missing_or_damaged_are_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path, {"text-to-image": steps(1, 2, 3, 4, 5, 6, 7)}, plain)
    place(folder, f"{0:016x}").unlink()
    place(folder, f"{1:016x}").write_bytes(b'{"id": ')
    place(folder, f"{2:016x}").write_bytes(place(folder, f"{3:016x}").read_bytes())
    whole = json.loads(place(folder, f"{4:016x}").read_text())
    place(folder, f"{4:016x}").write_text(json.dumps({**whole, "quality": "heard"}))
    place(folder, f"{5:016x}").write_text(json.dumps({**whole, "id": f"{5:016x}", "calls": "many"}))
    study = read_sampling(folder)
    assert [point.sampler.steps for point in study.points] == [4, 7]
    assert [point.sampler.steps for point in study.missing] == [1]
    expected = ["steps=2: judged.json cannot be read", "steps=3: judged.json is of another point"]
    expected += ["steps=5: judged.json has no score 'heard'", "steps=6: judged.json"]
    assert all(words in said for words, said in zip(expected, study.broken, strict=True))
    assert run_sampling_fit(folder) == 0
    told = capsys.readouterr().out
    assert "No results yet for 1 of 7 points" in told
    assert told.count("Left out: ") == 4


def test_a_folder_without_a_plan_or_results_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpecError, match=r"sampling.json.*there is no plan here"):
        read_sampling(tmp_path)
    folder = make(tmp_path, {"text": steps(4)}, lambda *_: {})
    target = tmp_path / "samplers.yaml"
    assert run_sampling_fit(folder, as_json=True, write=target) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["judged"], said["missing"], said["tasks"], said["written"]) == (0, ["a/steps=4"], [], None)
    assert not target.exists()
    assert "1 point without results yet" in write_sampling_report(folder).read_text()
    assert len(pl.read_parquet(folder / "results.parquet")) == 0
    (folder / PLAN).write_text("{}")
    with pytest.raises(SpecError, match="the plan cannot be read"):
        read_sampling(folder)


# Defaults and output


def test_json_says_all_of_it_in_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"text-to-image": steps(4, 8)}, plain)
    assert run_sampling_fit(folder, as_json=True, write=tmp_path / "new.yaml") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["study"] == "samplers"
    assert said["defaults"]["text-to-image"]["steps"] == 4
    assert [setting["state"] for setting in said["tasks"][0]["settings"]] == ["front", "dominated"]
    assert said["written"] == str(tmp_path / "new.yaml")
    assert run_sampling_report(folder, as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert Path(said["report"]).exists()
    assert len(pl.read_parquet(said["results"])) == 2


def test_the_terminal_shows_a_table_of_settings_and_the_choice_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        4: (score("read", 0.5, 0.02, real=0.98),),
        16: (score("read", 0.95, 0.02, real=0.98),),
        64: (score("read", 0.96, 0.02, real=0.98),),
    }
    found_of(tmp_path, values)
    run_sampling_fit(tmp_path / "samplers")
    told = " ".join(capsys.readouterr().out.split())
    assert "Chosen: ancestral, steps 16: read 0.95 [0.93 to 0.97], real 0.98, 16 calls a sample" in told
    assert "The best is ancestral, steps 64, with 0.96 at 64 calls; within one standard error" in told
    assert told.startswith("text-to-image: read, higher is better, real data 0.98 steps calls read diversity place")
    assert "16 16 0.95 – default 0.93 to 0.97" in told


KEPT = """\
# How each task is sampled.

default:
  kind: ancestral
  steps: null           # one a token
  temperature: 0.9
text: {steps: 64}
# Weak evidence.
image-to-text:
  kind: confidence
infill: {temperature: 0.8}
"""


def test_defaults_replace_the_tasks_of_the_study_and_keep_all_else(tmp_path: Path) -> None:
    samplers = {"text-to-image": steps(4, kind="confidence", temperature=0.9), "text": steps(8, guidance=2.0)}
    study = read_sampling(make(tmp_path, samplers, plain))
    file = tmp_path / "samplers.yaml"
    file.write_text(KEPT)
    write_defaults(file, fronts(study), "samplers")
    written = file.read_text()
    assert written.startswith(
        "# How each task is sampled.\n\ndefault:\n  kind: ancestral\n  steps: null           # one"
    )
    assert "\n# Weak evidence.\nimage-to-text:\n  kind: confidence\n" in written
    assert "\ninfill: {temperature: 0.8}\n" in written
    # Only what is not as in `default`, whose temperature is not the sampler's own.
    assert "\ntext-to-image: {kind: confidence, steps: 4}\n" in written
    assert "\ntext: {kind: ancestral, steps: 8, temperature: 1.0, guidance: 2.0}\n" in written
    assert "text: {steps: 64}" not in written
    assert written.count("# From the study samplers.") == 2
    chosen = "Chosen: confidence, steps 4, temperature 0.9: read 0.9 [0.88 to 0.92], real 0.99"
    assert f"# From the study samplers. {chosen}" in written
    # Written again, it stays as it is.
    assert defaults_text(fronts(study), "samplers", written) == written


def test_defaults_without_a_file_so_far_begin_with_the_samplers_own(tmp_path: Path) -> None:
    study = read_sampling(make(tmp_path, {"text": steps(8)}, plain))
    written = defaults_text(fronts(study), "samplers")
    assert written.startswith("# ")
    assert "\ndefault:\n  kind: ancestral\n  steps: null\n" in written
    assert written.endswith("\ntext: {kind: ancestral, steps: 8}\n")


@pytest.mark.parametrize("kept", ["- 1\n", "text: 5\n", "a: {b: 1\n", "{text: {steps: 1}}\n", "5\n"])
def test_what_is_no_file_of_defaults_is_not_written_over(tmp_path: Path, kept: str) -> None:
    study = read_sampling(make(tmp_path, {"text": steps(8)}, plain))
    file = tmp_path / "notes.yaml"
    file.write_text(kept)
    with pytest.raises(SpecError, match=r"notes\.yaml"):
        write_defaults(file, fronts(study), "samplers")
    assert file.read_text() == kept


# The page


def sheet(words: str) -> bytes:
    """A contact sheet: pictures with captions."""
    made = Image.new("L", (420, 240), 255)
    draw = ImageDraw.Draw(made)
    for k in range(12):
        x, y = 10 + 68 * (k % 6), 10 + 114 * (k // 6)
        digit = Image.new("L", (12, 14), 0)
        ImageDraw.Draw(digit).text((2, 1), str(k % 10), fill=255)
        made.paste(digit.resize((60, 70), Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + 76), f"{words} {k % 10}", fill=0)
    data = io.BytesIO()
    made.save(data, "PNG")
    return data.getvalue()


def sound(seconds: float = 0.5) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        tone = 8000 * np.sin(np.arange(int(8000 * seconds)) * 2 * np.pi * 440 / 8000)
        file.writeframes(tone.astype("<i2").tobytes())
    return data.getvalue()


SAMPLERS = [
    Sampler(kind=kind, steps=count, guidance=guidance)
    for kind in ("ancestral", "confidence")
    for count in (4, 8, 16, 32)
    for guidance in (1.0, 2.0)
]


def judged(task: str, sampler: Sampler, run: str) -> dict[str, Any]:
    """As such studies come out: more calls help less and less, confidence order narrows what is drawn."""
    calls = (sampler.steps or 64) * sampler.guidance
    effort = (sampler.steps or 64) * (1 + 0.2 * (sampler.guidance - 1))
    sure = sampler.kind == "confidence"
    right = 0.985 - 0.5 * math.exp(-effort / 7) + 0.01 * sure
    diversity = (0.7 if sure else 0.96) - 0.03 * (sampler.guidance - 1)
    if task == "text":
        perplexity = 48 + 300 * math.exp(-effort / 12) - 20 * sure
        scores: tuple[Score, ...] = (
            score("perplexity", perplexity, 0.04 * perplexity, better="lower", real=41.0),
            score("distinct_2", 0.5 * diversity, 0.01, better="real", real=0.5),
            score("self_bleu", 0.3, better="real", real=0.28),
        )
        return {"quality": "perplexity", "scores": scores, "calls": calls, "examples": ("text.txt",)}
    name = "read" if task == "text-to-image" else "heard"
    scores = (
        score(name, right, 0.012, real=0.988),
        score("diversity", diversity, better="real", real=0.99),
        score("frechet", 30 * (1 - right) + 4, better="lower", real=2.1),
        score("novelty", 1.02, better="real", real=1.0),
        score("copies", 0.0, 0.0, better="lower", real=0.002),
    )
    controls = {
        "condition-masked": (score(name, 0.12, 0.02, real=0.988),),
        "one-length": (score(name, right - 0.02, 0.02, real=0.988),),
        "lookup": (score(name, 0.99, 0.01, real=0.988), score("copies", 1.0, better="lower", real=0.002)),
    }
    words = (
        ("text-to-speech.0.three-seven.wav", "text-to-speech.1.nine.wav") if name == "heard" else ("text-to-image.png",)
    )
    return {"quality": name, "scores": scores, "controls": controls, "calls": calls, "examples": words}


def pictured(out: Path) -> Path:
    """A study of three tasks whose points have examples, some of which are no such thing."""
    folder = make(out, dict.fromkeys(("text-to-image", "text-to-speech", "text"), SAMPLERS), judged)
    for point in read_sampling(folder).points:
        for name in point.examples:
            made = {
                ".png": sheet("digit"),
                ".wav": sound(),
                ".txt": f"[tell]\nOnce upon a time. {STRANGE}\n\n".encode() * 3,
            }
            (folder / POINTS / point.id / name).write_bytes(made[Path(name).suffix])
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SamplingStudy:
    return read_sampling(pictured(tmp_path_factory.mktemp("out")))


@pytest.fixture(scope="module")
def report(study: SamplingStudy) -> Path:
    return write_sampling_report(study.folder)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_page_draws_its_charts_shows_pictures_and_plays_sounds(
    browser: Browser, report: Path, tmp_path: Path, scheme: str, width: int
) -> None:
    page, said = open_report(browser, report, scheme, width)
    assert page.locator(".chart svg.marks").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("nav.sections a").all_inner_texts() == ["text-to-image", "text-to-speech", "text"]
    widths = page.locator("#task-0 img").evaluate_all("all => all.map(i => [i.naturalWidth, i.clientWidth])")
    assert widths
    assert all(natural == 420 and shown > 250 for natural, shown in widths)
    durations = page.locator("#task-1 audio").evaluate_all("""all => Promise.all(all.map(sound => new Promise(done => {
        sound.onloadedmetadata = () => done(sound.duration); sound.onerror = () => done(-1); sound.load();
        sound.preload = "metadata"; })))""")
    assert durations == pytest.approx([0.5] * len(durations))
    assert len(durations) >= 4
    assert STRANGE in page.locator("#task-2 pre").first.inner_text()
    assert "three seven" in page.locator("#task-1").inner_text()
    assert page.evaluate("window.broken") is None
    labels = page.locator(".figure, audio, pre, img").evaluate_all(
        "all => all.map(e => e.getAttribute('aria-label') || e.alt)"
    )
    assert all(labels)
    page.screenshot(path=tmp_path / f"sampling-{scheme}-{width}.png", full_page=True)
    assert said == []


def test_the_page_says_what_was_found_with_real_data_and_controls_beside(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report, charts="#task-0-calls")
    head = page.locator("main > .card").first.inner_text()
    assert "Defaults found" in head
    assert "text-to-speech" in head
    # Confidence order reads better, but what it draws is too alike.
    assert "ancestral, steps 32, guidance 1" in head
    task = page.locator("#task-0").inner_text()
    assert "real held-out data" in task
    assert "condition masked" in task
    assert page.locator("#task-0 table").last.locator("tr", has_text="lookup").count() >= 1
    assert said == []


def test_the_menu_changes_the_colours_and_the_legend_fades_the_rest(browser: Browser, report: Path) -> None:
    page, said = open_report(browser, report, charts="#task-0-calls")
    chart = page.locator("#task-0-calls")
    texts = "e => [...e.querySelectorAll('.role-legend-label text')].map(t => t.textContent)"
    assert {"ancestral", "confidence"} <= set(chart.evaluate(texts))
    chart.locator("select").select_option("steps")
    chart.locator("g.role-legend-label text", has_text="32").wait_for()
    shown = chart.evaluate(texts)
    assert [text for text in shown if text.isdigit()] == ["4", "8", "16", "32"]
    chart.locator("g.role-legend-label text", has_text="32").first.click()
    page.wait_for_function("""() => [...document.querySelectorAll('#task-0-calls .mark-symbol path')]
        .filter(p => p.getAttribute('opacity') < 0.2).length === 12""")
    assert said == []


def test_charts_hold_every_setting_once(study: SamplingStudy) -> None:
    front = fronts(study)[0]
    rows = setting_rows(front)
    assert len(rows) == len(SAMPLERS)
    assert rows["setting"].n_unique() == len(SAMPLERS)
    assert rows.filter(pl.col("default"))["calls"].to_list() == [front.choice.setting.calls]
    pareto_chart(front).to_dict()


def test_examples_that_are_no_such_files_are_left_out_and_named(tmp_path: Path) -> None:
    names = ("a.png", "b.wav", "c.html", "../../sampling.json", "d.txt", "e.wav", "f.wav", "../x.txt")
    found = {**plain("", Sampler(), ""), "examples": names}
    folder = make(tmp_path, {"text-to-speech": [Sampler()]}, lambda *_: found)
    files = folder / POINTS / f"{0:016x}"
    (files / "a.png").write_bytes(b"<svg onload=alert(1)>")
    (files / "b.wav").write_bytes(b"RIFF" + bytes(1_000_000))
    (files / "c.html").write_text(STRANGE)
    (files / "d.txt").symlink_to("/etc/hostname")
    (files / "f.wav").write_bytes(sound())
    (files.parent / "x.txt").write_text("elsewhere")
    written = write_sampling_report(folder).read_text()
    reasons = ["a.png: is no PNG file", "b.wav: larger than", "c.html: is no text, picture or sound"]
    reasons += ["sampling.json: is no text, picture or sound", "d.txt: is a link", "e.wav: cannot be read"]
    assert all(reason in written for reason in reasons)
    assert "x.txt: is not the name of a file" in written
    assert "elsewhere" not in written
    assert written.count("<audio") == 1


def test_a_page_holds_so_many_examples_and_each_setting_has_some(tmp_path: Path) -> None:
    names = tuple(f"{k}.wav" for k in range(50))
    values = {4: 0.5, 16: 0.95, 64: 0.96}

    def judge(task: str, sampler: Sampler, run: str) -> dict[str, Any]:
        read = score("heard", values[sampler.steps or 0], 0.02, real=0.98)
        return {"quality": "heard", "scores": (read,), "examples": names}

    folder = make(tmp_path, {"text-to-speech": steps(*values)}, judge)
    for k in range(3):
        for name in names:
            (folder / POINTS / f"{k:016x}" / name).write_bytes(sound(0.05))
    written = write_sampling_report(folder).read_text()
    assert written.count("<audio") == 60
    assert "90 more: a page holds 60 examples" in written
    assert all(f"{role}</h3>" in written for role in ("Drawn: default", "best quality", "fewest calls"))


def test_one_setting_and_scores_without_intervals_or_real_data_are_drawn(browser: Browser, tmp_path: Path) -> None:
    perplexities = {4: 900.0, 64: 30.0}

    def judge(task: str, sampler: Sampler, run: str) -> dict[str, Any]:
        if task == "infill":
            return {"quality": "read", "scores": (score("read", 0.5),)}
        perplexity = score("perplexity", perplexities[sampler.steps or 0], better="lower")
        return {"quality": "perplexity", "scores": (perplexity,)}

    page, said = open_report(
        browser, write_sampling_report(make(tmp_path, {"text": steps(4, 64), "infill": steps(16)}, judge))
    )
    assert page.locator(".chart svg.marks").count() == 2
    assert "perplexity has no interval within which others could be" in page.locator("#task-0").inner_text()
    assert page.locator("#task-1 .mark-symbol path").count() >= 1
    assert said == []
