"""How the model is laid over processes: FSDP or HSDP where there are several, plain modules where there is one."""

from __future__ import annotations

from torchtitan.config import TORCH_DTYPE_MAP, CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointingConfig
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
    """torchtitan's `parallelize_fn`. One process in float32 needs no wrapping, and small runs feel its cost."""
    if ac_config is not None:
        ac_config.build(dump_folder=dump_folder).apply(model)
    if parallel_dims.world_size == 1 and training.mixed_precision_param == "float32":
        return model
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
