"""The three-term law, L(N, S, b) = E + A / N^α + B / S^β + C / b^γ, of arXiv 2607.01487.

N in parameters, S in steps, b the batch in tokens, so that a run sees D = S b tokens. Where D is given, larger batches
are fewer: they cost B (b / D)^β and C / b^γ, whose sum is least at

    b*(D) = (γ C / (β B))^(1 / (β + γ)) · D^(β / (β + γ)),

which does not depend on N. There the law is one of N and D alone, with the exponent β γ / (β + γ) in D.

The critical batch follows from the same law. Reaching the loss of D tokens at b*(D) with another batch x b* takes

    x · [(1 - β / (β + γ) · x^-γ) · (β + γ) / γ]^(-1 / β)

times as many tokens: one where x is one, more elsewhere. The batch b > b* at which that is 1 + `overhead` is the
largest that is nearly as efficient; 20 % is the overhead at which arXiv 2410.21676 draws the line.

    >>> N, S, batch = (v.ravel() for v in np.meshgrid([1e6, 1e7, 1e8], [1e3, 4e3, 16e3], [1e4, 4e4, 16e4]))
    >>> law = fit(N, S, batch, 1.8 + 480 / N**0.35 + 20 / S**0.45 + 60 / batch**0.4, bootstrap=0)
    >>> print(f"{law.batch_exponent:.3f} {law.optimal_batch(1e9):.3g}")
    0.529 1.84e+05
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from studies.analysis.laws import power_sums
from studies.analysis.laws.base import Array, Interval, UnidentifiedError
from studies.analysis.laws.power_sum_form import PowerSum, Term
from studies.analysis.laws.power_sums import Fitted
from studies.analysis.laws.statistics import interval

FORM = PowerSum(
    terms=(Term("A", (("N", "alpha"),)), Term("B", (("S", "beta"),)), Term("C", (("batch", "gamma"),))),
)
OVERHEAD = 0.2
_LARGEST_LOG = 300.0


class ThreeTerm(Fitted, frozen=True, kw_only=True):
    """A fitted three-term law: `Fitted`, with `intervals` also for `batch_exponent`."""

    def predict(self, N: npt.ArrayLike, S: npt.ArrayLike, batch: npt.ArrayLike) -> Array:
        """Loss in nats per token at `N` parameters, `S` steps of `batch` tokens (one shape, or they broadcast)."""
        columns, shape = _columns(N, S, batch)
        return self.losses(columns).reshape(shape)

    def band(self, N: npt.ArrayLike, S: npt.ArrayLike, batch: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of the law's loss."""
        columns, shape = _columns(N, S, batch)
        low, high = self.spread(columns)
        return low.reshape(shape), high.reshape(shape)

    @property
    def batch_exponent(self) -> float:
        """β / (β + γ): the best batch grows as tokens to this power.

        Raises UnidentifiedError where the law holds no term in steps or none in the batch.
        """
        self._require_both()
        return self.parameters["beta"] / (self.parameters["beta"] + self.parameters["gamma"])

    def optimal_batch(self, D: float) -> float:
        """The batch, in tokens, of least loss among runs of `D` tokens."""
        return _exponential(self._log_optimum(self._point(), D)[0])

    def optimal_batch_interval(self, D: float) -> Interval:
        """The 90 % interval of `optimal_batch`."""
        low, high = interval(self._log_optimum(self.samples, D))
        return _exponential(low), _exponential(high)

    def critical_batch(self, D: float, overhead: float = OVERHEAD) -> float:
        """The batch that needs (1 + `overhead`) `D` tokens for the loss that `D` tokens give at the optimal batch."""
        return self.optimal_batch(D) * _largest(self.parameters["beta"], self.parameters["gamma"], overhead)

    def critical_batch_interval(self, D: float, overhead: float = OVERHEAD) -> Interval:
        """The 90 % interval of `critical_batch`."""
        logs = self._log_optimum(self.samples, D)
        beta, gamma = (self.samples[:, self.form.names.index(name)] for name in ("beta", "gamma"))
        factors = [_largest(b, c, overhead) for b, c in zip(beta.tolist(), gamma.tolist(), strict=True)]
        low, high = interval(logs + np.log(factors))
        return _exponential(low), _exponential(high)

    def regret(self, D: float, batch: npt.ArrayLike) -> Array:
        """How much higher the loss of `D` tokens is at `batch` than at the optimal batch, in nats per token."""
        best = self.optimal_batch(D)
        sizes = np.asarray(batch, float)
        found: Array = self._cost(D, sizes) - self._cost(D, np.asarray(best))
        return found

    def _cost(self, D: float, batch: Array) -> Array:
        p = self.parameters
        cost: Array = p["B"] * (batch / D) ** p["beta"] + p["C"] * batch ** -p["gamma"]
        return cost

    def _point(self) -> Array:
        return np.array([[self.parameters[name] for name in self.form.names]])

    def _log_optimum(self, rows: Array, D: float) -> Array:
        """log b*(D) of each row of parameters."""
        self._require_both()
        B, C, beta, gamma = (rows[:, self.form.names.index(name)] for name in ("B", "C", "beta", "gamma"))
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = (np.log(gamma * C / (beta * B)) + beta * math.log(D)) / (beta + gamma)
        return found

    def _require_both(self) -> None:
        for coefficient, what in (("B", "steps"), ("C", "batch")):
            if coefficient in self.dropped:
                raise UnidentifiedError(f"the runs have one {what} only: they do not show the best batch")


def fit(
    N: npt.ArrayLike, S: npt.ArrayLike, batch: npt.ArrayLike, loss: npt.ArrayLike, bootstrap: int = 500, seed: int = 0
) -> ThreeTerm:
    """Fit the law to runs of `N` parameters, `S` steps, `batch` tokens a step, and final `loss`: arrays (n,).

    A variable that does not vary leaves its term in E, which the warnings say. Raises `UnidentifiedError` and
    ValueError as `power_sums.fit` does.
    """
    columns = {"N": np.asarray(N, float), "S": np.asarray(S, float), "batch": np.asarray(batch, float)}
    fitted = ThreeTerm(**msgspec.structs.asdict(power_sums.fit(FORM, columns, loss, bootstrap=bootstrap, seed=seed)))
    if not {"B", "C"} & set(fitted.dropped) and len(fitted.samples):
        beta, gamma = (fitted.samples[:, fitted.form.names.index(name)] for name in ("beta", "gamma"))
        exponent = interval(beta / (beta + gamma))
        fitted = msgspec.structs.replace(fitted, intervals={**fitted.intervals, "batch_exponent": exponent})
    return fitted


def _exponential(log: float) -> float:
    # An exponent at its bound puts the optimum beyond all bounds, which is infinite and no error.
    with np.errstate(over="ignore"):
        return float(np.exp(log))


def _largest(beta: float, gamma: float, overhead: float) -> float:
    """b / b* at which tokens for the same loss are 1 + `overhead` times those at b*."""
    if beta <= 0 or gamma <= 0:
        return float("nan")

    def excess(log_x: float) -> float:
        left = math.log1p(-beta / (beta + gamma) * math.exp(-gamma * log_x)) + math.log((beta + gamma) / gamma)
        return log_x - left / beta - math.log1p(overhead)

    # Above b* the steps saved are bounded, so log x grows past any overhead.
    root = brentq(excess, 0.0, math.log1p(overhead) + math.log((beta + gamma) / gamma) / beta + 1.0)
    # Where the loss hardly depends on either, no batch is too large.
    return math.exp(root) if root < _LARGEST_LOG else math.inf


def _columns(N: npt.ArrayLike, S: npt.ArrayLike, batch: npt.ArrayLike) -> tuple[dict[str, Array], tuple[int, ...]]:
    arrays = np.broadcast_arrays(*[np.asarray(v, float) for v in (N, S, batch)])
    return dict(zip(("N", "S", "batch"), (v.ravel() for v in arrays), strict=True)), arrays[0].shape
