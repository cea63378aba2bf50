"""How the model is laid over processes: tensor parallel, FSDP and HSDP, plain modules where there is one process."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torchtitan.config import TORCH_DTYPE_MAP, CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointingConfig
from torchtitan.distributed.compile import apply_compile
from torchtitan.distributed.fsdp import apply_fsdp_to_decoder

from runtime.training.model import MaskedDiffusionModel
from runtime.training.platform import adapt_fsdp


def parallelize(
    model: MaskedDiffusionModel,
    *,
    parallel_dims: ParallelDims,
    training: TrainingConfig,
    parallelism: ParallelismConfig,
    compile_config: CompileConfig,
    ac_config: ActivationCheckpointingConfig | None,
    dump_folder: str,
) -> MaskedDiffusionModel:
    """torchtitan's `parallelize_fn`: matrices divided, blocks checkpointed and compiled, and FSDP. One process in
    float32 needs no wrapping, and small runs feel its cost."""
    if parallel_dims.tp_enabled:
        divide(model, parallel_dims.get_dense_tp_mesh())
    if ac_config is not None:
        ac_config.build(dump_folder=dump_folder).apply(model)
    if compile_config.enable and "model" in compile_config.components:
        # Kinds of masks, lengths (one or any) and gradients multiply, and one graph too many would end the run.
        torch._dynamo.config.recompile_limit = 64
        apply_compile(model, compile_config=compile_config, parallel_dims=parallel_dims)
    if parallel_dims.world_size == 1 and training.mixed_precision_param == "float32":
        return model
    # Of one rank where only the matrices are divided: FSDP also sums gradients that are partial over tensor ranks.
    meshes = ["dp_replicate", "fsdp"] if parallel_dims.dp_replicate_enabled else ["fsdp"]
    apply_fsdp_to_decoder(
        model,
        parallel_dims.get_mesh(meshes),
        param_dtype=TORCH_DTYPE_MAP[training.mixed_precision_param],
        reduce_dtype=TORCH_DTYPE_MAP[training.mixed_precision_reduce],
        pp_enabled=False,
    )
    adapt_fsdp(model)
    return model


def divide(model: MaskedDiffusionModel, mesh: DeviceMesh) -> None:
    """Divide the matrices of `model` over the processes of `mesh` (arXiv 1909.08053): q, k, v and the first two of the
    feed-forward by their outputs, heads staying whole; the matrices that follow them by their inputs; embedding and
    head by the vocabulary. Of all else each process has the whole. The layout table says the same (`Module.cut`).

    Between modules activations are plain tensors, the same on all processes. Where they enter a divided pair of
    matrices their gradient is summed, where they leave it they are; the head does this itself.
    """

    def lay(module: nn.Module, placement: Placement) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            # Initial values come later, the same for all processes.
            placed = distribute_tensor(parameter, mesh, [placement], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(placed))

    def enter(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        first, *others = inputs
        same = DTensor.from_local(first, mesh, [Replicate()], run_check=False)
        return (same.to_local(grad_placements=[Partial()]), *others)

    def leave(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return (
            DTensor.from_local(output, mesh, [Partial()], run_check=False).redistribute(mesh, [Replicate()]).to_local()
        )

    model.tok_embeddings.tp_group = mesh.get_group()  # torchtitan's layer then looks up the rows that it has
    model.tok_embeddings.register_forward_hook(leave)
    lay(model.tok_embeddings, Shard(0))
    lay(model.code_positions, Replicate())
    lay(model.norm, Replicate())
    lay(model.lm_head, Shard(0))
    for block in model.layers.values():
        attention, feed_forward = block.attention, block.feed_forward
        lay(block.attention_norm, Replicate())
        lay(block.ffn_norm, Replicate())
        attention.qkv_linear.register_forward_pre_hook(enter)
        feed_forward.register_forward_pre_hook(enter)
        projections = attention.qkv_linear
        for first in (projections.wq, projections.wk, projections.wv, feed_forward.w1, feed_forward.w3):
            lay(first, Shard(0))
        for norm in (attention.q_norm, attention.k_norm):
            lay(norm, Replicate())
            norm.gradient = Partial()  # each process has heads of its own
        for last in (attention.wo, feed_forward.w2):
            lay(last, Shard(1))
            last.register_forward_hook(leave)
