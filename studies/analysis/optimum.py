"""The compute-optimal frontier of a fitted law, at what the study's own shapes cost per token."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from studies.analysis.laws.base import Array
from studies.analysis.laws.chinchilla import Fit
from studies.analysis.laws.chinchilla_law import predict
from studies.analysis.laws.statistics import band

_DRAWS = 200
_SIZES = 320


def flops_per_token(N: npt.ArrayLike, D: npt.ArrayLike, C: npt.ArrayLike, at: npt.ArrayLike) -> Array:
    """FLOPs per token of a model of `at` parameters, by those of runs of N parameters that cost C FLOPs for D tokens.

    What a token costs beyond 6 N (the head, attention) is a power law of N through the runs' sizes, exact where depth
    and sequence length are theirs; where there is nothing beyond 6 N, the whole cost is one. Raises ValueError for
    fewer than two sizes.
    """
    sizes = np.asarray(N, float)
    each, where = np.unique(sizes, return_inverse=True)
    if len(each) < 2:
        raise ValueError("the cost of a token is known at one size only")
    cost = np.bincount(where, np.asarray(C, float) / np.asarray(D, float)) / np.bincount(where)
    counted = 6.0 if np.all(cost > 6.01 * each) else 0.0
    slope, start = np.polyfit(np.log(each), np.log(cost - counted * each), 1)
    asked = np.asarray(at, float)
    total: Array = np.exp(start) * asked**slope + counted * asked
    return total


def frontier(
    fitted: Fit, N: npt.ArrayLike, D: npt.ArrayLike, C: npt.ArrayLike, reach: float = 100.0, steps: int = 40
) -> pl.DataFrame:
    """The least loss of `fitted` at each of `steps` FLOPs, from the least of the runs' C to `reach` times their most.

    Columns: `flops`; `nelbo` with the ends `low`, `high` of its 90 % band; the optimal `N` and `D` with `N_low` …
    `D_high`; `beyond`, whether no run had so many FLOPs. Budgets whose optimum lies more than a factor of 100 outside
    the runs' sizes are left out. Without a bootstrap the bands are null. Raises ValueError for fewer than two sizes.
    """
    n, c = np.asarray(N, float), np.asarray(C, float)
    sizes = np.geomspace(n.min() / 100, n.max() * 100, _SIZES)
    budgets = np.geomspace(c.min(), reach * c.max(), steps)
    tokens = budgets[:, None] / flops_per_token(N, D, C, sizes)[None]
    law = fitted.law.row
    least, optimal, inside = _least(law, sizes, tokens)
    rows = {"flops": budgets, "nelbo": least[0], "N": optimal[0]}
    rows["D"] = budgets / flops_per_token(N, D, C, optimal[0])
    draws = fitted.samples[:: max(1, len(fitted.samples) // _DRAWS)]
    ends = {"nelbo": ("low", "high"), "N": ("N_low", "N_high"), "D": ("D_low", "D_high")}
    if len(draws):
        least, optimal, _ = _least(draws, sizes, tokens)
        drawn = {"nelbo": least, "N": optimal, "D": budgets / flops_per_token(N, D, C, optimal)}
        for name, (low, high) in ends.items():
            rows[low], rows[high] = band(drawn[name])
    else:
        rows |= {end: np.full(steps, np.nan) for pair in ends.values() for end in pair}
    table = pl.DataFrame(rows).with_columns(pl.all().fill_nan(None))
    return table.with_columns(beyond=pl.col("flops") > c.max() * 1.0001).filter(pl.Series(inside[0]))


def _least(laws: Array, sizes: Array, tokens: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """For K laws and each budget the least loss over the sizes, the size that has it, and whether that lies inside:
    shapes (K, budgets). Between sizes, losses are a parabola in log size."""
    losses = predict(laws, np.broadcast_to(sizes, tokens.shape), tokens)
    best = losses.argmin(axis=2)
    middle = best.clip(1, len(sizes) - 2)
    below, at, above = (np.take_along_axis(losses, middle[:, :, None] + k, 2)[:, :, 0] for k in (-1, 0, 1))
    bend = below - 2 * at + above
    off = np.where(bend > 0, (below - above) / (2 * np.where(bend > 0, bend, 1)), 0.0).clip(-1, 1)
    optimal = sizes[middle] * (sizes[1] / sizes[0]) ** off
    return at - (below - above) * off / 4, optimal, best == middle
