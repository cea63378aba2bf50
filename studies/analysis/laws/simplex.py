"""Losses over the simplex of mixes by regression, and the mix that is best for a weighted sum of them.

A mix is a row of weights that sum to one, so that Scheffé's polynomials (J. R. Stat. Soc. B 20, 344, 1958) have no
constant: `linear` Σ b_i w_i, `quadratic` with b_ij w_i w_j, `special cubic` with b_ijk w_i w_j w_k too. A modality's
loss also bends with the log, or a power, of its own tokens, as scaling laws have it: `own log` is linear with
c · log(w_m + e), `own power` with c · (w_m + e)^-p (what other modalities' tokens do for it is in the linear part, and
in e), `quadratic and own log` has both. Which form, e and p is taken is decided by leaving out one mix at a time. All
forms are linear in their coefficients, so that nothing depends on a start.

The loss of a modality that a run has not trained on at all may be of another kind. Such runs are left out of its
regression where keeping them makes the error over the others more than `KIND` times as large.

Intervals are of a bootstrap in which each resample draws the mixes whose errors decide on the form, and the residuals
of the form that they decide on: how uncertain the form is, is in them.

    >>> import numpy as np
    >>> share = np.linspace(0, 1, 9)
    >>> mixes = np.stack([share, 1 - share], axis=1)
    >>> losses = np.stack([3 + (1 - share) ** 2, 2 + share**2], axis=1)
    >>> best = best_mix(mixes, losses, [0.5, 0.5], bootstrap=0)
    >>> [round(weight, 3) for weight in best.mix], round(best.loss, 3)
    ([0.5, 0.5], 2.75)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.spatial import ConvexHull, Delaunay, QhullError

from studies.analysis.laws.chinchilla import LEVEL, Array, UnidentifiedError

Form = Literal["linear", "quadratic", "special cubic", "own log", "own power", "quadratic and own log"]
Interval = tuple[float, float]
Mix = tuple[float, ...]

FEWEST = 6
"""Mixes that a regression needs."""
SPARE = 2
"""Mixes that a form needs beyond its parameters."""
KIND = 1.5
"""So many times the error that runs which never trained on a modality may add before they are left out."""
WIDE = 0.8
"""An interval wider than this share of the weights that were run says nothing."""

_SHIFTS = (0.0, 0.01, 0.03, 0.1, 0.3)
_POWERS = (0.25, 0.5, 1.0)
_POINTS = 6000
_PARTS = 100
_HULL_RANK = 5
_CHUNK = 100
_NEAR = 1e-9
_FILLED = 2
"""Dimensions that `_POINTS` points fill densely."""
_LEADERS = 15
_LEVELS = 41
_BROUGHT = 100
_BANDED = 200
"""Resamples that the band of a profile is of."""
_STEPS = (0.3, 0.1, 0.03, 0.01)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One form that was tried: `shift` is e and `power` p (0 where the form has none), `trained` whether runs that did
    not train on the modality were left out, `parameters` how many it has, e and p among them.

    `error` is the root mean square of the residuals, in nats, where each mix is left out in turn, over runs that
    trained on the modality; None where there are too few mixes for the form.
    """

    form: Form
    shift: float
    power: float
    trained: bool
    parameters: int
    error: float | None


class Regression(msgspec.Struct, frozen=True, kw_only=True):
    """One modality's loss over the simplex.

    `own` is its place in a mix; `coefficients` belong to the form's columns, in nats. `n` runs of `mixes` mixes went
    in; `residual` is the root mean square of what is left, by degrees of freedom; `explained` is 1 - error² / variance,
    with the error of mixes left out. `lowest` is the least own weight among the runs that went in, below which nothing
    is predicted. `tried` holds the best candidate of each form, the chosen one first.
    """

    own: int
    chosen: Candidate
    coefficients: tuple[float, ...]
    n: int
    mixes: int
    residual: float
    explained: float
    lowest: float
    tried: tuple[Candidate, ...]

    def __call__(self, mixes: npt.ArrayLike) -> Array:
        """Losses at `mixes`, shape (S, k): (S,), in nats per token; NaN where the own weight is below `lowest`."""
        at = np.asarray(mixes, float)
        within = at[:, self.own] >= self.lowest - _NEAR
        shifts = (self.chosen.shift,) if "own" in self.chosen.form else ()
        basis = _Basis(at.shape[1], self.chosen.trained, shifts)
        columns = next(
            columns
            for one, columns in basis.forms
            if (one.form, one.shift, one.power) == (self.chosen.form, self.chosen.shift, self.chosen.power)
        )
        found: Array = np.full(len(at), np.nan)
        found[within] = basis.columns(at[within], self.own)[:, columns] @ np.array(self.coefficients)
        return found


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """A mix that is best in `count` resamples; `inside` the central 90 % of them."""

    mix: Mix
    count: int
    inside: bool


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The least weighted loss that can be had at each weight of one modality; `low` and `high` hold 90 % of resamples
    (empty without a bootstrap)."""

    weights: tuple[float, ...]
    losses: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What the regressions say at one mix: the weighted loss, and that of each modality (NaN where nothing is
    predicted), with 90 % intervals (None without a bootstrap)."""

    mix: Mix
    loss: float
    interval: Interval | None
    losses: tuple[float, ...]
    intervals: tuple[Interval | None, ...]


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The mix of least weighted loss Σ v_m L_m, within the hull of the mixes that were run.

    `at` tells of the best mix, `base` of the mix that it is compared with (None where there is none, or it lies where
    nothing is predicted); `gain` is the weighted loss there minus that at the best mix. `weights` are 90 % intervals of
    each weight, of a bootstrap over residuals; `spots` the best mixes of all resamples, the most frequent first.
    `on_edge` says whether the best mix lies on the hull's edge, `edge_share` in what share of resamples one does.
    `regressions` are by modality, None where there are too few runs of it.

    In simulations of 21 mixes the 90 % intervals of weights held the truth in 84 to 99 % of cases, those of the loss
    and the gain in 77 to 90 %: the mix was chosen for its low loss, which then errs on the low side.
    """

    values: tuple[float, ...]
    regressions: tuple[Regression | None, ...]
    at: Place
    base: Place | None
    gain: float | None
    gain_interval: Interval | None
    weights: tuple[Interval, ...] | None
    spots: tuple[Spot, ...]
    on_edge: bool
    edge_share: float | None
    corners: tuple[Mix, ...]
    profiles: tuple[Profile, ...]
    warnings: tuple[str, ...]

    @property
    def mix(self) -> Mix:
        """The best mix."""
        return self.at.mix

    @property
    def loss(self) -> float:
        """The weighted loss there."""
        return self.at.loss

    def __call__(self, mixes: npt.ArrayLike) -> Array:
        """The weighted loss at `mixes`, shape (S, k): (S,); NaN where nothing is predicted."""
        used = [(value, one) for value, one in zip(self.values, self.regressions, strict=True) if value and one]
        found: Array = np.sum([value * one(mixes) for value, one in used], axis=0)
        return found


def regress(mixes: npt.ArrayLike, losses: npt.ArrayLike, own: int, trained: bool | None = None) -> Regression:
    """The loss of modality `own` by mix: `mixes` (n, k), `losses` (n,) in nats, all finite.

    `trained` decides whether runs that did not train on the modality are left out; None leaves it to the error. Raises
    `UnidentifiedError` where fewer than `FEWEST` mixes are left, ValueError where rows do not sum to one or a loss is
    not finite.
    """
    return _Choice(*_checked(mixes, losses), own, trained).regression()


def best_mix(
    mixes: npt.ArrayLike,
    losses: npt.ArrayLike,
    values: Sequence[float],
    base: Sequence[float] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Best:
    """The mix that minimises Σ_m values_m · L_m, from runs of `mixes` (n, k) and their `losses` (n, k) in nats per
    token, a column for each modality; NaN where a run's loss is not known.

    `values` are at least 0 and not all 0; they are normalised. `bootstrap` counts resamples of the residuals, each
    scaled by 1 / √(1 - leverage); those of one run stay together over modalities.
    Raises `UnidentifiedError` where a modality that has a value has too few mixes, ValueError for bad numbers.
    """
    at = np.asarray(mixes, float)
    table = np.asarray(losses, float)
    value = np.asarray(values, float)
    if table.shape != at.shape or value.shape != at.shape[1:]:
        raise ValueError("mixes and losses must be of one shape (n, k), with a value for each of the k modalities")
    if not np.all(np.isfinite(value) & (value >= 0)) or not value.any():
        raise ValueError("values must be finite and at least 0, and not all of them 0")
    value = value / value.sum()
    choices = _choices(at, table, value, None)
    regressions = _chosen(choices)
    domain = _domain(at, regressions, value)
    if _rank(domain) < _rank(at):
        # Too little is left where each modality was trained: better to search all that was run.
        choices = _choices(at, table, value, False)
        regressions = _chosen(choices)
        domain = _domain(at, regressions, value)
    search = _Search(domain)
    resampled = _Resampled(at, table, choices, bootstrap, seed)
    if search.rank > _FILLED:
        search.refine(lambda points: _leading(points, regressions, value, resampled))
    estimate = _weighted(regressions, value, search.points)
    place = int(np.argmin(estimate))
    samples = _resample(search, resampled, value)
    here = _place(search.points[place], regressions, value, resampled)
    there = None if base is None else _base_place(base, search, regressions, value, resampled)
    gain, gain_interval = None, None
    if there is not None:
        gain = there.loss - here.loss
        gain_interval = _interval(
            resampled.weighted(np.array([there.mix]), value)[:, 0]
            - resampled.weighted(np.array([here.mix]), value)[:, 0]
        )
    chosen, edge = search.points[samples], search.edge
    found = [_interval(column) for column in chosen.T]
    weights = tuple(pair for pair in found if pair is not None) or None
    return Best(
        values=tuple(value.tolist()),
        regressions=regressions,
        at=here,
        base=there,
        gain=gain,
        gain_interval=gain_interval,
        weights=weights,
        spots=_spots(search.points, samples),
        on_edge=bool(edge[place]),
        edge_share=float(edge[samples].mean()) if len(samples) else None,
        corners=tuple(tuple(corner.tolist()) for corner in search.corners),
        profiles=tuple(_profile(own, search, estimate, regressions, resampled, value) for own in range(at.shape[1])),
        warnings=tuple(_warnings(at, domain, regressions, value, weights)),
    )


def barycentric(parts: int, corners: int) -> Array:
    """All mixes of `corners` things in steps of 1 / `parts`: shape (S, corners)."""
    bars = itertools.combinations(range(parts + corners - 1), corners - 1)
    cuts = np.array([(-1, *bar, parts + corners - 1) for bar in bars])
    shares: Array = (np.diff(cuts, axis=1) - 1) / parts
    return shares


def inside(mix: npt.ArrayLike, corners: npt.ArrayLike) -> bool:
    """Whether `mix` (k,) lies in the hull of `corners` (C, k)."""
    # The row of ones makes the weights of the corners sum to one.
    at = np.asarray(corners, float)
    rows = np.vstack([at.T, np.ones(len(at))])
    return bool(nnls(rows, np.append(np.asarray(mix, float), 1.0))[1] < 1e-6)


def central(points: npt.ArrayLike, level: float = LEVEL) -> npt.NDArray[np.bool_]:
    """Which of `points` (K, k) are the `level` nearest to their mean, by the distance of their own covariance: (K,)."""
    at = np.asarray(points, float)
    away = at - at.mean(axis=0)
    spread = np.linalg.pinv(np.atleast_2d(np.cov(away.T)), hermitian=True, rcond=1e-9)
    distance = np.einsum("ki,ij,kj->k", away, spread, away)
    inside: npt.NDArray[np.bool_] = distance <= np.quantile(distance, level) + 1e-12
    return inside


def _checked(mixes: npt.ArrayLike, losses: npt.ArrayLike) -> tuple[Array, Array]:
    at, loss = np.asarray(mixes, float), np.asarray(losses, float)
    if at.ndim != 2 or loss.shape != at.shape[:1] or not len(at):
        raise ValueError("mixes must have the shape (n, k), and losses (n,)")
    if not np.all(np.isfinite(at) & (at >= 0)) or not np.allclose(at.sum(axis=1), 1, atol=1e-6):
        raise ValueError("the weights of a mix must be at least 0 and sum to one")
    if not np.all(np.isfinite(loss)):
        raise ValueError("losses must be finite")
    return at, loss


class _Basis:
    """The columns that forms are made of, for mixes of `k` weights and these `shifts`; and which each form takes."""

    def __init__(self, k: int, trained: bool, shifts: tuple[float, ...]) -> None:
        self.pairs = list(itertools.combinations(range(k), 2))
        self.triples = list(itertools.combinations(range(k), 3))
        self.shifts = shifts
        self.bends = [(shift, power) for shift in self.shifts for power in _POWERS]
        columns = itertools.count()
        linear, pairs, triples, logs, powers = (
            list(itertools.islice(columns, len(one)))
            for one in (range(k), self.pairs, self.triples, self.shifts, self.bends)
        )
        self.size = k + len(pairs) + len(triples) + len(logs) + len(powers)
        forms: list[tuple[Form, float, float, list[int]]] = [("linear", 0.0, 0.0, linear)]
        forms.append(("quadratic", 0.0, 0.0, linear + pairs))
        if triples:
            forms.append(("special cubic", 0.0, 0.0, linear + pairs + triples))
        for shift, column in zip(self.shifts, logs, strict=True):
            forms.append(("own log", shift, 0.0, [*linear, column]))
            forms.append(("quadratic and own log", shift, 0.0, [*linear, *pairs, column]))
        forms += [("own power", *bend, [*linear, column]) for bend, column in zip(self.bends, powers, strict=True)]
        self.forms = [
            (Candidate(form=form, shift=shift, power=power, trained=trained, parameters=0, error=None), chosen)
            for form, shift, power, chosen in forms
        ]

    def columns(self, mixes: Array, own: int) -> Array:
        """All columns at `mixes` (S, k): (S, size)."""
        weight = mixes[:, own]
        return np.stack(
            [
                *mixes.T,
                *(mixes[:, i] * mixes[:, j] for i, j in self.pairs),
                *(mixes[:, i] * mixes[:, j] * mixes[:, k] for i, j, k in self.triples),
                *(np.log(weight + shift) for shift in self.shifts),
                *((weight + shift) ** -power for shift, power in self.bends),
            ],
            axis=1,
        )


class _Fit:
    """One candidate by least squares to losses (n,) by some of the basis' `columns` (n, p); runs of a `group` have one
    mix, and the error is over those that are `scored`."""

    def __init__(
        self,
        candidate: Candidate,
        chosen: list[int],
        columns: Array,
        losses: Array,
        group: npt.NDArray[np.intp],
        scored: npt.NDArray[np.bool_],
    ) -> None:
        self.chosen = chosen
        self.solve = np.linalg.pinv(columns, rcond=1e-10)
        self.coefficients: Array = self.solve @ losses
        self.left = losses - columns @ self.coefficients
        self.leverage = np.einsum("np,pn->n", columns, self.solve)
        rank = round(float(self.leverage.sum()))
        self.residual = math.sqrt(float(self.left @ self.left) / max(len(losses) - rank, 1))
        # Residuals at mixes that take no part in the fit: runs of one mix have one leverage h, and for s of them
        # (I - h 1 1ᵀ)⁻¹ r = r + h Σ r / (1 - s h).
        free = 1 - np.bincount(group)[group] * self.leverage
        parameters = rank + (candidate.shift > 0) + (candidate.power > 0)
        error = None
        if int(group.max()) + 1 >= max(parameters + SPARE, FEWEST) and free.min() > 1e-8:
            self.left_out = self.left + self.leverage * np.bincount(group, self.left)[group] / free
            error = float(np.sqrt(np.mean(self.left_out[scored] ** 2)))
        self.candidate = msgspec.structs.replace(candidate, parameters=parameters, error=error)

    def rank(self) -> tuple[float, int]:
        """The error, then the parameters: nearly equal errors are no reason for more of them."""
        error = math.inf if self.candidate.error is None else self.candidate.error
        return float(f"{max(error, _NEAR):.6g}"), self.candidate.parameters


class _Side:
    """All candidates fitted to the runs `rows` of one modality: those that trained on it, or all."""

    def __init__(self, at: Array, loss: Array, own: int, trained: bool) -> None:
        seen = at[:, own] > 0
        self.rows = np.flatnonzero(seen) if trained else np.arange(len(at))
        least = 0.0 if trained or not seen.any() else float(at[seen, own].min()) / 2
        # What a smaller shift does lies between no weight and the least that was run: one that does nothing else can
        # follow a loss of another kind.
        shifts = tuple(shift for shift in _SHIFTS if shift >= least and (trained or shift > 0))
        self.basis = _Basis(at.shape[1], trained, shifts)
        _, group = np.unique(at[self.rows].round(9), axis=0, return_inverse=True)
        self.group = group.ravel()
        self.scored = seen[self.rows] if seen.any() else np.ones(len(self.rows), bool)
        columns = self.basis.columns(at[self.rows], own)
        self.fits = [
            _Fit(candidate, chosen, columns[:, chosen], loss[self.rows], self.group, self.scored)
            for candidate, chosen in self.basis.forms
        ]
        self.usable = [fit for fit in self.fits if fit.candidate.error is not None]
        self.best = min(self.usable, key=_Fit.rank, default=None)

    @property
    def error(self) -> float:
        """The least of its candidates' errors, inf where there is none."""
        return math.inf if self.best is None else self.best.rank()[0]


class _Choice:
    """The side and the form that one modality's losses take."""

    def __init__(self, at: Array, loss: Array, own: int, trained: bool | None) -> None:
        self.at, self.loss, self.own = at, loss, own
        seen = at[:, own] > 0
        if trained is None and seen.any() and not seen.all():
            without, all_ = (_Side(at, loss, own, side) for side in (True, False))
            self.side = all_ if all_.error <= KIND * without.error else without
        else:
            self.side = _Side(at, loss, own, bool(seen.all() or (seen.any() and trained)))
        if self.side.best is None:
            count = int(self.side.group.max()) + 1
            raise UnidentifiedError(f"a regression over mixes needs at least {FEWEST} of them, and there are {count}")
        self.best = self.side.best

    def regression(self) -> Regression:
        """What was chosen."""
        forms = [[fit for fit in self.side.fits if fit.candidate.form == form] for form in get_args(Form)]
        tried = sorted((min(fits, key=_Fit.rank) for fits in forms if fits), key=_Fit.rank)
        variance = float(np.var(self.loss[self.side.rows][self.side.scored]))
        return Regression(
            own=self.own,
            chosen=self.best.candidate,
            coefficients=tuple(self.best.coefficients.tolist()),
            n=len(self.side.rows),
            mixes=int(self.side.group.max()) + 1,
            residual=self.best.residual,
            explained=1 - self.side.error**2 / variance if variance else math.nan,
            lowest=float(self.at[self.side.rows, self.own].min()),
            tried=tuple(fit.candidate for fit in tried),
        )

    def resampled(self, drawn: npt.NDArray[np.intp], known: npt.NDArray[np.intp], rng: np.random.Generator) -> Array:
        """Coefficients of the whole basis in K resamples (K, size): `drawn` (K, n) are runs among all n, of which
        `known` are those that this modality knows."""
        rows = known[self.side.rows]
        # A run's residuals stay together over modalities; one that has none here lends another's.
        place = np.arange(drawn.shape[1]) % len(rows)
        place[rows] = np.arange(len(rows))
        groups = int(self.side.group.max()) + 1
        often = rng.multinomial(groups, np.full(groups, 1 / groups), size=len(drawn))[:, self.side.group]
        often = often * self.side.scored
        errors = np.stack([often @ fit.left_out**2 for fit in self.side.usable])
        form = errors.argmin(axis=0)
        found = np.zeros((len(drawn), self.side.basis.size))
        for k, fit in enumerate(self.side.usable):
            scaled = fit.left / np.sqrt(np.maximum(1 - fit.leverage, 1e-6))
            scaled -= scaled.mean()
            here = np.flatnonzero(form == k)
            residuals = scaled[place[drawn[here][:, rows]]]
            found[here[:, None], fit.chosen] = fit.coefficients + residuals @ fit.solve.T
        return found


def _choices(at: Array, table: Array, value: Array, trained: bool | None) -> tuple[_Choice | None, ...]:
    found: list[_Choice | None] = []
    for own in range(at.shape[1]):
        known = ~np.isnan(table[:, own])
        try:
            if not known.any():
                raise UnidentifiedError("no run has a loss of one of the modalities")
            found.append(_Choice(*_checked(at[known], table[known, own]), own, trained))
        except UnidentifiedError:
            if value[own]:
                raise
            found.append(None)
    return tuple(found)


def _chosen(choices: tuple[_Choice | None, ...]) -> tuple[Regression | None, ...]:
    return tuple(None if choice is None else choice.regression() for choice in choices)


def _domain(at: Array, regressions: tuple[Regression | None, ...], value: Array) -> Array:
    """The mixes (D, k) at which each modality that has a value is predicted."""
    inside = np.ones(len(at), bool)
    for one, worth in zip(regressions, value, strict=True):
        if one is not None and worth:
            inside &= at[:, one.own] >= one.lowest - _NEAR
    return np.unique(at[inside].round(12), axis=0)


def _rank(mixes: Array) -> int:
    """Dimensions that `mixes` span; -1 for none."""
    return int(np.linalg.matrix_rank(mixes - mixes[0], tol=1e-9)) if len(mixes) else -1


class _Search:
    """Points (S, k) that fill the hull of `mixes`, and its `corners` (C, k)."""

    def __init__(self, mixes: Array) -> None:
        self.rank = _rank(mixes)
        flat = mixes - mixes.mean(axis=0)
        axes = np.linalg.svd(flat, full_matrices=False)[2][: self.rank]
        spanned = flat @ axes.T
        self.corners, triangles, facets = _hull(spanned, mixes)
        if triangles is None:
            rng = np.random.default_rng(0)
            shares = rng.dirichlet(np.full(len(mixes), min(1.0, 4 / len(mixes))), size=_POINTS)
            filled = shares @ mixes
        else:
            filled = np.concatenate([_lattice(self.rank, len(triangles)) @ mixes[corner] for corner in triangles])
        self.mixes, self.facets, self.axes = mixes, facets, axes
        self.points: Array = np.empty((0, mixes.shape[1]))
        self._add(np.concatenate([mixes, filled]))

    def refine(self, leading: Callable[[Array], npt.NDArray[np.intp]]) -> None:
        """Add points near those that `leading` gives of all: from each of them some way towards each corner."""
        towards = self.corners[:: max(1, len(self.corners) // 40)]
        for step in _STEPS:
            for _ in range(2):
                best = self.points[leading(self.points)][:, None]
                self._add((best + step * (towards - best)).reshape(-1, self.mixes.shape[1]))

    def _add(self, points: Array) -> None:
        found = np.concatenate([self.points, points])
        _, first = np.unique(found.round(9), axis=0, return_index=True)
        self.points = found[np.sort(first)]

    @property
    def edge(self) -> npt.NDArray[np.bool_]:
        """Which points lie on the hull's edge: (S,)."""
        if self.facets is None:
            low, high = self.mixes.min(axis=0), self.mixes.max(axis=0)
            bound = (high - low > _NEAR) & ((self.points < low + _NEAR) | (self.points > high - _NEAR))
            return np.asarray(bound.any(axis=1))
        away = (self.points - self.mixes.mean(axis=0)) @ self.axes.T @ self.facets[:, :-1].T + self.facets[:, -1]
        return np.asarray((away > -1e-7).any(axis=1))


def _hull(spanned: Array, mixes: Array) -> tuple[Array, npt.NDArray[np.intp] | None, Array | None]:
    """Corners of the hull, its triangulation by rows of `mixes`, and its facets as Qhull's equations; the latter two
    are None where there are too many dimensions to triangulate."""
    rank = spanned.shape[1]
    if rank == 0:
        return mixes, np.zeros((1, 1), np.intp), None
    if rank == 1:
        ends = np.array([np.argmin(spanned), np.argmax(spanned)])
        facets = np.array([[-1.0, spanned.min()], [1.0, -spanned.max()]])
        return mixes[ends], ends[None], facets
    if rank > _HULL_RANK:
        return mixes, None, None
    try:
        hull = ConvexHull(spanned)
        corners = hull.vertices
        return mixes[corners], corners[Delaunay(spanned[corners]).simplices], hull.equations
    except QhullError:
        return mixes, None, None


def _lattice(rank: int, simplices: int) -> Array:
    """Steps within one simplex, so that all of them have about `_POINTS` points."""
    parts = 2
    while parts < _PARTS and simplices * math.comb(parts + 1 + rank, rank) <= _POINTS:
        parts += 1
    return barycentric(parts, rank + 1)


class _Resampled:
    """Losses in K resamples, by the coefficients that each modality's choice has in them."""

    def __init__(self, at: Array, table: Array, choices: tuple[_Choice | None, ...], bootstrap: int, seed: int) -> None:
        self.choices, self.count = choices, bootstrap
        rng = np.random.default_rng(seed)
        drawn = rng.integers(len(at), size=(bootstrap, len(at)))
        self.coefficients = [
            None if one is None else one.resampled(drawn, np.flatnonzero(~np.isnan(table[:, one.own])), rng)
            for one in choices
        ]

    def predicted(self, own: int, points: Array, part: slice = slice(None)) -> Array:
        """Losses of modality `own` at `points` (S, k), all of them where it is predicted, in resamples `part`."""
        choice, coefficients = self.choices[own], self.coefficients[own]
        assert choice is not None
        assert coefficients is not None
        found: Array = coefficients[part] @ choice.side.basis.columns(points, own).T
        return found

    def weighted(self, points: Array, value: Array, part: slice = slice(None)) -> Array:
        """The weighted loss at `points` (S, k), all of them within the hull, in resamples `part`: (K, S)."""
        total: Array = np.sum(
            [value[own] * self.predicted(own, points, part) for own in range(len(value)) if value[own]], axis=0
        )
        return total


def _weighted(regressions: tuple[Regression | None, ...], value: Array, points: Array) -> Array:
    total: Array = np.zeros(len(points))
    for worth, one in zip(value, regressions, strict=True):
        if worth and one is not None:
            total += worth * one(points)
    return total


def _place(mix: Array, regressions: tuple[Regression | None, ...], value: Array, resampled: _Resampled) -> Place:
    at = mix[None]
    losses = [math.nan if one is None else float(one(at)[0]) for one in regressions]
    return Place(
        mix=tuple(mix.tolist()),
        loss=float(_weighted(regressions, value, at)[0]),
        interval=_interval(resampled.weighted(at, value)[:, 0]),
        losses=tuple(losses),
        intervals=tuple(
            None if math.isnan(loss) else _interval(resampled.predicted(own, at)[:, 0])
            for own, loss in enumerate(losses)
        ),
    )


def _base_place(
    base: Sequence[float],
    search: _Search,
    regressions: tuple[Regression | None, ...],
    value: Array,
    resampled: _Resampled,
) -> Place | None:
    """What is predicted at `base`, None where it lies outside the hull."""
    mix = np.asarray(base, float)
    if not inside(mix, search.corners):
        return None
    return _place(mix, regressions, value, resampled)


def _spots(points: Array, samples: npt.NDArray[np.intp]) -> tuple[Spot, ...]:
    if not len(samples):
        return ()
    inside = central(points[samples])
    place, first, count = np.unique(samples, return_index=True, return_counts=True)
    order = np.argsort(-count, kind="stable")
    return tuple(
        Spot(mix=tuple(points[place[k]].tolist()), count=int(count[k]), inside=bool(inside[first[k]])) for k in order
    )


def _leading(
    points: Array, regressions: tuple[Regression | None, ...], value: Array, resampled: _Resampled
) -> npt.NDArray[np.intp]:
    """Which of `points` are best by the estimate, or in one of the first resamples."""
    samples = resampled.weighted(points, value, slice(0, _LEADERS)).argmin(axis=1)
    return np.unique([int(np.argmin(_weighted(regressions, value, points))), *samples])


def _resample(search: _Search, resampled: _Resampled, value: Array) -> npt.NDArray[np.intp]:
    """Which point is best in each resample: (K,)."""
    parts = [
        resampled.weighted(search.points, value, slice(k, k + _CHUNK)).argmin(axis=1)
        for k in range(0, resampled.count, _CHUNK)
    ]
    return np.concatenate([np.empty(0, np.intp), *parts])


def _profile(
    own: int,
    search: _Search,
    estimate: Array,
    regressions: tuple[Regression | None, ...],
    resampled: _Resampled,
    value: Array,
) -> Profile:
    """The profile of modality `own`: good points, and points from all over, are brought to each of its weights by
    moving them towards the corners that have the most of it, or the least."""
    weights = search.corners[:, own]
    low, high = (search.corners[np.abs(weights - end) < _NEAR].mean(axis=0) for end in (weights.min(), weights.max()))
    level = np.linspace(low[own], high[own], _LEVELS if high[own] - low[own] > _NEAR else 1)[:, None]
    spread = np.linspace(0, len(estimate) - 1, min(len(estimate), _BROUGHT)).astype(int)
    brought = search.points[np.unique([*np.argsort(estimate)[:_BROUGHT], *spread])]
    rising = brought[:, own] < level
    gap = np.where(rising, high[own], low[own]) - brought[:, own]
    share = np.where(gap != 0, (level - brought[:, own]) / np.where(gap != 0, gap, 1.0), 0.0)[..., None]
    points = (1 - share) * brought + share * np.where(rising[..., None], high, low)
    flat, starts = points.reshape(-1, points.shape[2]), np.arange(len(level)) * len(brought)
    least = np.minimum.reduceat(_weighted(regressions, value, flat), starts)
    drawn = [
        np.minimum.reduceat(resampled.weighted(flat, value, slice(k, k + _CHUNK)), starts, axis=1)
        for k in range(0, min(resampled.count, _BANDED), _CHUNK)
    ]
    below, above = _bands(np.concatenate([np.empty((0, len(level))), *drawn]))
    return Profile(weights=tuple(level[:, 0].tolist()), losses=tuple(least.tolist()), low=below, high=above)


def _bands(samples: Array) -> tuple[Mix, Mix]:
    if not len(samples):
        return (), ()
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return tuple(low.tolist()), tuple(high.tolist())


def _interval(samples: Array) -> Interval | None:
    if not len(samples) or np.isnan(samples).any():
        return None
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _warnings(
    at: Array,
    domain: Array,
    regressions: tuple[Regression | None, ...],
    value: Array,
    weights: tuple[Interval, ...] | None,
) -> list[str]:
    """What the data leave open, of the regressions as a whole; what concerns one by name is the caller's to say."""
    said = []
    used = [one for one, worth in zip(regressions, value, strict=True) if one is not None and worth]
    if all(one.chosen.form == "linear" for one in used):
        said.append("the regressions are linear: they have no lowest point within, and the best mix is a corner")
    if _rank(at) < at.shape[1] - 1:
        said.append("some weights vary only together: the best mix is sought among mixes that keep to this")
    ranges = domain.max(axis=0) - domain.min(axis=0)
    spans = [] if weights is None else [high - low for low, high in weights]
    if any(span > WIDE * reach > _NEAR for span, reach in zip(spans, ranges, strict=False)):
        said.append("the interval of a weight spans nearly all mixes that were run: they do not tell the best one")
    return said
