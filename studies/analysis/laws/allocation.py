"""The compute-optimal allocation that follows from a Chinchilla law, in closed form."""

from __future__ import annotations

import msgspec
import numpy as np

from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.chinchilla_law import Law
from studies.analysis.laws.statistics import interval

_TINY = 1e-12
"""An exponent or coefficient as good as zero, which still has a logarithm."""


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """The compute-optimal shape of a law, in closed form (Hoffmann et al., equation 4): where C = k N D,

        N = G (C/k)^a,  D = (C/k)^b / G,  a = β/(α + β),  b = α/(α + β),  G = (αA / βB)^(1/(α + β)),

    with k the `flops_per_token` of one parameter. `intervals` holds the central 90 % of the bootstrap of "a", "b" and
    "G" (empty without one), `law` and `samples` (K, 5) the law and its resamples.
    """

    a: float
    b: float
    G: float
    flops_per_token: float
    intervals: dict[str, Interval]
    law: Law
    samples: Array

    def at(self, flops: float) -> Optimum:
        """The optimum of a budget of so many FLOPs. Raises ValueError where it is not positive and finite."""
        if not 0 < flops < np.inf:
            raise ValueError("a budget must be positive and finite")
        own = self.law.row
        N, D, loss = (float(values[0]) for values in _optima(own, flops / self.flops_per_token))
        intervals = {}
        if len(self.samples):
            drawn = zip(("N", "D", "loss"), _optima(self.samples, flops / self.flops_per_token), strict=True)
            intervals = {name: interval(values) for name, values in drawn}
        return Optimum(flops=flops, N=N, D=D, loss=loss, intervals=intervals)


class Optimum(msgspec.Struct, frozen=True, kw_only=True):
    """The best use of `flops`: `N` parameters and `D` tokens, the law's `loss` there, and the central 90 % of the
    bootstrap of "N", "D" and "loss" (empty without one)."""

    flops: float
    N: float
    D: float
    loss: float
    intervals: dict[str, Interval]


def allocate(law: Law, samples: Array, flops_per_token: float) -> Allocation:
    """The allocation of `law` with resamples `samples` (K, 5), where a run costs `flops_per_token` · N · D FLOPs.

    Raises ValueError where that is not positive and finite.
    """
    if not 0 < flops_per_token < np.inf:
        raise ValueError("flops_per_token must be positive and finite")
    own = law.row
    share, log_G = _split(own)
    a, G = float(share[0]), float(_finite_exp(log_G)[0])
    intervals = {}
    if len(samples):
        shares, logs = _split(samples)
        intervals = {"a": interval(shares), "b": interval(1 - shares), "G": interval(_finite_exp(logs))}
    return Allocation(
        a=a,
        b=1 - a,
        G=G,
        flops_per_token=flops_per_token,
        intervals=intervals,
        law=law,
        samples=samples,
    )


def _split(parameters: Array) -> tuple[Array, Array]:
    """a and log G of K laws. Where an exponent is 0 its term costs nothing to leave small: a is then 0 or 1."""
    A, B, alpha, beta = np.maximum(parameters[:, 1:], _TINY).T
    log_ratio = np.log(alpha) + np.log(A) - np.log(beta) - np.log(B)
    return beta / (alpha + beta), log_ratio / (alpha + beta)


def _finite_exp(logs: Array) -> Array:
    """exp, of a law that hardly depends on N or D, whose optimum lies beyond all numbers, the last of them."""
    found: Array = np.exp(np.clip(logs, -700, 700))
    return found


def _optima(parameters: Array, product: float) -> tuple[Array, Array, Array]:
    """N, D and loss of K laws, each (K,), where N D = `product`."""
    share, log_G = _split(parameters)
    log_N = log_G + share * np.log(product)
    N, D = _finite_exp(log_N), _finite_exp(np.log(product) - log_N)
    E, A, B, alpha, beta = parameters.T
    return N, D, E + A * N**-alpha + B * D**-beta
