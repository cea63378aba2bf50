"""Which of the masked positions are settled next: a small registry of samplers.

A new sampler is a function in `ORDERS`. Dimensions in names: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from compiler.sampling import Sampler

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Counts: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Look:
    """What there is to choose by: `open` (B, L) masked positions; `log_p` and `entropy` (B, L) of the tokens that were
    drawn for them, in nats; `wanted` (B,), how many the schedule settles; `progress` (B,) in [0, 1), the share of steps
    that are done; and `noise` (B, L), uniform numbers in [0, 1)."""

    open: Bools
    log_p: Floats
    entropy: Floats
    wanted: Counts
    progress: Floats
    noise: Floats


Order: TypeAlias = Callable[[Look, Sampler], Bools]
"""Which positions (B, L) are settled: of each sequence one at least, and none that is not open."""


def ancestral(look: Look, _sampler: Sampler) -> Bools:
    """At random, whatever was drawn."""
    return best(look.noise, look.open, look.wanted)


def confidence(look: Look, sampler: Sampler) -> Bools:
    """The tokens of the highest log-probability, with Gumbel noise on it."""
    scale = sampler.gumbel * (1 - look.progress if sampler.annealing == "linear" else np.ones_like(look.progress))
    gumbel = -np.log(-np.log(np.clip(look.noise, 1e-12, 1 - 1e-12)))
    return best(look.log_p + scale[:, None] * gumbel, look.open, look.wanted)


def entropy_bounded(look: Look, sampler: Sampler) -> Bools:
    """As many of the lowest entropies as sum to at most `bound`, the largest of them not counted: a bound on what is
    lost by drawing them independently (arXiv 2505.24857). At least one, and so many that the steps suffice."""
    entropy = np.where(look.open, look.entropy, np.inf)
    order = np.argsort(entropy, axis=1, kind="stable")
    rising = np.take_along_axis(entropy, order, axis=1)
    before = np.cumsum(np.where(np.isfinite(rising), rising, 0.0), axis=1) - rising
    count = ((before <= sampler.bound) & np.isfinite(rising)).sum(axis=1)
    return best(-entropy, look.open, np.maximum(count, look.wanted))


def best(score: Floats, among: Bools, count: Counts) -> Bools:
    """The `count` (B,) highest of each row's scores (B, L) `among` some; the first of equals."""
    order = np.argsort(np.where(among, -score, np.inf), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(score.shape[1])[None, :].repeat(len(score), axis=0), axis=1)
    return np.asarray(among & (rank < count[:, None]))


ORDERS: dict[str, Order] = {
    "ancestral": ancestral,
    "confidence": confidence,
    "entropy-bounded": entropy_bounded,
}
BLIND = frozenset({"ancestral"})
"""Samplers that choose before the network is asked: it then scores no other positions."""
ADAPTIVE = frozenset({"entropy-bounded"})
"""Samplers that choose themselves how many positions a step settles; their `wanted` is what the steps left need."""
