"""The loop that fills a canvas, the same for all tasks and samplers.

Dimensions in names: B sequences, L positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compiler.plan import Noise
from compiler.sampling import Sampler
from runtime.sampling.canvas import Canvas
from runtime.sampling.network import Network
from runtime.sampling.order import ADAPTIVE, BLIND, ORDERS, Look, best
from runtime.sampling.steps import remaining
from runtime.training.draws import ORDER, TOKENS, uniform_rows
from runtime.training.stream import Indices

_STEPS = 1 << 20
"""Rows of random numbers that a sample has, one a step."""


class Filled(NamedTuple):
    """`tokens` (B, L) without masks; `calls` (B,), how often the network evaluated each sequence, guided steps twice;
    `log_p` (B,), the sum of the log-probabilities at which tokens were drawn, in nats."""

    tokens: Indices
    calls: Indices
    log_p: npt.NDArray[np.float64]


def fill(network: Network, canvas: Canvas, sampler: Sampler, noise: Noise, seed: int, numbers: Indices) -> Filled:
    """Fill the open positions of a canvas. `numbers` (B,) are the samples' own: with `seed` they decide all that is
    random, whatever else is in the batch. `noise` is the training schedule of the target (`steps.remaining`).

    With a step for each position, temperature 1, no truncation, guidance or remasking, samples follow the model's own
    distribution in that order of positions. Raises KeyError for an unknown sampler.
    """
    order, blind, adaptive = ORDERS[sampler.kind], sampler.kind in BLIND, sampler.kind in ADAPTIVE
    size, length = canvas.tokens.shape
    tokens, open_ = canvas.tokens.copy(), canvas.open.copy()
    log_p = np.zeros((size, length))
    calls = np.zeros(size, dtype=np.int64)
    n = open_.sum(axis=1)
    plans = [remaining(sampler, int(one), noise) for one in n]
    steps = np.array([len(plan) - 1 for plan in plans])
    after = np.zeros((size, int(steps.max(initial=0)) + 1), dtype=np.int64)
    for row, plan in enumerate(plans):
        after[row, : len(plan)] = plan
    for step in range(after.shape[1] - 1):
        masked = open_.sum(axis=1)
        again = np.minimum((sampler.remask * (n - masked)).astype(np.int64), after[:, step + 1])
        left = np.maximum(steps - step, 1)
        wanted = (-(-masked // left) if adaptive else np.maximum(masked - after[:, step + 1], 0)) + again
        wanted = np.minimum(wanted, masked)
        active = np.flatnonzero(wanted)
        if not len(active):
            continue
        part, masks, count = canvas.rows(active), open_[active], wanted[active]
        width = part.tokens.shape[1]
        masks, standing = masks[:, :width], tokens[active, :width]
        rows = numbers[active] * _STEPS + step
        # As many columns whatever the batch: a row's numbers would be others.
        chance, u = (uniform_rows(seed, stream, rows, network.longest)[:, :width] for stream in (ORDER, TOKENS))
        progress = (n - masked)[active] / n[active]
        settled = best(chance, masks, count) if blind else masks
        weight = 1 + (sampler.guidance - 1) * (progress if sampler.ramp == "linear" else np.ones(len(active)))
        weight = np.where(part.condition.any(axis=1), weight, 1.0)
        answer = network.ask(part, standing, settled, sampler, weight, u)
        calls[active] += 1 + (weight != 1)
        drawn = np.zeros(masks.shape, dtype=np.int64)
        confidence, entropy = np.zeros(masks.shape), np.zeros(masks.shape)
        drawn[settled], confidence[settled], entropy[settled] = answer
        if not blind:
            settled = order(Look(masks, confidence, entropy, count, progress, chance), sampler)
        before = part.open & ~masks
        tokens[active, :width] = np.where(settled, drawn, standing)
        log_p[active, :width] = np.where(settled, confidence, log_p[active, :width])
        open_[active, :width] &= ~settled
        if again[active].any():
            surest = u if blind else log_p[active, :width]
            masked_again = best(-surest, before, again[active])
            tokens[active, :width] = np.where(masked_again, network.mask, tokens[active, :width])
            open_[active, :width] |= masked_again
    return Filled(tokens, calls, np.where(canvas.open, log_p, 0.0).sum(axis=1))
