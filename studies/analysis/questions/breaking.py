"""Where the SDE reparameterization breaks: B_crit and S_crit of arXiv 2602.21472."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.statistics import central
from studies.analysis.questions.invariance import LossTable, effects

TOLERANCE = 0.01
"""Of the loss: so much above that of the base batch is a break, or more where seeds differ by more."""
NOISE = 2.0
"""Times the seed noise: the least excess that is a break."""


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """Where the final loss of the mix leaves that of the base batch, at one token count D and one logical batch.

    `base` is the batch nearest to the logical one, `loss` its loss. `excess` (nats, by `batches`, from `base` on) are
    means over seeds, less what each seed does to all batches alike; inf where a run failed. `tolerance` is the larger
    of `TOLERANCE` times `loss` and `NOISE` times the `seed_noise` (None with one seed). `holds` is the last batch
    before the first that exceeds it, `breaks`, None where none does.
    `critical` is B_crit, where the line through the excess over log batch between these two crosses the tolerance
    (`holds` where `breaks` failed), and `steps` is S_crit = D / (L · B_crit), as `transfer.critical` takes it: in
    steps of sequences without padding, of L tokens. Both None where nothing breaks; their `interval`s are the central
    90 % of a bootstrap over residuals (None with one seed), with resamples that do not break at inf and at 0.
    """

    tokens: float
    sequence_length: int
    logical: float
    base: int
    loss: float
    batches: tuple[int, ...]
    excess: tuple[float, ...]
    tolerance: float
    seed_noise: float | None
    holds: int
    breaks: int | None
    critical: float | None
    critical_interval: Interval | None
    steps: float | None
    steps_interval: Interval | None

    def steps_at(self, batch: float) -> float:
        """D / (L · B): steps of sequences without padding."""
        return self.tokens / (self.sequence_length * batch)


def breaking_point(
    table: LossTable, logical: float, tokens: float, sequence_length: int, bootstrap: int = 1000, seed: int = 0
) -> Break | None:
    """The break of one horizon's final losses; None where a run of the base batch failed, or none is larger."""
    base = min(table.batches, key=lambda batch: abs(math.log(batch / logical)))
    origin = table.batches.index(base)
    batches = table.batches[origin:]
    failed: npt.NDArray[np.bool_] = np.any(np.isinf(table.losses), axis=0)
    if failed[origin] or len(batches) < 2:
        return None
    # Batches below the base one tell of the noise too.
    there = effects(np.where(failed, np.nan, table.losses))
    loss = float(np.nanmean(table.losses[:, origin]))
    noise = there.noise
    tolerance = max(TOLERANCE * loss, NOISE * (noise or 0.0))

    def over_base(found: Array) -> Array:
        """Of effects of all batches (K, B), those from the base batch on above its own."""
        return np.where(failed, np.inf, found - found[:, [origin]])[:, origin:]

    [excess] = over_base(there.batches[None])
    [crossing] = _crossings(excess[None], batches, tolerance)
    over = np.nonzero(excess > tolerance)[0]
    place = int(over[0]) if len(over) else len(excess)
    interval = None
    if noise is not None and bootstrap:
        n, freedom = len(there.smooth), there.freedom
        rng = np.random.default_rng(seed)
        scale = np.sqrt(n / rng.chisquare(freedom, size=(bootstrap, 1)))
        drawn = (there.smooth + scale * there.residuals[rng.integers(n, size=(bootstrap, n))]) @ there.solve.T
        interval = central(_crossings(over_base(drawn), batches, tolerance))
    size = tokens / sequence_length
    return Break(
        tokens=tokens,
        sequence_length=sequence_length,
        logical=logical,
        base=base,
        loss=loss,
        batches=batches,
        excess=tuple(excess.tolist()),
        tolerance=tolerance,
        seed_noise=noise,
        holds=batches[place - 1],
        breaks=batches[place] if place < len(excess) else None,
        critical=float(crossing) if math.isfinite(crossing) else None,
        critical_interval=interval,
        steps=size / float(crossing) if math.isfinite(crossing) else None,
        steps_interval=None if interval is None else (size / interval[1], size / interval[0]),
    )


def _crossings(excess: Array, batches: Sequence[int], tolerance: float) -> Array:
    """The batch at which each row of `excess` (K, batches), 0 in its first column, first crosses the tolerance: (K,),
    inf where none does."""
    over = excess > tolerance
    place = np.maximum(over.argmax(axis=1), 1)
    rows = np.arange(len(excess))
    low, high = excess[rows, place - 1], excess[rows, place]
    logs = np.log(batches)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        crossed = np.exp(logs[place - 1] + (tolerance - low) / (high - low) * (logs[place] - logs[place - 1]))
    return np.where(over.any(axis=1), crossed, np.inf)
