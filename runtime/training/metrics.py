"""What a run writes while it trains: rows of `metrics.jsonl` and `eval.jsonl`, each once, in order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torchtitan.components.metrics import MetricsProcessor

from compiler.files import write_atomically
from compiler.plan import RunPlan
from compiler.records import Evaluation, GradientNoise, Metrics
from runtime.training.activations import Activations

BANDS = 4
"""Equal bands of t in (0, 1] that the loss is split by."""


class Rows:
    """A file of JSON lines, one a row."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def restore(self, checkpoint: Path | None) -> bytes:
        """Go back to the rows that a checkpoint holds, or to none; returns them."""
        rows = b"" if checkpoint is None else (checkpoint / self.path.name).read_bytes()
        write_atomically(self.path, rows)
        return rows

    def append(self, row: msgspec.Struct) -> None:
        """Write one row."""
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


class RunMetrics(MetricsProcessor):
    """torchtitan's metrics, plus rows of `metrics.jsonl`: the loss by modality and by time, norms, waiting for data,
    and what the plan's monitor asks for. TensorBoard and W&B are given the same numbers."""

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        """The run whose metrics these are."""

        run: RunPlan

    def __init__(self, config: Config, *, dump_folder: str, **kwargs: Any) -> None:
        with _named(config.run):
            super().__init__(config, dump_folder=dump_folder, **kwargs)
        self.run = config.run
        self.gpu_peak_flops = config.run.peak_flops
        self.activations = Activations()
        self.writes = torch.distributed.get_rank() == 0
        self.metrics = Rows(Path(dump_folder) / "metrics.jsonl")
        self.evaluations = Rows(Path(dump_folder) / "eval.jsonl")
        self.check: Callable[[], None] = lambda: None
        """Raises where this process may write no more."""
        self.seconds_before = 0.0
        self.started = self.last_logged = time.perf_counter()
        self.last_tokens = 0
        self.reset_step()

    def reset_step(self) -> None:
        """Forget the sums of the step before."""
        self.sums: torch.Tensor | None = None
        self.before: list[torch.Tensor] = []
        self.gradient_noise: dict[str, GradientNoise] | None = None

    @contextmanager
    def watching(self, inputs: torch.Tensor) -> Iterator[None]:
        """Measure activations of the forward pass over a micro-batch's input (B, L) where the plan asks for them."""
        if not self.run.monitor.activations:
            yield
            return
        (model,) = self.model_parts
        with self.activations.watching(model, inputs != self.run.vocabulary.specials["pad"]):
            yield

    def add(
        self,
        terms: torch.Tensor,
        row_of_term: torch.Tensor,
        tokens_of_row: torch.Tensor,
        modality_of_row: torch.Tensor,
        time_of_row: torch.Tensor,
        inputs: torch.Tensor,
    ) -> None:
        """Add a micro-batch: the loss term of each scored token and the sequence it is of (S,); of each sequence (B,)
        its tokens that can be scored, modality and time t in (0, 1]; and what the model was given (B, L)."""
        modalities = len(self.run.modalities)
        # On the host: CUDA has no deterministic bincount of weights.
        terms, row_of_term, modality_of_row = terms.double().cpu(), row_of_term.cpu(), modality_of_row.cpu()
        band_of_row = (time_of_row.cpu() * BANDS).ceil().long() - 1
        padding = int((inputs == self.run.vocabulary.specials["pad"]).sum())
        sums = torch.cat(
            [
                torch.bincount(modality_of_row[row_of_term], terms, modalities),
                torch.bincount(modality_of_row, tokens_of_row.double().cpu(), modalities),
                torch.bincount(band_of_row[row_of_term], terms, BANDS),
                torch.tensor([padding, inputs.numel()], dtype=torch.float64),
            ]
        )
        self.sums = sums if self.sums is None else self.sums + sums

    def remember_parameters(self) -> None:
        """Copy the parameters, so that the update that follows can be measured."""
        self.before = [parameter.detach().clone() for parameter in self._parameters()]

    def _parameters(self) -> list[torch.Tensor]:
        return [parameter.detach() for part in self.model_parts for parameter in part.parameters()]

    def _norms(self) -> tuple[float, float | None]:
        """Norm of all parameters, and of their last update where they were remembered before it."""
        parameters = self._parameters()
        if not self.before:
            return norm(parameters), None
        torch._foreach_sub_(self.before, parameters)
        update, self.before = self.before, []
        return norm(parameters), norm(update)

    def should_log(self, step: int) -> bool:
        """At the first step, the last, every `log_every`-th, and where the gradient noise is estimated."""
        noise = self.run.monitor.gradient_noise
        often = step % self.run.log_every == 0 or (noise > 0 and step % noise == 0)
        return often or step in (1, self.run.steps)

    def resume(self, tokens: int, checkpoint: Path | None) -> None:
        """Continue after so many tokens with the rows of the checkpoint's folder, or with none."""
        if self.writes:
            rows = self.metrics.restore(checkpoint).splitlines()
            self.evaluations.restore(checkpoint)
            self.seconds_before = msgspec.json.decode(rows[-1], type=Metrics).seconds if rows else 0.0
        self.last_tokens = tokens
        self.started = self.last_logged = time.perf_counter()

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        """Log one step, on all ranks together."""
        assert extra_metrics is not None
        assert self.sums is not None
        parameter_norm, update_norm = self._norms()
        sums = self.sums
        mesh = self.parallel_dims.get_optional_mesh("loss")
        group = None if mesh is None else mesh.get_group()
        if mesh is not None:
            sums = sums.to(torch.device(mesh.device_type))
            torch.distributed.all_reduce(sums, group=group)
        losses, tokens, bands, positions = torch.split(sums.cpu(), [len(self.run.modalities)] * 2 + [BANDS, 2])
        now = time.perf_counter()
        elapsed = max(now - self.last_logged, 1e-9)
        total = int(extra_metrics["n_tokens_seen"])
        tokens_per_second = (total - self.last_tokens) / elapsed
        row = Metrics(
            step=step,
            tokens=total,
            loss=global_avg_loss,
            losses={name: float(losses[i] / tokens[i]) for i, name in enumerate(self.run.modalities) if tokens[i] > 0},
            lr=next(value for key, value in extra_metrics.items() if key.startswith("lr/")),
            grad_norm=grad_norm,
            tokens_per_second=tokens_per_second,
            padding=float(positions[0] / positions[1]),
            seconds=self.seconds_before + now - self.started,
            bands=tuple((bands / tokens.sum()).tolist()),
            parameter_norm=parameter_norm,
            update_norm=update_norm,
            data_wait=sum(self.data_loading_times) / elapsed,
            mfu=self._mfu(step, total, tokens_per_second),
            gradient_noise=self.gradient_noise,
            activations=self.activations.take(group),
        )
        # torchtitan's own line of the log, and its own numbers beside those of the row.
        super().log(step, global_avg_loss, global_max_loss, grad_norm, extra_metrics | scalars(row))
        if self.writes:
            self.check()
            self.metrics.append(row)
        self.last_logged, self.last_tokens = now, total

    def _mfu(self, step: int, tokens: int, tokens_per_second: float) -> float | None:
        """As `triptych mfu`: model FLOPs of a token, of the steps done over the tokens seen in them."""
        peak = self.run.parallel.ranks * self.run.peak_flops
        return self.run.flops * step / self.run.steps / tokens * tokens_per_second / peak if peak > 0 else None

    def log_evaluations(self, rows: list[Evaluation]) -> None:
        """Write an evaluation's rows."""
        if self.writes:
            self.check()
        for row in rows:
            if self.writes:
                self.evaluations.append(row)
            self.logger.log({f"eval/{row.modality}/{name}": value for name, value in scalars(row).items()}, row.step)


def scalars(row: Metrics | Evaluation) -> dict[str, float]:
    """The numbers of a row by name: `loss`, `loss/text`, `band/1`, `gradient_noise/text/noise`, `activations/block.0`.
    What is not there has no name."""
    found: dict[str, float] = {}

    def put(name: str, value: object) -> None:
        match value:
            case int() | float():
                found[name] = float(value)
            case dict():
                for key, one in value.items():
                    put(f"{name}/{key}", one)
            case tuple():
                for place, one in enumerate(value, start=1):
                    put(f"{name}/{place}", one)
            case msgspec.Struct():
                put(name, msgspec.structs.asdict(value))

    for field, value in msgspec.structs.asdict(row).items():
        if field != "step":
            put({"losses": "loss", "bands": "band"}.get(field, field), value)
    return found


@contextmanager
def _named(run: RunPlan) -> Iterator[None]:
    """Tell W&B, which torchtitan asks through the environment, the run's name and id, unless the user has."""
    ours = {"WANDB_PROJECT": "triptych", "WANDB_RUN_NAME": run.name, "WANDB_RUN_ID": run.id, "WANDB_RESUME": "allow"}
    missing = ours.keys() - os.environ.keys()
    os.environ.update((name, ours[name]) for name in missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def norm(tensors: list[torch.Tensor]) -> float:
    """The Euclidean norm of tensors, whole or sharded, taken together; every rank must ask."""
    total = get_total_norm(tensors, foreach=True)
    return float(total.full_tensor() if isinstance(total, DTensor) else total)
