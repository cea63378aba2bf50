"""A run plan becomes a torchtitan trainer.

`trainer_config` is the whole translation; `DiffusionTrainer` adds to torchtitan's trainer the masked-diffusion step,
the held-out evaluation and exact continuation of the run's own files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
import torch.distributed as dist
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer, ParamGroupConfig
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config import CompileConfig, Configurable, ParallelismConfig, TrainingConfig
from torchtitan.config.configs import DebugConfig
from torchtitan.distributed import utils as dist_utils
from torchtitan.distributed.activation_checkpoint import FullAC
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer

from compiler.plan import RunPlan
from runtime.control import Control
from runtime.training.checkpoints import Checkpoints
from runtime.training.evaluation import NelboValidator
from runtime.training.gradient_noise import Batch, GradientProbe
from runtime.training.head import Targets
from runtime.training.loader import NoisedLoader
from runtime.training.metrics import RunMetrics
from runtime.training.model import model_config
from runtime.training.objective import MaskedDiffusionLoss
from runtime.training.parallelize import parallelize
from runtime.training.platform import ON_CPU
from runtime.training.stream import PADDING


class TrainingError(RuntimeError):
    """Training cannot go on; the message is the reason shown to people."""


class NoTokenizer(Configurable):
    """Sources are tokens already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        """Builds nothing."""

        def build(self, **_unused: Any) -> None:
            """No tokenizer."""


class DiffusionTrainer(Trainer):
    """torchtitan's trainer with the masked-diffusion objective. One optimizer step is `train_step`, torchtitan's
    own."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        """The plan of the run rides along."""

        run: RunPlan

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.run = config.run
        self.optimizers.register_step_pre_hook(self._before_update)
        self.gradient_probe = GradientProbe(config.run, self.dataloader)
        self.agreement: dist.ProcessGroup | None = None
        """The ranks that train, for what hosts have to agree upon."""

    def post_dataloading_process(
        self, input_dict: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Count non-padding tokens (torchtitan would count positions), dropped conditions too, and hand the batch on as
        it is."""
        self.ntokens_seen += int((input_dict["document"] != PADDING).sum())
        extra = dict(input_dict)
        return extra.pop("input"), labels, extra

    def _forward_backward_body(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        global_valid_tokens: torch.Tensor,
        extra_kwargs: dict[str, Any],
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch; returns its share of the global loss."""
        scored, modality = extra_kwargs["scored"], extra_kwargs["modality"]
        logged = self.metrics_processor.should_log(self.step)
        with self.train_context():
            with self.metrics_processor.watching(inputs) if logged else nullcontext():
                loss, parts = self._loss(inputs, labels, global_valid_tokens, extra_kwargs)
            loss.backward()  # type: ignore[no-untyped-call]
        row_of_term = scored // labels.shape[1]
        if logged:
            tokens = (labels != IGNORE_INDEX).sum(dim=1)
            self.metrics_processor.add(parts["terms"], row_of_term, tokens, modality, extra_kwargs["time"], inputs)
        if (learned := self.dataloader.times.learned) is not None:
            learned.observe(parts["terms"], row_of_term, modality, extra_kwargs["level"])
        return loss

    def _loss(
        self, inputs: torch.Tensor, labels: torch.Tensor, divisor: torch.Tensor, extra_kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A micro-batch's weighted -log p, summed and divided by `divisor`; and its terms."""
        weights = extra_kwargs["weights"]
        targets = Targets(labels.flatten()[extra_kwargs["scored"]], weights, extra_kwargs.get("parts"))
        pred = self.model_parts[0](
            inputs,
            document=extra_kwargs["document"],
            code_index=extra_kwargs["code_index"],
            scored=extra_kwargs["scored"],
            targets=targets,
        )
        return self.loss_fn(pred, targets.labels, divisor, weights=weights)

    def add_gradient(self, batch: Batch, divisor: float) -> None:
        """Add to the gradients that of a micro-batch's weighted -log p, summed over all ranks and divided by `divisor`;
        nothing else remembers it."""
        extra_kwargs = {name: value.to(self.device) for name, value in batch[0].items()}
        inputs, labels = extra_kwargs.pop("input"), batch[1].to(self.device)
        with self.train_context():
            loss, _ = self._loss(inputs, labels, torch.tensor(divisor, device=self.device), extra_kwargs)
            loss.backward()  # type: ignore[no-untyped-call]

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        """One optimizer step, after an estimate of the gradient noise where one is due; the times of the next step are
        drawn by what this one taught."""
        if self.gradient_probe.due(self.step):
            parameters = [parameter for part in self.model_parts for parameter in part.parameters()]
            self.metrics_processor.gradient_noise = self.gradient_probe.estimate(
                self.step, parameters, self.add_gradient
            )
        unasked = self.run.clip is None and not self.metrics_processor.should_log(self.step)
        with without_norms() if unasked else nullcontext():
            super().train_step(data_iterator)
        if (learned := self.dataloader.times.learned) is not None:
            mesh = self.parallel_dims.get_optional_mesh("loss")
            learned.learn(None if mesh is None else mesh.get_group())

    def _before_update(self, *_unused: Any) -> None:
        if self.metrics_processor.should_log(self.step):
            self.metrics_processor.remember_parameters()

    def train(self, control: Control | None = None) -> bool:
        """Train from the newest whole checkpoint, or from the start, to the plan's last step; or, saved, to the step at
        which `control` asks any rank to stop. Returns whether it came to the last step.

        Raises TrainingError where the loss is no longer a number.
        """
        control = control or Control()
        if dist.get_world_size() > 1:
            # Of its own: checkpoints are written in another thread, and a host need not wait for its device.
            self.agreement = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))
        self.checkpointer.check = self.metrics_processor.check = control.check
        loaded = self.checkpointer.newest if self.checkpointer.load() else 0
        self.metrics_processor.resume(self._global_tokens(), self.checkpointer.at(loaded) if loaded else None)
        control.at(loaded, loaded)
        control.resumed(loaded)
        batches = self.batch_generator(self.dataloader)
        while self.should_continue_training():
            if self._agree(control.stopping()):
                self.checkpointer.save_now(self.step)
                control.at(self.step, self.step)
                self._agree(True)  # all have saved
                return False
            self.step += 1
            self.gc_handler.run(self.step)
            self.metrics_processor.reset_step()
            try:
                self.train_step(batches)
            except RuntimeError as error:
                if "not finite" in str(error):
                    raise TrainingError(f"the training loss is not a number at step {self.step}") from error
                raise
            last = self.step == self.run.steps
            if self.validator.should_validate(self.step):
                self._evaluate()
            self.checkpointer.save(self.step, last_step=last)
            control.at(self.step, self.checkpointer.newest)
            if self.step - loaded == 1 and not ON_CPU:  # gloo's barrier takes no device, and has one timeout only
                dist_utils.set_pg_timeouts(
                    timedelta(seconds=self.config.comm.train_timeout_seconds), parallel_dims=self.parallel_dims
                )
        self.checkpointer.maybe_wait_for_saving()
        self._agree(True)
        return True

    def _agree(self, stopping: bool) -> bool:
        """Whether any rank is asked to stop; every rank must ask before each step, so that all stop at the same one."""
        if self.agreement is None:
            return stopping
        asked = torch.tensor(int(stopping))
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self.agreement)
        return bool(asked)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the trainer: it holds one rank's, so tokens are counted over all ranks."""
        return {"step": self.step, "ntokens_seen": self._global_tokens()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a saved step; the first rank takes over what all had counted."""
        self.step = state_dict["step"]
        self.ntokens_seen = state_dict["ntokens_seen"] if self.dataloader.rank == 0 else 0

    def _evaluate(self) -> None:
        rows = self.validator.validate(self.model_parts, self.step)
        bad = [row.modality for row in rows if not math.isfinite(row.nelbo)]
        if bad:
            raise TrainingError(f"the held-out nelbo of {', '.join(bad)} is not a number at step {self.step}")
        tokens = self._global_tokens()
        self.metrics_processor.log_evaluations([msgspec.structs.replace(row, tokens=tokens) for row in rows])

    def _global_tokens(self) -> int:
        mesh = self.parallel_dims.get_optional_mesh("loss")
        if mesh is None:
            return self.ntokens_seen
        return int(dist_utils.dist_sum(torch.tensor(self.ntokens_seen, device=self.device), mesh))


@contextmanager
def without_norms() -> Iterator[None]:
    """Gradients are neither measured nor scaled in this context. torchtitan does both at every step, even where nothing
    is clipped and nobody is told: for a small model some percent of the step."""
    clip = dist_utils.clip_grad_norm_
    dist_utils.clip_grad_norm_ = lambda *_arguments, **_options: torch.zeros(())
    try:
        yield
    finally:
        dist_utils.clip_grad_norm_ = clip


def activation_checkpoint(kind: str) -> FullAC.Config | None:
    """torchtitan's policy of that kind. Raises ValueError for an unknown one."""
    match kind:
        case "none":
            return None
        case "full":
            return FullAC.Config(preserve_rng_state=False)  # blocks draw no random numbers
        case _:
            raise ValueError(f"unknown activation checkpointing {kind!r}")


def trainer_config(run: RunPlan, folder: Path, data_root: Path) -> DiffusionTrainer.Config:
    """The torchtitan configuration that `run` becomes, training in `folder` on data named relative to `data_root`."""
    schedule = run.schedule
    spec = ModelSpec(
        name="masked-diffusion",
        flavor=run.name,
        model=model_config(run),
        parallelize_fn=parallelize,
        pipelining_fn=None,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )
    return DiffusionTrainer.Config(
        run=run,
        model_spec=spec,
        dump_folder=str(folder),
        tokenizer=NoTokenizer.Config(),
        dataloader=NoisedLoader.Config(run=run, data_root=data_root),
        loss=MaskedDiffusionLoss.Config(),
        metrics=RunMetrics.Config(
            run=run,
            log_freq=run.log_every,
            disable_color_printing=True,
            enable_tensorboard=run.monitor.tensorboard,
            enable_wandb=run.monitor.wandb,
        ),
        optimizer=OptimizersContainer.Config(
            param_groups=[
                ParamGroupConfig(
                    pattern=f"^(?:{group.pattern})$",
                    optimizer_name="AdamW",
                    optimizer_kwargs={
                        "lr": group.lr,
                        "betas": group.betas,
                        "eps": group.eps,
                        "weight_decay": group.weight_decay,
                    },
                )
                for group in run.groups
            ]
        ),
        lr_scheduler=LRSchedulersContainer.Config(
            warmup_steps=schedule.warmup_steps,
            decay_ratio={"wsd": schedule.decay_steps / run.steps, "constant": 0.0}.get(schedule.kind),
            decay_type="cosine" if schedule.kind == "cosine" else "linear",
            min_lr_factor=schedule.final,
        ),
        training=TrainingConfig(
            local_batch_size=run.batch.micro,
            global_batch_size=run.batch.physical,
            seq_len=run.sequence_length,
            max_norm=run.clip if run.clip is not None else math.inf,
            steps=run.steps,
            disable_cuda_graphs=True,
            mixed_precision_param="bfloat16" if run.dtype == "bfloat16" else "float32",
        ),
        parallelism=ParallelismConfig(
            data_parallel_replicate_degree=run.parallel.replicate,
            data_parallel_shard_degree=run.parallel.shard,
            tensor_parallel_degree=run.parallel.tensor,
            enable_sequence_parallel=False,
            spmd_backend="partial_dtensor",
        ),
        checkpoint=Checkpoints.Config(
            run=run,
            enable=True,
            async_mode="async",
            interval=run.checkpoint.every or run.steps,
            keep_latest_k=max(2, run.checkpoint.keep),
            initial_load_model_only=False,
            last_save_model_only=False,
        ),
        activation_checkpoint=activation_checkpoint(run.parallel.activation_checkpoint),
        compile=CompileConfig(enable=run.parallel.compile),
        validator=NelboValidator.Config(run=run, data_root=data_root),
        debug=DebugConfig(seed=run.seed, deterministic=True, enable_structured_logging=False),
    )
