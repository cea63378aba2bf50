"""Packed documents: none sees another."""

from __future__ import annotations

# The platform is told before torchtitan is imported.
import runtime.training  # noqa: F401

# isort: split
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention
from torch.nn.functional import cross_entropy, pad

from compiler.compile import compile_study
from compiler.plan import RunPlan
from runtime.training import attention
from runtime.training.attention import added_mask, attention_mask, block_mask
from runtime.training.loader import NoisedLoader
from runtime.training.model import MaskedDiffusionModel, model_config
from runtime.training.stream import NO_CODE, PADDING, documents
from tests.tiny import STUDY, write_study

END = 9


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[list[int], int, bool]]:
    """Rows of one length: tokens, how many of them are no padding, and whether they are packed documents."""
    length = draw(st.integers(1, 12))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        packed = draw(st.booleans())
        rest = draw(st.lists(st.sampled_from([1, 2, END]), min_size=length - 1, max_size=length - 1))
        rows.append(([0, *rest], length if packed else draw(st.integers(1, length)), packed))
    return rows


def allowed(tokens: list[int], real: int, packed: bool, query: int, key: int) -> bool:
    """Whether no document's end stands between the two, nor one of them is the task token."""
    if key >= real:
        return False
    if not packed or key == 0:
        return True
    return query != 0 and END not in tokens[min(query, key) : max(query, key)]


def documents_of(rows: list[tuple[list[int], int, bool]]) -> torch.Tensor:
    tokens, real, packed = (np.array(column) for column in zip(*rows, strict=True))
    return torch.from_numpy(documents(tokens, np.arange(tokens.shape[1]) < real[:, None], packed, END))


@given(batches())
def test_a_token_sees_its_own_document_and_the_task(rows: list[tuple[list[int], int, bool]]) -> None:
    document = documents_of(rows)
    size, length = document.shape
    packed = any(packed for *_, packed in rows)
    added = added_mask(document, torch.float32)
    assert added.shape == (size, 1, length if packed else 1, length)
    places = range(length)
    wanted = torch.tensor([[[[allowed(*row, query, key) for key in places] for query in places]] for row in rows])
    assert torch.equal(added.exp().bool().expand_as(wanted), wanted)
    assert torch.equal(added, torch.where(added == 0, 0.0, -torch.inf))


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention without its compiler, which then works on a CPU, gradients and all."""
    monkeypatch.setattr(attention, "create_attention_mask", create_block_mask)
    monkeypatch.setattr(attention, "_compiled_flex_attention", flex_attention)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)


@given(batches())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_block_mask_allows_the_same(interpreted: None, rows: list[tuple[list[int], int, bool]]) -> None:
    document = documents_of(rows)
    size, length = document.shape
    asked = create_mask(block_mask(document).mask_mod, size, 1, length, length, device="cpu")
    assert torch.equal(asked, (added_mask(document, torch.float32) == 0).expand_as(asked))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packing")


@pytest.fixture(scope="module")
def run(root: Path) -> RunPlan:
    """Text whose sequences hold several documents, and padded pairs."""
    return compile_study(write_study(root, STUDY.replace("sequence_length: 12", "sequence_length: 40"))).runs[0]


@pytest.fixture
def model(run: RunPlan) -> MaskedDiffusionModel:
    """Random weights large enough that what is attended to matters."""
    model = model_config(run).build()
    model.init_states()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return model


Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


def loader(run: RunPlan, root: Path, micro: int) -> NoisedLoader:
    config = NoisedLoader.Config(run=run, data_root=root)
    return NoisedLoader(config, dp_world_size=1, dp_rank=0, local_batch_size=micro)


@pytest.fixture
def batch(run: RunPlan, root: Path) -> Batch:
    """A micro-batch of text and of pairs."""
    inputs, labels = loader(run, root, 8).batch(0, 0)
    assert set(inputs["modality"].tolist()) == {0, 1}
    return inputs, labels


def packed_rows(run: RunPlan, batch: Batch) -> torch.Tensor:
    return torch.tensor([modality.packed for modality in run.modalities.values()])[batch[0]["modality"]]


def spans(run: RunPlan, labels: torch.Tensor) -> list[slice]:
    """Where a packed row's documents stand, each with its `end`, the last one cut."""
    ends = (labels == run.vocabulary.specials["end"]).nonzero().flatten().tolist()
    stops = sorted({*(end + 1 for end in ends), len(labels)})
    return [slice(start, stop) for start, stop in zip([1, *stops[:-1]], stops, strict=True)]


def logits(
    model: MaskedDiffusionModel, batch: Batch, tokens: torch.Tensor, document: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, L, V): of every position, masked or not."""
    inputs, labels = batch
    document = inputs["document"] if document is None else document
    flat = model(tokens, document=document, code_index=inputs["code_index"], scored=torch.arange(labels.numel()))
    return flat.view(*tokens.shape, -1)


def changed_documents(run: RunPlan, batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each document of a packed row: the input with its tokens replaced, and where all other tokens are."""
    inputs, labels = batch
    row = int(packed_rows(run, batch).nonzero()[0])
    found = spans(run, labels[row])
    assert len(found) >= 4
    text = next(part for part in run.vocabulary.parts if part.name == "text")
    changes = []
    for document in found:
        changed, others = inputs["input"].clone(), torch.ones_like(labels, dtype=torch.bool)
        changed[row, document] = text.offset + (changed[row, document] + 1) % text.size
        others[row, document] = False
        changes.append((changed, others))
    return changes


def test_a_document_changes_no_other_s_logits(run: RunPlan, model: MaskedDiffusionModel, batch: Batch) -> None:
    before = logits(model, batch, batch[0]["input"])
    for changed, others in changed_documents(run, batch):
        after = logits(model, batch, changed)
        assert torch.equal(before[others], after[others])
        assert not torch.equal(before[~others], after[~others])


def test_a_document_changes_nothing_that_others_add_to_the_gradient(
    run: RunPlan, model: MaskedDiffusionModel, batch: Batch
) -> None:
    inputs, labels = batch
    real = labels >= 0

    def gradients(tokens: torch.Tensor, where: torch.Tensor) -> list[torch.Tensor]:
        out = logits(model, batch, tokens)
        return list(torch.autograd.grad(cross_entropy(out[where], labels[where]), list(model.parameters())))

    for changed, others in changed_documents(run, batch):
        before, after = gradients(inputs["input"], others & real), gradients(changed, others & real)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        whole = gradients(inputs["input"], real), gradients(changed, real)
        assert not all(torch.equal(a, b) for a, b in zip(*whole, strict=True))


def test_pairs_do_not_mind_packed_text_beside_them(run: RunPlan, model: MaskedDiffusionModel, batch: Batch) -> None:
    inputs, packed = batch[0], packed_rows(run, batch)
    mixed = logits(model, batch, inputs["input"])
    one_each = torch.where(inputs["document"] == PADDING, PADDING, 0)
    alone = logits(model, batch, inputs["input"], one_each)
    assert torch.equal(mixed[~packed], alone[~packed])
    assert not torch.equal(mixed[packed], alone[packed])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_gives_the_same_numbers(
    run: RunPlan,
    model: MaskedDiffusionModel,
    batch: Batch,
    interpreted: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, labels = batch
    real = inputs["document"] != PADDING

    def numbers() -> list[torch.Tensor]:
        out = logits(model, batch, inputs["input"])[real]
        return [out, *torch.autograd.grad(cross_entropy(out, labels[real]), list(model.parameters()))]

    added = numbers()
    monkeypatch.setattr("runtime.training.model.attention_mask", lambda document, *_: block_mask(document))
    monkeypatch.delattr("torch.nn.functional.scaled_dot_product_attention")
    for a, b in zip(added, numbers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_padding_changes_no_logits(run: RunPlan, root: Path, model: MaskedDiffusionModel) -> None:
    source = loader(run, root, 1)
    inputs, labels = next(
        batch for batch in (source.batch(0, part) for part in range(8)) if not packed_rows(run, batch).any()
    )
    more = run.sequence_length - labels.shape[1]
    assert more > 0
    fills = {"input": run.vocabulary.specials["pad"], "document": PADDING, "code_index": NO_CODE}
    longer = inputs | {name: pad(inputs[name], (0, more), value=value) for name, value in fills.items()}
    short = logits(model, (inputs, labels), inputs["input"])
    padded = logits(model, (longer, pad(labels, (0, more))), longer["input"])
    real = inputs["document"] != PADDING
    torch.testing.assert_close(short[real], padded[:, : labels.shape[1]][real], rtol=1e-4, atol=1e-5)


def test_only_micro_batches_with_documents_have_a_mask_per_query(run: RunPlan, root: Path) -> None:
    source = loader(run, root, 1)
    shapes = set()
    for part in range(8):
        one = source.batch(0, part)
        (packed,) = packed_rows(run, one).tolist()
        length = one[1].shape[1]
        assert attention_mask(one[0]["document"], torch.float32, 64).shape == (1, 1, length if packed else 1, length)
        shapes.add(packed)
    assert shapes == {True, False}
