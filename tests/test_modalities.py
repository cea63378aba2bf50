"""Studies of any number of modalities, each with its own vocabulary, data and noise: one of them, and five."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from compiler.compile import compile_study
from compiler.plan import RunPlan
from compiler.records import Evaluation, Metrics
from runtime.data import load
from runtime.training.loader import NoisedLoader
from runtime.training.stream import PADDING, Sequences, empty_rows
from tests.ranks import run_ranks
from tests.tiny import write_source

SOURCES = {
    "prose": {"words": 20},
    "pictures": {"words": 20, "pixels": 8},
    "speech": {"words": 20, "sound": 9},
    "films": {"words": 20, "frames": 30, "sound": 9},
    "proteins": {"residues": 25},
}
ONE = "{proteins: {data: data/proteins, noise: cosine}}"
FIVE = """\
    prose: {weight: 3, data: data/prose}
    pictures: {weight: 2, data: data/pictures, noise: cosine}
    speech: {weight: 1, data: data/speech, noise: {kind: polynomial, power: 2}}
    films: {weight: 2, data: data/films, noise: {kind: table, alpha: [1, 0.8, 0.1, 0]}, drop_condition: 0.5}
    proteins: {weight: 0, data: data/proteins, noise: {kind: log-linear, eps: 0.01}}
"""
STUDY = """\
study: {name}
base:
  model: {{width: 16, depth: 1, heads: 2}}
  modalities: {modalities}
  sequence_length: 50
  tokens: 6K
  batch: {{physical: 16, micro: 4}}
  optimizer: {{lr: 1e-2}}
  schedule: {{warmup: 2}}
  evaluation: {{sequences: 8}}
  log_every: 1
axes: []
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("modalities")
    for name, segments in SOURCES.items():
        write_source(root / "data" / name, segments, sequences=60, lengths=(2, 14), packed=name == "prose")
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, RunPlan]:
    """The runs of both studies, trained and evaluated in folders of their names."""
    found = {}
    for name, modalities in {"one": ONE, "five": "\n" + FIVE}.items():
        (root / f"{name}.yaml").write_text(STUDY.format(name=name, modalities=modalities))
        found[name] = compile_study(root / f"{name}.yaml").runs[0]
        (root / name).mkdir()
        (root / name / "run.json").write_bytes(msgspec.json.encode(found[name]))
    run_ranks("tests.test_modalities:train", 1, root)
    return found


def train(rank: int, ranks: int, root: Path) -> None:
    from runtime.training.trainer import trainer_config

    for name in ("one", "five"):
        run = msgspec.json.decode((root / name / "run.json").read_bytes(), type=RunPlan)
        trainer = trainer_config(run, root / name, root).build()
        trainer.train()
        trainer.close()


def test_every_vocabulary_has_its_place(runs: dict[str, RunPlan]) -> None:
    one, five = runs["one"].vocabulary, runs["five"].vocabulary
    assert [(part.name, part.offset, part.size) for part in one.parts] == [("residues", 0, 25)]
    assert set(one.specials) == {"mask", "pad", "end", "task:proteins"}
    sizes = {"frames": 30, "pixels": 8, "residues": 25, "sound": 9, "words": 20}
    assert {part.name: part.size for part in five.parts} == sizes
    later = {f"{edge}:{part}" for edge in ("begin", "end") for part in ("frames", "pixels", "sound")}
    assert set(five.specials) == {"mask", "pad", "end", *later, *(f"task:{name}" for name in SOURCES)}
    ids = [part.offset + i for part in five.parts for i in range(part.size)] + list(five.specials.values())
    assert sorted(ids) == list(range(five.size))


@pytest.mark.parametrize("name", SOURCES)
def test_sequences_are_laid_out_segment_by_segment(runs: dict[str, RunPlan], root: Path, name: str) -> None:
    run = runs["five"]
    part_of = {part.offset + i: part.name for part in run.vocabulary.parts for i in range(part.size)}
    part_of |= {token: special for special, token in run.vocabulary.specials.items()}
    source = Sequences(
        name, run.modalities[name], load(f"data/{name}", root).split("train"), run.vocabulary, 50, seed=None
    )
    tokens, code_index = empty_rows(1, 50, run.vocabulary)
    length = source.write(0, tokens[0], code_index[0])
    read = [part_of[token] for token in tokens[0].tolist()]
    assert set(read[length:]) <= {"pad"}
    if name == "prose":
        assert set(read[1:]) == {"words", "end"}
        return
    sizes = source.data.lengths[0].tolist()
    wanted = [f"task:{name}"]
    for place, (segment, size) in enumerate(zip(SOURCES[name], sizes, strict=True)):
        codes = [segment] * size
        wanted += codes if place == 0 else [f"begin:{segment}", *codes, f"end:{segment}"]
    assert read[:length] == wanted


@pytest.mark.parametrize("name", ["one", "five"])
def test_each_modality_is_trained_on_and_evaluated(runs: dict[str, RunPlan], root: Path, name: str) -> None:
    run = runs[name]
    trained = {modality for modality, plan in run.modalities.items() if plan.weight > 0}
    lines = (root / name / "metrics.jsonl").read_bytes().splitlines()
    metrics = [msgspec.json.decode(line, type=Metrics) for line in lines]
    assert [row.step for row in metrics] == list(range(1, run.steps + 1))
    assert all(row.losses.keys() == trained for row in metrics)
    assert all(math.isfinite(loss) for row in metrics for loss in row.losses.values())
    assert metrics[-1].loss < metrics[0].loss

    lines = (root / name / "eval.jsonl").read_bytes().splitlines()
    evaluations = {row.modality: row for row in (msgspec.json.decode(line, type=Evaluation) for line in lines)}
    assert evaluations.keys() == run.modalities.keys()
    for modality, row in evaluations.items():
        segments = SOURCES[modality]
        assert math.isfinite(row.nelbo)
        assert row.by_token_modality.keys() == {*segments, "special"}
        assert (row.conditional is None) == (len(segments) == 1)


def test_weights_are_shares_of_tokens_whatever_is_dropped(runs: dict[str, RunPlan], root: Path) -> None:
    run = runs["five"]
    loader = NoisedLoader(NoisedLoader.Config(run=run, data_root=root), dp_world_size=1, dp_rank=0, local_batch_size=16)
    tokens, positions = np.zeros(len(run.modalities)), []
    for step in range(run.steps):
        inputs, _ = loader.batch(step, 0)
        real = (inputs["document"] != PADDING).sum(dim=1).numpy()
        np.add.at(tokens, inputs["modality"].numpy(), real)
        positions.append(int(real.sum()))
    weights = [modality.weight for modality in run.modalities.values()]
    assert tokens / tokens.sum() == pytest.approx(weights, abs=0.05)
    rows = [msgspec.json.decode(line, type=Metrics) for line in (root / "five/metrics.jsonl").read_bytes().splitlines()]
    assert [row.tokens for row in rows] == np.cumsum(positions).tolist()
