"""What a run costs: FLOPs and bytes. All from the layout table and the shape."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

from compiler.layout import Module, Shape, modules
from compiler.plan import Memory, Noise, ParallelPlan, Parameters

LOGITS = 2**26
"""The most logits that are computed at a time while training: 256 MiB of them in float32."""

PLAIN = 2**18
"""Up to so many logits of a micro-batch stand in memory whole: PyTorch's own cross-entropy takes fewer operations, each
of them short. Above, chunks take no longer."""


class PositionFlops(NamedTuple):
    """Training FLOPs (forward and backward) at one position of a sequence; `head` is part of `total`."""

    total: int
    head: int


class Activations(NamedTuple):
    """Bytes that one micro-batch takes. `saved` is what autograd keeps from the forward pass for the backward pass,
    `working` the most that the backward pass has beside it."""

    saved: int
    working: int


@lru_cache(maxsize=65536)
def count_parameters(shape: Shape) -> Parameters:
    """Parameters in all, and without input embedding, learned positions and head."""
    total = embedding = 0
    for module in modules(shape):
        size = module.size * module.copies(shape.depth)
        total += size
        embedding += size if module.embedding else 0
    return Parameters(total=total, non_embedding=total - embedding)


@lru_cache(maxsize=65536)
def position_flops(shape: Shape) -> PositionFlops:
    """6 FLOPs per weight of each matrix (2 forward, 4 backward), and 12 · L · width in each layer's attention (q·k and
    the weighted sum of v, every position seeing all L). Looking an embedding up costs nothing."""
    matrices = head = 0
    for module in modules(shape):
        if module.fan_in is not None:
            matrices += module.size * module.copies(shape.depth)
            head += module.size if module.group == "head" else 0
    return PositionFlops(6 * matrices + 12 * shape.positions * shape.width * shape.depth, 6 * head)


@lru_cache(maxsize=65536)
def hardware_flops(shape: Shape, scored: float, activation_checkpoint: str) -> float:
    """FLOPs that training executes at one position, on average over positions, padding included.

    The head is computed at the share `scored` of positions only. Attention's fused kernels do not keep the L × L
    matrix: their backward pass computes q·k again, 2 · L · width in each layer. `activation_checkpoint: full` computes
    the blocks' forward pass, a third of their model FLOPs, a second time.
    """
    model = position_flops(shape)
    blocks = model.total - model.head
    scores = 2 * shape.positions * shape.width * shape.depth
    again = blocks / 3 if activation_checkpoint == "full" else 0.0
    return blocks + scores + again + scored * model.head


def masked_share(noise: Noise) -> float:
    """E_t[1 - α(t)]: the share of a sequence's tokens that are masked on average. Raises ValueError for an unknown
    kind."""
    match noise.kind:
        case "linear":
            return 1 / 2
        case "polynomial":
            return 1 / (1 + noise.power)
        case "cosine":
            return 2 / math.pi
        case "log-linear":
            return (1 - noise.eps) / 2
        case "table":
            lines = itertools.pairwise(zip(noise.t, noise.alpha, strict=True))
            return 1 - math.fsum((end - start) * (a + b) / 2 for (start, a), (end, b) in lines)
        case _:
            raise ValueError(f"unknown noise schedule {noise.kind!r}")


def masked_share_by_importance(noise: Noise, tokens: float) -> float:
    """The share of a sequence of `tokens` tokens that is masked on average where times are drawn by the loss weight.

    The masked share p itself then has a density in proportion to √(1 + (1 - p) / (n p)) up to 1 - α(1), whatever the
    schedule. What is learned from there on is near it.
    """
    c = max(tokens - 1, 1e-6)
    x = math.asinh(math.sqrt(c * (1 - noise.eps)))
    return (math.sinh(4 * x) / 8 - x / 2) / (2 * c) / (x + math.sinh(2 * x) / 2)


def shard_shape(module: Module, parallel: ParallelPlan) -> tuple[int, ...]:
    """Shape of rank 0's part of a parameter: tensor parallelism cuts its `cut` dimension into chunks of
    ⌈size / tensor⌉, of which the last processes may have less or nothing, and FSDP then the first dimension likewise.
    """
    shape = list(module.shape)
    if module.cut is not None:
        shape[module.cut] = -(-shape[module.cut] // parallel.tensor)
    shape[0] = -(-shape[0] // parallel.shard)
    return tuple(shape)


@lru_cache(maxsize=65536)
def activations(shape: Shape, micro: int, parallel: ParallelPlan, dtype: str) -> Activations:
    """Activations of a micro-batch of `micro` sequences, as if all its positions were masked: times are drawn, and one
    near 1 masks nearly all.

    With w the width, f the feed-forward width, N heads, V the vocabulary and e the bytes of `dtype`, autograd keeps
    - per position and layer e · (10 w + 4 f) + 4 · (3 N + 2): the inputs of the two norms, of q, k, v (one) and of the
      feed-forward pair (one); q and k before and after norm and rotation; v; attention's output; of the SwiGLU both
      projections, the activation and the product; float32 statistics of norms and softmax;
    - under `full` the block's input only, e · w;
    - per position e · w of the final norm and 40 of indices and weights; where at most `PLAIN` logits stand whole also
      e · w of the head and float32 log-probabilities, 4 V;
    - per layer a float32 rotary table of L · 2 w / N, for any batch.
    In float32 each norm keeps its normalised values too, 4 w more in a layer and w at the end: PyTorch computes it from
    parts on a CPU, which is where float32 runs are at home. bfloat16 is counted with an accelerator's fused kernel.

    Tensor parallelism divides what has a head's, the feed-forward pair's or the vocabulary's dimension.

    Beside all that was kept, the head has two gradients of 4 V, or in chunks at most `LOGITS` logits (in bfloat16 in
    both precisions), a float32 gradient of its weight (and then its copy in `dtype`), and e · 5 w: hidden states before
    and after the final norm, the head's input, and its gradient, of all and of a chunk. The backward pass of a block
    has three gradients of f; under `full` what that block computes again comes on top.
    """
    width, ffn, heads = shape.width, shape.ffn / parallel.tensor, shape.heads / parallel.tensor
    inner, vocabulary, positions = width / parallel.tensor, shape.vocabulary / parallel.tensor, shape.positions
    element = 2 if dtype == "bfloat16" else 4
    parts = 0 if dtype == "bfloat16" else 1
    block = element * ((4 + 2 * parts) * width + (6 + 2 * parts) * inner + 4 * ffn + 1) + 4 * (3 * heads + 2)
    kept = block if parallel.activation_checkpoint == "none" else element * width
    tables = 4 * shape.depth * positions * 2 * shape.head_dim
    count = micro * positions
    norm = element * (1 + parts) * width
    if parallel.tensor == 1 and count * vocabulary <= PLAIN:
        head = norm + element * width + 4 * vocabulary
        scoring = count * 8 * vocabulary
    else:
        head = norm
        logits, copies = min(count * vocabulary, LOGITS), vocabulary * width
        both = (4 * logits, 0) if element == 4 else (6 * logits, 2 * copies)
        scoring = count * element * 5 * width + 4 * copies + max(both)
    backward = 3 * element * ffn + block - kept
    return Activations(
        saved=math.ceil(count * (shape.depth * kept + head + 40)) + tables,
        working=math.ceil(max(scoring, count * (backward - head))),
    )


@lru_cache(maxsize=65536)
def gathered(shape: Shape, parallel: ParallelPlan, dtype: str) -> int:
    """The most bytes that FSDP holds beside a rank's shards, 0 where one rank trains in float32, which FSDP does not
    wrap.

    In `dtype` the learned positions (the root's, from start to end) and two blocks (one at work, one fetched ahead).
    And for the largest of its groups (the embedding, the final norm with the head, a block) the weights or their
    gradient in `dtype`, the gradient in float32 on its way into the reduction, and the float32 shard that comes out of
    it: two of those where replicas then add up theirs.
    """
    if parallel.ranks == 1 and dtype == "float32":
        return 0
    element = 2 if dtype == "bfloat16" else 4
    root = block = embedding = head = 0
    for module in modules(shape):
        size = math.prod(shard_shape(module, ParallelPlan(tensor=parallel.tensor)))
        if module.per_layer:
            block += size
        elif module.group == "positions":
            root += size
        elif module.group == "embedding":
            embedding += size
        else:
            head += size
    largest = max(embedding, head, block)
    reduced = (1 if parallel.replicate == 1 else 2) * -(-4 * largest // parallel.shard)
    return element * (root + 2 * block) + (element + 4) * largest + reduced


@lru_cache(maxsize=65536)
def memory(shape: Shape, micro: int, parallel: ParallelPlan, dtype: str) -> Memory:
    """Bytes on rank 0, which has the most.

    Parameters and gradients are float32, sharded (`shard_shape`); AdamW keeps two moments of each and a float32 step
    count. `activations` is what autograd saves and the backward pass works with (`Activations`), for one micro-batch;
    `gathered` what FSDP holds unsharded.
    """
    size = tensors = 0
    for module in modules(shape):
        copies = module.copies(shape.depth)
        size += 4 * copies * math.prod(shard_shape(module, parallel))
        tensors += copies
    optimizer = 2 * size + 4 * tensors
    active = sum(activations(shape, micro, parallel, dtype))
    unsharded = gathered(shape, parallel, dtype)
    return Memory(
        per_rank=2 * size + optimizer + active + unsharded,
        parameters=size,
        gradients=size,
        optimizer=optimizer,
        activations=active,
        gathered=unsharded,
    )
