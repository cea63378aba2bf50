"""The quadratic surface through the losses of one N and D, in log learning rate and log batch, and its lowest point."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.statistics import interval

NEAR = 5
"""A surface goes through so many settings about that of the lowest loss in each swept variable: on a grid, two steps on
either side. Farther away losses rise as no parabola does."""
SURE = 0.9
"""Share of resamples that must bend up for an optimum to be trusted."""


class Optimum(msgspec.Struct, frozen=True, kw_only=True):
    """The best learning rate (and batch, None where it is not swept) of the runs of one N and D.

    `loss` is the surface's lowest, `residual` the standard deviation of a run about it, `bends` the share of resamples
    in which it has a lowest point. `left_out` says why the laws do not use it; empty where they do. Without a lowest
    point `lr` is NaN.
    """

    N: float
    D: float
    lr: float
    batch: float | None
    lr_interval: Interval
    batch_interval: Interval | None
    loss: float
    residual: float
    bends: float
    runs: int
    left_out: str


class Surface(NamedTuple):
    """One group: its optimum, log (lr*, B*) (2,), and those of the resamples (K, 2), NaN where there is none."""

    optimum: Optimum
    place: Array
    resampled: Array
    log_batch: float


def surface_of(logs: Array, losses: Array, bootstrap: int, rng: np.random.Generator) -> Surface:
    """The quadratic through the losses of one group near the lowest; columns of `logs` are N, D, lr and batch."""
    N, D = np.exp(logs[:, :2].mean(axis=0)).tolist()
    swept = len(np.unique(logs[:, 3])) > 2
    if not swept:
        # Of one or two batches only that of the lowest loss shows how the loss depends on lr.
        one = logs[:, 3] == logs[np.argmin(losses), 3]
        logs, losses = logs[one], losses[one]
    x = logs[:, 2:] if swept else logs[:, 2:3]
    count = 6 if swept else 3
    near = _window(x, losses)
    center = x[near].mean(axis=0)
    powers = _powers(x[near] - center)
    none = np.full(x.shape[1], np.nan)
    curve, resampled, residual, left_out = np.full(count, np.nan), np.empty((0, x.shape[1])), math.nan, ""
    if len(powers) <= count or np.linalg.matrix_rank(powers) < count:
        place, left_out = none, f"{len(powers)} runs near the lowest do not give a curve of {count} parameters"
    else:
        solve = np.linalg.pinv(powers)
        curve = solve @ losses[near]
        smooth = powers @ curve
        wide = (losses[near] - smooth) * math.sqrt(len(powers) / (len(powers) - count))
        residual = float(np.sqrt(np.mean(wide**2)))
        curves = (smooth + rng.choice(wide, size=(bootstrap, len(powers)))) @ solve.T
        place, resampled = _lowest(curve[None])[0] + center, _lowest(curves) + center
        left_out = _edge(x, losses, near, place)
    sure: npt.NDArray[np.bool_] = np.asarray(np.isfinite(resampled).all(axis=1))
    intervals = [exponential(interval(resampled[sure, k])) for k in range(x.shape[1])]
    bends = float(sure.mean()) if len(sure) else float(np.isfinite(place).all())
    if not left_out and bends < SURE:
        left_out = f"only {100 * bends:.0f} % of resamples bend up"
    at = _powers((place - center)[None])[0] if np.isfinite(place).all() else np.full(count, np.nan)
    optimum = Optimum(
        N=N,
        D=D,
        lr=exponential((place[0], place[0]))[0],
        batch=exponential((place[1], place[1]))[0] if swept else None,
        lr_interval=intervals[0],
        batch_interval=intervals[1] if swept else None,
        loss=float(at @ curve),
        residual=residual,
        bends=bends,
        runs=len(losses),
        left_out=left_out,
    )
    return Surface(optimum, place, resampled, float(logs[:, 3].mean()))


def _window(x: Array, losses: Array) -> npt.NDArray[np.bool_]:
    """Runs at the settings nearest to that of the lowest loss, distances in shares of each variable's range."""
    apart = (np.abs(x - x[np.argmin(losses)]) / np.maximum(np.ptp(x, axis=0), 1e-9)).max(axis=1)
    _, settings = np.unique(np.round(x, 6), axis=0, return_index=True)
    reach = np.sort(apart[settings])[: NEAR ** x.shape[1]].max()
    near: npt.NDArray[np.bool_] = apart <= reach + 1e-6
    return near


def _powers(x: Array) -> Array:
    """Columns of a quadratic in x (n, 1 or 2): 1, x, x² or 1, x, y, x², x y, y²."""
    first = [np.ones(len(x)), *x.T]
    second = [x[:, j] * x[:, k] for j in range(x.shape[1]) for k in range(j, x.shape[1])]
    return np.stack(first + second, axis=1)


def _lowest(curves: Array) -> Array:
    """Where quadratics (K, 3 or 6) are lowest: (K, 1 or 2), NaN where they do not bend up."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if curves.shape[1] == 3:
            _, b, c = curves.T
            return np.where(c > 0, -b / (2 * c), np.nan)[:, None]
        _, b, c, xx, xy, yy = curves.T
        determinant = 4 * xx * yy - xy**2
        place = np.stack([xy * c - 2 * yy * b, xy * b - 2 * xx * c], axis=1) / determinant[:, None]
        return np.where(((determinant > 0) & (xx > 0))[:, None], place, np.nan)


def _edge(x: Array, losses: Array, near: npt.NDArray[np.bool_], place: Array) -> str:
    """Why an optimum is not one inside its grid; empty where it is."""
    if not np.isfinite(place).all():
        return "the loss does not bend up"
    best = x[np.argmin(losses)]
    for k, what in enumerate(("lr", "batch")[: x.shape[1]]):
        if best[k] in (x[:, k].min(), x[:, k].max()):
            return f"the lowest loss is at the edge of the grid in {what}"
        if not x[near, k].min() <= place[k] <= x[near, k].max():
            return f"the surface is lowest outside of its runs in {what}"
    return ""


def exponential(pair: Interval) -> Interval:
    """exp of both ends, kept within all numbers."""
    low, high = np.exp(np.clip(pair, -300, 300)).tolist()
    return low, high
