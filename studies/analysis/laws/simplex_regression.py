"""Losses over the simplex of mixes by regression.

A mix is a row of weights that sum to one, so that Scheffé's polynomials (J. R. Stat. Soc. B 20, 344, 1958) have no
constant: `linear` Σ b_i w_i, `quadratic` with b_ij w_i w_j, `special cubic` with b_ijk w_i w_j w_k too. A modality's
loss also bends with the log, or a power, of its own tokens, as scaling laws have it: `own log` is linear with
c · log(w_m + e), `own power` with c · (w_m + e)^-p (what other modalities' tokens do for it is in the linear part, and
in e), `quadratic and own log` has both. Which form, e and p is taken is decided by leaving out one mix at a time. All
forms are linear in their coefficients, so that nothing depends on a start.

The loss of a modality that a run has not trained on at all may be of another kind. Such runs are left out of its
regression where keeping them makes the error over the others more than `KIND` times as large.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array, UnidentifiedError
from studies.analysis.laws.mixes import NEAR

Form = Literal["linear", "quadratic", "special cubic", "own log", "own power", "quadratic and own log"]
FEWEST = 6
"""Mixes that a regression needs."""
SPARE = 2
"""Mixes that a form needs beyond its parameters."""
KIND = 1.5
"""So many times the error that runs which never trained on a modality may add before they are left out."""
_SHIFTS = (0.0, 0.01, 0.03, 0.1, 0.3)
_POWERS = (0.25, 0.5, 1.0)


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
        within = at[:, self.own] >= self.lowest - NEAR
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


def regress(mixes: npt.ArrayLike, losses: npt.ArrayLike, own: int, trained: bool | None = None) -> Regression:
    """The loss of modality `own` by mix: `mixes` (n, k), `losses` (n,) in nats, all finite.

    `trained` decides whether runs that did not train on the modality are left out; None leaves it to the error. Raises
    `UnidentifiedError` where fewer than `FEWEST` mixes are left, ValueError where rows do not sum to one or a loss is
    not finite.
    """
    return Choice(*_checked(mixes, losses), own, trained).regression()


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
        return float(f"{max(error, NEAR):.6g}"), self.candidate.parameters


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


class Choice:
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


def all_choices(at: Array, table: Array, value: Array, trained: bool | None) -> tuple[Choice | None, ...]:
    """The choice of each modality by its column of losses `table` (n, k); None where its runs are too few.

    Raises `UnidentifiedError` for one of these that has a `value` (k,).
    """
    found: list[Choice | None] = []
    for own in range(at.shape[1]):
        known = ~np.isnan(table[:, own])
        try:
            if not known.any():
                raise UnidentifiedError("no run has a loss of one of the modalities")
            found.append(Choice(*_checked(at[known], table[known, own]), own, trained))
        except UnidentifiedError:
            if value[own]:
                raise
            found.append(None)
    return tuple(found)


def regressions_of(choices: tuple[Choice | None, ...]) -> tuple[Regression | None, ...]:
    """What was chosen of each modality."""
    return tuple(None if choice is None else choice.regression() for choice in choices)


def weighted_loss(regressions: tuple[Regression | None, ...], value: Array, points: Array) -> Array:
    """The loss at `points` (S, k) weighted by `value` (k,): (S,)."""
    total: Array = np.zeros(len(points))
    for worth, one in zip(value, regressions, strict=True):
        if worth and one is not None:
            total += worth * one(points)
    return total
