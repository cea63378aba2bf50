"""The values that axes stand for: log ranges, samples and mixes."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ranges import balanced, log_values, sample_values, simplex_mixes, simplex_size
from specs.errors import RuleError
from specs.study import LogSpec, SampleSpec, SimplexSpec

NAMES = ["text", "image", "audio", "video", "touch"]


def log(low: Any, high: Any, points: int, multiple: int | None = None) -> list[int | float]:
    return log_values(LogSpec.model_validate({"from": low, "to": high, "points": points, "multiple": multiple}))


def sample(points: int, ranges: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return sample_values(SampleSpec.model_validate({"points": points, "ranges": ranges, **more}))


# Log ranges


def test_a_log_range_has_equal_ratios() -> None:
    assert log("5M", "80M", 5) == [5e6, 10e6, 20e6, 40e6, 80e6]
    assert log(1e-4, 1e-2, 3) == [1e-4, 1e-3, 1e-2]


def test_a_log_range_in_multiples() -> None:
    widths = log(64, 1024, 9, multiple=64)
    assert widths == [64, 128, 192, 256, 384, 512, 704, 1024]  # 91 is rounded to 64, which is there
    assert all(type(width) is int for width in widths)
    assert log(1, 100, 3, multiple=64) == [64, 128]


@given(
    st.floats(1e-30, 1e29), st.floats(1.001, 1e12), st.integers(2, 60), st.none() | st.sampled_from([1, 8, 64, 1000])
)
def test_log_ranges_rise_between_exact_ends(low: float, ratio: float, points: int, multiple: int | None) -> None:
    high = min(low * ratio, 1e30)
    values = log(low, high, points, multiple)
    assert all(a < b for a, b in itertools.pairwise(values))
    assert len(values) <= points
    if multiple:
        assert all(isinstance(value, int) and value >= multiple and value % multiple == 0 for value in values)
        return
    assert (values[0], values[-1]) == (low, high)
    assert all(value == float(f"{value:.6g}") for value in values[1:-1])
    if len(values) == points:
        steps = [math.log(b / a) for a, b in itertools.pairwise(values)]
        assert max(steps) - min(steps) < 3e-5


# Samples

RANGES: dict[str, Any] = {
    "optimizer.lr": {"from": 1e-4, "to": 1e-2, "scale": "log"},
    "model.width": {"from": 64, "to": 1024, "multiple": 64},
    "optimizer.weight_decay": {"from": 0, "to": 0.5},
    "model.depth": [2, 4],
}


@given(st.integers(1, 200), st.integers(0, 99), st.floats(0, 1e6), st.floats(1, 1e6))
def test_a_latin_hypercube_hits_every_bin_once(points: int, seed: int, low: float, span: float) -> None:
    ranges = {"linear": {"from": low, "to": low + span}, "log": {"from": 1e-4, "to": 1e-1, "scale": "log"}}
    drawn = sample(points, ranges, seed=seed)
    assert len(drawn) == points
    # Six digits may carry a number over the edge of its bin.
    linear = sorted((one["linear"] - low) / span * points for one in drawn)
    slack = 1e-5 * (low + span) / span * points + 1e-9
    assert all(k - slack <= value <= k + 1 + slack for k, value in enumerate(linear))
    logs = sorted(math.log10(one["log"] * 1e4) / 3 * points for one in drawn)
    assert all(k - 1e-3 <= value <= k + 1 + 1e-3 for k, value in enumerate(logs))


@pytest.mark.parametrize("method", ["lhs", "sobol"])
def test_a_sample_is_its_seed(method: str) -> None:
    first = sample(16, RANGES, method=method, seed=3)
    assert first == sample(16, dict(reversed(RANGES.items())), method=method, seed=3)
    assert first != sample(16, RANGES, method=method, seed=4)
    assert list(first[0]) == list(RANGES)
    for one in first:
        assert 1e-4 <= one["optimizer.lr"] <= 1e-2
        assert one["optimizer.lr"] == float(f"{one['optimizer.lr']:.6g}")
        assert type(one["model.width"]) is int
        assert one["model.width"] % 64 == 0
        assert 64 <= one["model.width"] <= 1024
        assert 0 <= one["optimizer.weight_decay"] <= 0.5


@pytest.mark.parametrize(("method", "points"), [("lhs", 12), ("sobol", 16)])
def test_choices_have_equal_shares(method: str, points: int) -> None:
    choices = ["cosine", {"kind": "wsd"}] if method == "sobol" else ["cosine", "wsd", None]
    drawn = sample(points, {"schedule": choices, "tokens": {"from": "1M", "to": "2M"}}, method=method)
    counts = Counter(str(one["schedule"]) for one in drawn)
    assert counts == {str(choice): points // len(choices) for choice in choices}


def test_a_sobol_sample_is_balanced_at_powers_of_two() -> None:
    def spec(points: int, method: str) -> SampleSpec:
        return SampleSpec.model_validate({"points": points, "ranges": RANGES, "method": method})

    assert [n for n in range(1, 20) if balanced(spec(n, "sobol"))] == [1, 2, 4, 8, 16]
    assert balanced(spec(7, "lhs"))


@pytest.mark.filterwarnings("error")
def test_an_unbalanced_sobol_sample_is_quiet() -> None:
    assert len(sample(5, RANGES, method="sobol")) == 5


def test_large_samples_are_quick() -> None:
    sample(1, RANGES)  # the import
    for method in ("lhs", "sobol"):
        begin = time.process_time()
        drawn = sample(100_000, RANGES | {"tokens": {"from": "1M", "to": "1B", "scale": "log"}}, method=method)
        assert len(drawn) == 100_000
        assert time.process_time() - begin < 2


# Mixes


def test_a_simplex_in_order() -> None:
    mixes = simplex_mixes(SimplexSpec(parts=2), ["a", "b", "c"])
    assert [tuple(mix.values()) for mix in mixes] == [
        (0.0, 0.0, 1.0),
        (0.0, 0.5, 0.5),
        (0.0, 1.0, 0.0),
        (0.5, 0.0, 0.5),
        (0.5, 0.5, 0.0),
        (1.0, 0.0, 0.0),
    ]
    assert all(list(mix) == ["a", "b", "c"] for mix in mixes)


@settings(max_examples=200)
@given(st.data())
def test_a_simplex_is_every_mix_within_its_bounds(draws: st.DataObject) -> None:
    names = NAMES[: draws.draw(st.integers(2, 4))]
    parts = draws.draw(st.integers(1, 12))
    bound = st.dictionaries(st.sampled_from(names), st.floats(0, 1) | st.integers(0, parts).map(lambda k: k / parts))
    low, high = draws.draw(bound), draws.draw(bound)
    spec = SimplexSpec(parts=parts, min=low, max=high)
    lattice = itertools.product(range(parts + 1), repeat=len(names))
    expected = [
        counts
        for counts in lattice
        if sum(counts) == parts
        and all(
            low.get(name, 0) - 1e-9 <= k / parts <= high.get(name, 1) + 1e-9
            for name, k in zip(names, counts, strict=True)
        )
    ]
    if not expected:
        for function in (simplex_size, simplex_mixes):
            with pytest.raises(RuleError):
                function(spec, names)
        return
    mixes = simplex_mixes(spec, names)
    assert [tuple(round(weight * parts) for weight in mix.values()) for mix in mixes] == expected
    assert simplex_size(spec, names) == len(mixes)
    assert all(abs(sum(mix.values()) - 1) <= 1e-12 for mix in mixes)


@given(st.integers(1, 10_000), st.integers(2, 40))
@settings(max_examples=10)
def test_a_free_simplex_has_a_binomial_of_mixes(parts: int, modalities: int) -> None:
    names = [f"m{i}" for i in range(modalities)]
    assert simplex_size(SimplexSpec(parts=parts), names) == math.comb(parts + modalities - 1, modalities - 1)


def test_counting_is_quick_where_expanding_would_never_end() -> None:
    begin = time.process_time()
    size = simplex_size(SimplexSpec(parts=10_000, min={"m0": 0.1}, max={"m1": 0.3}), [f"m{i}" for i in range(40)])
    assert size > 10**80
    assert time.process_time() - begin < 2


def test_bounds_prune_what_is_generated() -> None:
    names = [f"m{i}" for i in range(40)]
    spec = SimplexSpec(parts=10_000, min=dict.fromkeys(names[:-2], 0.025), max=dict.fromkeys(names[:-2], 0.025))
    begin = time.process_time()
    assert len(simplex_mixes(spec, names)) == simplex_size(spec, names) == 501
    assert time.process_time() - begin < 2


def test_chosen_modalities_and_decimal_bounds() -> None:
    spec = SimplexSpec(parts=10, modalities=["audio", "text"], min={"text": 0.7}, max={"audio": 0.3})
    mixes = simplex_mixes(spec, NAMES)
    assert mixes[0] == {"audio": 0.0, "text": 1.0}
    assert mixes[-1] == {"audio": 0.3, "text": 0.7}
    assert len(mixes) == 4


@pytest.mark.parametrize(
    ("given_", "path", "says", "todo"),
    [
        ({"modalities": ["text", "imag"]}, "simplex.modalities.1", "not a modality", "did you mean 'image'?"),
        ({"modalities": ["text", "text"]}, "simplex.modalities.1", "twice", "keep one"),
        ({"modalities": ["text"]}, "simplex.modalities", "one modality", "two modalities"),
        ({"modalities": ["text", "image"], "max": {"audio": 0.5}}, "simplex.max.audio", "not a modality", "use one of"),
        ({"min": {"txt": 0.5}}, "simplex.min.txt", "not a modality", "did you mean 'text'?"),
        ({"min": {"text": 0.5}, "max": {"text": 0.25}}, "simplex.min.text", "above max", "lower min"),
        ({"min": {"text": 0.3}, "max": {"text": 0.4}}, "simplex.min.text", "no multiple of 1/4", "more parts"),
        ({"min": {"text": 0.6, "image": 0.6}}, "simplex.min", "above 1", "lower min"),
        ({"max": dict.fromkeys(NAMES, 0.1)}, "simplex.max", "come to 0, below 1", "raise max"),
    ],
)
def test_mixes_that_cannot_be(given_: dict[str, Any], path: str, says: str, todo: str) -> None:
    for function in (simplex_size, simplex_mixes):
        with pytest.raises(RuleError) as caught:
            function(SimplexSpec(parts=4, **given_), NAMES)
        assert caught.value.path == path
        assert says in caught.value.what
        assert todo in caught.value.todo


def test_too_many_modalities_are_refused() -> None:
    with pytest.raises(RuleError, match="more than 40"):
        simplex_size(SimplexSpec(parts=2), [f"m{i}" for i in range(41)])
