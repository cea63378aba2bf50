"""Mixes as points of a simplex: lattices of them, their hull, and points that fill it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.spatial import ConvexHull, Delaunay, QhullError

from studies.analysis.laws.base import Array
from studies.analysis.laws.statistics import LEVEL

Mix = tuple[float, ...]
NEAR = 1e-9
"""Weights this near are equal."""
_POINTS = 6000
_PARTS = 100
_HULL_RANK = 5
_STEPS = (0.3, 0.1, 0.03, 0.01)


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


def rank_of(mixes: Array) -> int:
    """Dimensions that `mixes` span; -1 for none."""
    return int(np.linalg.matrix_rank(mixes - mixes[0], tol=1e-9)) if len(mixes) else -1


class Search:
    """Points (S, k) that fill the hull of `mixes`, and its `corners` (C, k)."""

    def __init__(self, mixes: Array) -> None:
        self.rank = rank_of(mixes)
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
            bound = (high - low > NEAR) & ((self.points < low + NEAR) | (self.points > high - NEAR))
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
