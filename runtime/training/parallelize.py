"""How the model is laid over processes: tensor parallel, FSDP and HSDP, plain modules where there is one process."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torchtitan.config import TORCH_DTYPE_MAP, CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointingConfig
from torchtitan.distributed.compile import apply_compile
from torchtitan.distributed.fsdp import apply_fsdp_to_decoder
from torchtitan.distributed.tensor_parallel import NoParallel

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
        divide_matrices(model, parallel_dims.get_dense_tp_mesh())
    if ac_config is not None:
        ac_config.build(dump_folder=dump_folder).apply(model)
    if compile_config.enable and "model" in compile_config.components:
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


class HeadParallel(ParallelStyle):
    """Each process has some rows of the head's matrix; what it does with them is the head's own affair."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def cut(_name: str, part: nn.Module, mesh: DeviceMesh) -> None:
            for name, parameter in part.named_parameters(recurse=False):
                cut = distribute_tensor(parameter, mesh, [Shard(0)], src_data_rank=self.src_data_rank)
                part.register_parameter(name, nn.Parameter(cut))

        return distribute_module(module, device_mesh, cut)


def divide_matrices(model: MaskedDiffusionModel, mesh: DeviceMesh) -> None:
    """Divide every matrix of `model` over the processes of `mesh` (arXiv 1909.08053): q, k, v and the first
    feed-forward matrices by their outputs, a head's staying together; the matrices that follow them by their inputs;
    embedding and head by the vocabulary. Between modules activations are plain tensors, the same on all processes.

    The layout table says the same, module by module (`cut`).
    """
    whole = NoParallel(use_local_output=True)
    shared_input = PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Replicate())
    own_heads = SequenceParallel(sequence_dim=2, use_local_output=True)  # (B, L, N, H): each has a share of N
    parallelize_module(
        model,
        mesh,
        {
            "tok_embeddings": RowwiseParallel(input_layouts=Replicate()),
            "code_positions": whole,
            "norm": whole,
            "lm_head": HeadParallel(),
        },
    )
    for block in model.layers.values():
        parallelize_module(
            block,
            mesh,
            {
                "attention_norm": whole,
                "attention.qkv_linear": shared_input,
                "attention.qkv_linear.wq": ColwiseParallel(),
                "attention.qkv_linear.wk": ColwiseParallel(),
                "attention.qkv_linear.wv": ColwiseParallel(),
                "attention.q_norm": own_heads,
                "attention.k_norm": own_heads,
                "attention.wo": RowwiseParallel(),
                "ffn_norm": whole,
                "feed_forward": shared_input,
                "feed_forward.w1": ColwiseParallel(),
                "feed_forward.w3": ColwiseParallel(),
                "feed_forward.w2": RowwiseParallel(),
            },
        )
