"""The training stream and its masks: functions of (seed, step) alone, whatever the ranks."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.compile import compile_study
from compiler.plan import MixStage, RunPlan
from runtime.data import load
from runtime.training.draws import uniform_rows, uniforms
from runtime.training.loader import GRANULE, IGNORE_INDEX, NoisedLoader
from runtime.training.stream import PADDING, Mix, Sequences, empty_rows
from specs.errors import SpecError
from tests.tiny import STUDY, write_source, write_study

NAMES = ("m0", "m1", "m2", "m3", "m4")


@st.composite
def mixes(draw: st.DrawFn, stages: int = 4) -> tuple[MixStage, ...]:
    """Stages of a mix of up to five modalities; some of them may be absent from a stage."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    weights = st.tuples(*[st.just(0.0) | st.floats(0.001, 1.0) for _ in names]).filter(any)
    starts = sorted(draw(st.sets(st.integers(1, 400), max_size=stages - 1)))
    drawn = [(start, draw(weights)) for start in (0, *starts)]
    shares = [
        (start, {name: weight / sum(own) for name, weight in zip(names, own, strict=True)}) for start, own in drawn
    ]
    return tuple(MixStage(start=start, weights=own, shares=own) for start, own in shares)


def mix_of(stages: tuple[MixStage, ...]) -> Mix:
    return Mix(tuple(stages[0].shares), stages)


@given(mixes(stages=1), st.integers(0, 10**12), st.integers(1, 300))
def test_mix_is_exact_over_any_window(stages: tuple[MixStage, ...], start: int, size: int) -> None:
    modality, _ = mix_of(stages).window(start, start + size)
    assert len(modality) == size
    for m, share in enumerate(stages[0].shares.values()):
        assert abs((modality == m).sum() - share * size) <= len(stages[0].shares)


@given(mixes(), st.data())
def test_any_window_of_the_stream_is_a_slice_of_the_whole(stages: tuple[MixStage, ...], data: st.DataObject) -> None:
    mix, size = mix_of(stages), stages[-1].start + 200
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    modality, index = mix.window(0, size)
    own_modality, own_index = mix.window(start, stop)
    assert np.array_equal(modality[start:stop], own_modality)
    assert np.array_equal(index[start:stop], own_index)
    for m in range(len(stages[0].shares)):
        assert np.array_equal(index[modality == m], np.arange((modality == m).sum()))


@given(mixes())
def test_each_stage_is_exact_by_itself(stages: tuple[MixStage, ...]) -> None:
    size = stages[-1].start + 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modality, _ = mix_of(stages).window(0, size)
    ends = [stage.start for stage in stages[1:]] + [size]
    for stage, end in zip(stages, ends, strict=True):
        here = modality[stage.start : end]
        for m, share in enumerate(stage.shares.values()):
            assert abs((here == m).sum() - share * len(here)) <= len(stage.shares)
            if share == 0:
                assert m not in here


@given(mixes())
def test_stages_are_joined_wherever_they_start(stages: tuple[MixStage, ...]) -> None:
    far = tuple(msgspec.structs.replace(stage, start=stage.start * 10**10) for stage in stages)
    mix = mix_of(far)
    ahead = np.zeros(len(stages[0].shares))
    for before, stage in itertools.pairwise(far):
        ahead += np.array(list(before.shares.values())) * (stage.start - before.start)
        modality, index = mix.window(stage.start - 50, stage.start + 50)
        for m in set(modality.tolist()):
            own = index[modality == m]
            assert np.array_equal(own, np.arange(own[0], own[0] + len(own)))
            assert abs(own[0] - ahead[m]) <= 50 + len(ahead) * len(far)


@given(st.integers(0, 2**31), st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 50))
def test_uniforms_are_one_table(seed: int, start: int, rows: int, columns: int) -> None:
    whole = uniforms(seed, 1, start, rows, columns)
    assert whole.shape == (rows, columns)
    assert np.array_equal(whole[-1:], uniforms(seed, 1, start + rows - 1, 1, columns))
    assert not np.array_equal(whole, uniforms(seed, 2, start, rows, columns))


@given(st.lists(st.integers(0, 10**12) | st.integers(0, 9), min_size=1, max_size=9), st.integers(1, 50))
def test_any_rows_of_the_table_can_be_read(rows: list[int], columns: int) -> None:
    found = uniform_rows(3, 1, np.array(rows), columns)
    assert all(np.array_equal(own[None], uniforms(3, 1, row, 1, columns)) for row, own in zip(rows, found, strict=True))


@pytest.fixture
def run(tmp_path: Path) -> RunPlan:
    """A run whose mix changes twice, each time in the middle of a step of eight sequences."""
    shares = {0: {"text": 0.5, "image": 0.5}, 12: {"text": 1.0, "image": 0.0}, 28: {"text": 0.25, "image": 0.75}}
    mix = tuple(MixStage(start=start, weights=own, shares=own) for start, own in shares.items())
    return msgspec.structs.replace(compile_study(write_study(tmp_path)).runs[0], mix=mix)


def loader(run: RunPlan, root: Path, ranks: int, rank: int, micro: int) -> NoisedLoader:
    return NoisedLoader(
        NoisedLoader.Config(run=run, data_root=root), dp_world_size=ranks, dp_rank=rank, local_batch_size=micro
    )


Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
Row = tuple[list[int], list[int], list[float], list[int], float]


def rows(batch: Batch) -> list[Row]:
    """Of each sequence, without its padding: input, labels, loss weights and documents; and its time."""
    inputs, labels = batch
    weights = torch.zeros(labels.numel())
    weights[inputs["scored"]] = inputs["weights"]
    found = []
    for i, length in enumerate((inputs["document"] != PADDING).sum(dim=1).tolist()):
        columns = (inputs["input"], labels, weights.view(labels.shape), inputs["document"])
        own, own_labels, own_weights, own_document = (column[i, :length].tolist() for column in columns)
        found.append((own, own_labels, own_weights, own_document, float(inputs["time"][i])))
    return found


def dropping(run: RunPlan, probability: float) -> RunPlan:
    """`run`, its images losing their captions with that probability."""
    image = msgspec.structs.replace(run.modalities["image"], drop_condition=probability)
    return msgspec.structs.replace(run, modalities=run.modalities | {"image": image})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPlan, Path]:
    """A run of packed text and of pairs of many lengths, a third without their captions, 24 a step."""
    root = tmp_path_factory.mktemp("pairs")
    text = STUDY.replace("sequence_length: 12", "sequence_length: 60").replace("physical: 8", "physical: 24")
    file = write_study(root, text.replace("tokens: 3K", "tokens: 20K").replace("cosine", "cosine, drop_condition: 0.3"))
    write_source(root / "data/image", {"text": 20, "image": 8}, sequences=50, lengths=(1, 27))
    return compile_study(file).runs[0], root


Dealt = Callable[[int, int, int], list[list[Batch]]]


@pytest.fixture(scope="module")
def dealt(pairs: tuple[RunPlan, Path]) -> Dealt:
    """The micro-batches of a step, by part and by rank, for a number of ranks and a micro-batch."""

    @functools.cache
    def loaders(ranks: int, micro: int) -> list[NoisedLoader]:
        return [loader(*pairs, ranks, rank, micro) for rank in range(ranks)]

    def batches(step: int, ranks: int, micro: int) -> list[list[Batch]]:
        return [[one.batch(step, part) for one in loaders(ranks, micro)] for part in range(24 // (ranks * micro))]

    return batches


SPLITS = st.sampled_from(
    [(ranks, micro) for ranks in (1, 2, 3, 4, 6) for micro in (1, 2, 4, 12) if 24 % (ranks * micro) == 0]
)


@given(SPLITS, st.integers(0, 40))
@settings(max_examples=30)
def test_a_step_is_the_same_however_it_is_cut(dealt: Dealt, split: tuple[int, int], step: int) -> None:
    [[whole]] = dealt(step, 1, 24)
    assert sorted(row for part in dealt(step, *split) for batch in part for row in rows(batch)) == sorted(rows(whole))


@given(SPLITS, st.integers(0, 40))
@settings(max_examples=30)
def test_sequences_of_like_length_are_computed_together(dealt: Dealt, split: tuple[int, int], step: int) -> None:
    before = 60
    for part in dealt(step, *split):
        lengths = [(inputs["document"] != PADDING).sum(dim=1) for inputs, _ in part]
        longest = int(torch.cat(lengths).max())
        assert {labels.shape[1] for _, labels in part} == {min(-(-longest // GRANULE) * GRANULE, 60)}
        assert longest <= before
        before = int(torch.cat(lengths).min())
        # No rank has the long ones: place by place they differ by no more than neighbours do.
        for rank, after in itertools.pairwise(length.sort(descending=True).values for length in lengths):
            assert (rank >= after).all()
            assert (after[:-1] >= rank[1:]).all()


@given(SPLITS, st.integers(0, 40))
@settings(max_examples=30)
def test_padding_is_never_scored(pairs: tuple[RunPlan, Path], dealt: Dealt, split: tuple[int, int], step: int) -> None:
    for inputs, labels in itertools.chain(*dealt(step, *split)):
        padding = inputs["document"] == PADDING
        assert (inputs["input"][padding] == pairs[0].vocabulary.specials["pad"]).all()
        assert (labels[padding] == IGNORE_INDEX).all()
        assert not padding.flatten()[inputs["scored"]].any()


def test_lengths_are_known_before_anything_is_written(pairs: tuple[RunPlan, Path]) -> None:
    run, root = pairs
    for name, modality in run.modalities.items():
        split = load(modality.data, root).split("train")
        source = Sequences(name, modality, split, run.vocabulary, run.sequence_length, seed=1)
        asked = np.random.default_rng(0).integers(0, 4 * source.count, 200)
        written = []
        for index in asked.tolist():
            tokens, code_index = empty_rows(1, run.sequence_length, run.vocabulary)
            written.append(source.write(index, tokens[0], code_index[0]))
        assert source.lengths(asked).tolist() == written


def test_resume_continues_where_it_was(run: RunPlan, tmp_path: Path) -> None:
    first, second = loader(run, tmp_path, 1, 0, 4), loader(run, tmp_path, 1, 0, 4)
    batches = iter(first)
    for _ in range(6):  # three steps of two micro-batches
        next(batches)
    second.load_state_dict(first.state_dict())
    again = iter(second)
    for _ in range(4):
        assert rows(next(batches)) == rows(next(again))


def test_batches_follow_the_stages_of_the_mix(run: RunPlan, tmp_path: Path) -> None:
    source = loader(run, tmp_path, 1, 0, 8)
    modality = torch.cat([source.batch(step, 0)[0]["modality"] for step in range(6)])
    image = list(run.modalities).index("image")
    assert (modality[:12] == image).sum() == 6
    assert (modality[12:28] != image).all()
    assert (modality[28:48] == image).sum() == 15


def test_sequences_read_as_their_layout_says(run: RunPlan, tmp_path: Path) -> None:
    ids = run.vocabulary.specials
    text = next(part for part in run.vocabulary.parts if part.name == "text")
    image = next(part for part in run.vocabulary.parts if part.name == "image")
    seen = set()
    for step in range(20):
        inputs, labels = loader(run, tmp_path, 1, 0, 8).batch(step, 0)
        for i, m in enumerate(inputs["modality"].tolist()):
            name = list(run.modalities)[m]
            tokens = labels[i][labels[i] >= 0]
            seen.add(name)
            assert tokens[0] == ids[f"task:{name}"]
            if name == "text":
                assert len(tokens) == run.sequence_length
                inside = tokens[1:]
                assert (((inside >= text.offset) & (inside < text.offset + text.size)) | (inside == ids["end"])).all()
                continue
            begin = (tokens == ids["begin:image"]).nonzero().item()
            assert tokens[-1] == ids["end:image"]
            codes = tokens[begin + 1 : -1]
            assert ((codes >= image.offset) & (codes < image.offset + image.size)).all()
            code_index = inputs["code_index"][i]
            assert code_index[begin + 1 : len(tokens) - 1].tolist() == list(range(len(codes)))
            assert (code_index >= 0).sum() == len(codes)
            assert (inputs["document"][i] != PADDING).sum() == len(tokens)
        masked = inputs["input"] == ids["mask"]
        assert torch.equal(masked.flatten().nonzero().flatten(), inputs["scored"])
        assert (labels[masked] >= 0).all()
    assert seen == set(run.modalities)


def test_a_dropped_condition_is_neither_seen_nor_scored(run: RunPlan, tmp_path: Path) -> None:
    ids = run.vocabulary.specials
    names = list(run.modalities)
    always, sometimes = loader(run, tmp_path, 1, 0, 8), loader(dropping(run, 0.3), tmp_path, 1, 0, 8)
    images = dropped = 0
    for step in range(100):
        (inputs, labels), (own_inputs, own_labels) = always.batch(step, 0), sometimes.batch(step, 0)
        same = ("document", "code_index", "modality")
        assert all(torch.equal(inputs[key], own_inputs[key]) for key in same)
        both = zip(rows((inputs, labels)), rows((own_inputs, own_labels)), inputs["modality"].tolist(), strict=True)
        for whole, own, modality in both:
            images += names[modality] == "image"
            if own == whole:
                continue
            dropped += 1
            assert names[modality] == "image"
            true, (tokens, targets, weights, *_) = whole[1], own
            begin = true.index(ids["begin:image"])
            assert tokens[:begin] == [ids["task:image"]] + [ids["mask"]] * (begin - 1)
            assert targets[:begin] == [IGNORE_INDEX] * begin
            assert not any(weights[:begin])
            assert [part[begin:] for part in own[:4]] == [part[begin:] for part in whole[:4]]
    assert abs(dropped / images - 0.3) < 4 * (0.3 * 0.7 / images) ** 0.5


def test_every_condition_can_be_dropped(run: RunPlan, tmp_path: Path) -> None:
    source = loader(dropping(run, 1.0), tmp_path, 1, 0, 8)
    image = list(run.modalities).index("image")
    for step in range(10):
        inputs, labels = source.batch(step, 0)
        assert torch.equal(labels[:, 0] == IGNORE_INDEX, inputs["modality"] == image)


def test_what_drops_no_condition_is_the_run_it_was(tmp_path: Path) -> None:
    def study(drop: str) -> RunPlan:
        text = STUDY.replace("noise: cosine", f"noise: cosine{drop}")
        return compile_study(write_study(tmp_path, text)).runs[0]

    without = study("")
    assert study(", drop_condition: 0") == without
    ids = {study(f", drop_condition: {probability}").id for probability in (0.1, 0.2, 1)}
    assert len(ids | {without.id}) == 4


def test_sources_of_one_segment_have_no_condition_to_drop(tmp_path: Path) -> None:
    text = STUDY.replace("data: data/text", "data: data/text, drop_condition: 0.1")
    with pytest.raises(SpecError, match=r"modalities\.text\.drop_condition: .* no condition to drop; leave it out"):
        compile_study(write_study(tmp_path, text))


def test_the_target_is_the_last_of_any_number_of_segments(tmp_path: Path) -> None:
    write_source(tmp_path / "data/clip", {"text": 20, "image": 4, "audio": 6}, lengths=(1, 5))
    text = STUDY.replace("image: {weight: 1, data: data/image", "clip: {weight: 1, data: data/clip").replace("12", "24")
    run = compile_study(write_study(tmp_path, text)).runs[0]
    clips, words = (
        Sequences(name, plan, load(plan.data, tmp_path).split("train"), run.vocabulary, 24, seed=None)
        for name, plan in sorted(run.modalities.items())
    )
    for index in range(2 * clips.count):
        tokens, code_index = empty_rows(1, 24, run.vocabulary)
        length, target = clips.write(index, tokens[0], code_index[0]), clips.target(index)
        assert tokens[0, target] == run.vocabulary.specials["begin:audio"]
        assert length - target == clips.data.lengths[index % clips.count, -1] + 2
    assert words.target(0) == 0
