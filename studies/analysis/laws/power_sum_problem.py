"""The search for the sum of power laws of least Huber loss, from many starts and for many resamples at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from studies.analysis.laws.base import Array, UnidentifiedError
from studies.analysis.laws.descent import DELTA, LARGEST_EXPONENT, LOG_SMALLEST, huber, minima
from studies.analysis.laws.power_sum_form import Columns, Numbers, PowerSum, Term
from studies.analysis.laws.resampling import without_smallest

_EXPONENTS = {1: (0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0), 2: (0.05, 0.15, 0.35, 0.7, 1.5), 3: (0.1, 0.3, 0.6, 1.2)}
_KEPT = 24
"""Starts from which to go down: the best of the grid."""
_TOGETHER = 0.999
"""Correlation of logarithms above which two variables are one."""
_SAME = 0.02
"""Range of a variable's logarithm up to which it does not vary: runs end a little before or after their tokens."""
_EXACT, _RESAMPLED = 1e-11, 1e-7
"""Share of the objective below which a step's gain ends a descent: of the fit, and of the many refits."""
_SMALL = 1e-30
_BATCH = 30_000
"""Resamples times runs worked on at once, to fit the processor's cache."""


class Draws(NamedTuple):
    """What K fits are made to: log losses, weights and offsets of the runs, each of shape (K, n)."""

    target: Array
    weights: Array
    offset: Array

    def take(self, chosen: npt.NDArray[np.intp]) -> Draws:
        """Rows `chosen`."""
        return Draws(self.target[chosen], self.weights[chosen], self.offset[chosen])


class Problem:
    """Runs to which a law is fitted, over θ = (constant, centred coefficients, exponents, derived parameters).

    Coefficients (and a constant that is not negative) are held as logarithms, a coefficient's at its variables' mean
    logarithm: so it and its exponents are not nearly collinear. Losses are in units of their geometric mean.
    """

    def __init__(self, form: PowerSum, columns: Columns, loss: npt.ArrayLike, offset: npt.ArrayLike = 0.0) -> None:
        given = np.asarray(loss, float).ravel()
        self.columns = {name: np.asarray(column, float).ravel() for name, column in columns.items()}
        if {len(column) for column in self.columns.values()} != {len(given)}:
            raise ValueError(f"{', '.join(columns)} and loss must be of one length")
        if not np.all(np.isfinite(given) & (given > 0)):
            raise ValueError("losses must be positive and finite")
        self.n = len(given)
        if not self.n:
            raise UnidentifiedError("there are no runs")
        self.form, self.dropped, self.warnings = _reduced(form, self.columns)
        self.names = names = self.form.names
        if self.n <= len(names):
            raise UnidentifiedError(
                f"the law has {len(names)} parameters ({', '.join(names)}): it needs more runs than that, and there are"
                f" {self.n}"
            )
        self.unit = float(np.exp(np.log(given).mean()))
        self.offset = np.broadcast_to(np.asarray(offset, float), self.n)
        self.target = np.log(given / self.unit)
        first, count = len(self.form.coefficients), len(self.form.exponents)
        self.to_coefficient, self.to_exponent = slice(1, 1 + first), slice(1 + first, 1 + first + count)
        self.to_rest = slice(1 + first + count, None)
        self.logarithmic = np.array([p.logarithmic for p in self.form.parameters], bool)
        self.mean_logs = self._mean_logs()
        top = float(self.target.max())
        bounds = [(p.low, p.high) for p in self.form.parameters]
        rest = np.array(bounds, float).reshape(-1, 2)
        rest[self.logarithmic] = np.log(rest[self.logarithmic])
        spread = LARGEST_EXPONENT * self._widest()
        reach = 20 * float(np.exp(top))
        constant = (-reach, reach) if form.signed else (top + LOG_SMALLEST, top + 1)
        least, most = top + LOG_SMALLEST - spread, top + 3 + spread
        self.low = np.array([constant[0], *[least] * first, *[0.0] * count, *rest[:, 0]])
        self.high = np.array([constant[1], *[most] * first, *[LARGEST_EXPONENT] * count, *rest[:, 1]])

    def _mean_logs(self) -> Array:
        """Mean log of a term's variable (terms, exponents), 0 where the term does not have the exponent."""
        variables = self.form.variables(_first(self.form), self.columns)
        found = np.zeros((len(self.form.terms), len(self.form.exponents)))
        for k, term in enumerate(self.form.terms):
            for name, exponent in term.powers:
                found[k, self.form.exponents.index(exponent)] += np.log(variables[name]).mean()
        return found

    def _widest(self) -> float:
        variables = self.form.variables(_first(self.form), self.columns)
        return max((float(np.ptp(np.log(variables[name]))) for t in self.form.terms for name, _ in t.powers), default=0)

    def natural(self, theta: Array) -> Array:
        """θ (K, p) as the law's parameters, in the order of `form.names`."""
        return np.concatenate([np.broadcast_to(v, (len(theta), 1)) for v in self._values(theta, self.unit).values()], 1)

    def _values(self, theta: Numbers, unit: float = 1.0) -> dict[str, Numbers]:
        exponents = theta[:, self.to_exponent]
        logs = theta[:, self.to_coefficient] + exponents @ self.mean_logs.T
        rest = theta[:, self.to_rest].copy()
        rest[:, self.logarithmic] = np.exp(rest[:, self.logarithmic])
        constant = theta[:, :1] if self.form.signed else np.exp(theta[:, :1])
        whole = np.concatenate([constant * unit, np.exp(logs) * unit, exponents, rest], axis=1)
        return {name: whole[:, k, None] for k, name in enumerate(self.names)}

    def draws(
        self,
        count: int,
        target: npt.ArrayLike | None = None,
        weights: npt.ArrayLike = 1.0,
        offset: npt.ArrayLike | None = None,
    ) -> Draws:
        """The runs `count` times, each with its own `target` (log loss over `unit`), `weights` or `offset` if given."""
        given = (self.target if target is None else target, weights, self.offset if offset is None else offset)
        return Draws(*(np.broadcast_to(np.asarray(one, float), (count, self.n)) for one in given))

    def residuals(self, theta: Array, draws: Draws | None = None) -> Array:
        """log L̂ - log L for θ (K, p): (K, n); infinite where the law's loss is not positive."""
        draws = self.draws(len(theta)) if draws is None else draws
        total = self.form.losses(self._values(theta), self.columns, draws.offset / self.unit)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(total > 0, np.log(total), np.inf)
        found: Array = logs - draws.target
        return found

    def _jacobian(self, theta: Array, draws: Draws) -> Array:
        """∂ log L̂ / ∂θ for θ (K, p): (K, p, n), exact, by complex steps."""
        count, p = theta.shape
        moved = (theta[:, None] + 1j * _SMALL * np.eye(p)).reshape(-1, p)
        total = self.form.losses(self._values(moved), self.columns, np.repeat(draws.offset / self.unit, p, axis=0))
        found: Array = (total.imag / total.real).reshape(count, p, self.n) / _SMALL
        return found

    def solve(self) -> tuple[Array, float]:
        """The best θ (p,) from all starts, and its objective."""
        found, objectives = self.minimise(self.starts(), precision=_EXACT)
        return found[np.argmin(objectives)], float(objectives.min())

    def starts(self) -> Array:
        """The best θ of the grid over exponents and derived parameters."""
        count = len(self.form.exponents)
        grid = _EXPONENTS.get(count, _EXPONENTS[3])
        rests = list(itertools.product(*[p.starts for p in self.form.parameters]))
        points = [(*e, *r) for e in itertools.product(*[grid] * count) for r in rests]
        thetas = np.array([self._start(np.array(point, float)) for point in points])
        objectives = huber(self.residuals(thetas)).sum(axis=1)
        return thetas[np.argsort(objectives, kind="stable")[:_KEPT]]

    def _start(self, point: Array) -> Array:
        """θ for exponents and derived parameters: the coefficients by non-negative least squares on relative errors."""
        count, first = len(self.form.exponents), len(self.form.coefficients)
        rest = point[count:].copy()
        rest[self.logarithmic] = np.log(rest[self.logarithmic])
        theta = np.concatenate([np.zeros(1 + first), point[:count], rest])
        values = self._values(theta[None])
        variables = self.form.variables(values, self.columns)
        weights = np.exp(-self.target)
        columns = [np.ones(self.n)]
        for term in self.form.terms:
            power = sum(values[exponent] * np.log(variables[name]) for name, exponent in term.powers)
            columns.append((values[term.coefficient] * np.exp(-power)).real.reshape(-1) * np.ones(self.n))
        if self.form.signed:
            columns.append(-np.ones(self.n))
        solved, _ = nnls(np.stack(columns, axis=1) * weights[:, None], 1 - self.offset / self.unit * weights)
        # A coefficient at zero has no gradient in its logarithm: it starts at a hundredth, free to vanish again.
        coefficients = np.maximum(solved[: 1 + first], 0.01)
        theta[: 1 + first] = np.log(coefficients)
        if self.form.signed:
            theta[0] = solved[0] - solved[-1]
        clipped: Array = np.clip(theta, self.low, self.high)
        return clipped

    def redrawn(self, best: Array, count: int, rng: np.random.Generator, offset: npt.ArrayLike | None = None) -> Draws:
        """The fit's log losses with residuals drawn anew, `count` times, from its own without the p smallest."""
        residuals = self.residuals(best[None])[0]
        others = without_smallest(residuals, len(best))
        fitted = self.target + residuals
        return self.draws(count, fitted - rng.choice(others, size=(count, self.n)), offset=offset)

    def held_out(self, best: Array, folds: int, rng: np.random.Generator) -> Array:
        """Errors log L̂ - log L (n,) of each run by a fit without its fold; empty without folds."""
        folds = min(folds, self.n)
        if folds < 2:
            return np.empty(0)
        fold = rng.permutation(self.n) % folds
        weights = (fold[None] != np.arange(folds)[:, None]).astype(float)
        refits, _ = self.minimise(np.repeat(best[None], folds, axis=0), self.draws(folds, weights=weights))
        errors: Array = self.residuals(refits)[fold, np.arange(self.n)]
        return errors

    def minimise(self, theta: Array, draws: Draws | None = None, precision: float = _RESAMPLED) -> tuple[Array, Array]:
        """Minima (K, p) from starts `theta` (K, p), and their objectives (K,), for the runs or `draws` of them.

        A descent ends where a step gains less than `precision` of the objective.
        """
        draws = self.draws(len(theta)) if draws is None else draws
        chunk = max(4, _BATCH // self.n)
        return minima(self, theta, draws, chunk=chunk, precision=precision, gain=1e3 * precision)

    def objective(self, theta: Array, draws: Draws) -> Array:
        """Sums of Huber's losses for θ (K, p): (K,)."""
        value: Array = (draws.weights * huber(self.residuals(theta, draws))).sum(axis=1)
        return value

    def derivatives(self, theta: Array, draws: Draws) -> tuple[Array, Array, Array]:
        """Gradient, Gauss and Newton's Hessian, in which a run counts while its residual is within δ, and scale."""
        w = draws.weights
        residuals, J = self.residuals(theta, draws), self._jacobian(theta, draws)
        gradient = np.einsum("kpn,kn->kp", J, w * np.clip(residuals, -DELTA, DELTA))
        inside = J * (w * (np.abs(residuals) <= DELTA))[:, None]
        hessian = inside @ J.transpose(0, 2, 1)
        soft = w * np.minimum(1.0, DELTA / np.maximum(np.abs(residuals), 1e-300))
        scale = np.einsum("kpn,kn->kp", J**2, soft)
        return gradient, hessian, np.maximum(scale, 1e-9 * scale.max(axis=1, keepdims=True) + 1e-300)

    def steps(self, gradient: Array, hessian: Array, scale: Array) -> Callable[[Array], Array]:
        """Levenberg's and Marquardt's steps by damping."""
        diagonal = np.arange(gradient.shape[1])

        def step(damping: Array) -> Array:
            damped = hessian.copy()
            damped[:, diagonal, diagonal] += scale * (damping[:, None] + 1e-12)
            return np.asarray(np.linalg.solve(damped, gradient[..., None])[..., 0], float)

        return step


def _first(form: PowerSum) -> dict[str, Numbers]:
    """Values at which derived variables are judged and centred: their parameters' first starts, all else one."""
    starts = {parameter.name: parameter.starts[0] for parameter in form.parameters}
    return {name: np.full((1, 1), starts.get(name, 1.0)) for name in form.names}


def _reduced(form: PowerSum, columns: Columns) -> tuple[PowerSum, tuple[str, ...], tuple[str, ...]]:
    """The law without terms whose variables do not vary, the names of their coefficients, and what to say of it."""
    variables = form.variables(_first(form), columns)
    runs = len(next(iter(columns.values())))
    levels: dict[str, int] = {}
    for name in dict.fromkeys(name for term in form.terms for name, _ in term.powers):
        values_of = np.broadcast_to(variables[name], (1, runs))[0]
        if not np.all(np.isfinite(values_of) & (values_of > 0)):
            raise ValueError(f"{name} must be positive and finite")
        logs = np.log(values_of)
        levels[name] = len(np.unique(np.round(logs, 6))) if np.ptp(logs) > _SAME else 1
        if levels[name] == 2:
            raise UnidentifiedError(f"the law needs at least 3 different values of {name}, and there are 2")
    kept, dropped, said = [], [], []
    for term in form.terms:
        powers = tuple((name, exponent) for name, exponent in term.powers if levels[name] > 1)
        if powers:
            kept.append(Term(term.coefficient, powers))
            continue
        dropped.append(term.coefficient)
        names = " and ".join(name for name, _ in term.powers)
        said.append(f"{names} does not vary: its term ({term.coefficient}) is part of {form.constant}")
    alone = [term.powers[0][0] for term in kept if len(term.powers) == 1]
    for one, other in itertools.combinations(dict.fromkeys(alone), 2):
        both = [np.log(np.broadcast_to(variables[name], (1, runs))[0]) for name in (one, other)]
        if np.corrcoef(both)[0, 1] > _TOGETHER:
            said.append(f"{one} and {other} vary together: their terms cannot be told apart")
    used = {name for term in kept for name, _ in term.powers}
    derived = tuple(one for one in form.derived if one.name in used)
    return msgspec.structs.replace(form, terms=tuple(kept), derived=derived), tuple(dropped), tuple(said)
