"""Held-out negative ELBO, as the paper's evaluation defines it.

One α for all tokens of a sequence, written as: the number k of masked tokens uniform in 1..n, weight n / k,
stratified over k. It needs no noise schedule, has no singularity, and is the same for runs that trained with
different ones. The masks depend on nothing but the data, so that two runs are scored on the same ones. A run whose head
is of kind `modality` is scored as it is trained, given the part of each token's segment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchtitan.components.validate import BaseValidator
from torchtitan.distributed import ParallelDims

from compiler.plan import RunPlan
from compiler.records import Evaluation
from runtime.data import load
from runtime.training.head import Targets
from runtime.training.objective import scored_nats
from runtime.training.segments import Segments
from runtime.training.stream import NO_CODE, Sequences, documents, empty_rows

EVALUATION_SEED = 20260224
"""Seeds the masks of every evaluation of every run."""

Candidates = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskedSet:
    """Held-out sequences of one modality, the plan's number `modality`, with their masks: `masked` (rows, L), `weights`
    n / k per row, and `n` per row. `packed` says whether they are documents, none of which sees another."""

    tokens: npt.NDArray[np.int64]
    code_index: npt.NDArray[np.int64]
    real: npt.NDArray[np.bool_]
    masked: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float64]
    n: npt.NDArray[np.int64]
    modality: int
    packed: bool


def mask_uniformly(candidates: Candidates, rng: np.random.Generator) -> tuple[Candidates, npt.NDArray[np.float64]]:
    """For each row of `candidates` (rows, L), True where a token may be masked, choose k of its n tokens, k uniform
    in 1..n and stratified over the rows. Returns the mask and n / k."""
    rows = len(candidates)
    n = candidates.sum(axis=1)
    strata = (rng.permutation(rows) + rng.random(rows)) / rows
    k = np.maximum(1, 1 + np.floor(strata * n).astype(np.int64))
    order = np.argsort(np.where(candidates, rng.random(candidates.shape), 2.0), axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(candidates.shape[1])[None, :].repeat(rows, axis=0), axis=1)
    return candidates & (rank < k[:, None]), n / k


def held_out(run: RunPlan, name: str, data_root: Path) -> tuple[MaskedSet, MaskedSet | None]:
    """The evaluation set of modality `name`: all tokens masked by turns, and (None for sources of one segment) the
    codes of the last segment only, given everything else."""
    modality = run.modalities[name]
    source = Sequences(
        name,
        modality,
        load(modality.data, data_root).split("held_out"),
        run.vocabulary,
        run.sequence_length,
        seed=None,
    )
    rows = run.evaluation.sequences
    tokens, code_index = empty_rows(rows, run.sequence_length, run.vocabulary)
    lengths = np.array([source.write(i, tokens[i], code_index[i]) for i in range(rows)])
    real = np.arange(run.sequence_length) < lengths[:, None]
    rng = np.random.default_rng(EVALUATION_SEED)

    def masked_set(candidates: Candidates) -> MaskedSet:
        masked, weights = mask_uniformly(candidates, rng)
        number = list(run.modalities).index(name)
        return MaskedSet(tokens, code_index, real, masked, weights, candidates.sum(axis=1), number, modality.packed)

    whole = masked_set(real)
    starts = np.array([source.target(i) for i in range(rows)])
    codes = (code_index != NO_CODE) & (np.arange(run.sequence_length) >= starts[:, None])
    return whole, None if modality.packed or len(modality.segments) == 1 else masked_set(codes)


class NelboValidator(BaseValidator):
    """Scores every modality's held-out set; rank 0 hands the rows to `record`."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseValidator.Config):
        """`data_root` is the folder that data names are relative to."""

        run: RunPlan
        data_root: Path
        enable: bool = True

    def __init__(
        self,
        config: Config,
        *,
        parallel_dims: ParallelDims,
        validation_context: Callable[[], AbstractContextManager[None]],
        dp_world_size: int,
        dp_rank: int,
        **_unused: Any,
    ) -> None:
        super().__init__(config)
        run = config.run
        self.run, self.context = run, validation_context
        self.mesh = parallel_dims.get_optional_mesh("loss")
        self.ranks, self.rank = dp_world_size, dp_rank
        self.sets = {name: held_out(run, name, config.data_root) for name in run.modalities}
        names = [part.name for part in run.vocabulary.parts]
        self.part_names = [*names, "special"]
        part_of = np.full(run.vocabulary.size, len(names))
        for i, part in enumerate(run.vocabulary.parts):
            part_of[part.offset : part.offset + part.size] = i
        self.part_of = part_of
        self.segments = Segments(run) if run.head == "modality" else None

    def should_validate(self, step: int) -> bool:
        """At the end, and every `evaluation.every` steps where the plan has it."""
        every = self.run.evaluation.every
        return step == self.run.steps or (every > 0 and step % every == 0)

    def validate(self, model_parts: list[nn.Module], step: int) -> list[Evaluation]:
        """Score all modalities. Every rank gets the same rows; `tokens` is left 0 for the trainer to fill."""
        (model,) = model_parts
        model.eval()
        try:
            return [self._score(model, name, *sets, step=step) for name, sets in self.sets.items()]
        finally:
            model.train()

    def _score(
        self, model: nn.Module, name: str, whole: MaskedSet, codes: MaskedSet | None, *, step: int
    ) -> Evaluation:
        nats = self._nats(model, whole)
        token_count = int(whole.n.sum())
        per_row = nats.sum(axis=1)
        # Ratio estimator: the error of a sum over rows divided by the fixed number of tokens.
        residual = per_row - per_row.sum() / token_count * whole.n
        rows = len(per_row)
        parts = self.part_of[whole.tokens]
        by_part = {}
        for i, part in enumerate(self.part_names):
            here = (parts == i) & whole.real
            if here.any():
                by_part[part] = float(nats[here].sum() / here.sum())
        conditional = None if codes is None else float(self._nats(model, codes).sum() / codes.n.sum())
        return Evaluation(
            step=step,
            tokens=0,
            modality=name,
            nelbo=float(per_row.sum() / token_count),
            standard_error=float(math.sqrt(rows / max(rows - 1, 1) * float((residual**2).sum())) / token_count),
            by_token_modality=by_part,
            conditional=conditional,
            scored_tokens=token_count,
            sequences=rows,
        )

    @torch.no_grad()
    def _nats(self, model: nn.Module, chosen: MaskedSet) -> npt.NDArray[np.float64]:
        """Weighted nats (rows, L) of every masked token, zero elsewhere, from all ranks."""
        device = next(model.parameters()).device
        rows, length = chosen.tokens.shape
        nats = torch.zeros(rows, length, dtype=torch.float32, device=device)
        micro = self.run.batch.micro
        stride = micro * self.ranks
        inputs = np.where(chosen.masked, self.run.vocabulary.specials["mask"], chosen.tokens)
        end, packed = self.run.vocabulary.specials["end"], np.full(rows, chosen.packed)
        for start in range(0, rows, stride):
            # Every rank makes the same number of calls; one past the end repeats the last row and keeps nothing.
            mine = np.arange(start + self.rank * micro, start + (self.rank + 1) * micro)
            keep = mine < rows
            mine = np.minimum(mine, rows - 1)
            scored = np.flatnonzero(chosen.masked[mine] & keep[:, None])
            document = documents(chosen.tokens[mine], chosen.real[mine], packed[mine], end)
            labels = chosen.tokens[mine].reshape(-1)[scored]
            weights = chosen.weights[mine][scored // length].astype(np.float32)
            targets = Targets(torch.from_numpy(labels).to(device), torch.from_numpy(weights).to(device))
            if self.segments is not None:
                parts = self.segments.parts(labels, np.full_like(labels, chosen.modality))
                targets = targets._replace(parts=torch.from_numpy(parts).to(device))
            with self.context():
                pred = model(
                    torch.from_numpy(inputs[mine]).to(device),
                    document=torch.from_numpy(document).to(device),
                    code_index=torch.from_numpy(chosen.code_index[mine]).to(device),
                    scored=torch.from_numpy(scored).to(device),
                    targets=targets,
                )
            places = torch.from_numpy(mine[scored // length] * length + scored % length).to(device)
            nats.view(-1)[places] = scored_nats(pred, targets)
        if self.mesh is not None:
            torch.distributed.all_reduce(nats, group=self.mesh.get_group())
        return nats.double().cpu().numpy()
