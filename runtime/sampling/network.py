"""The trained model as samplers ask it: tokens for some masked positions of some sequences.

Nothing is computed that no sampler uses: the head sees the positions that are asked for, each over the tokens that it
may hold; and guidance is the same forward pass over more sequences.

Dimensions in names: B sequences, L positions, S positions that are asked for, D width, V tokens of a range.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from compiler.sampling import Sampler
from runtime.sampling.canvas import Bools, Canvas
from runtime.sampling.tokens import Drawn, draw
from runtime.training.model import MaskedDiffusionModel
from runtime.training.stream import Indices


class Answer(NamedTuple):
    """Drawn tokens, ids of the unified vocabulary, with their log-probabilities and entropies in nats: each (S,), in
    the order of the flat positions asked for."""

    tokens: Indices
    log_p: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]


class Network:
    """A model with the mask token that hides what it must not see."""

    def __init__(self, model: MaskedDiffusionModel) -> None:
        self.model = model.eval()
        self.mask = model.config.run.vocabulary.specials["mask"]
        self.longest = model.config.run.sequence_length
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def ask(
        self,
        canvas: Canvas,
        tokens: Indices,
        asked: Bools,
        sampler: Sampler,
        guidance: npt.NDArray[np.float64],
        u: npt.NDArray[np.float64],
    ) -> Answer:
        """Draw tokens for the `asked` (B, L) positions of a canvas that stands at `tokens` (B, L), by uniform numbers
        `u` (B, L); `guidance` (B,) is each sequence's weight, 1 for none."""
        places = np.flatnonzero(asked)
        guided = np.flatnonzero(guidance != 1)
        h_SD, unconditional_SD = self._hidden(canvas, tokens, asked, places, guided)
        rows = places // tokens.shape[1]
        weights = torch.from_numpy(guidance[rows]).to(h_SD)
        # Where each place stands among those of guided sequences.
        among = torch.from_numpy(np.cumsum(guidance[rows] != 1) - 1).to(self.device)
        uniforms = torch.from_numpy(u.ravel()[places]).to(self.device)
        answer = Answer(np.empty(len(places), np.int64), np.empty(len(places)), np.empty(len(places)))
        for chosen, first, weight_VD in self._by_range(canvas, places):
            own = torch.from_numpy(chosen).to(self.device)
            logits_SV = (h_SD[own] @ weight_VD.T).float()
            if len(guided):
                w, which = weights[own][:, None].float(), weights[own] != 1
                without_SV = (unconditional_SD[among[own][which]] @ weight_VD.T).float()
                logits_SV[which] = without_SV + w[which] * (logits_SV[which] - without_SV)
            drawn: Drawn = draw(logits_SV, sampler, uniforms[own])
            answer.tokens[chosen] = drawn.tokens.cpu().numpy() + first
            answer.log_p[chosen] = drawn.log_p.double().cpu().numpy()
            answer.entropy[chosen] = drawn.entropy.double().cpu().numpy()
        return answer

    @torch.inference_mode()
    def score(self, canvas: Canvas, truth: Indices) -> npt.NDArray[np.float64]:
        """The log-probability, in nats (B,), of each sequence's true tokens (B, L) at the open positions of a canvas,
        summed over them: each given what is not open, and over the tokens that its position may hold."""
        places = np.flatnonzero(canvas.open)
        h_SD, _ = self._hidden(canvas, canvas.tokens, canvas.open, places, np.empty(0, dtype=np.int64))
        true, log_p = truth.ravel()[places], np.zeros(len(places))
        for chosen, first, weight_VD in self._by_range(canvas, places):
            logits_SV = (h_SD[torch.from_numpy(chosen).to(self.device)] @ weight_VD.T).float()
            tokens = torch.from_numpy(true[chosen] - first).to(self.device)
            scored = torch.log_softmax(logits_SV, dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
            log_p[chosen] = scored.double().cpu().numpy()
        summed = np.bincount(places // truth.shape[1], weights=log_p, minlength=len(canvas))
        return summed.astype(np.float64)

    def _by_range(self, canvas: Canvas, places: Indices) -> Iterator[tuple[Indices, int, torch.Tensor]]:
        """For each range of tokens that some of the flat `places` may hold: which of them these are, its first token,
        and the rows (V, D) of the head's weight for it."""
        groups = canvas.group.ravel()[places]
        for number, (first, last) in enumerate(canvas.ranges):
            chosen = np.flatnonzero(groups == number)
            if len(chosen):
                yield chosen, first, self.model.lm_head.weight[first:last]

    def _hidden(
        self, canvas: Canvas, tokens: Indices, asked: Bools, places: Indices, guided: Indices
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Final hidden states (S, D) at `places`, and at those of `guided` sequences again, their conditions hidden."""
        size, length = tokens.shape
        hidden = np.where(canvas.condition[guided], self.mask, tokens[guided])
        again = np.flatnonzero(asked[guided]) + size * length
        arrays = (
            np.concatenate([tokens, hidden]),
            np.concatenate([canvas.document, canvas.document[guided]]),
            np.concatenate([canvas.code_index, canvas.code_index[guided]]),
            np.concatenate([places, again]),
        )
        h_SD = self.model.hidden(*(torch.from_numpy(array).to(self.device) for array in arrays))
        return h_SD[: len(places)], h_SD[len(places) :]
