"""The layout table: every parameter of the model, and the only place that knows the architecture.

Parameter counts, FLOPs, memory and optimizer groups are read from it, and the runtime builds and initialises
its model by it. The model: RMSNorm, rotary positions, QK-norm shared by the heads, SwiGLU, no biases, an untied head,
and learned positions for a sequence's second and later parts.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from compiler.plan import RunPlan


class Shape(NamedTuple):
    """What decides the layout. `positions` is the sequence length."""

    width: int
    depth: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.heads


class Module(NamedTuple):
    """A kind of parameter. `{i}` in `name` is the layer; `fan_in` is None for what does not multiply matrices; `cut` is
    the dimension that tensor parallelism divides, None where each of its processes has the whole."""

    name: str
    shape: tuple[int, ...]
    group: str
    fan_in: int | None = None
    embedding: bool = False
    cut: int | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def per_layer(self) -> bool:
        """Whether each layer has one."""
        return "{i}" in self.name

    def copies(self, depth: int) -> int:
        """How many of it a model of `depth` layers has."""
        return depth if self.per_layer else 1

    def names(self, depth: int) -> list[str]:
        """The names of its parameters in a model of `depth` layers."""
        return [self.name.format(i=layer) for layer in range(self.copies(depth))]


class Row(NamedTuple):
    """A parameter of a run's model. `init_std` is None where it starts at one; `embedding` leaves it out of the
    non-embedding count."""

    name: str
    shape: tuple[int, ...]
    group: str
    init_std: float | None
    embedding: bool


GROUPS = {
    "embedding": r"tok_embeddings\.weight",
    "positions": r"code_positions\.weight",
    "hidden": r"layers\.\d+\.(attention\.(qkv_linear\.w[qkv]|wo)|feed_forward\.w[13])\.weight",
    "hidden_down": r"layers\.\d+\.feed_forward\.w2\.weight",
    "hidden_norm": r"layers\.\d+\.(attention_norm|ffn_norm)\.weight",
    "qk_norm": r"layers\.\d+\.attention\.[qk]_norm\.weight",
    "final_norm": r"norm\.weight",
    "head": r"lm_head\.weight",
}
"""Optimizer groups: name to a pattern that matches its parameters' names in full. `hidden_down` is apart from `hidden`
because its fan-in, and so its initial deviation, is another."""


@lru_cache(maxsize=4096)
def modules(shape: Shape) -> tuple[Module, ...]:
    """The table for a shape, layers not yet repeated."""
    width, ffn, head_dim, vocabulary = shape.width, shape.ffn, shape.head_dim, shape.vocabulary
    attention, ffn_path = "layers.{i}.attention", "layers.{i}.feed_forward"
    return (
        Module("tok_embeddings.weight", (vocabulary, width), "embedding", embedding=True, cut=0),
        Module("code_positions.weight", (shape.positions, width), "positions", embedding=True),
        Module("layers.{i}.attention_norm.weight", (width,), "hidden_norm"),
        Module(f"{attention}.qkv_linear.wq.weight", (width, width), "hidden", width, cut=0),
        Module(f"{attention}.qkv_linear.wk.weight", (width, width), "hidden", width, cut=0),
        Module(f"{attention}.qkv_linear.wv.weight", (width, width), "hidden", width, cut=0),
        Module(f"{attention}.wo.weight", (width, width), "hidden", width, cut=1),
        Module(f"{attention}.q_norm.weight", (head_dim,), "qk_norm"),
        Module(f"{attention}.k_norm.weight", (head_dim,), "qk_norm"),
        Module("layers.{i}.ffn_norm.weight", (width,), "hidden_norm"),
        Module(f"{ffn_path}.w1.weight", (ffn, width), "hidden", width, cut=0),
        Module(f"{ffn_path}.w2.weight", (width, ffn), "hidden_down", ffn, cut=1),
        Module(f"{ffn_path}.w3.weight", (ffn, width), "hidden", width, cut=0),
        Module("norm.weight", (width,), "final_norm"),
        Module("lm_head.weight", (vocabulary, width), "head", width, embedding=True, cut=0),
    )


def shape_of(run: RunPlan) -> Shape:
    """The shape of a run's model."""
    model = run.model
    return Shape(model.width, model.depth, model.heads, model.ffn, model.vocabulary, run.sequence_length)


def table(run: RunPlan) -> tuple[Row, ...]:
    """Every parameter of a run's model, with its group in the plan and that group's initial deviation."""
    shape = shape_of(run)
    patterns = [(re.compile(group.pattern), group) for group in run.groups]
    rows = []
    for module in modules(shape):
        for name in module.names(shape.depth):
            group = next(group for pattern, group in patterns if pattern.fullmatch(name))
            rows.append(Row(name, module.shape, group.name, group.init_std, module.embedding))
    return tuple(rows)
