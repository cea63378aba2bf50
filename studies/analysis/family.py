"""The family of shapes that a study's runs are of, continued beyond the sizes that it trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from compiler.cost import count_parameters, position_flops
from compiler.layout import Shape
from compiler.plan import RunPlan
from compiler.shape import default_ffn, default_heads
from studies.analysis.fits import Count
from studies.analysis.laws.base import Array

LARGEST = 10**6
"""Largest width and depth of a study."""
_EACH = 200
"""Steps of a family's knob that are all tried; beyond, those that are 1 % apart."""
_DEFAULT_STEP = 64
"""Widths of default heads are multiples of this, where all that the study has are."""

Knob = Callable[[int], tuple[int, int]]
"""Width and depth at step k = 1, 2, …"""


class Family(NamedTuple):
    """Shapes by rising size: `words` say what varies and how; `keys` are the keys of `model` that a study must give, in
    order. `N` and `flops_per_token` are arrays (S,): parameters as the law counts them, and exact training FLOPs of a
    token in the study's mix, padding included."""

    words: str
    keys: tuple[str, ...]
    shapes: tuple[Shape, ...]
    N: Array
    flops_per_token: Array

    def settings(self, place: int) -> dict[str, int]:
        """What a study writes under `model` for one of the shapes."""
        shape = self.shapes[place]
        return {key: getattr(shape, key) for key in self.keys}


class SingleSizeError(ValueError):
    """The runs have one shape only, so that nothing says which others belong to them."""


def family_of(runs: Sequence[RunPlan], keys: Collection[str], count: Count, positions_per_token: float) -> Family:
    """The family of the shapes of `runs`, from its smallest member on.

    Width alone, depth alone, or both in proportion, as the runs have it; where they have all kinds of both, depth is
    the power of width that fits them best. The dimension of heads stays as it is, or their number where that does.
    `keys` are the keys of `model` that the study sets: heads, feed-forward width and width that it leaves open stay
    open. `positions_per_token` counts padding too. Raises SingleSizeError.
    """
    shapes = sorted({(run.model.width, run.model.depth, run.model.heads, run.model.ffn) for run in runs})
    largest = max(runs, key=lambda run: run.flops)
    tensor = math.lcm(*(run.parallel.tensor for run in runs))
    heads_of, unit, heads_words = _heads(shapes, "heads" in keys, tensor)
    ffn_of = _ffn(shapes, "ffn" in keys)
    knob, words = _knob(sorted({(width, depth) for width, depth, _, _ in shapes}), unit)
    made = []
    for k in _steps(knob):
        width, depth = knob(k)
        heads = heads_of(width)
        if width % (2 * heads) == 0 and heads % tensor == 0:
            made.append(Shape(width, depth, heads, ffn_of(width), largest.model.vocabulary, largest.sequence_length))
    params = [count_parameters(shape) for shape in made]
    return Family(
        words=f"{words}, {heads_words}",
        keys=tuple(key for key in ("width", "depth", "heads", "ffn") if key in {*keys, "depth"}),
        shapes=tuple(made),
        N=np.array([float(getattr(one, count)) for one in params]),
        flops_per_token=np.array([position_flops(shape).total * positions_per_token for shape in made]),
    )


def _knob(shapes: Sequence[tuple[int, int]], unit: int) -> tuple[Knob, str]:
    """How width and depth grow together through `shapes`, and in words; widths are multiples of `unit`."""
    widths, depths = ({shape[k] for shape in shapes} for k in (0, 1))
    if len(shapes) == 1:
        raise SingleSizeError("all runs have one size")
    if len(depths) == 1:
        [depth] = depths
        return lambda k: (unit * k, depth), f"width in steps of {unit} at depth {depth}"
    if len(widths) == 1:
        [width] = widths
        return lambda k: (width, k), f"depth at width {width}"
    width, depth = shapes[0]
    if all(w * depth == d * width for w, d in shapes):
        per_depth = width / depth
        step = next(k for k in range(1, depth + 1) if width * k % depth == 0)
        return lambda k: (round(per_depth * step * k), step * k), f"width = {per_depth:g} · depth"
    logs = np.log(np.array(shapes, float))
    power, start = np.polyfit(logs[:, 0], logs[:, 1], 1)

    def both(k: int) -> tuple[int, int]:
        return unit * k, max(1, round(math.exp(start + power * math.log(unit * k))))

    return both, f"width in steps of {unit}, depth ∝ width^{power:.2f} (the runs vary both)"


def _heads(
    shapes: Sequence[tuple[int, int, int, int]], given: bool, tensor: int
) -> tuple[Callable[[int], int], int, str]:
    """Heads by width, the step of widths that they go with, and in words."""
    widths = [width for width, _, _, _ in shapes]
    if not given and all(heads == default_heads(width) for width, _, heads, _ in shapes):
        return default_heads, math.gcd(*widths, _DEFAULT_STEP), "default heads"
    numbers = {heads for _, _, heads, _ in shapes}
    dims = {width // heads for width, _, heads, _ in shapes}
    if len(dims) > 1 and len(numbers) == 1:
        [number] = numbers
        return lambda width: number, math.lcm(2 * number, math.gcd(*widths)), f"{number} heads"
    dim = max(shapes)[0] // max(shapes)[2]
    said = f"heads of dimension {dim}" + (" (the largest's)" if len(dims) > 1 else "")
    return lambda width: max(1, width // dim), dim * tensor, said


def _ffn(shapes: Sequence[tuple[int, int, int, int]], given: bool) -> Callable[[int], int]:
    if not given:
        return default_ffn
    width, _, _, ffn = max(shapes)
    return lambda at: max(1, round(ffn * at / width))


def _steps(knob: Knob) -> list[int]:
    """Steps of the knob: the first all, then so many at equal ratios, up to the largest width and depth."""
    high = 1
    while max(knob(2 * high)) <= LARGEST:
        high *= 2
    low, top = high, 2 * high
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (middle, top) if max(knob(middle)) <= LARGEST else (low, middle)
    far = np.geomspace(_EACH, max(low, _EACH), max(2, round(math.log(max(low, _EACH) / _EACH) / 0.01)))
    return sorted({*range(1, min(low, _EACH) + 1), *(round(k) for k in far if round(k) <= low)})
