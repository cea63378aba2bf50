"""From a trained run and a task to decoded samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compiler.sampled import INFILL, tasks_of
from compiler.sampling import Sampler, Score
from runtime.data import decode, load
from runtime.judges import Sample, judge
from runtime.judges.lookup import lookup
from runtime.sampling.canvas import Painter, place
from runtime.sampling.fill import Filled, fill
from runtime.sampling.network import Network
from runtime.sampling.prompts import CONDITION_MASKED, LOOKUP, Ask, Prompter, Task, batches
from runtime.sampling.rescore import Channel
from runtime.sampling.trained import Trained
from runtime.training.stream import Indices
from specs.errors import RuleError
from specs.sampling import JOINED, TO
from specs.suggest import suggestion


@dataclass(frozen=True)
class Made:
    """`samples` in the order of the prompts; `calls`, how often the network evaluated a sequence for one sample, in the
    mean; `tokens` that were generated, and the `seconds` that took."""

    samples: list[Sample]
    calls: float
    tokens: int
    seconds: float


class Studio:
    """A trained run, ready for a task. Raises RuleError for a task that it cannot do, DataError where its data are not
    to be had."""

    def __init__(self, trained: Trained, task: str, modality: str | None = None) -> None:
        self.trained, self.run = trained, trained.run
        self.task = find_task(trained, task, modality)
        self.source = load(self.run.modalities[self.task.modality].data, trained.data_root)
        self.prompter = Prompter(self.run, self.task, self.source)
        self.painter = Painter(self.run, self.task.modality, self.source.manifest)
        self.network = Network(trained.model)
        self.fill = fill
        self.channel = self._channel()

    def asks(
        self, n: int, sampler: Sampler, *, seed: int = 0, prompts: Sequence[str] = (), control: str | None = None
    ) -> list[Ask]:
        """What is to be filled for `n` samples. Raises RuleError or DataError for prompts that do not fit."""
        return self.prompter.asks(n, prompts, seed, sampler.lengths, sampler.draws, control)

    def make(
        self,
        asks: list[Ask],
        sampler: Sampler,
        *,
        seed: int = 0,
        control: str | None = None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> Made:
        """Draw the samples that are asked for. `advance` is told how many more of `asks` have been filled."""
        if control == LOOKUP:
            looked_up = lookup([ask.asked for ask in _first(asks)], self.source, seed)
            return Made(looked_up, 0.0, 0, 0.0)
        started = time.perf_counter()
        made = [np.empty(0, np.int64)] * len(asks)
        lengths = np.array([ask.log_p for ask in asks])
        likelihood = lengths.copy()
        calls = 0
        for batch in batches(asks):
            filled = self._filled([asks[k] for k in batch], batch, sampler, seed, control)
            calls += int(filled.calls.sum())
            for row, k in enumerate(batch):
                made[k] = self._target(asks[k], filled.tokens[row])
            likelihood[batch] += filled.log_p
            advance(len(batch))
        several = len({ask.sample for ask in asks}) < len(asks)
        # Where the condition is hidden from the network, nothing may tell of it.
        if sampler.rescore and several and self.channel is not None and control != CONDITION_MASKED:
            likelihood = lengths + self.channel.log_p(asks, made, sampler.rescore, seed)
            calls += 2 * sampler.rescore * len(asks)
        seconds = time.perf_counter() - started
        kept = _likeliest(asks, likelihood)
        tokens = sum(int(part.sum()) for ask in asks for part in ask.hidden)
        samples = [self._sample(asks[k], made[k]) for k in kept]
        return Made(samples, calls / len(kept), tokens, seconds)

    def judge(self, samples: Sequence[Sample]) -> tuple[Score, ...]:
        """What the target's judges say of samples, the score that decides first. Raises DataError as `judges.judge`."""
        target = self.prompter.vocabularies[self.task.target].name
        return judge(target, self.task.condition is not None, samples, self.source)

    def _channel(self) -> Channel | None:
        """What scores candidates, by the modality that has learned the condition given the target."""
        task = self.task
        if task.condition is None:
            return None
        segments = self.run.modalities[task.modality].segments
        modality, _, _ = tasks_of(self.run)[f"{segments[task.target]}{TO}{segments[task.condition]}"]
        painter = Painter(self.run, modality, self.source.manifest)
        return Channel(self.network, painter, task.condition, task.target)

    def _filled(self, asks: list[Ask], which: list[int], sampler: Sampler, seed: int, control: str | None) -> Filled:
        canvas = self.painter.paint([ask.segments for ask in asks], [ask.hidden for ask in asks], self.task.target)
        if control == CONDITION_MASKED:
            canvas.hide_condition(self.network.mask)
            canvas.condition[:] = False  # there is none to guide by
        noise = self.run.modalities[self.task.modality].noise
        own = noise.segments.get(self.run.modalities[self.task.modality].segments[self.task.target], noise)
        return self.fill(self.network, canvas, sampler, own, seed, np.array(which, dtype=np.int64))

    def _target(self, ask: Ask, tokens: Indices) -> Indices:
        """The target's tokens, ids of its own vocabulary."""
        first = min(first for first, _ in self.painter.ranges[self.task.target])
        return tokens[place([len(part) for part in ask.segments], self.task.target)] - first

    def _sample(self, ask: Ask, tokens: Indices) -> Sample:
        return Sample(ask.asked, decode(self.prompter.vocabularies[self.task.target], tokens), tokens)


def _first(asks: list[Ask]) -> list[Ask]:
    """The first candidate of each sample."""
    return list({ask.sample: ask for ask in reversed(asks)}.values())[::-1]


def _likeliest(asks: list[Ask], log_p: npt.NDArray[np.float64]) -> list[int]:
    """The likeliest of each sample's candidates; the first of equals."""
    best: dict[int, int] = {}
    for k, ask in enumerate(asks):
        if ask.sample not in best or log_p[k] > log_p[best[ask.sample]]:
            best[ask.sample] = k
    return [best[sample] for sample in sorted(best)]


def find_task(trained: Trained, name: str, modality: str | None = None) -> Task:
    """What task `name` means for a run; `modality` chooses among several that can do it. Raises RuleError."""
    run = trained.run
    known = tasks_of(run)
    if name == INFILL:
        texts = [one for one, plan in run.modalities.items() if len(plan.segments) == 1]
        chosen = modality or next(iter([*texts, *run.modalities]))
        if chosen not in run.modalities:
            raise RuleError("--modality", f"the run has no '{chosen}'", suggestion(chosen, list(run.modalities)))
        return Task(name, chosen, None, len(run.modalities[chosen].segments) - 1, infill=True)
    if name not in known:
        raise RuleError("--task", f"the run cannot do '{name}'", suggestion(name, list(known)))
    of, condition, target = known[name]
    segments = run.modalities[of].segments
    if JOINED in condition:
        what = f"'{name}' has a condition of several segments, which cannot be given yet"
        raise RuleError("--task", what, f"sample with infill --modality {of}")
    return Task(name, of, segments.index(condition) if condition else None, segments.index(target))
