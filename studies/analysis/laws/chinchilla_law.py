"""The Chinchilla law itself, L(N, D) = E + A / N^α + B / D^β (Hoffmann et al., arXiv 2203.15556, equation 2)."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array

NAMES = ("E", "A", "B", "alpha", "beta")


class Law(msgspec.Struct, frozen=True, kw_only=True):
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats per token; N in parameters, D in tokens."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        """Loss at `N` parameters and `D` tokens (arrays of one shape, or that broadcast)."""
        loss: Array = predict(self.row, N, D)[0]
        return loss

    @property
    def row(self) -> Array:
        """The parameters as those of one law, (1, 5), in the order of `NAMES`."""
        return np.array([[getattr(self, name) for name in NAMES]])


def predict(parameters: Array, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
    """Losses of K laws, `parameters` (K, 5) in the order of `NAMES`, at points `N`, `D` of shape S: shape (K, *S)."""
    points = np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float))
    x, y = (np.log(p)[None] for p in points)
    E, A, B, alpha, beta = (c.reshape(-1, *[1] * points[0].ndim) for c in parameters.T)
    loss: Array = E + A * np.exp(-alpha * x) + B * np.exp(-beta * y)
    return loss
