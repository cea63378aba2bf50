"""Sums of power laws, L = E + Σ_k c_k Π_j x_j^(-e_kj), fitted as in approach 3 of Hoffmann et al. (arXiv 2203.15556).

The fit minimises the sum over runs of Huber(log L̂ - log L) with δ = 1e-3. A variable x_j may be a column of the data
or derived from columns by a function with parameters of its own, such as the effective tokens of repeated data. Starts
are a grid over exponents and such parameters, with the coefficients of each by non-negative least squares; from the
best of them damped Gauss-Newton steps go down, all as one batch, with exact derivatives by complex steps.

Intervals come from a residual bootstrap: residuals of the fit, without the p smallest for its p parameters, are drawn
with replacement and added to the fitted log losses, and the law is fitted anew. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.descent import LARGEST_EXPONENT
from studies.analysis.laws.power_sum_form import Columns, PowerSum, named
from studies.analysis.laws.power_sum_problem import Problem
from studies.analysis.laws.statistics import band, interval

FOLDS = 10


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted sum of power laws.

    `objective` is the sum of Huber losses, `residual` the root mean square of log-loss residuals, `r2` the share of the
    variance of log loss that the law explains, `held_out` the root mean square error in log loss of runs that took no
    part in the fit (in up to 10 folds; NaN without). `intervals` are the central 90 % of the bootstrap, `samples`
    (K, p) the parameters in each resample, in the order of `form.names`. `dropped` names terms merged into the constant
    because their variable does not vary; `warnings` says that and where the data are too weak.
    """

    form: PowerSum
    parameters: dict[str, float]
    objective: float
    residual: float
    r2: float
    held_out: float
    n: int
    intervals: dict[str, Interval]
    samples: Array
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]

    def losses(self, columns: Columns) -> Array:
        """The law's loss at columns of one shape (n,)."""
        point = np.array([[self.parameters[name] for name in self.form.names]])
        found: Array = self.form.losses(named(self.form, point), columns)[0]
        return found

    def spread(self, columns: Columns) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of the law's loss (without a run's own noise).

        Raises ValueError where the fit had no bootstrap.
        """
        if not len(self.samples):
            raise ValueError("the fit has no bootstrap, and so no band")
        return band(self.form.losses(named(self.form, self.samples), columns))

    def summary(self) -> dict[str, Any]:
        """The fit as plain values, ready for JSON."""
        return {
            **self.parameters,
            "objective": self.objective,
            "n": self.n,
            "residual": self.residual,
            "r2": self.r2,
            "held_out": self.held_out,
            "bootstrap": len(self.samples),
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "warnings": list(self.warnings),
        }


def fit(
    form: PowerSum,
    columns: Columns,
    loss: npt.ArrayLike,
    *,
    offset: npt.ArrayLike = 0.0,
    bootstrap: int = 500,
    seed: int = 0,
    folds: int = FOLDS,
) -> Fitted:
    """Fit `form` to runs with `columns` of shape (n,) each and final `loss` (n,).

    A term whose variables do not vary is merged into the constant and named in `dropped`. `bootstrap` refits give the
    intervals, `folds` refits the held-out error (0: neither). Raises `UnidentifiedError` where runs are fewer than
    parameters and one, or a variable takes two values only; ValueError where a number is not positive and finite.
    """
    problem = Problem(form, columns, loss, offset)
    best, objective = problem.solve()
    return describe(problem, best, objective, *resample(problem, best, bootstrap, folds, seed))


def resample(problem: Problem, best: Array, bootstrap: int, folds: int, seed: int) -> tuple[Array, float]:
    """The bootstrap's parameters (K, p) and the held-out error of the fit `best`."""
    rng = np.random.default_rng(seed)
    samples = np.empty((0, len(best)))
    if bootstrap:
        refits, _ = problem.minimise(np.repeat(best[None], bootstrap, axis=0), problem.redrawn(best, bootstrap, rng))
        samples = problem.natural(refits)
    errors = problem.held_out(best, folds, rng)
    return samples, float(np.sqrt(np.mean(errors**2))) if len(errors) else float("nan")


def describe(problem: Problem, best: Array, objective: float, samples: Array, held_out: float) -> Fitted:
    """The struct of a fit."""
    residuals = problem.residuals(best[None])[0]
    parameters = dict(zip(problem.form.names, problem.natural(best[None])[0].tolist(), strict=True))
    spread = problem.target - problem.target.mean()
    intervals = {name: interval(samples[:, k]) for k, name in enumerate(problem.form.names)} if len(samples) else {}
    return Fitted(
        form=problem.form,
        parameters=parameters,
        objective=objective,
        residual=float(np.sqrt(np.mean(residuals**2))),
        r2=float(1 - residuals @ residuals / (spread @ spread)) if spread.any() else float("nan"),
        held_out=held_out,
        n=problem.n,
        intervals=intervals,
        samples=samples,
        dropped=problem.dropped,
        warnings=(*problem.warnings, *_warnings(problem, parameters, intervals)),
    )


def _warnings(problem: Problem, parameters: dict[str, float], intervals: dict[str, Interval]) -> Sequence[str]:
    """What the data leave open. An exponent is open where its interval touches a bound or is wider than itself."""
    form, said = problem.form, []
    for name in form.exponents:
        value = parameters[name]
        low, high = intervals.get(name, (value, value))
        variables = " and ".join(v for term in form.terms for v, exponent in term.powers if exponent == name)
        if value < 1e-3 or value > 0.99 * LARGEST_EXPONENT:
            said.append(f"{name} = {value:.2g} lies at its bound: the runs do not show how loss falls with {variables}")
        elif high - low > value or low < 1e-3:
            said.append(f"{name} is hardly determined ({low:.2g} to {high:.2g}): more spread in {variables} would help")
    for parameter in form.parameters:
        value = parameters[parameter.name]
        low, high = intervals.get(parameter.name, (value, value))
        # Within a thousandth of a bound, of its size where the logarithm is fitted.
        reached = [
            end
            for end in (parameter.low, parameter.high)
            for margin in (1e-3 * (end if parameter.logarithmic else parameter.high - parameter.low),)
            if low <= end + margin and high >= end - margin
        ]
        if reached:
            said.append(f"{parameter.name} ({low:.2g} to {high:.2g}) reaches its bound, {reached[0]:.3g}")
        elif parameter.logarithmic and high - low > value:
            said.append(f"{parameter.name} is hardly determined ({low:.2g} to {high:.2g})")
    low, _ = intervals.get(form.constant, (parameters[form.constant],) * 2)
    least = problem.unit * float(np.exp(problem.target.min()))
    if not form.signed and min(parameters[form.constant], low) < 1e-3 * least:
        said.append(f"{form.constant} cannot be told from zero: no run comes near the irreducible loss")
    return said
