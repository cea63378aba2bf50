"""The processes of a run, and whether its model can be divided among them."""

from __future__ import annotations

from compiler.layout import Shape
from compiler.plan import ParallelPlan
from specs.errors import RuleError
from specs.study import ParallelSpec


def parallel_plan(spec: ParallelSpec, shape: Shape) -> ParallelPlan:
    """The processes of a run.

    Raises RuleError where tensor parallelism does not divide the heads or the feed-forward width (each of its processes
    has whole heads, and the same number of columns), or leaves a process without a part of the vocabulary.
    """
    for path, size, name in (
        ("model.heads", shape.heads, "heads"),
        ("model.ffn", shape.ffn, "columns of the feed-forward pair"),
    ):
        if size % spec.tensor:
            what = f"{size} {name} do not divide over {spec.tensor} tensor-parallel processes"
            raise RuleError(
                "parallel.tensor", what, f"use a divisor of {size}, or another {path}", also=(path, "model.width")
            )
    if (spec.tensor - 1) * -(-shape.vocabulary // spec.tensor) >= shape.vocabulary:
        what = f"{spec.tensor} tensor-parallel processes are too many for a vocabulary of {shape.vocabulary} tokens"
        raise RuleError("parallel.tensor", what, "use fewer")
    return ParallelPlan(
        shard=spec.shard,
        replicate=spec.replicate,
        tensor=spec.tensor,
        activation_checkpoint=spec.activation_checkpoint,
        compile=spec.compile,
    )
