"""The values that ranges, samples and mixes on a study's axes stand for.

Numbers keep six significant digits, so that a run's name tells its value in full.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from specs.errors import RuleError
from specs.study import LogSpec, RangeSpec, SampleRange, SampleSpec, SimplexSpec
from specs.suggest import suggestion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_MODALITIES = 40
"""Most modalities of a simplex; together with the largest `parts` it bounds what counting the mixes costs."""

_TOLERANCE = 1e-9
"""What a weight may lie outside its bounds: 0.7 · 10 is 7.000000000000001, which is meant to be 7."""

Bounds: TypeAlias = dict[str, tuple[int, int]]
"""Least and most parts of each modality."""


def log_values(spec: LogSpec) -> list[int | float]:
    """`spec.points` numbers at equal ratios, rising, both ends exact; repeats that rounding makes are dropped.

    With `multiple` they are ints, each rounded to the nearest multiple, the ends as well, and at least one multiple.
    """
    low, high = math.log(spec.low), math.log(spec.high)
    shares = (i / (spec.points - 1) for i in range(1, spec.points - 1))
    inside = (math.exp((1 - share) * low + share * high) for share in shares)
    return list(dict.fromkeys(_rounded(spec, itertools.chain([spec.low], inside, [spec.high]))))


def sample_values(spec: SampleSpec) -> list[dict[str, Any]]:
    """`spec.points` points, each a value for every path of `spec.ranges`; the same seed gives the same points.

    Each path is a dimension of a Latin hypercube (one point in each of `points` equal bins of every dimension) or of a
    scrambled Sobol sequence. Paths take their dimensions in sorted order, so the order in which they are written is
    free. A list gives each of its values an equal share of the dimension.
    """
    paths = sorted(spec.ranges)
    unit = _unit_sample(spec, len(paths))
    columns = {path: _column(spec.ranges[path], unit[:, index]) for index, path in enumerate(paths)}
    written = [columns[path] for path in spec.ranges]
    return [dict(zip(spec.ranges, values, strict=True)) for values in zip(*written, strict=True)]


def balanced(spec: SampleSpec) -> bool:
    """Whether the sample has the balance of its method: a Sobol sequence has it at powers of two only."""
    return spec.method != "sobol" or spec.points.bit_count() == 1


def _unit_sample(spec: SampleSpec, dimensions: int) -> NDArray[np.float64]:
    """(points, dimensions) numbers in [0, 1)."""
    from scipy.stats import qmc

    if spec.method == "lhs":
        hypercube: NDArray[np.float64] = qmc.LatinHypercube(dimensions, rng=spec.seed).random(spec.points)
        return hypercube
    with warnings.catch_warnings():  # `balanced` says it, and the plan warns in the project's words
        warnings.filterwarnings("ignore", message="The balance properties of Sobol", category=UserWarning)
        sobol: NDArray[np.float64] = qmc.Sobol(dimensions, rng=spec.seed).random(spec.points)
        return sobol


def _column(spec: SampleRange | list[Any], unit: NDArray[np.float64]) -> list[Any]:
    """The values of one path at `unit` (points,), in [0, 1)."""
    import numpy as np

    if isinstance(spec, list):
        return [spec[index] for index in np.minimum((unit * len(spec)).astype(int), len(spec) - 1).tolist()]
    if spec.scale == "log":
        low, high = math.log(spec.low), math.log(spec.high)
        return _rounded(spec, np.exp((1 - unit) * low + unit * high).tolist())
    return _rounded(spec, ((1 - unit) * spec.low + unit * spec.high).tolist())


def _rounded(spec: RangeSpec, numbers: Iterable[float]) -> list[int | float]:
    """Whole multiples where the range has `multiple`, else six significant digits, never beyond the range's ends."""
    if spec.multiple is not None:
        return [max(1, round(number / spec.multiple)) * spec.multiple for number in numbers]
    return [
        number if number in (spec.low, spec.high) else min(max(float(f"{number:.6g}"), spec.low), spec.high)
        for number in numbers
    ]


def simplex_size(spec: SimplexSpec, names: Sequence[str]) -> int:
    """How many mixes `simplex_mixes` gives, without making them: at most `MAX_MODALITIES` · `parts` additions."""
    counts = [1, *itertools.repeat(0, spec.parts)]  # ways for the modalities so far to take 0 … parts
    for low, high in _bounds(spec, names).values():
        sums = list(itertools.accumulate(counts, initial=0))
        counts = [
            sums[total - low + 1] - sums[max(total - high, 0)] if total >= low else 0 for total in range(spec.parts + 1)
        ]
    return counts[-1]


def simplex_mixes(spec: SimplexSpec, names: Sequence[str]) -> list[dict[str, float]]:
    """Every mix of weights k / `parts` within the bounds that sums to 1, in rising order of the first modality, then
    of the second, and so on.

    `names` are the base's modalities, of which the spec may choose some; the mixes hold the chosen ones. Raises
    RuleError, its path counted from the axis (`simplex.min.text`), for names that are not modalities or are given
    twice, for fewer than two or more than `MAX_MODALITIES`, and for bounds that no mix satisfies.
    """
    bounds = _bounds(spec, names)
    return [
        {name: count / spec.parts for name, count in zip(bounds, counts, strict=True)}
        for counts in _compositions(spec.parts, list(bounds.values()))
    ]


def _compositions(total: int, bounds: Sequence[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """Whole numbers within `bounds` that sum to `total`, in lexicographic order; every branch entered holds some."""
    (low, high), *rest = bounds
    if not rest:
        yield (total,)
        return
    least, most = (sum(ends) for ends in zip(*rest, strict=True))
    for count in range(max(low, total - most), min(high, total - least) + 1):
        for others in _compositions(total - count, rest):
            yield (count, *others)


def _bounds(spec: SimplexSpec, names: Sequence[str]) -> Bounds:
    """The chosen modalities' bounds in parts, checked: at least one mix lies within them."""
    chosen = _chosen(spec, names)
    for side, given in (("min", spec.min), ("max", spec.max)):
        for name in given:
            if name not in chosen:
                what = f"'{name}' is not a modality of this simplex"
                raise RuleError(f"simplex.{side}.{name}", what, suggestion(name, chosen))
    slack = _TOLERANCE * spec.parts
    bounds: Bounds = {}
    for name in chosen:
        low, high = spec.min.get(name, 0.0), spec.max.get(name, 1.0)
        ends = math.ceil(low * spec.parts - slack), math.floor(high * spec.parts + slack)
        if ends[0] > ends[1]:
            path = f"simplex.{'min' if name in spec.min else 'max'}.{name}"
            if low > high:
                raise RuleError(path, f"min {low:g} is above max {high:g}", "lower min or raise max")
            what = f"no multiple of 1/{spec.parts} lies between {low:g} and {high:g}"
            raise RuleError(path, what, "give more parts, or wider bounds")
        bounds[name] = ends
    least, most = (sum(ends) for ends in zip(*bounds.values(), strict=True))
    if least > spec.parts:
        what = f"the smallest weights in multiples of 1/{spec.parts} come to {least / spec.parts:g}, above 1"
        raise RuleError("simplex.min", what, "lower min, or give more parts")
    if most < spec.parts:
        what = f"the largest weights in multiples of 1/{spec.parts} come to {most / spec.parts:g}, below 1"
        raise RuleError("simplex.max", what, "raise max, or give more parts")
    return bounds


def _chosen(spec: SimplexSpec, names: Sequence[str]) -> list[str]:
    path = "simplex" if spec.modalities is None else "simplex.modalities"
    chosen = list(names) if spec.modalities is None else spec.modalities
    for index, name in enumerate(chosen):
        if name not in names:
            raise RuleError(f"{path}.{index}", f"'{name}' is not a modality of the base", suggestion(name, names))
        if name in chosen[:index]:
            raise RuleError(f"{path}.{index}", f"'{name}' is given twice", "keep one of them")
    if len(chosen) < 2:
        counted = "one modality" if chosen else "no modality"
        raise RuleError(path, f"a mix of {counted} leaves nothing to vary", "give two modalities or more")
    if len(chosen) > MAX_MODALITIES:
        what = f"a simplex of {len(chosen)} modalities is more than {MAX_MODALITIES}"
        raise RuleError(path, what, "choose fewer in its modalities")
    return chosen
