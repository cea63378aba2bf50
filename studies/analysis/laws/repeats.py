"""The data-constrained law of Muennighoff et al. (arXiv 2305.16264): tokens seen again are worth less and less.

Of D tokens drawn from U unique ones, R = D / U - 1 are repetitions, and they count as

    D' = U + U R* (1 - exp(-R / R*)),        L = E + A / N'^α + B / D'^β.

R* is the number of repetitions after which a further one is worth 1/e of a new token. With several sources D' is the
sum of theirs, with one R*. Where no source is seen twice D' = D, and the law is Chinchilla's.

Excess parameters decay likewise where they are asked for: U_N = min(N, the compute-optimal N for U tokens), and
N' = U_N + U_N R_N* (1 - exp(-R_N / R_N*)) with R_N = N / U_N - 1. Otherwise N' = N.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws import power_sums
from studies.analysis.laws.base import Array, UnidentifiedError
from studies.analysis.laws.power_sum_form import Columns, Derived, Numbers, Parameter, PowerSum, Term, Values
from studies.analysis.laws.power_sums import Fitted

MOST_EPOCHS = 4.0
"""Up to here repeated tokens are nearly as good as new ones (section 5 of the paper)."""
_ENOUGH = 2.0
"""Repetitions that some run needs for R* to show: less than one of new tokens' worth is lost up to there."""
_BOUNDS = (0.1, 1000.0)
_STARTS = (15.0, 3.0, 60.0)
_LARGEST = 30.0
"""Log of the most that N may exceed the compute-optimal one by."""
_TINY = 1e-9
"""Keeps α = 0 from dividing by nothing."""


def effective_tokens(D: npt.ArrayLike, U: npt.ArrayLike, R: npt.ArrayLike) -> Array:
    """D' for `D` tokens of `U` unique ones, at R* = `R`; arrays of one shape, or that broadcast. D' = D where D ≤ U.

    >>> print(f"{effective_tokens(4e9, 1e9, R=15.4):.3g}")
    3.73e+09
    """
    tokens, unique = np.asarray(D, float), np.asarray(U, float)
    found: Array = _decayed(tokens, np.minimum(unique, tokens), np.asarray(R, float))
    return found


def within_epochs(epochs: npt.ArrayLike, limit: float = MOST_EPOCHS) -> npt.NDArray[np.bool_]:
    """Which runs see no source more than `limit` times: `epochs` (n,), or (n, sources); mask (n,)."""
    seen = np.asarray(epochs, float)
    held: npt.NDArray[np.bool_] = (seen if seen.ndim == 1 else seen.max(axis=1)) <= limit
    return held


class Repeats(Fitted, frozen=True, kw_only=True):
    """A fitted data-constrained law: `Fitted`, with R_D among the parameters (and R_N where it was asked for).

    Without R_D no run repeats data, and the law is Chinchilla's.
    """

    def predict(self, N: npt.ArrayLike, D: npt.ArrayLike, U: npt.ArrayLike) -> Array:
        """Loss at `N` parameters (n,) and `D` tokens from `U` unique ones, each (n,) or (n, sources)."""
        return self.losses(_columns(N, D, U))

    def band(self, N: npt.ArrayLike, D: npt.ArrayLike, U: npt.ArrayLike) -> tuple[Array, Array]:
        """Low and high end of the 90 % interval of the law's loss."""
        return self.spread(_columns(N, D, U))


def fit(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    U: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    excess_parameters: bool = False,
    bootstrap: int = 500,
    seed: int = 0,
) -> Repeats:
    """Fit the law to runs of `N` parameters, `D` tokens from `U` unique ones, and final `loss`.

    N and loss are of shape (n,), D and U of shape (n,) or (n, sources). `excess_parameters` also fits R_N. Raises
    `UnidentifiedError` and ValueError as `power_sums.fit` does.
    """
    columns = _columns(N, D, U)
    sources = _sources(columns)
    repetitions = max(float((columns[f"D{s}"] / columns[f"U{s}"]).max()) - 1 for s in range(sources))
    if excess_parameters and not any(np.ptp(column) for name, column in columns.items() if name != "N"):
        raise UnidentifiedError("R_N needs runs of different tokens: the compute-optimal size follows from them")
    said: list[str] = []
    if repetitions <= 0:
        said.append("no run repeats data: R_D is not fitted, and the law is Chinchilla's")
    elif repetitions < _ENOUGH:
        said.append(f"no run repeats data more than {repetitions:.2g} times: R_D is hardly determined")
    form = _form(sources, repetitions > 0, excess_parameters)
    found = power_sums.fit(form, columns, loss, bootstrap=bootstrap, seed=seed)
    return Repeats(**{**msgspec.structs.asdict(found), "warnings": (*said, *found.warnings)})


def _form(sources: int, repeated: bool, excess: bool) -> PowerSum:
    def data(values: Values, columns: Columns) -> Numbers:
        if not repeated:
            return _total(columns, "D", sources)
        parts = [_decayed(columns[f"D{s}"], columns[f"U{s}"], values["R_D"]) for s in range(sources)]
        total: Numbers = np.sum(parts, axis=0)
        return total

    def size(values: Values, columns: Columns) -> Numbers:
        # Compute-optimal: where α A / N^α = β B / D^β. In logarithms, as the coefficients may be huge.
        alpha, beta = values["alpha"], values["beta"]
        ratio = np.log((alpha + _TINY) * values["A"]) - np.log((beta + _TINY) * values["B"])
        best = (ratio + beta * np.log(_total(columns, "U", sources))) / (alpha + _TINY)
        here = np.log(columns["N"])
        best = np.where(best.real > here - _LARGEST, best, here - _LARGEST)
        return _decayed(columns["N"], np.exp(np.where(best.real < here, best, here)), values["R_N"])

    derived = [Derived("N'", (_parameter("R_N"),), size)] if excess else []
    derived.append(Derived("D'", (_parameter("R_D"),) if repeated else (), data))
    return PowerSum(
        terms=(Term("A", (("N'" if excess else "N", "alpha"),)), Term("B", (("D'", "beta"),))), derived=tuple(derived)
    )


def _parameter(name: str) -> Parameter:
    return Parameter(name=name, low=_BOUNDS[0], high=_BOUNDS[1], starts=_STARTS, logarithmic=True)


def _decayed(whole: Numbers, unique: Numbers, R: Numbers) -> Numbers:
    decayed: Numbers = unique + unique * R * -np.expm1(-(whole / unique - 1) / R)
    return decayed


def _total(columns: Columns, name: str, sources: int) -> Numbers:
    total: Numbers = np.sum([columns[f"{name}{s}"] for s in range(sources)], axis=0)
    return total


def _sources(columns: Columns) -> int:
    return sum(name.startswith("D") for name in columns)


def _columns(N: npt.ArrayLike, D: npt.ArrayLike, U: npt.ArrayLike) -> dict[str, Array]:
    """N, and D and U of each source as columns of their own, U at most D; a source not drawn from is as good as 0."""
    sizes, tokens = np.asarray(N, float), np.asarray(D, float)
    if tokens.ndim < 2:
        sizes, tokens = (v.ravel() for v in np.broadcast_arrays(sizes, tokens))
    sizes = sizes.ravel()
    unique = np.broadcast_to(np.asarray(U, float), tokens.shape).reshape(len(sizes), -1)
    tokens = tokens.reshape(len(sizes), -1)
    if not np.all(np.isfinite(tokens) & (tokens >= 0) & (unique > 0)):
        raise ValueError("D must be finite and not negative, and U positive")
    columns = {"N": sizes}
    for s in range(tokens.shape[1]):
        columns[f"D{s}"] = np.maximum(tokens[:, s], 1e-9)
        columns[f"U{s}"] = np.minimum(unique[:, s], columns[f"D{s}"])
    return columns
