"""IsoFLOP parabolas, approach 2 of Hoffmann et al. (arXiv 2203.15556), and what their shape alone gets wrong.

Runs are grouped by compute. In each budget a parabola in log N goes through the losses, by least squares; its lowest
point is the budget's optimum. Power laws N_opt = c C^a and D_opt = c' C^b go through the optima. A budget needs three
sizes, a parabola that bends up and a lowest point among its sizes, or it is shown and left out.

A loss surface is no parabola, so even noise-free losses give another optimum than the true one: by how much depends on
the width of the grid of sizes, on where it lies about the optimum and on how unlike α and β are (Czech et al., arXiv
2603.22339). `Bias` says so for the very points that were run: the same parabolas through the noise-free losses of the
law of approach 3, against that law's own optima.

Intervals come from a bootstrap of relative residuals, pooled over the budgets and widened for the fitted parameters.
"By run" each run draws its own; "by seed" the runs of one configuration, which differ in their seed only, take over
those of one configuration together. Nothing here reads files: arrays in, `IsoFlop` out.

    >>> import numpy as np
    >>> N = np.outer([1e7, 1e8], np.geomspace(0.5, 2, 5))
    >>> D = 20 * np.array([[1e7], [1e8]]) ** 2 / N
    >>> found = fit(N, D, 1.8 + 400 / N**0.35 + 400 * 20**0.35 / D**0.35, bootstrap=0)
    >>> print(f"{found.N.exponent:.3f} {abs(found.bias.a):.4f} {found.budgets[0].N:.3g}")
    0.500 0.0000 1e+07
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, Interval, UnidentifiedError, positive
from studies.analysis.laws.chinchilla import fit as fit_law
from studies.analysis.laws.chinchilla_law import Law
from studies.analysis.laws.resampling import By, Units, units
from studies.analysis.laws.statistics import central

FEWEST_SIZES = 3
"""As many as a parabola has parameters."""
FEWEST_BUDGETS = 3
"""From which on there is something to judge a power law by."""
SURE = 0.9
"""Share of resamples that must bend up for an optimum to be trusted."""
TOLERANCE = 0.1
"""Runs of one budget differ by no more in log FLOPs."""
REACH = 100.0
"""How far beyond the largest budget the bias of an extrapolation is told."""
_MOST_LISTED = 4
_TELLING = 0.05
"""A bias of N_opt from so much on is worth a warning."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of about `flops` FLOPs (their geometric mean), `sizes` different N from `smallest` to `largest`.

    `curve` are c₀, c₁, c₂ of the parabola c₀ + c₁ x + c₂ x² in x = log(N / `center`), None with fewer than three sizes;
    `N`, `D` and `loss` are its lowest point, None where it does not bend up. `interval` is the central 90 % of the
    bootstrap of N (resamples that do not bend up count as without bound on both sides), and `bends` the share of
    resamples that bend up. `edge`: the lowest point lies outside the sizes. `left_out` says why the power laws do not
    use the budget; empty where they do.
    """

    flops: float
    runs: int
    sizes: int
    smallest: float
    largest: float
    center: float
    curve: tuple[float, float, float] | None
    N: float | None
    D: float | None
    loss: float | None
    interval: Interval | None
    bends: float
    edge: bool
    left_out: str

    def losses(self, N: npt.ArrayLike) -> Array:
        """The parabola at sizes `N`. Raises ValueError where there is none."""
        if self.curve is None:
            raise ValueError("no parabola was fitted")
        x = np.log(np.asarray(N, float) / self.center)
        value: Array = self.curve[0] + self.curve[1] * x + self.curve[2] * x * x
        return value


class PowerLaw(msgspec.Struct, frozen=True, kw_only=True):
    """y = `coefficient` · C^`exponent`, by least squares on logarithms through `n` points.

    `interval` is the central 90 % of the bootstrap of the exponent (None without one), `r2` the share of the variance
    of log y that the law accounts for, `samples` (K, 2) log y at C = `center` and the exponent in each resample.
    """

    exponent: float
    coefficient: float
    interval: Interval | None
    r2: float
    n: int
    center: float
    samples: Array

    def at(self, flops: float) -> float:
        """y at a budget of so many FLOPs."""
        return self.coefficient * math.pow(flops, self.exponent)

    def band(self, flops: float) -> Interval | None:
        """The central 90 % of the bootstrap of y there; None without one."""
        found = central(self.samples[:, 0] + self.samples[:, 1] * math.log(flops / self.center))
        if found is None:
            return None
        low, high = (math.exp(min(max(log, -700.0), 700.0)) for log in found)
        return low, high


class Bias(msgspec.Struct, frozen=True, kw_only=True):
    """What the parabolas would miss by if `law` were true and runs had no noise, at the very points that were run.

    `a` and `b` are the exponents found minus the law's own. The others are ratios of what is found to the law's own
    optimum: `N` and `D` at the largest budget that is used, `N_beyond` and `D_beyond` at `reach` times that.
    """

    law: Law
    a: float
    b: float
    N: float
    D: float
    N_beyond: float
    D_beyond: float
    reach: float


class IsoFlop(msgspec.Struct, frozen=True, kw_only=True):
    """The optima of all budgets, lowest compute first, and the power laws `N` and `D` of C through those that are used
    (None for fewer than two). `residual` is the standard deviation of a run's loss about its parabola, relative to it
    (None where no run is left to tell). `bias` is None where the law could not be fitted. `warnings` says where the
    data are too weak."""

    budgets: tuple[Budget, ...]
    N: PowerLaw | None
    D: PowerLaw | None
    residual: float | None
    bias: Bias | None
    by: By
    warnings: tuple[str, ...]


def fit(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    loss: npt.ArrayLike,
    flops: npt.ArrayLike | None = None,
    *,
    law: Law | None = None,
    tolerance: float = TOLERANCE,
    reach: float = REACH,
    bootstrap: int = 1000,
    seed: int = 0,
    by: By = "run",
    groups: npt.ArrayLike | None = None,
) -> IsoFlop:
    """Fit parabolas to runs of `N` parameters, `D` tokens, final `loss` and `flops` (6 N D without them): (n,) arrays.

    A budget's runs differ by at most `tolerance` in log FLOPs. The bias is told by `law`, or else by approach 3 fitted
    to all runs. `by` and `groups` as for `chinchilla.fit`. Raises `UnidentifiedError` where no budget has three sizes,
    ValueError where a number is not positive and finite.
    """
    n, d, y = positive(N=N, D=D, loss=loss)
    c = 6 * n * d if flops is None else positive(N=N, flops=flops)[1]
    drawn_by = units(by, n, d, groups)
    budgets = [_Parabola(n, d, y, c, rows) for rows in together(np.log(c), tolerance)]
    fitted = [one for one in budgets if one.sizes >= FEWEST_SIZES]
    if not fitted:
        raise UnidentifiedError(f"no budget holds {FEWEST_SIZES} sizes: runs of equal compute are needed")

    drawn, residual = _resample(fitted, y, drawn_by, bootstrap, seed)
    found = [one.budget(y, drawn) for one in budgets]
    used = [one for one, budget in zip(budgets, found, strict=True) if not budget.left_out]
    laws = _laws(used, y, drawn)
    said = []
    if law is None:
        try:
            law = fit_law(n, d, y, bootstrap=0).law
        except UnidentifiedError as error:
            said.append(f"the bias of the parabolas is unknown, for lack of a law: {error}")
    bias = None if law is None or laws is None else _bias(used, law, n, d, reach)
    return IsoFlop(
        budgets=tuple(found),
        N=laws and laws[0],
        D=laws and laws[1],
        residual=residual,
        bias=bias,
        by=by,
        warnings=(*_warnings(found, residual), *_of_bias(bias, laws), *said),
    )


def power_law(flops: Array, values: Array) -> PowerLaw:
    """The power law through `values` at `flops`, both (m,), without a bootstrap. Needs two different FLOPs."""
    center = float(np.exp(np.log(flops).mean()))
    middle, exponent = _lines(flops, np.log(values)[None])[0].tolist()
    left = np.log(values) - middle - exponent * np.log(flops / center)
    spread = float(np.sum((np.log(values) - middle) ** 2))
    return PowerLaw(
        exponent=exponent,
        coefficient=math.exp(middle - exponent * math.log(center)),
        interval=None,
        r2=1 - float(left @ left) / spread if spread > 0 else 0.0,
        n=len(values),
        center=center,
        samples=np.empty((0, 2)),
    )


def with_samples(law: PowerLaw, samples: Array) -> PowerLaw:
    """The law with its bootstrap: `samples` (K, 2) as it holds them, NaN where a resample has no law."""
    return msgspec.structs.replace(law, samples=samples, interval=central(samples[:, 1]))


def _lines(flops: Array, logs: Array) -> Array:
    """Least-squares lines through K rows of `logs` (K, m): at the mean of log `flops` (m,), and the slopes, (K, 2)."""
    x = np.log(flops)
    x = x - x.mean()
    return np.stack([logs.mean(axis=1), logs @ x / (x @ x)], axis=1)


def together(logs: Array, tolerance: float) -> list[npt.NDArray[np.intp]]:
    """Rows of each group of `logs` (n,) that differ by at most `tolerance`, lowest first."""
    order = np.argsort(logs, kind="stable")
    found: list[list[int]] = []
    for row in order:
        if found and logs[row] - logs[found[-1][0]] <= tolerance:
            found[-1].append(int(row))
        else:
            found.append([int(row)])
    return [np.array(rows, np.intp) for rows in found]


class _Parabola:
    """One budget: its `rows` of all runs, log N about its mean, and the line that log D follows over that."""

    def __init__(self, N: Array, D: Array, loss: Array, flops: Array, rows: npt.NDArray[np.intp]) -> None:
        self.rows = rows
        self.flops = float(np.exp(np.log(flops[rows]).mean()))
        self.N = N[rows]
        self.sizes = len(np.unique(self.N))
        self.center = float(np.exp(np.log(self.N).mean()))
        self.x = np.log(self.N / self.center)
        self.powers = np.stack([np.ones_like(self.x), self.x, self.x**2], axis=1)
        if self.sizes >= FEWEST_SIZES:
            self.solve = np.linalg.pinv(self.powers)
            # Of equal compute, D falls as 1 / N does; where a token costs more than 6 N, nearly so.
            slope, intercept = np.polyfit(self.x, np.log(D[rows]), 1)
            self.slope, self.intercept = float(slope), float(intercept)

    def curves(self, losses: Array) -> Array:
        """Parabolas (K, 3) through K losses of all runs (K, n)."""
        found: Array = losses[:, self.rows] @ self.solve.T
        return found

    def optima(self, losses: Array) -> Array:
        """x of the lowest points of those, (K,); NaN where there is none."""
        _, c1, c2 = self.curves(losses).T
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
        return found

    def log_size(self, x: npt.ArrayLike) -> Array:
        found: Array = math.log(self.center) + np.asarray(x, float)
        return found

    def log_tokens(self, x: npt.ArrayLike) -> Array:
        found: Array = self.intercept + self.slope * np.asarray(x, float)
        return found

    def truth(self, law: Law) -> float:
        """x of the law's own lowest loss along this budget's line of N and D."""
        # Where αA exp(-αx) = sβB exp(-β(y - sx)) with y = log D at x = 0 and s how steeply log D falls.
        fall = -self.slope
        log_a = math.log(law.alpha * law.A) - law.alpha * math.log(self.center)
        log_b = math.log(fall * law.beta * law.B) - law.beta * self.intercept
        return (log_a - log_b) / (law.alpha + fall * law.beta)

    def budget(self, loss: Array, drawn: Array) -> Budget:
        curve, N, D, lowest, interval, bends, edge = None, None, None, None, None, 0.0, False
        left_out = f"it has {self.sizes} sizes, and a parabola needs {FEWEST_SIZES}"
        if self.sizes >= FEWEST_SIZES:
            c0, c1, c2 = self.curves(loss[None])[0].tolist()
            curve, left_out = (c0, c1, c2), "its loss does not bend up in log N"
            x = self.optima(drawn)
            bends = float(np.mean(~np.isnan(x))) if len(x) else float(c2 > 0)
            if c2 > 0:
                best = -c1 / (2 * c2)
                N, D = math.exp(self.log_size(best)), math.exp(self.log_tokens(best))
                lowest = c0 + c1 * best / 2
                ends = central(x)
                interval = None if ends is None else (self._size(ends[0]), self._size(ends[1]))
                edge = not self.x.min() < best < self.x.max()
                left_out = "its lowest point lies outside its sizes" if edge else ""
        return Budget(
            flops=self.flops,
            runs=len(self.rows),
            sizes=self.sizes,
            smallest=float(self.N.min()),
            largest=float(self.N.max()),
            center=self.center,
            curve=curve,
            N=N,
            D=D,
            loss=lowest,
            interval=interval,
            bends=bends,
            edge=edge,
            left_out=left_out,
        )

    def _size(self, x: float) -> float:
        return math.inf if x > 300 else 0.0 if x < -300 else self.center * math.exp(x)


def _resample(
    fitted: Sequence[_Parabola], loss: Array, drawn_by: Units, bootstrap: int, seed: int
) -> tuple[Array, float | None]:
    """Losses (K, n) of resamples, and the relative residual's standard deviation; none where no run is left to tell.

    Runs of budgets without a parabola keep their loss: nothing reads it.
    """
    smooth = loss.copy()
    for one in fitted:
        smooth[one.rows] = one.powers @ one.curves(loss[None])[0]
    rows = np.concatenate([one.rows for one in fitted])
    parameters = FEWEST_SIZES * len(fitted)
    freedom = len(rows) - parameters
    if freedom < 1:
        return np.empty((0, len(loss))), None
    relative = loss[rows] / smooth[rows] - 1
    residual = math.sqrt(float(relative @ relative) / freedom)
    # Units of the runs that take part; what a unit's runs have in common is less than it was, for the parameters.
    taking = Units(np.unique(drawn_by.members[rows], return_inverse=True)[1].ravel())
    spare = max(taking.count - parameters, 1)
    widened = relative + (math.sqrt(taking.count / spare) - 1) * taking.means(relative[None])[0, taking.members]
    drawn = np.repeat(smooth[None], bootstrap, axis=0)
    drawn[:, rows] *= 1 + widened[taking.exchanged(np.random.default_rng(seed), bootstrap)]
    return drawn, residual


def _laws(used: Sequence[_Parabola], loss: Array, drawn: Array) -> tuple[PowerLaw, PowerLaw] | None:
    if len(used) < 2:
        return None
    C = np.array([one.flops for one in used])
    best = [one.optima(loss[None])[0] for one in used]
    again = [one.optima(drawn) for one in used]
    found = []
    for way in (_Parabola.log_size, _Parabola.log_tokens):
        values = np.exp([float(way(one, x)) for one, x in zip(used, best, strict=True)])
        drawn_logs = np.stack([way(one, x) for one, x in zip(used, again, strict=True)], axis=1)
        found.append(with_samples(power_law(C, values), _lines(C, drawn_logs)))
    return found[0], found[1]


def _bias(used: Sequence[_Parabola], law: Law, N: Array, D: Array, reach: float) -> Bias | None:
    """None where the law has no optimum, or a parabola through its noise-free losses none."""
    if min(law.A, law.B, law.alpha, law.beta) <= 0 or any(one.slope >= 0 for one in used):
        return None
    clean = law(N, D)[None]
    seen = [float(one.optima(clean)[0]) for one in used]
    if any(math.isnan(x) for x in seen):
        return None
    true = [one.truth(law) for one in used]
    flops = np.array([one.flops for one in used])
    largest = math.log(flops[-1]) - float(np.log(flops).mean())
    found = []
    for way in (_Parabola.log_size, _Parabola.log_tokens):
        logs = np.array([[float(way(p, x)) for p, x in zip(used, xs, strict=True)] for xs in (seen, true)])
        gap, tilt = np.subtract(*_lines(flops, logs)).tolist()
        found.append((tilt, *(math.exp(gap + tilt * (largest + far)) for far in (0.0, math.log(reach)))))
    (a, at_N, beyond_N), (b, at_D, beyond_D) = found
    return Bias(law=law, a=a, b=b, N=at_N, D=at_D, N_beyond=beyond_N, D_beyond=beyond_D, reach=reach)


def _warnings(budgets: Sequence[Budget], residual: float | None) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for one in budgets:
        if one.left_out:
            reasons.setdefault(one.left_out, []).append(f"{one.flops:.3g}")
    said = [f"left out, of {len(budgets)} budgets: {_listed(flops)}: {reason}" for reason, flops in reasons.items()]
    used = [one for one in budgets if not one.left_out]
    unsure = [f"{one.flops:.3g}" for one in used if one.bends < SURE]
    if unsure:
        said.append(f"at {_listed(unsure)} fewer than {100 * SURE:.0f} % of resamples bend up in log N")
    if len(used) < 2:
        said.append(f"a power law needs two budgets with an optimum, and there are {len(used)}")
    elif len(used) < FEWEST_BUDGETS:
        said.append(f"the power laws rest on {len(used)} budgets alone")
    if residual is None:
        said.append("every parabola goes through all its runs: nothing tells their noise, and there are no intervals")
    return said


def _listed(flops: Sequence[str]) -> str:
    """Budgets in words, the first few of many."""
    more = f" and {len(flops) - _MOST_LISTED} others" if len(flops) > _MOST_LISTED else ""
    return f"{', '.join(flops[:_MOST_LISTED])}{more} FLOPs"


def _of_bias(bias: Bias | None, laws: tuple[PowerLaw, PowerLaw] | None) -> list[str]:
    if bias is None:
        return ["the bias of the parabolas could not be told"] if laws is not None else []
    if max(abs(math.log(bias.N)), abs(math.log(bias.N_beyond))) < _TELLING:
        return []
    return [
        f"parabolas through noise-free losses at these points would miss a by {bias.a:+.3f}, N_opt at the largest "
        f"budget by a factor of {bias.N:.2f}, and at {bias.reach:g} times that by {bias.N_beyond:.2f}"
    ]
