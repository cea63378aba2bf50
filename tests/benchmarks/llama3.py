"""Tokens/s of our trainer against torchtitan's own with its llama3 model: same width, depth, heads, feed-forward width,
vocabulary, batch, optimizer and threads, in one process.

python -m tests.benchmarks.llama3 [--width 256] [--depth 4] [--vocabulary 8192] [--length 256] [--batch 8] [--json]

llama3 scores every position, as its own objective asks; ours scores the masked ones. Attention is PyTorch's fused one
in both (llama3's causal, since its other kinds need an accelerator); ours also has QK-norm and document masks.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}

import torch
from torch._C._distributed_c10d import HashStore

import runtime.training  # noqa: F401  tells the platform before torchtitan is imported

# isort: split
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.config.configs import DebugConfig
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer

from compiler.compile import compile_study
from compiler.plan import RunPlan
from runtime.training.platform import start_process_group
from runtime.training.trainer import NoTokenizer, trainer_config
from tests.tiny import write_source

STUDY = """\
study: llama3
base:
  model: {{width: {width}, depth: {depth}}}
  modalities: {{text: {{data: data}}}}
  sequence_length: {length}
  tokens: 100M
  batch: {{physical: {batch}, micro: {batch}}}
  optimizer: {{lr: 1.0e-4}}
"""


class TokenBatches(BaseDataLoader):
    """The same random batches again and again: no time goes into making them."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        run: RunPlan

    def __init__(self, config: Config, **_unused: Any) -> None:
        run = config.run
        size = (run.batch.physical, run.sequence_length + 1)
        tokens = torch.randint(run.model.vocabulary, size, generator=torch.Generator().manual_seed(0))
        self.batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        while True:
            yield {"input": self.batch[0]}, self.batch[1]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def in_one_process(model: torch.nn.Module, **_unused: Any) -> torch.nn.Module:
    """torchtitan's `parallelize_fn`: nothing to wrap, as in our trainer on one process."""
    return model


def llama3(run: RunPlan, folder: Path) -> Trainer:
    """torchtitan's trainer of a llama3 of the run's shape."""
    shape, normal = run.model, {"weight": torch.nn.init.normal_}
    ones = {"weight": torch.nn.init.ones_}

    def norm() -> RMSNorm.Config:
        return RMSNorm.Config(normalized_shape=shape.width, param_init=ones)

    def block() -> Llama3TransformerBlock.Config:
        return Llama3TransformerBlock.Config(
            attention_norm=norm(),
            ffn_norm=norm(),
            attention=make_gqa_config(
                dim=shape.width,
                n_heads=shape.heads,
                wqkv_param_init=normal,
                wo_param_init=normal,
                inner_attention=ScaledDotProductAttention.Config(),
                fuse_qkv=True,
                rope=ComplexRoPE.Config(dim=shape.head_dim, max_seq_len=run.sequence_length),
            ),
            feed_forward=make_ffn_config(
                dim=shape.width, hidden_dim=shape.ffn, w1_param_init=normal, w2w3_param_init=normal
            ),
        )

    model = Llama3Model.Config(
        dim=shape.width,
        vocab_size=shape.vocabulary,
        tok_embeddings=Embedding.Config(num_embeddings=shape.vocabulary, embedding_dim=shape.width, param_init=normal),
        norm=norm(),
        lm_head=Linear.Config(in_features=shape.width, out_features=shape.vocabulary, param_init=normal),
        layers=[block() for _ in range(shape.depth)],
    )
    spec = ModelSpec(
        name="llama3",
        flavor="",
        model=model,
        parallelize_fn=in_one_process,
        pipelining_fn=None,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )
    return Trainer.Config(
        model_spec=spec,
        dump_folder=str(folder),
        tokenizer=NoTokenizer.Config(),
        dataloader=TokenBatches.Config(run=run),
        loss=CrossEntropyLoss.Config(global_vocab_size=shape.vocabulary),
        optimizer=default_adamw(lr=1e-4),
        lr_scheduler=LRSchedulersContainer.Config(warmup_steps=1),
        metrics=MetricsProcessor.Config(log_freq=10, disable_color_printing=True),
        training=TrainingConfig(
            local_batch_size=run.batch.micro,
            global_batch_size=run.batch.physical,
            seq_len=run.sequence_length,
            max_norm=math.inf,
            steps=run.steps,
            disable_cuda_graphs=True,
            mixed_precision_param="float32",
        ),
        parallelism=ParallelismConfig(spmd_backend="partial_dtensor"),
        checkpoint=CheckpointManager.Config(enable=False),
        activation_checkpoint=None,
        compile=CompileConfig(enable=False),
        debug=DebugConfig(seed=0, enable_structured_logging=False),
    ).build()


def stepping(trainer: Any) -> Callable[[int], None]:
    """Takes steps of a trainer, logging as it does in training."""
    batches = trainer.batch_generator(trainer.dataloader)

    def steps(count: int) -> None:
        for _ in range(count):
            trainer.step += 1
            if hasattr(trainer.metrics_processor, "reset_step"):
                trainer.metrics_processor.reset_step()
            trainer.train_step(batches)

    return steps


def main() -> None:
    """Measure both, turn by turn."""
    parser = argparse.ArgumentParser()
    for name, default in {
        "width": 256, "depth": 4, "vocabulary": 8192, "length": 256, "batch": 8, "threads": torch.get_num_threads(),
        "steps": 4, "rounds": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    start_process_group(HashStore(), 0, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_source(
            folder / "data", {"text": options.vocabulary}, sequences=256, lengths=(32, 2 * options.length), packed=True
        )
        (folder / "study.yaml").write_text(STUDY.format(**vars(options)))
        run = compile_study(folder / "study.yaml").runs[0]
        trainers = {"ours": trainer_config(run, folder, folder).build(), "llama3": llama3(run, folder)}
        parameters = {
            side: sum(p.numel() for p in trainer.model_parts[0].parameters()) for side, trainer in trainers.items()
        }
        sides = {side: stepping(trainer) for side, trainer in trainers.items()}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for take in sides.values():
            take(2)  # warm-up
        for turn in range(options.rounds):
            for side in sorted(sides, reverse=turn % 2 == 1):
                start = time.perf_counter()
                sides[side](options.steps)
                seconds[side].append((time.perf_counter() - start) / options.steps)
    tokens = run.batch.physical * run.sequence_length
    ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds["llama3"], strict=True))
    result = {
        "parameters": parameters,
        "tokens_per_second": {side: tokens / statistics.median(taken) for side, taken in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
    }
    if options.json:
        print(json.dumps(result))
    else:
        ours, theirs = (result["tokens_per_second"][side] for side in ("ours", "llama3"))
        print(
            f"{parameters['ours'] / 1e6:.2f}M parameters (llama3 {parameters['llama3'] / 1e6:.2f}M), {tokens} tokens a "
            f"step: ours {ours:,.0f}, llama3 {theirs:,.0f} tokens/s; ratio {result['ratio']:.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
