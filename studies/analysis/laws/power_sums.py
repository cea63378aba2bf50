"""Sums of power laws, L = E + Σ_k c_k Π_j x_j^(-e_kj), fitted as in approach 3 of Hoffmann et al. (arXiv 2203.15556).

The fit minimises the sum over runs of Huber(log L̂ - log L) with δ = 1e-3. A variable x_j may be a column of the data
or derived from columns by a function with parameters of its own, such as the effective tokens of repeated data. Starts
are a grid over exponents and such parameters, with the coefficients of each by non-negative least squares; from the
best of them damped Gauss-Newton steps go down, all as one batch, with exact derivatives by complex steps.

Intervals come from a residual bootstrap: residuals of the fit, without the p smallest for its p parameters, are drawn
with replacement and added to the fitted log losses, and the law is fitted anew. Nothing here reads files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from studies.analysis.laws.chinchilla import DELTA, LEVEL, Array, UnidentifiedError

Numbers = npt.NDArray[Any]
"""Real, or complex while derivatives are taken."""
Values = Mapping[str, Numbers]
Columns = Mapping[str, Array]
Interval = tuple[float, float]

LARGEST_EXPONENT = 10.0
"""Exponents stay in [0, 10]: beyond it a term is a step that only the smallest runs feel."""
FOLDS = 10

_EXPONENTS = {1: (0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0), 2: (0.05, 0.15, 0.35, 0.7, 1.5), 3: (0.1, 0.3, 0.6, 1.2)}
_KEPT = 24
"""Starts from which to go down: the best of the grid."""
_DAMPINGS = (0.05, 3.0)
_TOGETHER = 0.999
"""Correlation of logarithms above which two variables are one."""
_SAME = 0.02
"""Range of a variable's logarithm up to which it does not vary: runs end a little before or after their tokens."""
_STEPS = 60
_EXACT, _RESAMPLED = 1e-11, 1e-7
"""Share of the objective below which a step's gain ends a descent: of the fit, and of the many refits."""
_SMALL = 1e-30
_LOG_SMALLEST = -40.0
"""Log of the smallest coefficient, relative to the largest loss: as good as zero, and still finite."""
_BATCH = 30_000
"""Resamples times runs worked on at once, to fit the processor's cache."""


class Term(msgspec.Struct, frozen=True):
    """`coefficient` · Π variable^(-exponent); `powers` holds (variable, name of its exponent) pairs."""

    coefficient: str
    powers: tuple[tuple[str, str], ...]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of a derived variable: bounds, where the fit starts, and whether its logarithm is what is fitted."""

    name: str
    low: float
    high: float
    starts: tuple[float, ...]
    logarithmic: bool = False


class Derived(msgspec.Struct, frozen=True):
    """A variable computed from columns: `value(values, columns)` must be positive, and analytic in the values.

    `values` maps every parameter of the law to shape (K, 1), complex while derivatives are taken; the result is (K, n).
    """

    name: str
    parameters: tuple[Parameter, ...]
    value: Callable[[Values, Columns], Numbers]


class PowerSum(msgspec.Struct, frozen=True, kw_only=True):
    """L = `constant` + Σ `terms`. With `signed` the constant may be of either sign, else it is not negative."""

    terms: tuple[Term, ...]
    derived: tuple[Derived, ...] = ()
    constant: str = "E"
    signed: bool = False

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the terms' coefficients."""
        return tuple(term.coefficient for term in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the exponents, each once."""
        return tuple(dict.fromkeys(exponent for term in self.terms for _, exponent in term.powers))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters of the derived variables."""
        return tuple(parameter for one in self.derived for parameter in one.parameters)

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters: the constant, coefficients, exponents, those of derived variables."""
        return (self.constant, *self.coefficients, *self.exponents, *(p.name for p in self.parameters))

    def variables(self, values: Values, columns: Columns) -> dict[str, Numbers]:
        """Columns and derived variables by name."""
        found: dict[str, Numbers] = dict(columns)
        for one in self.derived:
            found[one.name] = one.value(values, columns)
        return found

    def losses(self, values: Values, columns: Columns, offset: Numbers | float = 0.0) -> Numbers:
        """The sum for `values` of shape (K, 1) at columns of shape (n,): (K, n). `offset` is added."""
        variables = self.variables(values, columns)
        total: Numbers = values[self.constant] + offset
        for term in self.terms:
            power = sum(values[exponent] * np.log(variables[name]) for name, exponent in term.powers)
            total = total + values[term.coefficient] * np.exp(-power)
        return total


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
        low, high = np.quantile(
            self.form.losses(named(self.form, self.samples), columns), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0
        )
        return low, high

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


def named(form: PowerSum, parameters: Array) -> dict[str, Array]:
    """Rows of parameters (K, p) by name, each of shape (K, 1)."""
    return {name: parameters[:, k, None] for k, name in enumerate(form.names)}


def interval(samples: Array) -> Interval:
    """The central 90 % of `samples` (K,), of which those that are not finite are left out; NaN where none are."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


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
        constant = (-reach, reach) if form.signed else (top + _LOG_SMALLEST, top + 1)
        least, most = top + _LOG_SMALLEST - spread, top + 3 + spread
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
        """The fit's log losses with residuals drawn anew, `count` times, from its own without the p smallest.

        A fit this near to least absolute errors passes through about p runs. Their residuals of none would make runs
        seem more concentrated than they are; and without them the others' mean square is that over n - p.
        """
        residuals = self.residuals(best[None])[0]
        others = residuals[np.argsort(np.abs(residuals))[len(best) :]]
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

        Begun anew where it stopped until that gains nothing: at a kink of the objective the damping grows until steps
        vanish, though along the kink it goes on down.
        """
        theta, value = theta.copy(), np.full(len(theta), np.inf)
        draws = self.draws(len(theta)) if draws is None else draws
        size = max(4, _BATCH // self.n)
        for k in range(0, len(theta), size):
            active = np.arange(k, min(k + size, len(theta)))
            for _ in range(20):
                theta[active], lower = self._descend(theta[active], draws.take(active), precision)
                gained = lower < value[active] * (1 - 1e3 * precision)
                value[active] = lower
                active = active[gained]
                if not len(active):
                    break
        return theta, value

    def _descend(self, theta: Array, draws: Draws, precision: float) -> tuple[Array, Array]:
        """Damped Gauss-Newton steps, in which a run counts while its residual is within δ; downhill always."""
        theta = theta.copy()
        value = (draws.weights * huber(self.residuals(theta, draws))).sum(axis=1)
        damping, chosen = np.full(len(theta), 1.0), np.ones(len(theta))
        active = np.arange(len(theta))
        diagonal = np.arange(theta.shape[1])
        for _ in range(_STEPS):
            here, runs = theta[active], draws.take(active)
            w = runs.weights
            residuals, J = self.residuals(here, runs), self._jacobian(here, runs)
            gradient = np.einsum("kpn,kn->kp", J, w * np.clip(residuals, -DELTA, DELTA))
            inside = J * (w * (np.abs(residuals) <= DELTA))[:, None]
            hessian = inside @ J.transpose(0, 2, 1)
            soft = w * np.minimum(1.0, DELTA / np.maximum(np.abs(residuals), 1e-300))
            scale = np.einsum("kpn,kn->kp", J**2, soft)
            scale = np.maximum(scale, 1e-9 * scale.max(axis=1, keepdims=True) + 1e-300)
            # A parameter at its bound that would leave it stays.
            stuck = ((here <= self.low) & (gradient > 0)) | ((here >= self.high) & (gradient < 0))
            gradient[stuck] = 0.0
            hessian[stuck[:, :, None] | stuck[:, None, :]] = 0.0
            best = value[active]
            for factor in _DAMPINGS:
                damped = hessian.copy()
                damped[:, diagonal, diagonal] += scale * (factor * damping[active, None] + 1e-12)
                step = np.linalg.solve(damped, gradient[..., None])[..., 0]
                there = np.clip(here - np.clip(step, -2.0, 2.0), self.low, self.high)
                new = (w * huber(self.residuals(there, runs))).sum(axis=1)
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


def huber(residuals: Array) -> Array:
    """Huber's loss of each residual, δ = `DELTA`."""
    # It is r²/2 within δ and δ |r| - δ²/2 beyond: with m = min(|r|, δ) both are m (|r| - m/2).
    distance = np.abs(residuals)
    near = np.minimum(distance, DELTA)
    value: Array = near * (distance - near / 2)
    return value


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
