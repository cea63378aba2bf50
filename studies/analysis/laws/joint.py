"""Joint laws over the mix: how a modality's loss depends on its own tokens, and on those of the others.

Additive, for each modality m with D_m tokens of it among the run's:

    L_m = E_m + A_m / N^α_m + B_m / D_m^β_m.

Transfer, which contains the additive law (τ = 0): a token of modality j is worth τ_mj tokens of m, so that in place of
D_m stands

    D'_m = D_m + Σ_j τ_mj D_j.

Negative τ is competition; it is bounded so that D'_m stays positive in every run of the fit. `compare` asks which of
the two the data prefer.

Interaction, the law of Aghajanyan et al. (arXiv 2301.03728) for the mean loss of a mix, here of any number of
modalities:

    mean_m L = mean_m L_m(N, D_m) - C + A / N^α + B / (Σ_m D_m)^β,

with L_m the laws of runs on one modality alone. C is the greatest synergy, the two terms are the competition that holds
until N and D are large; where C outweighs them a mix does better than separate models (the competition barrier). It
needs such runs on one modality alone: from mixes by themselves C cannot be told from E_m, and the transfer law is the
one to fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws import power_sums
from studies.analysis.laws.chinchilla import LEVEL, Array, UnidentifiedError
from studies.analysis.laws.power_sums import (
    Columns,
    Derived,
    Fitted,
    Interval,
    Numbers,
    Parameter,
    PowerSum,
    Problem,
    Term,
    Values,
    interval,
    named,
)

MOST_TRANSFER = 2.0
"""A token of another modality is worth at most two of one's own."""
_NEARLY = 0.9
"""Share of the way to the τ at which the effective tokens of some run are none."""
_DESCRIBED = 3.0
"""Runs that never saw the modality join a transfer law that misses them by no more than so many times its residual."""
_LEAST = 1e-4
_OWN = "D"

ADDITIVE = PowerSum(terms=(Term("A", (("N", "alpha"),)), Term("B", ((_OWN, "beta"),))))


class ModalityLaw(Fitted, frozen=True, kw_only=True):
    """The law of one modality's loss: `Fitted`, with a parameter `tau_NAME` for each other modality in a transfer law.

    `modalities` names the columns of tokens; `unseen` counts runs with a loss but no token of it, `joined` says that
    they took part in the fit.
    """

    modality: str
    modalities: tuple[str, ...]
    unseen: int = 0
    joined: bool = False

    def predict(self, N: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """Loss in nats per token at `N` parameters (n,) and `tokens` of each modality (n, M).

        Infinite without tokens of the modality, NaN where negative τ would make its effective tokens negative.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.losses(self.columns(N, tokens))

    def band(self, N: npt.ArrayLike, tokens: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of the law's loss."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.spread(self.columns(N, tokens))

    def columns(self, N: npt.ArrayLike, tokens: npt.ArrayLike) -> dict[str, Array]:
        """What the law's form is evaluated at."""
        mix = np.asarray(tokens, float).reshape(-1, len(self.modalities))
        return _columns(np.broadcast_to(np.asarray(N, float).ravel(), len(mix)), mix, self.modalities, self.modality)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the tokens of other modalities matter to the loss of `modality`.

    `difference` is the additive law's mean absolute held-out error in log loss minus the transfer law's (positive: the
    transfer law predicts better), with the central 90 % of a bootstrap over runs. `p_value` is the share of 199
    data sets drawn from the additive law on which the transfer law lowers the objective by as much as on the data.
    `significant`: `p_value` is below 10 % divided by the number of modalities compared. `preferred` is the law of the
    smaller held-out error, which where nothing is significant is one or the other by chance.
    """

    modality: str
    additive: ModalityLaw
    transfer: ModalityLaw
    difference: float
    difference_interval: Interval
    p_value: float
    significant: bool
    preferred: Literal["additive", "transfer"]
    warnings: tuple[str, ...] = ()


class Interaction(Fitted, frozen=True, kw_only=True):
    """The law of the mean loss of a mix: `shift` (which is -C), A, B, alpha and beta, beyond the `unimodal` laws.

    `intervals` also has one for C. `residual`, `r2`, `held_out` and `n` are of the mixed runs.
    """

    modalities: tuple[str, ...]
    unimodal: tuple[ModalityLaw, ...]

    @property
    def C(self) -> float:  # noqa: N802
        """The greatest synergy, in nats per token."""
        return -self.parameters["shift"]

    def predict(self, N: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """Mean loss over modalities at `N` (n,) and `tokens` (n, M), all positive."""
        alone: Array = np.mean([law.predict(N, tokens) for law in self.unimodal], axis=0)
        return alone + self.losses(_whole(N, tokens))

    def band(self, N: npt.ArrayLike, tokens: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of that."""
        if not len(self.samples):
            raise ValueError("the fit has no bootstrap, and so no band")
        beyond = self.form.losses(named(self.form, self.samples), _whole(N, tokens))
        alone = _mean_alone(self.unimodal, N, tokens)
        low, high = np.quantile(alone + beyond, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high

    def synergy(self, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        """C - A / N^α - B / D^β at `D` tokens in all: how far the mean loss lies below that of separate models."""
        sizes, tokens = (v.ravel() for v in np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float)))
        return -self.losses({"N": sizes, _OWN: tokens})

    def synergy_interval(self, N: npt.ArrayLike, D: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of `synergy`; where both are positive the barrier is passed."""
        sizes, tokens = (v.ravel() for v in np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float)))
        low, high = self.spread({"N": sizes, _OWN: tokens})
        return -high, -low


def fit_additive(
    N: npt.ArrayLike,
    tokens: npt.ArrayLike,
    losses: npt.ArrayLike,
    modalities: Sequence[str],
    modality: str,
    bootstrap: int = 500,
    seed: int = 0,
) -> ModalityLaw:
    """Fit the additive law of `modality` to runs of `N` parameters (n,), `tokens` and `losses` of each modality (n, M).

    A loss of NaN is one that was not measured. Runs without tokens of the modality are left out, and the warnings say
    so. Raises as `power_sums.fit` does.
    """
    runs = _Runs(N, tokens, losses, modalities, modality)
    found = power_sums.fit(ADDITIVE, runs.columns(runs.seen), runs.loss[runs.seen], bootstrap=bootstrap, seed=seed)
    return runs.law(found, joined=False)


def fit_transfer(
    N: npt.ArrayLike,
    tokens: npt.ArrayLike,
    losses: npt.ArrayLike,
    modalities: Sequence[str],
    modality: str,
    bootstrap: int = 500,
    seed: int = 0,
) -> ModalityLaw:
    """Fit the transfer law of `modality`; arguments as for `fit_additive`.

    Runs that never saw the modality join the fit only where the law of the others describes them. Raises
    `UnidentifiedError` also where the mix does not vary.
    """
    runs = _Runs(N, tokens, losses, modalities, modality)
    problem = runs.transfer(runs.seen)
    best, objective = problem.solve()
    joined = bool(runs.unseen.any()) and _describes(runs, problem, best)
    if joined:
        problem = runs.transfer(runs.seen | runs.unseen)
        best, objective = problem.solve()
    found = power_sums.resample(problem, best, bootstrap, power_sums.FOLDS, seed)
    return runs.law(power_sums.describe(problem, best, objective, *found), joined)


def compare(
    N: npt.ArrayLike,
    tokens: npt.ArrayLike,
    losses: npt.ArrayLike,
    modalities: Sequence[str],
    bootstrap: int = 500,
    seed: int = 0,
    drawn: int = 199,
) -> tuple[Comparison, ...]:
    """The additive against the transfer law for each of `modalities`, on the runs that saw it; arguments as above.

    Raises `UnidentifiedError`, which names the modality, where either cannot be fitted.
    """
    found = []
    for modality in modalities:
        runs = _Runs(N, tokens, losses, modalities, modality)
        try:
            found.append(_compare(runs, bootstrap, seed, drawn))
        except UnidentifiedError as error:
            raise UnidentifiedError(f"{modality}: {error}") from error
    return tuple(found)


def fit_interaction(
    N: npt.ArrayLike,
    tokens: npt.ArrayLike,
    losses: npt.ArrayLike,
    modalities: Sequence[str],
    bootstrap: int = 500,
    seed: int = 0,
) -> Interaction:
    """Fit the interaction law to runs of `N` parameters (n,), `tokens` and `losses` of each modality (n, M).

    Runs on one modality alone give the uni-modal laws, runs on all of them the interaction; others are left out. Raises
    `UnidentifiedError`, saying which runs are lacking.
    """
    sizes, mix, measured = _checked(N, tokens, losses, modalities)
    unimodal = []
    for m, modality in enumerate(modalities):
        alone = (mix[:, m] > 0) & (mix.sum(axis=1) == mix[:, m])
        try:
            law = fit_additive(sizes[alone], mix[alone], measured[alone], modalities, modality, bootstrap, seed + 1 + m)
        except UnidentifiedError as error:
            lacking = "synergy cannot be told from E without it; fit the transfer law, or add such runs"
            raise UnidentifiedError(f"runs on {modality} alone do not give its law ({error}): {lacking}") from error
        unimodal.append(law)
    mixed = (mix > 0).all(axis=1) & np.isfinite(measured).all(axis=1)
    form = PowerSum(terms=ADDITIVE.terms, constant="shift", signed=True)
    point = np.mean([law.predict(sizes[mixed], mix[mixed]) for law in unimodal], axis=0)
    problem = Problem(form, _whole(sizes[mixed], mix[mixed]), measured[mixed].mean(axis=1), point)
    best, objective = problem.solve()
    rng = np.random.default_rng(seed)
    # Each refit stands on the uni-modal laws of a resample of their own, so that their uncertainty is part of it.
    refits, _ = problem.minimise(
        np.repeat(best[None], bootstrap, axis=0),
        problem.redrawn(best, bootstrap, rng, _mean_alone(unimodal, sizes[mixed], mix[mixed])),
    )
    errors = problem.held_out(best, power_sums.FOLDS, rng)
    fitted = power_sums.describe(problem, best, objective, problem.natural(refits), float(np.sqrt(np.mean(errors**2))))
    intervals = dict(fitted.intervals)
    if "shift" in intervals:
        intervals["C"] = (-intervals["shift"][1], -intervals["shift"][0])
    said = [f"{law.modality} alone: {text}" for law in unimodal for text in law.warnings]
    fields = msgspec.structs.asdict(fitted) | {"intervals": intervals, "warnings": (*fitted.warnings, *said)}
    return Interaction(**fields, modalities=tuple(modalities), unimodal=tuple(unimodal))


class _Runs:
    """The runs as one modality sees them: those that trained on it (`seen`), and those that only have a loss of it."""

    def __init__(
        self, N: npt.ArrayLike, tokens: npt.ArrayLike, losses: npt.ArrayLike, names: Sequence[str], modality: str
    ) -> None:
        self.N, self.tokens, measured = _checked(N, tokens, losses, names)
        self.modalities, self.modality = tuple(names), modality
        place = self.modalities.index(modality)
        self.loss, self.own = measured[:, place], self.tokens[:, place]
        self.seen = np.isfinite(self.loss) & (self.own > 0)
        self.unseen = np.isfinite(self.loss) & (self.own == 0)

    def columns(self, rows: npt.NDArray[np.bool_]) -> dict[str, Array]:
        return _columns(self.N[rows], self.tokens[rows], self.modalities, self.modality)

    def transfer(self, rows: npt.NDArray[np.bool_]) -> Problem:
        """The transfer law's problem on some of the runs."""
        columns = self.columns(rows)
        others = [name for name in self.modalities if name != self.modality and columns[_tokens_of(name)].any()]
        if not others:
            raise UnidentifiedError("no run trained on another modality")
        rest = np.stack([columns[_tokens_of(name)] for name in others], axis=1)
        with np.errstate(divide="ignore"):
            shares = rest / rest.sum(axis=1, keepdims=True).clip(1e-300)
            ratio = columns[_OWN] / rest.sum(axis=1)
        constant = np.ptp(columns[_OWN] / (columns[_OWN] + rest.sum(axis=1))) < 1e-6
        if constant and np.ptp(shares, axis=0).max() < 1e-6:
            raise UnidentifiedError("the mix does not vary: tokens of other modalities cannot be told from its own")
        # A run without tokens of its own has effective tokens only where others are worth something.
        low = -min(1.0, _NEARLY * float(ratio.min())) if ratio.min() > 0 else _LEAST
        return Problem(_transfer_form(others, low), columns, self.loss[rows])

    def law(self, found: Fitted, joined: bool) -> ModalityLaw:
        unseen = int(self.unseen.sum())
        said = []
        if unseen:
            what = "take part: the law describes them" if joined else "are left out"
            said.append(f"{unseen} runs never saw {self.modality} and {what}")
        fields = msgspec.structs.asdict(found) | {"warnings": (*said, *found.warnings)}
        return ModalityLaw(**fields, modality=self.modality, modalities=self.modalities, unseen=unseen, joined=joined)


def _compare(runs: _Runs, bootstrap: int, seed: int, drawn: int) -> Comparison:
    additive = Problem(ADDITIVE, runs.columns(runs.seen), runs.loss[runs.seen])
    if additive.dropped and "B" in additive.dropped:
        raise UnidentifiedError("its own tokens do not vary")
    transfer = runs.transfer(runs.seen)
    (one, objective), (other, lower) = additive.solve(), transfer.solve()
    extra = len(other) - len(one)

    def descend(targets: Array) -> Array:
        """How far the transfer law lies below the additive one on each row of log losses."""
        count = len(targets)
        nested, below = additive.minimise(np.repeat(one[None], count, axis=0), additive.draws(count, targets))
        _, reached = transfer.minimise(np.pad(nested, [(0, 0), (0, extra)]), transfer.draws(count, targets))
        gain: Array = below - reached
        return gain

    rng = np.random.default_rng(seed)
    gains = descend(additive.redrawn(one, drawn, rng).target)
    # The transfer law holds the additive one, so it cannot do worse.
    nested = np.pad(one, (0, extra))[None]
    start, reached = transfer.minimise(nested)
    if reached[0] < lower:
        other, lower = start[0], float(reached[0])
    p_value = (1 + int((gains >= objective - lower).sum())) / (drawn + 1)

    fits = ((additive, one, objective), (transfer, other, lower))
    errors = [p.held_out(best, power_sums.FOLDS, np.random.default_rng(seed)) for p, best, _ in fits]
    apart = np.abs(errors[0]) - np.abs(errors[1])
    resampled = apart[rng.integers(len(apart), size=(1000, len(apart)))].mean(axis=1)
    laws = []
    for problem, best, value in fits:
        found = power_sums.resample(problem, best, bootstrap, power_sums.FOLDS, seed)
        laws.append(runs.law(power_sums.describe(problem, best, value, *found), joined=False))
    difference = float(apart.mean())
    return Comparison(
        modality=runs.modality,
        additive=laws[0],
        transfer=laws[1],
        difference=difference,
        difference_interval=interval(resampled),
        p_value=p_value,
        significant=p_value < (1 - LEVEL) / len(runs.modalities),
        preferred="transfer" if difference > 0 else "additive",
    )


def _describes(runs: _Runs, problem: Problem, best: Array) -> bool:
    """Whether the law fitted to runs that saw the modality also holds for those that did not."""
    values = named(problem.form, problem.natural(best[None]))
    columns = runs.columns(runs.unseen)
    if any(values[tau.name][0, 0] <= 0 for tau in problem.form.parameters):
        return False
    errors = np.log(problem.form.losses(values, columns)[0]) - np.log(runs.loss[runs.unseen])
    usual = float(np.sqrt(np.mean(problem.residuals(best[None]) ** 2)))
    return bool(np.sqrt(np.mean(errors**2)) <= _DESCRIBED * usual)


def _transfer_form(others: Sequence[str], low: float) -> PowerSum:
    starts = tuple(dict.fromkeys(max(low, start) for start in (0.0, 0.1, 0.5, 0.5 * low)))
    taus = tuple(Parameter(name=f"tau_{name}", low=low, high=MOST_TRANSFER, starts=starts) for name in others)

    def effective(values: Values, columns: Columns) -> Numbers:
        total: Numbers = columns[_OWN]
        for name in others:
            total = total + values[f"tau_{name}"] * columns[_tokens_of(name)]
        return total

    terms = (Term("A", (("N", "alpha"),)), Term("B", (("D'", "beta"),)))
    return PowerSum(terms=terms, derived=(Derived("D'", taus, effective),))


def _checked(
    N: npt.ArrayLike, tokens: npt.ArrayLike, losses: npt.ArrayLike, modalities: Sequence[str]
) -> tuple[Array, Array, Array]:
    sizes, mix, measured = np.asarray(N, float).ravel(), np.asarray(tokens, float), np.asarray(losses, float)
    if len(modalities) < 2 or len(set(modalities)) != len(modalities):
        raise ValueError("a joint law needs two modalities or more, each named once")
    if not mix.shape == measured.shape == (len(sizes), len(modalities)):
        raise ValueError(f"tokens and losses must be of shape ({len(sizes)}, {len(modalities)}): runs by modalities")
    if not np.all(np.isfinite(mix) & (mix >= 0)):
        raise ValueError("tokens must be finite and not negative")
    return sizes, mix, measured


def _tokens_of(modality: str) -> str:
    return f"tokens of {modality}"


def _columns(N: Array, tokens: Array, modalities: Sequence[str], modality: str) -> dict[str, Array]:
    """N, the modality's own tokens as D, and those of each."""
    each: Mapping[str, Array] = {_tokens_of(name): tokens[:, m] for m, name in enumerate(modalities)}
    return {"N": N, _OWN: tokens[:, list(modalities).index(modality)], **each}


def _whole(N: npt.ArrayLike, tokens: npt.ArrayLike) -> dict[str, Array]:
    total = np.asarray(tokens, float).sum(axis=-1).ravel()
    return {"N": np.broadcast_to(np.asarray(N, float).ravel(), len(total)), _OWN: total}


def _mean_alone(laws: Sequence[ModalityLaw], N: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
    """Mean over modalities of the uni-modal laws' loss, one row for each resample: (K, n)."""
    rows = [law.form.losses(named(law.form, law.samples), law.columns(N, tokens)) for law in laws]
    found: Array = np.mean(rows, axis=0)
    return found
