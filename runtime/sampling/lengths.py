"""How long a target is to be: what training sequences tell of it, given the condition.

Masked diffusion fills a canvas of a given length. A ridge regression of training lengths on the condition's tokens
(their counts, and their shares) gives the expected length; the residuals of training conditions of the same size give
its spread. Lengths that training does not have are never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.data import Split
from runtime.training.stream import Indices

RIDGE = 1e-2
MOST = 20_000
"""Training sequences that are read."""


class Lengths:
    """The law of one segment's length given another."""

    def __init__(self, train: Split, condition: int, target: int) -> None:
        count = min(MOST, len(train))
        rows = np.arange(count) * len(train) // count
        conditions = [np.asarray(train.segments(int(row))[condition]) for row in rows]
        lengths = train.lengths[rows, target].astype(np.float64)
        self.seen = np.unique(train.lengths[:, target])
        self.vocabulary = 1 + max(int(one.max(initial=0)) for one in conditions)
        features = self._features(conditions)
        # Normalised by the intercept's column, which is all ones: ridge in units of a single sequence.
        gram = features.T @ features + RIDGE * np.eye(features.shape[1])
        self.slopes = np.linalg.solve(gram, features.T @ lengths)
        residuals = lengths - features @ self.slopes
        sizes = np.array([len(one) for one in conditions])
        self.residuals = {int(size): np.sort(residuals[sizes == size]) for size in np.unique(sizes)}

    def draw(self, conditions: Sequence[Indices], u: npt.NDArray[np.float64]) -> list[int]:
        """A length for each condition, by uniform numbers `u` in [0, 1)."""
        expected = self._features(conditions) @ self.slopes
        return [
            self._snapped(mean + residuals[int(draw * len(residuals))])
            for mean, draw, residuals in zip(expected, u, map(self._spread, conditions), strict=True)
        ]

    def likeliest(self, condition: Indices, most: int) -> list[tuple[int, float]]:
        """Up to `most` lengths with the log of their probability, the likeliest first."""
        mean = float((self._features([condition]) @ self.slopes)[0])
        spread = self._spread(condition)
        found, counts = np.unique([self._snapped(mean + residual) for residual in spread], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        return [(int(found[k]), float(np.log(counts[k] / len(spread)))) for k in order]

    def _features(self, conditions: Sequence[Indices]) -> npt.NDArray[np.float64]:
        counts = np.zeros((len(conditions), self.vocabulary))
        for row, condition in enumerate(conditions):
            known = condition[condition < self.vocabulary].astype(np.int64)
            counts[row] = np.bincount(known, minlength=self.vocabulary)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return np.hstack([np.ones((len(conditions), 1)), counts, shares])

    def _spread(self, condition: Indices) -> npt.NDArray[np.float64]:
        """The residuals of training conditions of this one's size, or of the nearest size that has some."""
        return self.residuals[min(self.residuals, key=lambda size: (abs(size - len(condition)), size))]

    def _snapped(self, length: float) -> int:
        return int(self.seen[np.abs(self.seen - length).argmin()])
