"""Seconds of one fit of the Chinchilla law and of its bootstrap, beside scipy's L-BFGS from the usual grid of starts.

Run by hand: `python -m tests.benchmarks.chinchilla`, with `--runs` for another number of runs than 245, or with a CSV
of somebody else's (`--csv FILE`, columns params, tokens and loss). L-BFGS gets the objective with its gradient and the
4,500 starts of Hoffmann et al. (arXiv 2203.15556, appendix D.3): of those `--starts` are timed, evenly drawn from the
grid, and the time scaled to all. Set OMP_NUM_THREADS=1: threads make L-BFGS many times slower. The objective compared
is the lowest of the starts that ran.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from studies.analysis.laws.base import Array
from studies.analysis.laws.chinchilla import fit
from studies.analysis.laws.chinchilla_law import Law
from studies.analysis.laws.descent import DELTA
from studies.analysis.tables import read_runs

STARTS = tuple(
    itertools.product(
        np.arange(-1, 1.5, 0.5),
        np.arange(0, 30, 5),
        np.arange(0, 30, 5),
        np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5),
    )
)
"""(log E, log A, log B, α, β)."""


def runs(count: int) -> tuple[Array, Array, Array]:
    """Scattered runs of a known law with 0.75 % noise."""
    rng = np.random.default_rng(0)
    N, D = (np.exp(rng.uniform(np.log(low), np.log(high), count)) for low, high in ((5e7, 1.6e10), (1e9, 3e11)))
    return N, D, Law(E=1.8, A=480, B=2100, alpha=0.35, beta=0.37)(N, D) * np.exp(rng.normal(0, 0.0075, count))


def lbfgs(N: Array, D: Array, loss: Array, start: tuple[float, ...]) -> float:
    """The objective that L-BFGS ends at."""
    x, y, target = np.log(N), np.log(D), np.log(loss)

    def objective(theta: Array) -> tuple[float, Array]:
        e, a, b, alpha, beta = theta
        terms = np.stack([np.full_like(x, e), a - alpha * x, b - beta * y])
        total = np.logaddexp.reduce(terms)
        residual = total - target
        near = np.minimum(np.abs(residual), DELTA)
        pull = np.clip(residual, -DELTA, DELTA)
        o, p, q = np.exp(terms - total) * pull
        gradient = np.array([o.sum(), p.sum(), q.sum(), -(p @ x), -(q @ y)])
        return float(np.sum(near * (np.abs(residual) - near / 2))), gradient

    with np.errstate(all="ignore"):
        return float(minimize(objective, np.array(start), jac=True, method="L-BFGS-B").fun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=245)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--starts", type=int, default=450, help="of 4,500 that L-BFGS is timed from")
    parser.add_argument("--bootstrap", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    data = runs(asked.runs)
    if asked.csv is not None:
        data = tuple(read_runs(asked.csv)[name].to_numpy() for name in ("N", "D", "loss"))

    times = []
    for _ in range(asked.repeats):
        begun = time.perf_counter()
        found = fit(*data, bootstrap=0)
        times.append(time.perf_counter() - begun)
    one = float(np.median(times))
    begun = time.perf_counter()
    fit(*data, bootstrap=asked.bootstrap)
    booted = time.perf_counter() - begun

    drawn = np.random.default_rng(0).choice(len(STARTS), min(asked.starts, len(STARTS)), replace=False)
    begun = time.perf_counter()
    lowest = min(lbfgs(*data, STARTS[k]) for k in drawn)
    theirs = (time.perf_counter() - begun) * len(STARTS) / len(drawn)

    print(f"{len(data[0])} runs; median of {asked.repeats} fits, one bootstrap, {len(drawn)} starts of L-BFGS")
    print(f"one fit                {one:8.3f} s   objective {found.objective:.9e}")
    print(f"L-BFGS, {len(STARTS)} starts   {theirs:8.1f} s   objective {lowest:.9e} (scaled from {len(drawn)} starts)")
    print(f"ratio                  {theirs / one:8.0f} ×   objective {found.objective / lowest - 1:+.1e}")
    print(f"{asked.bootstrap} refits            {booted:8.2f} s   {1e3 * booted / asked.bootstrap:.2f} ms a refit")


if __name__ == "__main__":
    main()
