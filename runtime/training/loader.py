"""From the stream to noised micro-batches: which tokens are masked, and with which weight, by (seed, step) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import IGNORE_INDEX

from compiler.plan import RunPlan
from runtime.data import load
from runtime.training.draws import DROPS, MASKS, uniform_rows
from runtime.training.segments import Segments
from runtime.training.stream import Indices, Mix, Sequences, documents, empty_rows
from runtime.training.times import Times

GRANULE = 8
"""Micro-batches are padded to multiples of this: 8 numbers of bfloat16 are the 16 bytes that matrix products and added
attention masks are aligned to on accelerators."""


@dataclass(frozen=True)
class GlobalBatch:
    """The sequences of one step in the order of the stream, each (B,): modality, which of that modality's sequences it
    is, the uniform number that its time is drawn by, how many tokens it has; and `dealt`, their places in the order in
    which they are dealt out."""

    modality: Indices
    index: Indices
    u: npt.NDArray[np.float64]
    tokens: Indices
    dealt: Indices


class NoisedLoader(BaseDataLoader):
    """Micro-batches of the training stream, masked.

    A step's sequences are dealt out by length, the longest first: the ranks' micro-batches of one part have
    neighbouring lengths, and all of them are padded to that of the longest. Which sequences a step has, their times and
    their masks depend on none of this.

    Yields `({"input", "document", "code_index", "scored", "weights", "modality", "time", "level"}, labels)`: `input`
    (B, L) with masked tokens replaced; `document` (B, L) who sees whom (`documents`); `labels` (B, L) are the true
    tokens, IGNORE_INDEX where none can be scored, so that torchtitan's count of valid tokens, the loss's divisor, is
    that of all tokens that can be, masked or not; `scored` (S,) the flat places of masked tokens and `weights` (S,)
    their loss weight; `modality` (B,) indexes the plan's modalities, and `time` and `level` (B,) are those of `Drawn`.
    For a head of kind `modality` also `parts` (S,): the vocabulary part of each scored position's segment (`Segments`).

    What cannot be scored is padding and, with probability `drop_condition` for each sequence by itself, its condition:
    every segment but the last is then replaced by mask tokens, brackets too, and counts as padding for the divisor. So
    does the task token, which stays as it is. The loss of such a sequence is that of its last segment with its
    brackets, generated without a condition: what classifier-free guidance needs (arXiv 2207.12598).
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """`data_root` is the folder that data names are relative to."""

        run: RunPlan
        data_root: Path

    def __init__(
        self, config: Config, *, dp_world_size: int, dp_rank: int, local_batch_size: int, **_unused: Any
    ) -> None:
        run = config.run
        self.run = run
        self.ranks, self.rank, self.micro = dp_world_size, dp_rank, local_batch_size
        self.mix = Mix(tuple(run.modalities), run.mix)
        self.sources = [
            Sequences(
                name,
                modality,
                load(modality.data, config.data_root).split("train"),
                run.vocabulary,
                run.sequence_length,
                run.seed,
            )
            for name, modality in run.modalities.items()
        ]
        self.times = Times(run)
        self.packed = np.array([modality.packed for modality in run.modalities.values()])
        self.dropping = np.array([modality.drop_condition for modality in run.modalities.values()])
        self.segments = Segments(run) if run.head == "modality" or self.times.by_part else None
        self.step, self.part = 0, 0
        self._newest: tuple[int, GlobalBatch] | None = None

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Micro-batches from the current position on, without end."""
        while True:
            batch = self.batch(self.step, self.part)
            self.part += 1
            if self.part == self.run.batch.physical // (self.micro * self.ranks):
                self.step, self.part = self.step + 1, 0
            yield batch

    def batch(self, step: int, part: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """This rank's micro-batch `part` of step `step`."""
        whole, size = self._whole(step), self.ranks * self.micro
        together = whole.dealt[part * size : (part + 1) * size]
        # Each rank takes every `ranks`-th, so that all have about as many tokens; within, the order is the stream's.
        mine = np.sort(together[self.rank :: self.ranks])
        rows = step * self.run.batch.physical + mine
        longest = int(whole.tokens[together].max())
        return self.noised(whole.modality[mine], whole.index[mine], whole.u[mine], self.run.seed, rows, longest)

    def _whole(self, step: int) -> GlobalBatch:
        if self._newest is None or self._newest[0] != step:
            physical = self.run.batch.physical
            modality, index = self.mix.window(step * physical, (step + 1) * physical)
            tokens = self.tokens(modality, index)
            u = self.times.levels(step, modality)
            # The longest first: an allocator then finds room for the others, and what is too long fails at once.
            self._newest = step, GlobalBatch(modality, index, u, tokens, np.argsort(-tokens, kind="stable"))
        return self._newest[1]

    def tokens(self, modality: Indices, index: Indices) -> Indices:
        """How many tokens the sequences `index` (B,) of modalities `modality` (B,) have."""
        tokens = np.empty_like(index)
        for m, source in enumerate(self.sources):
            own = modality == m
            tokens[own] = source.lengths(index[own])
        return tokens

    def noised(
        self,
        modality: Indices,
        index: Indices,
        u: npt.NDArray[np.float64],
        seed: int,
        rows: Indices,
        longest: int | None = None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Sequences `index` (B,) of modalities `modality` (B,), masked at times drawn by uniform numbers `u` (B,) in
        (0, 1], by these `rows` (B,) of `seed`'s random numbers, and padded as if `longest` were the length of the
        longest; without it, to what the longest needs."""
        run = self.run
        longest = int(self.tokens(modality, index).max()) if longest is None else longest
        length = min(-(-longest // GRANULE) * GRANULE, run.sequence_length)
        tokens, code_index = empty_rows(len(rows), length, run.vocabulary)
        lengths = np.array(
            [
                self.sources[m].write(int(i), tokens[row], code_index[row])
                for row, (m, i) in enumerate(zip(modality, index, strict=True))
            ]
        )
        real = np.arange(length) < lengths[:, None]
        document = documents(tokens, real, self.packed[modality], run.vocabulary.specials["end"])
        scorable = real.copy()
        for row in self._dropped(seed, rows, modality):
            target = self.sources[modality[row]].target(int(index[row]))
            tokens[row, 1:target] = run.vocabulary.specials["mask"]
            scorable[row, :target] = False
        times = self.times.draw(modality, u)
        drawn = uniform_rows(seed, MASKS, rows, run.sequence_length)[:, :length]
        share, weights = times.share, times.weight
        if self.segments is not None and self.times.by_part:
            part = self.segments.parts(tokens, modality[:, None])
            share, weights = (np.take_along_axis(of_part, part, axis=1) for of_part in (share, weights))
        masked = (drawn < share) & scorable

        labels = np.where(scorable, tokens, IGNORE_INDEX)
        scored = np.flatnonzero(masked)
        tokens[masked] = run.vocabulary.specials["mask"]
        batch = {
            "input": torch.from_numpy(tokens),
            "document": torch.from_numpy(document),
            "code_index": torch.from_numpy(code_index),
            "scored": torch.from_numpy(scored),
            "weights": torch.from_numpy(np.broadcast_to(weights, masked.shape)[masked].astype(np.float32)),
            "modality": torch.from_numpy(modality),
            "time": torch.from_numpy(times.time),
            "level": torch.from_numpy(times.level),
        }
        if self.segments is not None and run.head == "modality":
            parts = self.segments.parts(labels.flat[scored], modality[scored // length])
            batch["parts"] = torch.from_numpy(parts)
        return batch, torch.from_numpy(labels)

    def _dropped(self, seed: int, rows: Indices, modality: Indices) -> Indices:
        """Which sequences of these modalities lose their condition, by these rows of random numbers."""
        if not self.dropping.any():
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(uniform_rows(seed, DROPS, rows, 1)[:, 0] < self.dropping[modality])

    def state_dict(self) -> dict[str, Any]:
        """The step that the next batch belongs to, and what was learned of times; checkpoints are taken between
        steps."""
        return {"step": self.step, **self.times.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a saved step."""
        self.step, self.part = state_dict["step"], 0
        self.times.load_state_dict(state_dict)
