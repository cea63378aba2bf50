"""The interaction law, that of Aghajanyan et al. (arXiv 2301.03728) for the mean loss of a mix, here of any number of
modalities:

    mean_m L = mean_m L_m(N, D_m) - C + A / N^α + B / (Σ_m D_m)^β,

with L_m the laws of runs on one modality alone. C is the greatest synergy, the two terms are the competition that holds
until N and D are large; where C outweighs them a mix does better than separate models (the competition barrier). It
needs such runs on one modality alone: from mixes by themselves C cannot be told from E_m, and the transfer law is the
one to fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws import power_sums
from studies.analysis.laws.base import Array, UnidentifiedError
from studies.analysis.laws.joint import ADDITIVE, OWN, ModalityLaw, checked, fit_additive
from studies.analysis.laws.power_sum_form import PowerSum, named
from studies.analysis.laws.power_sum_problem import Problem
from studies.analysis.laws.power_sums import Fitted
from studies.analysis.laws.statistics import band


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
        return band(alone + beyond)

    def synergy(self, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        """C - A / N^α - B / D^β at `D` tokens in all: how far the mean loss lies below that of separate models."""
        sizes, tokens = (v.ravel() for v in np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float)))
        return -self.losses({"N": sizes, OWN: tokens})

    def synergy_interval(self, N: npt.ArrayLike, D: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of `synergy`; where both are positive the barrier is passed."""
        sizes, tokens = (v.ravel() for v in np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float)))
        low, high = self.spread({"N": sizes, OWN: tokens})
        return -high, -low


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
    sizes, mix, measured = checked(N, tokens, losses, modalities)
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


def _whole(N: npt.ArrayLike, tokens: npt.ArrayLike) -> dict[str, Array]:
    total = np.asarray(tokens, float).sum(axis=-1).ravel()
    return {"N": np.broadcast_to(np.asarray(N, float).ravel(), len(total)), OWN: total}


def _mean_alone(laws: Sequence[ModalityLaw], N: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
    """Mean over modalities of the uni-modal laws' loss, one row for each resample: (K, n)."""
    rows = [law.form.losses(named(law.form, law.samples), law.columns(N, tokens)) for law in laws]
    found: Array = np.mean(rows, axis=0)
    return found
