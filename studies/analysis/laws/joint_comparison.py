"""Whether the tokens of other modalities matter to a modality's loss: the additive law against the transfer law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws import power_sums
from studies.analysis.laws.base import Array, Interval, UnidentifiedError
from studies.analysis.laws.joint import ADDITIVE, ModalityLaw, Runs
from studies.analysis.laws.power_sum_problem import Problem
from studies.analysis.laws.statistics import LEVEL, interval


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the tokens of other modalities matter to the loss of `modality`.

    `difference` is the additive law's mean absolute held-out error in log loss minus the transfer law's (positive: the
    transfer law predicts better), with the central 90 % of a bootstrap over runs. `p_value` is the share of 199
    data sets drawn from the additive law on which the transfer law lowers the objective by as much as on the data.
    `significant`: `p_value` is below 10 % divided by the number of modalities compared. `preferred` is the law of the
    smaller held-out error, which where nothing is significant is one or the other by chance.
    """

    modality: str
    additive: ModalityLaw
    transfer: ModalityLaw
    difference: float
    difference_interval: Interval
    p_value: float
    significant: bool
    preferred: Literal["additive", "transfer"]
    warnings: tuple[str, ...] = ()


def compare(
    N: npt.ArrayLike,
    tokens: npt.ArrayLike,
    losses: npt.ArrayLike,
    modalities: Sequence[str],
    bootstrap: int = 500,
    seed: int = 0,
    drawn: int = 199,
) -> tuple[Comparison, ...]:
    """The additive against the transfer law for each of `modalities`, on the runs that saw it; arguments as above.

    Raises `UnidentifiedError`, which names the modality, where either cannot be fitted.
    """
    found = []
    for modality in modalities:
        runs = Runs(N, tokens, losses, modalities, modality)
        try:
            found.append(_compare(runs, bootstrap, seed, drawn))
        except UnidentifiedError as error:
            raise UnidentifiedError(f"{modality}: {error}") from error
    return tuple(found)


def _compare(runs: Runs, bootstrap: int, seed: int, drawn: int) -> Comparison:
    additive = Problem(ADDITIVE, runs.columns(runs.seen), runs.loss[runs.seen])
    if additive.dropped and "B" in additive.dropped:
        raise UnidentifiedError("its own tokens do not vary")
    transfer = runs.transfer(runs.seen)
    (one, objective), (other, lower) = additive.solve(), transfer.solve()
    extra = len(other) - len(one)

    def descend(targets: Array) -> Array:
        """How far the transfer law lies below the additive one on each row of log losses."""
        count = len(targets)
        nested, below = additive.minimise(np.repeat(one[None], count, axis=0), additive.draws(count, targets))
        _, reached = transfer.minimise(np.pad(nested, [(0, 0), (0, extra)]), transfer.draws(count, targets))
        gain: Array = below - reached
        return gain

    rng = np.random.default_rng(seed)
    gains = descend(additive.redrawn(one, drawn, rng).target)
    # The transfer law holds the additive one, so it cannot do worse.
    nested = np.pad(one, (0, extra))[None]
    start, reached = transfer.minimise(nested)
    if reached[0] < lower:
        other, lower = start[0], float(reached[0])
    p_value = (1 + int((gains >= objective - lower).sum())) / (drawn + 1)

    fits = ((additive, one, objective), (transfer, other, lower))
    errors = [p.held_out(best, power_sums.FOLDS, np.random.default_rng(seed)) for p, best, _ in fits]
    apart = np.abs(errors[0]) - np.abs(errors[1])
    resampled = apart[rng.integers(len(apart), size=(1000, len(apart)))].mean(axis=1)
    laws = []
    for problem, best, value in fits:
        found = power_sums.resample(problem, best, bootstrap, power_sums.FOLDS, seed)
        laws.append(runs.law(power_sums.describe(problem, best, value, *found), joined=False))
    difference = float(apart.mean())
    return Comparison(
        modality=runs.modality,
        additive=laws[0],
        transfer=laws[1],
        difference=difference,
        difference_interval=interval(resampled),
        p_value=p_value,
        significant=p_value < (1 - LEVEL) / len(runs.modalities),
        preferred="transfer" if difference > 0 else "additive",
    )
