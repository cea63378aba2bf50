"""The processes of a run, and whether its model can be divided among them."""

from __future__ import annotations

from compiler.layout import Shape
from compiler.plan import ParallelPlan
from specs.errors import RuleError
from specs.study import ParallelSpec


def parallel_plan(spec: ParallelSpec, shape: Shape) -> ParallelPlan:
    """The processes of a run. Raises RuleError where tensor parallelism does not divide the heads or the feed-forward
    width: each of its processes has whole heads, and the same number of columns."""
    for path, size, name in (
        ("model.heads", shape.heads, "heads"),
        ("model.ffn", shape.ffn, "columns of the feed-forward pair"),
    ):
        if size % spec.tensor:
            what = f"{size} {name} do not divide over {spec.tensor} tensor-parallel processes"
            raise RuleError(
                "parallel.tensor", what, f"use a divisor of {size}, or another {path}", also=(path, "model.width")
            )
    return ParallelPlan(
        shard=spec.shard,
        replicate=spec.replicate,
        tensor=spec.tensor,
        activation_checkpoint=spec.activation_checkpoint,
        compile=spec.compile,
    )
