"""What the compiler says a run costs, against what PyTorch counts, keeps and allocates for the real model."""

from __future__ import annotations

# The platform is told before torchtitan is imported.
import runtime.training  # noqa: F401

# isort: split
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torchtitan.distributed import ParallelDims
from torchtitan.distributed import utils as dist_utils

from compiler import cost
from compiler.compile import compile_study
from compiler.layout import Shape, modules, shape_of, table
from compiler.plan import Noise, ParallelPlan, RunPlan
from compiler.shape import default_ffn
from runtime.training.head import Targets
from runtime.training.importance import ByWeight
from runtime.training.model import MaskedDiffusionModel, model_config
from runtime.training.noise import alpha, masked
from runtime.training.objective import MaskedDiffusionLoss
from runtime.training.parallelize import parallelize
from runtime.training.trainer import activation_checkpoint, trainer_config
from tests.tiny import write_study

DEMO = Path(__file__).parent.parent / "studies/demo/study.yaml"
PILOT = Shape(width=2944, depth=23, heads=23, ffn=default_ffn(2944), vocabulary=117_000, positions=2048)
"""A model of 3B parameters."""
SMALL = [
    Shape(width=24, depth=2, heads=2, ffn=64, vocabulary=803, positions=88),
    Shape(width=64, depth=3, heads=4, ffn=176, vocabulary=100, positions=32),
    Shape(width=128, depth=1, heads=8, ffn=344, vocabulary=2000, positions=128),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    """A run to be given other shapes."""
    return compile_study(write_study(tmp_path_factory.mktemp("tiny"))).runs[0]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shaped(run: RunPlan, shape: Shape) -> RunPlan:
    model = replace(
        run.model,
        width=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        ffn=shape.ffn,
        vocabulary=shape.vocabulary,
        parameters=cost.count_parameters(shape),
    )
    return replace(run, model=model, sequence_length=shape.positions)


def built(run: RunPlan, device: str, checkpoint: str = "none", dtype: torch.dtype = torch.float32) -> Any:
    """The real model, its blocks wrapped as the trainer wraps them."""
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = model_config(run).build()
    finally:
        torch.set_default_dtype(torch.float32)
    for module in model.modules():
        if isinstance(getattr(module, "cache", None), torch.Tensor):
            module.cache = module.cache.float()  # buffers keep float32 where parameters are gathered in bfloat16
    policy = activation_checkpoint(checkpoint)
    if policy is not None:
        policy.build(dump_folder="").apply(model)
    return model


def loss_of(model: MaskedDiffusionModel, shape: Shape, micro: int, scored: int, *, whole: bool = False) -> torch.Tensor:
    """The objective on a micro-batch of which `scored` positions are masked; with the `whole` logits at once where
    operations are counted: PyTorch's counter knows none that write into given memory."""
    device = model.lm_head.weight.device
    tokens = torch.zeros(micro, shape.positions, dtype=torch.long, device=device)
    places = torch.zeros(scored, dtype=torch.long, device=device)
    document = torch.zeros(micro, shape.positions, dtype=torch.int32, device=device)
    weights = torch.ones(scored, device=device)
    targets = Targets(tokens.flatten()[places], weights)
    scores = model(
        tokens,
        document=document,
        code_index=torch.zeros_like(tokens),
        scored=places,
        targets=None if whole else targets,
    )
    total = torch.ones((), dtype=torch.long, device=device)
    loss, _ = MaskedDiffusionLoss.Config().build(compile_config=None)(scores, targets.labels, total, weights=weights)
    return loss


shapes = st.builds(
    lambda half, heads, depth, ffn, vocabulary, positions: Shape(
        2 * half * heads, depth, heads, ffn, vocabulary, positions
    ),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 300),
    st.integers(2, 5000),
    st.integers(2, 500),
)


@given(shape=shapes)
@settings(max_examples=40)
def test_the_built_model_has_the_planned_parameters_each_in_one_group(tiny: RunPlan, shape: Shape) -> None:
    run = shaped(tiny, shape)
    parameters = dict(built(run, "meta").named_parameters())
    assert {row.name: row.shape for row in table(run)} == {name: tuple(p.shape) for name, p in parameters.items()}
    counts = cost.count_parameters(shape)
    assert counts.total == sum(p.numel() for p in parameters.values())
    embedding = ("tok_embeddings.weight", "code_positions.weight", "lm_head.weight")
    assert counts.non_embedding == counts.total - sum(parameters[name].numel() for name in embedding)
    for row in table(run):
        assert [group.name for group in run.groups if re.fullmatch(group.pattern, row.name)] == [row.group]


def test_the_pilot_has_three_billion_parameters(tiny: RunPlan) -> None:
    model = built(shaped(tiny, PILOT), "meta")
    assert cost.count_parameters(PILOT).total == sum(p.numel() for p in model.parameters())
    assert 2.9e9 < cost.count_parameters(PILOT).total < 3.2e9


def demo_shapes() -> list[Shape]:
    return sorted({shape_of(run) for run in compile_study(DEMO).runs})


@pytest.mark.parametrize("shape", [*demo_shapes(), PILOT], ids=lambda shape: f"width {shape.width}")
def test_model_flops_are_what_pytorch_counts(tiny: RunPlan, shape: Shape) -> None:
    model = built(shaped(tiny, shape), "meta")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss_of(model, shape, 2, 2 * shape.positions, whole=True).backward()
    counted = counter.get_total_flops() / (2 * shape.positions)
    assert cost.position_flops(shape).total == pytest.approx(counted, rel=0.01)
    # Each part by itself, too: an error in one must not hide in the others.
    flops = counter.get_flop_counts()
    head = sum(flops["MaskedDiffusionModel.lm_head"].values()) / (2 * shape.positions)
    assert cost.position_flops(shape).head == pytest.approx(head, rel=0.01)
    attention = sum(
        sum(count.values()) for name, count in flops.items() if name.endswith(".attention.inner_attention")
    ) / (2 * shape.positions)
    assert 12 * shape.positions * shape.width * shape.depth == pytest.approx(attention, rel=0.01)


FUSED_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""PyTorch counts its other fused kernels by these formulas, with q·k once more in the backward pass."""


@pytest.mark.parametrize("checkpoint", ["none", "full"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: f"width {shape.width}")
def test_hardware_flops_are_what_is_executed(tiny: RunPlan, shape: Shape, share: float, checkpoint: str) -> None:
    model = built(shaped(tiny, shape), "cpu", checkpoint)
    positions = 2 * shape.positions
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
        loss_of(model, shape, 2, int(share * positions), whole=True).backward()
    assert any("flash_attention" in str(operator) for operator in counter.get_flop_counts()["Global"])
    assert cost.hardware_flops(shape, share, checkpoint) == pytest.approx(
        counter.get_total_flops() / positions, rel=0.01
    )


def test_masked_only_heads_save_what_hardware_flops_says(tiny: RunPlan) -> None:
    shape = PILOT._replace(depth=2)
    model = built(shaped(tiny, shape), "meta")

    def counted(scored: int) -> float:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss_of(model, shape, 1, scored, whole=True).backward()
        return counter.get_total_flops() / shape.positions

    saved = cost.hardware_flops(shape, 1.0, "none") - cost.hardware_flops(shape, 0.5, "none")
    assert saved == pytest.approx(counted(shape.positions) - counted(shape.positions // 2), rel=0.01)


noises = st.one_of(
    st.sampled_from([Noise(kind="linear"), Noise(kind="cosine")]),
    st.builds(lambda power: Noise(kind="polynomial", power=power), st.floats(0.3, 5)),
    st.builds(lambda eps: Noise(kind="log-linear", eps=eps), st.floats(0, 0.5)),
    st.builds(
        lambda inner, t: Noise(kind="table", t=(0.0, t, 1.0), alpha=(1.0, inner, 0.0)),
        st.floats(0.01, 0.99),
        st.floats(0.01, 0.99),
    ),
)


@given(noise=noises)
def test_the_masked_share_is_the_mean_of_what_the_schedule_masks(noise: Noise) -> None:
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    assert cost.masked_share(noise) == pytest.approx(float((1 - alpha(noise, t)).mean()), abs=1e-4)


@pytest.mark.parametrize("eps", [0.0, 0.3])
@pytest.mark.parametrize("tokens", [1.0, 4.0, 100.0])
def test_the_masked_share_by_importance_is_the_mean_of_what_is_drawn(tokens: float, eps: float) -> None:
    noise = Noise(kind="log-linear", eps=eps)
    levels = (np.arange(20_000) + 0.5) / 20_000
    t, _ = ByWeight(noise, tokens).draw(levels)
    share = float(masked(noise, torch.from_numpy(t)).mean())
    assert cost.masked_share_by_importance(noise, tokens) == pytest.approx(share, abs=1e-3)


def test_an_unknown_noise_schedule_has_no_masked_share() -> None:
    with pytest.raises(ValueError, match="unknown noise schedule 'pink'"):
        cost.masked_share(Noise(kind="pink"))


class Saved:
    """Bytes of distinct storages that autograd keeps, with the model's buffers, without its parameters."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        self.kept: dict[int, torch.UntypedStorage] = {}
        for buffer in model.buffers():
            self.pack(buffer)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.parameters:
            self.kept[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.kept.values())


def saved(model: MaskedDiffusionModel, shape: Shape, micro: int) -> int:
    kept = Saved(model)
    with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        loss_of(model, shape, micro, micro * shape.positions)
    return kept.bytes


@pytest.mark.parametrize("checkpoint", ["none", "full"])
@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: f"width {shape.width}")
def test_activations_are_what_autograd_saves(tiny: RunPlan, shape: Shape, micro: int, checkpoint: str) -> None:
    model = built(shaped(tiny, shape), "cpu", checkpoint)
    planned = cost.activations(shape, micro, ParallelPlan(activation_checkpoint=checkpoint), "float32")
    assert planned.saved == pytest.approx(saved(model, shape, micro), rel=0.02)


def efficient_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor, scale: float, **_: Any
) -> torch.Tensor:
    """What scaled_dot_product_attention calls on CUDA where there is a mask; without a device it calls another."""
    bias = attn_mask.expand(*q.shape[:3], k.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, scale=scale)[0]


def no_mask(document: torch.Tensor, dtype: torch.dtype, _head_dim: int) -> torch.Tensor:
    """An added mask: FlexAttention's would have to be compiled for the device."""
    return torch.zeros(len(document), 1, 1, document.shape[1], dtype=dtype, device=document.device)


@contextlib.contextmanager
def imagined_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched, FakeTensorMode():
        patched.setattr(F, "scaled_dot_product_attention", efficient_attention)
        patched.setattr("runtime.training.model.attention_mask", no_mask)
        yield


@pytest.mark.parametrize("checkpoint", ["none", "full"])
@pytest.mark.parametrize("shape", [*SMALL, PILOT], ids=lambda shape: f"width {shape.width}")
def test_activations_in_bfloat16_are_what_autograd_saves_on_an_accelerator(
    tiny: RunPlan, monkeypatch: pytest.MonkeyPatch, shape: Shape, checkpoint: str
) -> None:
    with imagined_accelerator(monkeypatch):
        model = built(shaped(tiny, shape), "cuda", checkpoint, torch.bfloat16)
        planned = cost.activations(shape, 2, ParallelPlan(activation_checkpoint=checkpoint), "bfloat16")
        assert planned.saved == pytest.approx(saved(model, shape, 2), rel=0.02)


def peak(model: MaskedDiffusionModel, shape: Shape, micro: int) -> int:
    """The most bytes that one forward and backward pass has allocated at a time, gradients there before."""
    loss_of(model, shape, micro, micro * shape.positions).backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss_of(model, shape, micro, micro * shape.positions).backward()
    results = profiler.profiler
    assert results is not None
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("checkpoint", ["none", "full"])
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: f"width {shape.width}")
def test_activations_cover_the_backward_pass(tiny: RunPlan, shape: Shape, checkpoint: str) -> None:
    model = built(shaped(tiny, shape), "cpu", checkpoint)
    tables = sum(buffer.nbytes for buffer in model.buffers())
    planned = sum(cost.activations(shape, 4, ParallelPlan(activation_checkpoint=checkpoint), "float32")) - tables
    assert planned == pytest.approx(peak(model, shape, 4), rel=0.1)


@pytest.mark.parametrize(
    ("shard", "replicate", "dtype"), [(8, 1, "float32"), (8, 1, "bfloat16"), (1, 2, "float32"), (1, 1, "bfloat16")]
)
@pytest.mark.parametrize("vocabulary", [100, 6000])
def test_what_is_gathered_covers_the_buffers_of_fsdp(
    tiny: RunPlan, vocabulary: int, shard: int, replicate: int, dtype: str
) -> None:
    shape = Shape(width=128, depth=3, heads=4, ffn=344, vocabulary=vocabulary, positions=8)
    parallel = ParallelPlan(shard=shard, replicate=replicate)
    run = replace(shaped(tiny, shape), parallel=parallel, dtype=dtype)
    config = trainer_config(run, Path(), Path())
    dist_utils.set_spmd_backend(config.parallelism.spmd_backend)
    torch.distributed.init_process_group("fake", rank=0, world_size=parallel.ranks)
    try:
        with torch.device("meta"):
            model = model_config(run).build()
        model = parallelize(
            model,
            parallel_dims=ParallelDims.from_config(config.parallelism, parallel.ranks),
            training=config.training,
            parallelism=config.parallelism,
            compile_config=config.compile,
            ac_config=None,
            dump_folder="",
        )
        model.to_empty(device="cpu")
        model.init_weights()
        measured = peak(model, shape, 1)
    finally:
        torch.distributed.destroy_process_group()
    planned = cost.gathered(shape, parallel, dtype) + sum(cost.activations(shape, 1, parallel, dtype))
    assert 0.95 * measured < planned < 1.35 * measured


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: f"width {shape.width}")
def test_gradients_and_moments_are_what_a_step_of_adamw_leaves(tiny: RunPlan, shape: Shape) -> None:
    model = built(shaped(tiny, shape), "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    loss_of(model, shape, 1, shape.positions).backward()
    optimizer.step()
    planned = cost.memory(shape, 1, ParallelPlan(), "float32")
    assert planned.parameters == sum(p.nbytes for p in model.parameters())
    assert planned.gradients == sum(p.grad.nbytes for p in model.parameters())
    assert planned.optimizer == sum(value.nbytes for state in optimizer.state.values() for value in state.values())


@given(shape=shapes, shard=st.integers(1, 200))
def test_rank_0_holds_the_rows_that_chunks_give_it(shape: Shape, shard: int) -> None:
    for module in modules(shape):
        first = torch.empty(module.shape, device="meta").chunk(shard)[0]
        assert cost.shard_shape(module, ParallelPlan(shard=shard)) == tuple(first.shape)


@given(shape=shapes, micro=st.integers(1, 64), shard=st.integers(1, 64), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_memory_adds_up(shape: Shape, micro: int, shard: int, dtype: str) -> None:
    plan = ParallelPlan(shard=shard)
    one = cost.memory(shape, micro, plan, dtype)
    assert one.per_rank == one.parameters + one.gradients + one.optimizer + one.activations + one.gathered
    assert (one.gathered == 0) == (shard == 1 and dtype == "float32")
    more = cost.memory(shape, micro + 1, plan, dtype)
    logits = micro * shape.positions * shape.vocabulary
    # What is saved where the head goes over to chunks may be more than one sequence's.
    chunked = logits <= cost.PLAIN < logits + shape.positions * shape.vocabulary
    assert chunked or more.activations > one.activations
    recomputed = cost.memory(shape, micro, replace(plan, activation_checkpoint="full"), dtype)
    assert recomputed.activations <= one.activations
    assert replace(recomputed, activations=0, per_rank=0) == replace(one, activations=0, per_rank=0)
