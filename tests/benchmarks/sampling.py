"""Tokens/s of the sampler beside a plain loop: `python -m tests.benchmarks.sampling RUN [--judge] [KEY=VALUE …]`.

The plain loop is what one writes first: at every step the model sees every sequence, padded to the run's length, scores
every position over the whole vocabulary, and guidance is a second call. It fills the same canvases and settles as many
positions a step in the same orders, so that both sample from the same distribution; what a judge says of both stands
beside the speed.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

from compiler.plan import Noise
from compiler.sampled import sampler_of
from compiler.sampling import Sampler
from runtime.sampling.canvas import NO_GROUP, Canvas
from runtime.sampling.fill import Filled
from runtime.sampling.generate import Made, Studio
from runtime.sampling.network import Network
from runtime.sampling.order import ORDERS, Look
from runtime.sampling.steps import remaining
from runtime.sampling.trained import load_trained
from runtime.training.stream import NO_CODE, PADDING


def widened(canvas: Canvas, length: int, pad: int) -> Canvas:
    """The canvas padded to the run's whole length."""

    def wide(array: np.ndarray, fill: int) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, length - array.shape[1])), constant_values=fill)

    return Canvas(
        wide(canvas.tokens, pad),
        wide(canvas.open, 0),
        wide(canvas.condition, 0),
        wide(canvas.document, PADDING),
        wide(canvas.code_index, NO_CODE),
        wide(canvas.group, NO_GROUP),
        canvas.ranges,
    )


@torch.inference_mode()
def plain(network: Network, canvas: Canvas, sampler: Sampler, noise: Noise, seed: int, numbers: np.ndarray) -> Filled:
    """Fill a canvas step by step with the model's whole forward pass."""
    model, vocabulary = network.model, network.model.config.run.vocabulary
    canvas = widened(canvas, network.longest, vocabulary.specials["pad"])
    rows, length = canvas.tokens.shape
    rng = np.random.default_rng([seed, int(numbers[0])])
    torch.manual_seed(int(rng.integers(2**31)))
    tokens, open_ = torch.from_numpy(canvas.tokens.copy()), canvas.open.copy()
    document, code_index = torch.from_numpy(canvas.document), torch.from_numpy(canvas.code_index)
    everywhere = torch.arange(rows * length)
    allowed = torch.ones(len(canvas.ranges) + 1, vocabulary.size, dtype=torch.bool)
    for number, (first, last) in enumerate(canvas.ranges):
        allowed[number] = (torch.arange(vocabulary.size) >= first) & (torch.arange(vocabulary.size) < last)
    banned = ~allowed[torch.from_numpy(canvas.group)]
    plans = [remaining(sampler, int(n), noise) for n in open_.sum(1)]
    steps = max(map(len, plans)) - 1
    for step in range(steps):
        logits = model(tokens, document, code_index, everywhere).view(rows, length, -1)
        if sampler.guidance != 1:
            hidden = torch.where(torch.from_numpy(canvas.condition), network.mask, tokens)
            without = model(hidden, document, code_index, everywhere).view(rows, length, -1)
            logits = without + sampler.guidance * (logits - without)
        logits = logits.masked_fill(banned, -torch.inf)
        p = torch.softmax(logits / sampler.temperature, -1)
        drawn = torch.multinomial(p.view(rows * length, -1), 1).view(rows, length)
        log_p = torch.log_softmax(logits, -1).gather(-1, drawn[..., None]).squeeze(-1).double().numpy()
        entropy = torch.special.entr(torch.softmax(logits, -1)).sum(-1).double().numpy()
        n, masked = canvas.open.sum(1), open_.sum(1)
        left = np.array([plan[min(step + 1, len(plan) - 1)] for plan in plans])
        look = Look(open_, log_p, entropy, masked - left, (n - masked) / n, rng.random(open_.shape))
        settled = ORDERS[sampler.kind](look, sampler)
        tokens = torch.where(torch.from_numpy(settled), drawn, tokens)
        open_ &= ~settled
    calls = steps * (1 if sampler.guidance == 1 else 2)
    return Filled(tokens.numpy(), np.full(rows, calls), np.zeros(rows))


def rate(made: Made) -> float:
    """Generated tokens a second."""
    return made.tokens / made.seconds


def main() -> None:
    """Both by turns; prints tokens/s, their ratio, and what a judge says of the last round's samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="the sampler's, over the task's defaults")
    parser.add_argument("--task", action="append")
    parser.add_argument("--n", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--judge", action="store_true")
    given = parser.parse_intermixed_args()
    trained = load_trained(given.run)
    for task in given.task or ["text-to-image", "text-to-speech"]:
        studio, sampler = Studio(trained, task), sampler_of(task, given.settings)
        fills = {"sampler": studio.fill, "plain loop": plain}
        made: dict[str, list[Made]] = {name: [] for name in fills}
        for turn in range(given.rounds):
            for name, fill in fills.items():
                studio.fill = fill
                made[name].append(studio.make(studio.asks(given.n, sampler, seed=turn), sampler, seed=turn))
        ours, loops = ([rate(one) for one in made[name]] for name in fills)
        ratios = [a / b for a, b in zip(ours, loops, strict=True)]
        told = f"{sampler.kind}, {sampler.steps or 'one a token'} steps, guidance {sampler.guidance:g}"
        print(
            f"{task} ({told}): {statistics.median(ours):,.0f} tokens/s, plain loop {statistics.median(loops):,.0f}; "
            f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )
        for name in fills if given.judge else ():
            samples = [sample for one in made[name] for sample in one.samples]
            score = studio.judge(samples)[0]
            print(f"  {name}: {score.name} {score.value:.3f} ({score.low:.3f} to {score.high:.3f}) of {score.n}")


if __name__ == "__main__":
    main()
