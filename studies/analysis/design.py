"""Which runs would most narrow a Chinchilla law where it is needed: optimal design. Arrays in, `Design` out.

The law is taken as linear in θ = (log E, log A, log B, α, β) about its estimate: a run at (N, D) with noise σ in log
loss adds J Jᵀ / σ² to the information on θ, J = ∂ log L / ∂θ. A design is good where it makes the variances of log L at
the target and of log N of the optimum there small, in relation to what they are without it (a c-optimal design for
each, and their mean here, of which the theory of V. V. Fedorov, Theory of Optimal Experiments, holds all the same).
The runs are chosen one by one, by gain per FLOP to some power, and then exchanged while that helps.

Whether linear is good enough is looked at in another way: given samples of the law, such as a bootstrap's, what the
same runs would leave of the spread of the target among the samples, by the covariances of the losses alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array
from studies.analysis.laws.chinchilla_law import Law, predict

PRIOR = 10.0
"""Standard deviation that each parameter of θ has before any run (N and D centred): none to speak of, but finite."""
_POWERS = (0.0, 0.25, 0.5, 1.0)
"""Greedy starts: the gain is divided by these powers of the FLOPs."""
_SWEEPS = 30
_SHRINKS = 20
SEEDS = 3
"""Most runs of one point: the law's form must not rest on one place alone."""


class Target(NamedTuple):
    """Where the law is needed: the optimum `N`, `D` of a budget, and the slope d log C / d log N at fixed D there (1
    where a token costs as much as it has parameters)."""

    N: float
    D: float
    slope: float


class Candidates(NamedTuple):
    """Runs that could be made: parameters, tokens and training FLOPs, (m,) each."""

    N: Array
    D: Array
    flops: Array


class Narrowed(msgspec.Struct, frozen=True, kw_only=True):
    """What some runs would do: `loss` and `optimum` are the standard deviations of log L at the target and of log N of
    the optimum with them, over those without, by the linear law; `loss_sampled` and `optimum_sampled` by the samples
    (None without any). `runs` and `flops` are what it takes."""

    loss: float
    optimum: float
    loss_sampled: float | None
    optimum_sampled: float | None
    runs: int
    flops: float


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """The best runs within `budget` FLOPs. `chosen` are their places among the candidates, once for each run (one place
    twice is two seeds; at most `SEEDS`); `grid` those of an even grid of as many runs at most that spends most of the
    budget, for comparison.

    `sigma` is the noise of a run in log loss; `loss_deviation` and `optimum_deviation` the linear standard deviations
    of log L at the target and of log N of the optimum, before.
    """

    budget: float
    sigma: float
    loss_deviation: float
    optimum_deviation: float
    chosen: tuple[int, ...]
    narrowed: Narrowed
    grid: tuple[int, ...]
    grid_narrowed: Narrowed


class NoDesignError(ValueError):
    """No candidate fits the budget; the message says so."""


def jacobian(law: Law, N: npt.ArrayLike, D: npt.ArrayLike, origin: tuple[float, float] = (0.0, 0.0)) -> Array:
    """∂ log L / ∂(log E, a, b, α, β) at runs `N`, `D` (n,): (n, 5), where the terms are exp(a - α (log N - origin[0]))
    and exp(b - β (log D - origin[1]))."""
    x, y = (np.log(np.asarray(v, float)) for v in (N, D))
    first, second = law.A * np.exp(-law.alpha * x), law.B * np.exp(-law.beta * y)
    total = law.E + first + second
    p, q = first / total, second / total
    found: Array = np.stack([law.E / total, p, q, -p * (x - origin[0]), -q * (y - origin[1])], axis=-1)
    return found


def optimum_gradient(law: Law, target: Target, origin: tuple[float, float] = (0.0, 0.0)) -> Array:
    """∂ log N* / ∂θ (5,) where N* has the least loss at the target's compute, θ as for `jacobian`.

    With x = log N and s the slope, N* is where f(x) = -α A e^{-αx} + s β B e^{-βy} = 0, y falling by s with x; so
    d x / dθ = -(∂f / ∂θ) / (∂f / ∂x).
    """
    x, y = math.log(target.N), math.log(target.D)
    alpha, beta, s = law.alpha, law.beta, target.slope
    first, second = law.A * math.exp(-alpha * x), law.B * math.exp(-beta * y)
    bend = alpha**2 * first + (s * beta) ** 2 * second
    if bend <= 0:
        return np.zeros(5)
    by = [
        0.0,
        -alpha * first,
        s * beta * second,
        first * (alpha * (x - origin[0]) - 1),
        s * second * (1 - beta * (y - origin[1])),
    ]
    return -np.array(by) / bend


def design(
    law: Law,
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    sigma: float,
    target: Target,
    candidates: Candidates,
    budget: float,
    runs: int = 12,
    samples: Array | None = None,
    optima: Array | None = None,
) -> Design:
    """At most `runs` of the `candidates`, within `budget` FLOPs, that narrow `law` most at `target`.

    `N`, `D` (n,) are the runs that the law was fitted to, `sigma` the noise in log loss of one; `samples` (K, 5) are
    resamples of the law and `optima` (K,) the N of the best shape at the target's compute in each, for the check.
    Raises NoDesignError where no candidate fits, ValueError where sigma, budget or runs is not positive.
    """
    if not (sigma > 0 and budget > 0 and runs > 0):
        raise ValueError("sigma, budget and runs must be positive")
    if not np.any(candidates.flops <= budget):
        raise NoDesignError(
            f"no run of the family fits {budget:.3g} FLOPs: the cheapest candidate takes {candidates.flops.min():.3g}"
            if len(candidates.flops)
            else "no run of the family lies within the measured range and the budget"
        )
    search = _Search(law, np.asarray(N, float), np.asarray(D, float), sigma, target, candidates)
    chosen = search.best(budget, runs)
    grid = search.grid(budget, runs)
    deviations = np.sqrt(search.before)
    spread = None if samples is None or optima is None else _Spread(samples, optima, target, sigma)

    def narrowed(places: Sequence[int]) -> Narrowed:
        loss, optimum = np.sqrt(search.variances(places) / search.before)
        sampled = (None, None) if spread is None else spread.left(candidates, places)
        flops = float(candidates.flops[list(places)].sum())
        return Narrowed(
            loss=float(loss),
            optimum=float(optimum),
            loss_sampled=sampled[0],
            optimum_sampled=sampled[1],
            runs=len(places),
            flops=flops,
        )

    return Design(
        budget=budget,
        sigma=sigma,
        loss_deviation=float(deviations[0]),
        optimum_deviation=float(deviations[1]),
        chosen=tuple(chosen),
        narrowed=narrowed(chosen),
        grid=tuple(grid),
        grid_narrowed=narrowed(grid),
    )


class _Search:
    """Choices among candidates, judged by the mean of the two variances at the target over what they are `before`."""

    def __init__(self, law: Law, N: Array, D: Array, sigma: float, target: Target, candidates: Candidates) -> None:
        origin = (float(np.log(N).mean()), float(np.log(D).mean()))
        known = jacobian(law, N, D, origin) / sigma
        self.information = known.T @ known + np.eye(5) / PRIOR**2
        self.rows = jacobian(law, candidates.N, candidates.D, origin) / sigma
        loss = jacobian(law, [target.N], [target.D], origin)[0]
        self.aims = np.stack([loss, optimum_gradient(law, target, origin)])
        self.candidates = candidates
        where = np.unique(candidates.N, return_inverse=True)[1].ravel()
        self._own = [np.flatnonzero(where == place) for place in range(where.max() + 1)]
        inverse = np.linalg.inv(self.information)
        self.before: Array = np.maximum(np.einsum("ai,ij,aj->a", self.aims, inverse, self.aims), 1e-300)

    def variances(self, places: Iterable[int]) -> Array:
        """Variances of log L and log N* with the runs at `places`, (2,)."""
        rows = self.rows[list(places)]
        inverse = np.linalg.inv(self.information + rows.T @ rows)
        found: Array = np.einsum("ai,ij,aj->a", self.aims, inverse, self.aims)
        return found

    def value(self, places: Iterable[int]) -> float:
        return float(np.mean(self.variances(places) / self.before))

    def with_each(self, places: Sequence[int]) -> Array:
        """The value with each candidate in addition, (m,): of a rank-one change."""
        rows = self.rows[list(places)]
        inverse = np.linalg.inv(self.information + rows.T @ rows)
        seen = self.rows @ inverse
        gain = (seen @ self.aims.T) ** 2 / (1 + np.einsum("mi,mi->m", seen, self.rows))[:, None]
        now = np.einsum("ai,ij,aj->a", self.aims, inverse, self.aims)
        found: Array = np.mean((now - gain) / self.before, axis=1)
        return found

    def best(self, budget: float, runs: int) -> list[int]:
        found = [self._exchanged(self._greedy(budget, runs, power), budget, runs) for power in _POWERS]
        return sorted(min(found, key=self.value))

    def _greedy(self, budget: float, runs: int, power: float) -> list[int]:
        places: list[int] = []
        left = budget
        while len(places) < runs:
            fits = (self.candidates.flops <= left) & self._free(places)
            if not fits.any():
                break
            gain = (self.value(places) - self.with_each(places)) / self.candidates.flops**power
            places.append(int(np.argmax(np.where(fits, gain, -np.inf))))
            left -= self.candidates.flops[places[-1]]
        return places

    def _free(self, places: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Which candidates (m,) may have another seed."""
        free: npt.NDArray[np.bool_] = np.bincount(np.array(places, np.intp), minlength=len(self.rows)) < SEEDS
        return free

    def _exchanged(self, places: list[int], budget: float, runs: int) -> list[int]:
        """`places`, each in turn exchanged for the candidate that is best in its stead, and filled up."""
        value = self.value(places)
        for _ in range(_SWEEPS):
            before = value
            for k in range(min(runs, len(places) + 1)):
                rest = places[:k] + places[k + 1 :]
                left = budget - self.candidates.flops[rest].sum()
                values = np.where((self.candidates.flops <= left) & self._free(rest), self.with_each(rest), np.inf)
                place = int(np.argmin(values))
                if values[place] < value:
                    places, value = [*rest, place], float(values[place])
            if before - value <= 1e-9 * before:
                break
        return places

    def grid(self, budget: float, runs: int) -> list[int]:
        """The even grid of sizes × tokens, of at most `runs` runs, that spends most of `budget`; its seeds where there
        is room for several."""
        sizes = np.unique(self.candidates.N)
        sides = [(m, runs // m) for m in range(1, runs + 1)]
        m, n = min(sides, key=lambda side: (abs(side[0] - side[1]), -side[0] * side[1]))
        best: list[int] = [int(np.argmin(self.candidates.flops))]
        for up in np.linspace(1, 0, _SHRINKS):
            for on in np.linspace(1, 0, _SHRINKS):
                places = self._spanned(sizes, m, n, float(up), float(on))
                cost = self.candidates.flops[places].sum()
                places *= max(1, min(int(budget // cost), runs // len(places)))
                cost = self.candidates.flops[places].sum()
                if self.candidates.flops[best].sum() < cost <= budget:
                    best = places
        return best

    def _spanned(self, sizes: Array, m: int, n: int, up: float, on: float) -> list[int]:
        """The candidates nearest to an even grid over the lower share `up` of log sizes, and `on` of log tokens of
        each."""
        logs = np.log(sizes)
        wanted = np.linspace(logs[0], logs[0] + up * (logs[-1] - logs[0]), m)
        places = []
        for place in sorted({int(np.abs(logs - one).argmin()) for one in wanted}):
            own = self._own[place]
            tokens = np.log(self.candidates.D[own])
            low, high = tokens.min(), tokens.max()
            aims = np.linspace(low, low + on * (high - low), n)
            places += sorted({int(own[np.abs(tokens - one).argmin()]) for one in aims})
        return places


class _Spread:
    """The target among samples of the law, and what is left of its spread once some runs are known: if all were
    Gaussian, the conditional variance."""

    def __init__(self, samples: Array, optima: Array, target: Target, sigma: float) -> None:
        self.samples, self.sigma = samples, sigma
        aims = np.stack([np.log(predict(samples, target.N, target.D)), np.log(optima)], axis=1)
        self.aims = aims - aims.mean(axis=0)

    def left(self, candidates: Candidates, places: Sequence[int]) -> tuple[float | None, float | None]:
        """Standard deviations of log L and log N* with the runs at `places`, over those without."""
        at = list(places)
        losses = np.log(predict(self.samples, candidates.N[at], candidates.D[at]))
        losses -= losses.mean(axis=0)
        count = len(self.samples)
        own = losses.T @ losses / count + self.sigma**2 * np.eye(len(at))
        cross = losses.T @ self.aims / count
        before = np.mean(self.aims**2, axis=0)
        after = before - np.einsum("ma,ma->a", cross, np.linalg.solve(own, cross))
        shares = [float(np.sqrt(max(a, 0.0) / b)) if b > 0 else None for a, b in zip(after, before, strict=True)]
        return shares[0], shares[1]
