"""Damped descents to the least of sums of Huber's losses, from many starts or for many resamples at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, TypeVar

import numpy as np

from studies.analysis.laws.base import Array, Rows

DELTA = 1e-3
"""Where Huber's loss turns from quadratic to linear, in nats of log loss."""
LARGEST_EXPONENT = 10.0
"""Exponents stay in [0, 10]: beyond it a term is a step that only the smallest runs feel."""
LOG_SMALLEST = -40.0
"""Log of the smallest value of a term, relative to the largest loss: as good as zero, and still finite."""
STEPS = 60
"""Steps after which a descent is begun anew."""
_DAMPINGS = (0.05, 3.0)
_RESTARTS = 20


class Runs(Protocol):
    """What K fits are made to."""

    def take(self, rows: Rows, /) -> Self:
        """Those of `rows`."""
        ...


R = TypeVar("R", bound=Runs)
R_contra = TypeVar("R_contra", bound=Runs, contravariant=True)


class Descended(Protocol[R_contra]):
    """A problem over θ (p,) within `low` and `high`, both (p,); its methods take K θ at once."""

    low: Array
    high: Array

    def objective(self, theta: Array, runs: R_contra, /) -> Array:
        """What is to be made least, (K,)."""
        ...

    def derivatives(self, theta: Array, runs: R_contra, /) -> tuple[Array, Array, Array]:
        """Gradient (K, p), Hessian (K, p, p), and a positive size of each parameter's curvature (K, p)."""
        ...

    def steps(self, gradient: Array, hessian: Array, scale: Array, /) -> Callable[[Array], Array]:
        """The steps (K, p) that are to be taken off θ, by damping (K,)."""
        ...


def descend(problem: Descended[R], theta: Array, runs: R, iterations: int, precision: float) -> tuple[Array, Array]:
    """Where `theta` (K, p) leads in so many damped steps, and the objectives (K,) there; downhill always.

    A descent ends where a step gains less than `precision` of the objective.
    """
    theta = theta.copy()
    value = problem.objective(theta, runs)
    damping, chosen = np.full(len(theta), 1.0), np.ones(len(theta))
    active = np.arange(len(theta))
    for _ in range(iterations):
        here, now = theta[active], runs.take(active)
        gradient, hessian, scale = problem.derivatives(here, now)
        # A parameter at its bound that would leave it stays.
        stuck = ((here <= problem.low) & (gradient > 0)) | ((here >= problem.high) & (gradient < 0))
        gradient[stuck] = 0.0
        hessian[stuck[:, :, None] | stuck[:, None, :]] = 0.0
        steps = problem.steps(gradient, hessian, scale)
        # One step's derivatives serve several dampings; the next step's are around the best of them.
        best = value[active]
        for factor in _DAMPINGS:
            step = steps(factor * damping[active])
            there = np.clip(here - np.clip(step, -2.0, 2.0), problem.low, problem.high)
            new = problem.objective(there, now)
            better = new < best
            best[better], theta[active[better]] = new[better], there[better]
            chosen[active[better]] = factor
        gain = value[active] - best
        value[active] = best
        damping[active] = np.maximum(damping[active] * np.where(gain > 0, chosen[active], 30.0), 1e-12)
        done = np.where(gain > 0, gain <= precision * best, damping[active] > 1e4)
        active = active[~done]
        if not len(active):
            break
    return theta, value


def minima(
    problem: Descended[R], theta: Array, runs: R, *, chunk: int, precision: float, gain: float
) -> tuple[Array, Array]:
    """Minima (K, p) from starts `theta` (K, p), and their objectives (K,), worked through `chunk` at a time.

    A descent is begun anew where it stopped until that gains less than `gain` of the objective: with a small δ the
    objective is nearly kinked, and at the bottom of a kink the damping grows until steps vanish, though along the kink
    it goes on down.
    """
    theta, value = theta.copy(), np.full(len(theta), np.inf)
    for k in range(0, len(theta), chunk):
        active = np.arange(k, min(k + chunk, len(theta)))
        for _ in range(_RESTARTS):
            theta[active], lower = descend(problem, theta[active], runs.take(active), STEPS, precision)
            gained = lower < value[active] * (1 - gain)
            value[active] = lower
            active = active[gained]
            if not len(active):
                break
    return theta, value


def huber(residuals: Array) -> Array:
    """Huber's loss of each residual, δ = `DELTA`."""
    # It is r²/2 within δ and δ |r| - δ²/2 beyond: with m = min(|r|, δ) both are m (|r| - m/2).
    distance = np.abs(residuals)
    near = np.minimum(distance, DELTA)
    value: Array = near * (distance - near / 2)
    return value
