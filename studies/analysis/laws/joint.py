"""Joint laws over the mix: how a modality's loss depends on its own tokens, and on those of the others.

Additive, for each modality m with D_m tokens of it among the run's:

    L_m = E_m + A_m / N^α_m + B_m / D_m^β_m.

Transfer, which contains the additive law (τ = 0): a token of modality j is worth τ_mj tokens of m, so that in place of
D_m stands

    D'_m = D_m + Σ_j τ_mj D_j.

Negative τ is competition; it is bounded so that D'_m stays positive in every run of the fit. `joint_comparison`
asks which of the two the data prefer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws import power_sums
from studies.analysis.laws.base import Array, UnidentifiedError
from studies.analysis.laws.power_sum_form import Columns, Derived, Numbers, Parameter, PowerSum, Term, Values, named
from studies.analysis.laws.power_sum_problem import Problem
from studies.analysis.laws.power_sums import Fitted

MOST_TRANSFER = 2.0
"""A token of another modality is worth at most two of one's own."""
_NEARLY = 0.9
"""Share of the way to the τ at which the effective tokens of some run are none."""
_DESCRIBED = 3.0
"""Runs that never saw the modality join a transfer law that misses them by no more than so many times its residual."""
_LEAST = 1e-4
OWN = "D"
"""The column of the modality's own tokens."""

ADDITIVE = PowerSum(terms=(Term("A", (("N", "alpha"),)), Term("B", ((OWN, "beta"),))))


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
    runs = Runs(N, tokens, losses, modalities, modality)
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
    runs = Runs(N, tokens, losses, modalities, modality)
    problem = runs.transfer(runs.seen)
    best, objective = problem.solve()
    joined = bool(runs.unseen.any()) and _describes(runs, problem, best)
    if joined:
        problem = runs.transfer(runs.seen | runs.unseen)
        best, objective = problem.solve()
    found = power_sums.resample(problem, best, bootstrap, power_sums.FOLDS, seed)
    return runs.law(power_sums.describe(problem, best, objective, *found), joined)


class Runs:
    """The runs as one modality sees them: those that trained on it (`seen`), and those that only have a loss of it."""

    def __init__(
        self, N: npt.ArrayLike, tokens: npt.ArrayLike, losses: npt.ArrayLike, names: Sequence[str], modality: str
    ) -> None:
        self.N, self.tokens, measured = checked(N, tokens, losses, names)
        self.modalities, self.modality = tuple(names), modality
        place = self.modalities.index(modality)
        self.loss, self.own = measured[:, place], self.tokens[:, place]
        self.seen = np.isfinite(self.loss) & (self.own > 0)
        self.unseen = np.isfinite(self.loss) & (self.own == 0)

    def columns(self, rows: npt.NDArray[np.bool_]) -> dict[str, Array]:
        """What the laws' forms are evaluated at, of some of the runs."""
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
            ratio = columns[OWN] / rest.sum(axis=1)
        constant = np.ptp(columns[OWN] / (columns[OWN] + rest.sum(axis=1))) < 1e-6
        if constant and np.ptp(shares, axis=0).max() < 1e-6:
            raise UnidentifiedError("the mix does not vary: tokens of other modalities cannot be told from its own")
        # A run without tokens of its own has effective tokens only where others are worth something.
        low = -min(1.0, _NEARLY * float(ratio.min())) if ratio.min() > 0 else _LEAST
        return Problem(_transfer_form(others, low), columns, self.loss[rows])

    def law(self, found: Fitted, joined: bool) -> ModalityLaw:
        """The law of the modality that `found` is, with what is to be said of the runs that never saw it."""
        unseen = int(self.unseen.sum())
        said = []
        if unseen:
            what = "take part: the law describes them" if joined else "are left out"
            said.append(f"{unseen} runs never saw {self.modality} and {what}")
        fields = msgspec.structs.asdict(found) | {"warnings": (*said, *found.warnings)}
        return ModalityLaw(**fields, modality=self.modality, modalities=self.modalities, unseen=unseen, joined=joined)


def _describes(runs: Runs, problem: Problem, best: Array) -> bool:
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
        total: Numbers = columns[OWN]
        for name in others:
            total = total + values[f"tau_{name}"] * columns[_tokens_of(name)]
        return total

    terms = (Term("A", (("N", "alpha"),)), Term("B", (("D'", "beta"),)))
    return PowerSum(terms=terms, derived=(Derived("D'", taus, effective),))


def checked(
    N: npt.ArrayLike, tokens: npt.ArrayLike, losses: npt.ArrayLike, modalities: Sequence[str]
) -> tuple[Array, Array, Array]:
    """N (n,), tokens and losses (n, M) as arrays. Raises ValueError where shapes, names or tokens do not do."""
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
    return {"N": N, OWN: tokens[:, list(modalities).index(modality)], **each}
