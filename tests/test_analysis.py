from __future__ import annotations

import doctest
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from compiler.manifest import Manifest, Segment, Split, VocabularyManifest
from compiler.plan import StudyPlan
from specs.errors import SpecError
from studies.analysis.baselines import baseline, comparison, study_baselines
from studies.analysis.charts.runs import curve_rows
from studies.analysis.cli import run_fit
from studies.analysis.fits import fit_results
from studies.analysis.how import How
from studies.analysis.laws import chinchilla
from studies.analysis.laws.base import UnidentifiedError
from studies.analysis.laws.chinchilla import fit
from studies.analysis.laws.chinchilla_law import NAMES, Law
from studies.analysis.laws.descent import DELTA
from studies.analysis.noise import seed_noise
from studies.analysis.results import read_study, write_results
from studies.analysis.tables import Columns, read_runs
from tests.synthetic import LAWS, SIZES, TOKENS, make_study, modality

GRID = tuple(v.ravel() for v in np.meshgrid([1e6, 4e6, 16e6, 64e6, 256e6], [1e8, 4e8, 16e8, 64e8]))


def noisy(law: Law, seed: int, width: float = 0.004) -> np.ndarray:
    return law(*GRID) * np.exp(np.random.default_rng(seed).normal(0, width, len(GRID[0])))


# --- the law


def test_docstring_examples_run() -> None:
    assert doctest.testmod(chinchilla).failed == 0


# Laws whose three terms all matter on the grid; where one does not, no method can find it.
laws = st.builds(
    lambda E, a, b, alpha, beta: Law(E=E, A=a * 16e6**alpha, B=b * 8e8**beta, alpha=alpha, beta=beta),
    E=st.floats(0.5, 4),
    a=st.floats(0.1, 1),
    b=st.floats(0.1, 1),
    alpha=st.floats(0.15, 0.8),
    beta=st.floats(0.15, 0.8),
)


@settings(max_examples=12, deadline=None)
@given(laws)
def test_recovers_the_law_from_noiseless_runs(law: Law) -> None:
    found = fit(*GRID, law(*GRID), bootstrap=0)
    assert found.objective < 1e-12
    for name in ("E", "alpha", "beta"):
        assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-3)


@settings(max_examples=8, deadline=None)
@given(laws, st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.1, 10), st.integers(0, 99))
def test_units_of_parameters_tokens_and_loss_only_rescale_the_law(
    law: Law, n: float, d: float, unit: float, seed: int
) -> None:
    loss = noisy(law, seed)
    plain = fit(*GRID, loss, bootstrap=0)
    scaled = fit(GRID[0] * n, GRID[1] * d, loss * unit, bootstrap=0)
    assert scaled.objective == pytest.approx(plain.objective, rel=1e-6)
    expected = unit * plain.law(*GRID)
    np.testing.assert_allclose(scaled.law(GRID[0] * n, GRID[1] * d), expected, rtol=1e-5)
    if plain.warnings == ():
        assert scaled.law.alpha == pytest.approx(plain.law.alpha, rel=1e-3)
        assert pytest.approx(plain.law.A * unit * n**plain.law.alpha, rel=2e-2) == scaled.law.A


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_runs_does_not_matter(seed: int) -> None:
    loss = noisy(LAWS["image"], seed)
    order = np.random.default_rng(seed).permutation(len(loss))
    one = fit(*GRID, loss, bootstrap=0)
    other = fit(GRID[0][order], GRID[1][order], loss[order], bootstrap=0)
    assert one.objective == pytest.approx(other.objective, rel=1e-9)
    assert one.law.alpha == pytest.approx(other.law.alpha, rel=1e-4)


@pytest.mark.parametrize(("seed", "width"), [(0, 0.003), (1, 0.01), (2, 0.03)])
def test_minimum_is_never_worse_than_multistart_lbfgs(seed: int, width: float) -> None:
    N, D = GRID
    law = Law(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
    loss = noisy(law, seed, width)

    def objective(theta: np.ndarray) -> float:
        e, a, b, alpha, beta = theta
        parts = np.stack([np.full(len(N), e), a - alpha * np.log(N), b - beta * np.log(D)])
        residual = np.abs(np.logaddexp.reduce(parts) - np.log(loss))
        near = np.minimum(residual, DELTA)
        return float(np.sum(near * (residual - near / 2)))

    starts = [(e, a, b, x, x) for e in (0.5,) for a in (3.0, 8.0) for b in (3.0, 8.0) for x in (0.2, 0.5)]
    best = min(minimize(objective, start, method="L-BFGS-B").fun for start in starts)
    found = fit(N, D, loss, bootstrap=0)
    assert found.objective <= best * (1 + 1e-9)
    theta = [math.log(found.law.E), math.log(found.law.A), math.log(found.law.B), found.law.alpha, found.law.beta]
    assert objective(np.array(theta)) == pytest.approx(found.objective, rel=1e-9)


def test_bootstrap_intervals_hold_the_estimate_and_are_reproducible() -> None:
    law = LAWS["image"]
    found = fit(*GRID, noisy(law, 3, 0.002), bootstrap=300)
    again = fit(*GRID, noisy(law, 3, 0.002), bootstrap=300)
    assert found.intervals == again.intervals
    assert found.samples.shape == (300, 5)
    for name in NAMES:
        low, high = found.intervals[name]
        assert low <= getattr(found.law, name) <= high


def test_intervals_and_bands_hold_the_truth_about_as_often_as_they_say() -> None:
    law, inside = LAWS["image"], 0
    for seed in range(10):
        found = fit(*GRID, noisy(law, seed), bootstrap=60, seed=seed)
        low, high = found.intervals["alpha"]
        band = found.band(1e9, 1e10)
        inside += low < law.alpha < high
        inside += bool(band[0] < law(1e9, 1e10) < band[1])
    assert inside >= 14


def test_too_little_to_determine_the_law_is_said_clearly() -> None:
    law = LAWS["text"]
    N, D = GRID
    two = np.isin(N, [1e6, 4e6])
    with pytest.raises(UnidentifiedError, match=r"at least 3 different sizes \(N\), and there are 2"):
        fit(N[two], D[two], law(N[two], D[two]))
    one = D == 1e8
    with pytest.raises(UnidentifiedError, match="at least 6 runs"):
        fit(N[one], D[one], law(N[one], D[one]))
    with pytest.raises(ValueError, match="positive and finite"):
        fit(N, D, np.full(len(N), np.nan))


def test_warns_where_loss_does_not_depend_on_size() -> None:
    N, D = GRID
    rng = np.random.default_rng(0)
    loss = (2 + 300 / D**0.3) * np.exp(rng.normal(0, 0.002, len(N)))
    assert any("alpha" in said for said in fit(N, D, loss, bootstrap=100).warnings)


# --- somebody else's runs


def write_csv(path: Path, loss: list[object] | None = None) -> Path:
    N, D = GRID
    rows = zip(N, D, LAWS["text"](N, D) if loss is None else loss, strict=True)
    path.write_text("params,tokens,loss,note\n" + "".join(f'{n},{d},{x},"a, b"\n' for n, d, x in rows))
    return path


def test_fit_of_a_csv_prints_the_contract_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_fit([write_csv(tmp_path / "runs.csv")], how=How(bootstrap=50), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {"law", "E", "A", "B", "alpha", "beta", "objective", "n", "intervals"} <= printed.keys()
    assert printed["law"] == "chinchilla"
    assert printed["n"] == len(GRID[0])
    assert printed["E"] == pytest.approx(LAWS["text"].E, rel=1e-3)
    assert set(printed["intervals"]) == set(NAMES)


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    csv = read_runs(write_csv(tmp_path / "runs.csv"))
    pl.read_csv(tmp_path / "runs.csv").write_parquet(tmp_path / "runs.parquet")
    parquet = read_runs(tmp_path / "runs.parquet")
    np.testing.assert_allclose(csv.to_numpy(), parquet.to_numpy())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("params,tokens,Loss\n1,2,3\n", ":1: loss: there is no such column; did you mean 'Loss'?"),
        ("params,tokens,loss\n1,2,3\n1,2,oops\n", ":3: loss: oops is not a number; give a number above zero"),
        ("params,tokens,loss\n1,2,3\n\n1,-2,3\n", ":4: tokens: -2 is not a finite number above zero; "),
        ("params,tokens,loss\n1,2,3\n1,2,nan\n", ":3: loss: nan is not a finite number above zero; "),
        ("params,tokens,loss\n1,2,\n", ":2: loss: the value is missing; "),
        ('params,tokens,loss,note\n1,2,3,"two\nlines"\n1,0,3,x\n', ":4: tokens: 0 is not a finite number above zero; "),
        ("params,tokens,loss\n1,2,3\n", ":1: params, tokens: the law needs at least 6 runs"),
        ("", ":1: file: it cannot be read as CSV"),
        ("params,tokens,loss\n1,2,3,4,5\n", ":1: file: it cannot be read as CSV"),
        ("params,params,loss\n1,2,3\n", ":1: "),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(SpecError) as wrong:
        run_fit([path], as_json=True)
    err = str(wrong.value)
    assert len(err.strip().splitlines()) == 1
    assert err.startswith(f"{path}{said}")


def test_a_missing_file_and_binary_rubbish_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file"):
        run_fit([tmp_path / "no.csv"])
    for name in ("x.csv", "x.parquet"):
        (tmp_path / name).write_bytes(b"\x00\xff\xfe\x01" * 50)
        with pytest.raises(SpecError, match=name):
            run_fit([tmp_path / name])


def test_a_file_has_the_other_approaches_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 7), [1e18, 1e19, 1e20]))
    table = pl.DataFrame({"size": N, "seen": D / 6 / N, "cost": D, "nats": LAWS["text"](N, D / 6 / N)})
    table.write_csv(tmp_path / "others.csv")
    columns = Columns(n="size", d="seen", loss="nats", flops="cost")
    assert run_fit([tmp_path / "others.csv"], columns, How(bootstrap=20), approaches=True, as_json=True) == 0
    (found,) = json.loads(capsys.readouterr().out)["scaling"]["approaches"]
    truth = LAWS["text"].beta / (LAWS["text"].alpha + LAWS["text"].beta)
    assert found["allocation"]["a"] == pytest.approx(truth, abs=0.02)
    assert found["isoflop"]["N"]["exponent"] - found["isoflop"]["bias"]["a"] == pytest.approx(truth, abs=0.02)
    assert found["extrapolated"]["rms"] < 1e-3


def test_several_studies_are_fitted_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, tokens in (("short", TOKENS[:2]), ("long", TOKENS[1:])):
        make_study(tmp_path / name, name, tokens=tokens)
    assert run_fit([tmp_path / "short", tmp_path / "long"], how=How(bootstrap=0), as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["studies"]) == {"short", "long"}
    # Each run once, also where both studies have it.
    assert printed["fits"]["all"]["n"] == len(SIZES) * len(TOKENS)
    with pytest.raises(SpecError, match="not all are folders"):
        run_fit([tmp_path / "short", tmp_path / "runs.csv"])


# --- a study's folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(
        tmp_path_factory.mktemp("out"), seeds=2, states={3: ("failed", "loss is NaN"), 5: ("running", "")}
    )


def test_results_have_a_row_per_finished_run_and_modality(folder: Path) -> None:
    study = read_study(folder)
    results = pl.read_parquet(write_results(study))
    runs = len(SIZES) * len(TOKENS) * 2
    assert len(study.runs) == runs
    assert len(results) == (runs - 2) * 4
    assert {"id", "name", "seed", "modality", "params", "params_non_embedding", "tokens", "flops", "nelbo"} <= set(
        results.columns
    )
    one = {row["modality"]: row for row in results.filter(id=results["id"][0]).iter_rows(named=True)}
    assert one["all"]["nelbo"] == pytest.approx(sum(one[m]["nelbo"] * one[m]["weight"] for m in LAWS))
    assert one["all"]["weight"] == pytest.approx(1)
    assert one["text"]["conditional"] is None
    assert one["image"]["conditional"] == pytest.approx(0.9 * one["image"]["nelbo"])
    assert one["all"]["params"] > one["all"]["params_non_embedding"]


def test_only_the_current_plans_runs_count_and_links_are_not_needed(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=StudyPlan)
    kept = plan.runs[:2]
    (folder / "plan.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, runs=kept)))
    (folder / "runs" / kept[0].id).unlink()
    assert set(read_study(folder).results()["id"]) == {run.id for run in kept}


def test_a_live_study_is_read_with_half_written_lines_counted(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    before = read_study(folder)
    first, second, third = sorted((tmp_path / "store").iterdir())[:3]
    metrics = first / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 99999, "tok')
    lines = (second / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    # Killed in the middle of a line, resumed from a checkpoint two steps earlier.
    (second / "metrics.jsonl").write_bytes(b"".join([*lines[:5], lines[5][:20], *lines[3:]]))
    evaluations = third / "eval.jsonl"
    evaluations.write_bytes(evaluations.read_bytes() + b'{"step": 1')
    after = read_study(folder)
    assert (before.skipped, after.skipped) == (0, 3)
    # What follows a half-written line without a line break is lost with it, and written again by the resumed run.
    assert len(after.metrics) == len(before.metrics)
    assert after.results().equals(before.results())


def test_a_null_loss_and_unknown_fields_are_read(tmp_path: Path) -> None:
    folder = make_study(tmp_path, sizes={32: 36_000}, tokens=(2e5,))
    path = next((tmp_path / "store").glob("*/metrics.jsonl"))
    path.write_bytes(
        path.read_bytes() + b'{"step": 9999, "tokens": 1, "loss": null, "losses": {"other": 1.0}, "new": 3}\n'
    )
    study = read_study(folder)
    assert study.skipped == 0
    assert study.metrics["loss"].null_count() == 1
    assert curve_rows(study)["loss"].null_count() == 0


def test_the_last_evaluation_counts_and_a_lacking_modality_leaves_no_mix(tmp_path: Path) -> None:
    folder = make_study(tmp_path, sizes={32: 36_000}, tokens=(2e5,))
    path = next((tmp_path / "store").glob("*/eval.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    early = [{**row, "step": 1, "nelbo": 99.0} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *early]))
    assert read_study(folder).results()["nelbo"].max() < 99
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    assert set(read_study(folder).results()["modality"]) == set(LAWS) - {rows[0]["modality"]}


def test_a_folder_without_a_study_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as wrong:
        run_fit([tmp_path])
    assert str(wrong.value).startswith(f"{tmp_path / 'plan.json'}:1: plan: the folder holds no study; ")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(SpecError, match="cannot be read"):
        read_study(tmp_path)


def test_fit_of_a_study_finds_each_modalitys_law(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_fit([folder], how=How(bootstrap=20), as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["study"] == "demo"
    assert set(printed["fits"]) == {"all", *LAWS}
    for name, law in LAWS.items():
        assert printed["fits"][name]["E"] == pytest.approx(law.E, abs=0.4)
        assert printed["fits"][name]["n"] == len(SIZES) * len(TOKENS) * 2 - 2
    assert run_fit([folder], how=How(bootstrap=20)) == 0
    assert "the mix" in capsys.readouterr().out


def test_fit_of_an_unfinished_study_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_study(tmp_path, "one", sizes={32: 36_000}, tokens=(2e5,))
    assert run_fit([one], as_json=True) == 1
    assert "at least 6 runs" in json.loads(capsys.readouterr().out)["missing"]["all"]
    none = make_study(tmp_path / "b", "none", sizes={32: 36_000}, tokens=(2e5,), states={0: ("pending", "")})
    assert run_fit([none]) == 1
    assert "no run has finished" in capsys.readouterr().out


def test_total_parameters_can_be_the_laws_size(folder: Path) -> None:
    results = read_study(folder).results()
    by_count = [fit_results(results, count, bootstrap=0).fits["all"].law.A for count in ("non_embedding", "total")]
    assert by_count[0] != pytest.approx(by_count[1], rel=0.01)


def test_seed_noise_is_the_pooled_deviation(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, seeds=3, noise=0.01))
    results = study.results()
    noise = seed_noise(results)
    text = results.filter(modality="text")
    groups = [group["nelbo"].to_numpy() for _, group in text.group_by("params", "tokens")]
    pooled = math.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / sum(len(g) - 1 for g in groups))
    row = noise.row(by_predicate=pl.col("modality") == "text", named=True)
    assert row["deviation"] == pytest.approx(pooled)
    assert (row["configurations"], row["runs"]) == (len(groups), 3 * len(groups))
    assert seed_noise(read_study(make_study(tmp_path / "b")).results()).is_empty()


def test_loss_curves_are_bounded_and_keep_every_run(folder: Path) -> None:
    study = read_study(folder)
    rows = curve_rows(study, points=1000)
    assert len(rows) <= 1000
    assert rows["id"].n_unique() == study.metrics["id"].n_unique()
    assert set(rows["modality"]) == {"all", *LAWS}


# --- baselines


def manifest(segments: tuple[Segment, ...], sequences: int, packed: bool) -> Manifest:
    split = Split(sequences=sequences, tokens=sum(s.tokens for s in segments), longest=90, digest="x")
    vocabularies = tuple(VocabularyManifest(name=s.vocabulary, size=512, fingerprint="f") for s in segments)
    return Manifest(
        name="x", description="", licence="", packed=packed, vocabularies=vocabularies, segments=segments,
        train=split, held_out=split,
    )  # fmt: skip


def entropy(tokens: list[object]) -> float:
    counts = np.unique([str(t) for t in tokens], return_counts=True)[1] / len(tokens)
    return float(-(counts * np.log(counts)).sum())


def test_baseline_equals_the_entropy_of_the_sequences_themselves() -> None:
    rng = np.random.default_rng(0)
    captions = [rng.integers(0, 5, 4).tolist() for _ in range(40)]
    codes = [rng.integers(0, 9, 12).tolist() for _ in range(40)]
    streams = [[f"t{c}" for caption in captions for c in caption], [f"i{c}" for code in codes for c in code]]
    segments = tuple(
        Segment(vocabulary=v, tokens=len(s), entropy=entropy(list(s)), field_entropy=entropy(list(s)) / 2)
        for v, s in zip(("text", "image"), streams, strict=True)
    )
    whole = [*streams[0], *streams[1], *["task"] * 40, *["begin"] * 40, *["end"] * 40]
    found = baseline(manifest(segments, 40, packed=False), modality("image", 1.0))
    assert found.unigram == pytest.approx(entropy(list(whole)))
    assert found.positioned < found.unigram
    assert found.last_unigram == segments[1].entropy
    assert found.last_positioned == segments[1].field_entropy


def test_packed_baseline_counts_a_task_per_sequence_and_an_end_per_document() -> None:
    words = list("abcabdabe") * 90
    documents = 30
    segment = Segment(vocabulary="text", tokens=len(words), entropy=entropy(list(words)), field_entropy=1.0)
    sequences = (len(words) + documents) / (modality("text", 1.0).mean_tokens - 1)
    found = baseline(manifest((segment,), documents, packed=True), modality("text", 1.0))
    whole = [*words, *["end"] * documents, *["task"] * round(sequences)]
    assert found.unigram == pytest.approx(entropy(list(whole)), rel=1e-2)
    assert found.last_unigram is None


def test_comparison_takes_the_largest_and_smallest_at_the_largest_token_count(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, noise=0.0, data=dict.fromkeys(LAWS, "nowhere")))
    assert study_baselines(study) == {}
    table = comparison(study, {})
    row = table.row(by_predicate=pl.col("modality") == "audio", named=True)
    assert row["tokens"] == max(TOKENS)
    assert row["largest"] == pytest.approx(float(LAWS["audio"](max(SIZES.values()), max(TOKENS))))
    assert row["smallest"] == pytest.approx(float(LAWS["audio"](min(SIZES.values()), max(TOKENS))))
    assert row["unigram"] is None
