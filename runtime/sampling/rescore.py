"""Which of several candidates is the likeliest together with the condition: a noisy channel (arXiv 1611.02554).

What a model says of a target of the wrong length is of little worth: in training lengths are never wrong. What it says
of the condition given the target, and of the target by itself, tells candidates of all lengths apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.sampling.canvas import Bools, Canvas, Painter
from runtime.sampling.network import Network
from runtime.sampling.prompts import Ask, batches
from runtime.training.stream import Indices


class Channel:
    """Scores candidates by how they explain their conditions, as sequences of the modality that `painter` paints."""

    def __init__(self, network: Network, painter: Painter, condition: int, target: int) -> None:
        self.network, self.painter = network, painter
        self.condition, self.target = condition, target

    def log_p(
        self,
        asks: Sequence[Ask],
        made: Sequence[Indices],
        times: int,
        seed: int,
    ) -> npt.NDArray[np.float64]:
        """For each candidate `made` (ids of the target's own vocabulary) a bound on log p(condition | target) +
        log p(target), in nats (candidates,).

        Each is the mean over `times` masks, of all tokens and of ever fewer, of log p of what is masked, divided by the
        share that is. The masks of conditions are the same for all candidates of a sample.
        """
        asks = [ask._replace(segments=self._filled(ask, tokens)) for ask, tokens in zip(asks, made, strict=True)]
        total = np.zeros(len(asks))
        for batch in batches(asks):
            some = [asks[k] for k in batch]
            truth = self._painted(some, [_nothing(ask) for ask in some], self.target).tokens
            for turn in range(times):
                share = 1 - turn / times
                for segment in (self.condition, self.target):
                    total[batch] += self._score(some, truth, segment, share, [seed, turn]) / share
        return total / times

    def _score(
        self, asks: Sequence[Ask], truth: Indices, scored: int, share: float, seed: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Log p (candidates,) of what is masked of segment `scored`: of the condition given the target, or of the
        target without the condition. `truth` are the tokens without masks."""
        canvas = self._painted(asks, [self._hidden(ask, scored, share, seed) for ask in asks], scored)
        if scored == self.target:
            canvas.hide_condition(self.network.mask)
        return self.network.score(canvas, truth)

    def _painted(self, asks: Sequence[Ask], hidden: Sequence[Sequence[Bools]], target: int) -> Canvas:
        return self.painter.paint([ask.segments for ask in asks], hidden, target)

    def _filled(self, ask: Ask, tokens: Indices) -> list[Indices]:
        return [tokens if number == self.target else part for number, part in enumerate(ask.segments)]

    def _hidden(self, ask: Ask, scored: int, share: float, seed: Sequence[int]) -> list[Bools]:
        size = len(ask.segments[scored])
        order = np.random.default_rng([*seed, ask.sample, scored]).permutation(size)
        masked = order < max(1, round(share * size))
        return [masked if number == scored else none for number, none in enumerate(_nothing(ask))]


def _nothing(ask: Ask) -> list[Bools]:
    return [np.zeros(len(part), dtype=bool) for part in ask.segments]
