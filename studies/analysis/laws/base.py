"""What all laws share: the types of their numbers, the check of their data, and the error of data that do not do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Interval = tuple[float, float]


class UnidentifiedError(ValueError):
    """The data cannot determine the law; the message says what is lacking."""


def positive(**columns: npt.ArrayLike) -> list[Array]:
    """The columns as float arrays (n,). Raises ValueError where they differ in length or hold a number that is not
    positive and finite."""
    found = [np.asarray(values, float).ravel() for values in columns.values()]
    *most, last = columns
    names = f"{', '.join(most)} and {last}"
    if len({len(values) for values in found}) != 1:
        raise ValueError(f"{names} must be of one length")
    if not all(np.all(np.isfinite(values) & (values > 0)) for values in found):
        raise ValueError(f"{names} must be positive and finite")
    return found
