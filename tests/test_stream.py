"""The training stream and its masks: functions of (seed, step) alone, whatever the ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.compile import compile_study
from compiler.plan import Noise, RunPlan
from runtime.training.loader import NoisedLoader, times, uniforms
from runtime.training.noise import alpha, weight
from runtime.training.stream import Mix
from tests.tiny import write_study

SHARES = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6).map(
    lambda raw: {f"m{i}": value / sum(raw) for i, value in enumerate(raw)}
)


@given(SHARES, st.integers(0, 5000), st.integers(1, 300))
def test_mix_is_exact_over_any_window(shares: dict[str, float], start: int, size: int) -> None:
    modality, _ = Mix(shares).window(start, start + size)
    assert len(modality) == size
    for m, share in enumerate(shares.values()):
        assert abs((modality == m).sum() - share * size) <= len(shares)


@given(SHARES, st.integers(1, 200), st.data())
def test_mix_counts_every_sequence_once_and_windows_join(
    shares: dict[str, float], size: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, size))
    mix = Mix(shares)
    modality, index = mix.window(0, size)
    halves = [mix.window(0, cut), mix.window(cut, size)]
    assert np.array_equal(modality, np.concatenate([half[0] for half in halves]))
    assert np.array_equal(index, np.concatenate([half[1] for half in halves]))
    for m in range(len(shares)):
        assert np.array_equal(index[modality == m], np.arange((modality == m).sum()))


@given(st.integers(0, 2**31), st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 50))
def test_uniforms_are_one_table(seed: int, start: int, rows: int, columns: int) -> None:
    whole = uniforms(seed, 1, start, rows, columns)
    assert whole.shape == (rows, columns)
    assert np.array_equal(whole[-1:], uniforms(seed, 1, start + rows - 1, 1, columns))
    assert not np.array_equal(whole, uniforms(seed, 2, start, rows, columns))


@given(st.integers(0, 1000), st.lists(st.integers(0, 2), min_size=1, max_size=64))
def test_times_are_stratified_within_each_modality(step: int, modality: list[int]) -> None:
    which = np.array(modality)
    t = times(5, step, which, 3)
    assert ((t > 0) & (t <= 1)).all()
    for m in set(modality):
        own = np.sort(t[which == m])
        assert np.allclose(np.diff(own), 1 / len(own))


@pytest.mark.parametrize("noise", [Noise(kind="linear"), Noise(kind="cosine"), Noise(kind="polynomial", power=2.5)])
def test_noise_weight_is_minus_alpha_prime_over_masked_share(noise: Noise) -> None:
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64, requires_grad=True)
    kept = alpha(noise, t)
    (slope,) = torch.autograd.grad(kept.sum(), t)
    torch.testing.assert_close(weight(noise, t), -slope / (1 - kept))
    ends = alpha(noise, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([1.0, 0.0], dtype=torch.float64))


@pytest.fixture
def run(tmp_path: Path) -> RunPlan:
    return compile_study(write_study(tmp_path)).runs[0]


def loader(run: RunPlan, root: Path, ranks: int, rank: int, micro: int) -> NoisedLoader:
    return NoisedLoader(
        NoisedLoader.Config(run=run, data_root=root), dp_world_size=ranks, dp_rank=rank, local_batch_size=micro
    )


def rows(batch: tuple[dict[str, torch.Tensor], torch.Tensor]) -> list[tuple[object, ...]]:
    inputs, labels = batch
    length = labels.shape[1]
    weights = torch.zeros(labels.numel())
    weights[inputs["scored"]] = inputs["weights"]
    return [
        (inputs["input"][i].tolist(), labels[i].tolist(), weights.view(-1, length)[i].tolist())
        for i in range(len(labels))
    ]


@pytest.mark.parametrize(("ranks", "micro"), [(1, 4), (1, 2), (2, 4), (2, 2), (4, 1)])
def test_a_step_is_the_same_however_it_is_cut(run: RunPlan, tmp_path: Path, ranks: int, micro: int) -> None:
    (whole,) = [rows(loader(run, tmp_path, 1, 0, 8).batch(3, 0))]
    parts = 8 // (ranks * micro)
    cut = [
        row
        for part in range(parts)
        for rank in range(ranks)
        for row in rows(loader(run, tmp_path, ranks, rank, micro).batch(3, part))
    ]
    assert cut == whole


def test_resume_continues_where_it_was(run: RunPlan, tmp_path: Path) -> None:
    first, second = loader(run, tmp_path, 1, 0, 4), loader(run, tmp_path, 1, 0, 4)
    batches = iter(first)
    for _ in range(6):  # three steps of two micro-batches
        next(batches)
    second.load_state_dict(first.state_dict())
    assert rows(next(batches)) == rows(next(iter(second)))


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
            assert inputs["attention_mask"][i, 0, 0].sum() == len(tokens)
        masked = inputs["input"] == ids["mask"]
        assert torch.equal(masked.flatten().nonzero().flatten(), inputs["scored"])
        assert (labels[masked] >= 0).all()
    assert seen == set(run.modalities)
