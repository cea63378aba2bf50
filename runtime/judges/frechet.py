"""The Fréchet distance of two sets of features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def frechet(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The Fréchet distance of the Gaussians fitted to features `a` (n, d) and `b` (m, d), in squared units of them:

        |μa - μb|² + tr(Ca + Cb - 2 (Ca Cb)^½)

    (FID, arXiv 1706.08500, equation 6). With few rows it is too large, so compare it at like n only. Raises ValueError
    where a set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance takes two rows or more, not {min(len(a), len(b))}")
    means = a.mean(0) - b.mean(0)
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b)]
    # The trace of (Ca Cb)^½ by eigenvalues of Ca^½ Cb Ca^½, which is symmetric: they are real, and at least 0 but for
    # rounding.
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    return float(means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared)
