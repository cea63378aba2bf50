"""From token weights to sequences: how many sequences of each modality make up a token horizon.

A packed sequence is `[task] document end document end …`, cut to L: L tokens. Any other is `[task] segment
[begin] segment [end] …`, padded to L. Arithmetic is exact (fractions), so that steps never hang on a rounding error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from compiler.manifest import Manifest
from compiler.plan import MixStage
from specs.errors import RuleError
from specs.study import MixSpec, ModalitySpec


@dataclass(frozen=True)
class Composition:
    """A run's mix over its tokens, by modality: `weights` of tokens and `shares` of sequences (each sums to 1) over the
    whole run, `mean_tokens` of a sequence, and the `stages`. `sequences` is D over the mean tokens of a sequence."""

    weights: dict[str, float]
    shares: dict[str, float]
    mean_tokens: dict[str, float]
    stages: tuple[MixStage, ...]
    sequences: Fraction

    def at(self, tokens: float) -> Composition:
        """This composition of one token, of one stage, for `tokens`: only the number of sequences is another."""
        return replace(self, sequences=self.sequences * Fraction(tokens))

    def drawn(self, sequences: int) -> dict[str, float]:
        """Sequences of each modality among the first `sequences` of the stream."""
        ends = [*(stage.start for stage in self.stages[1:]), sequences]
        sizes = [max(0, min(end, sequences) - stage.start) for stage, end in zip(self.stages, ends, strict=True)]
        return {
            name: sum(size * stage.shares[name] for stage, size in zip(self.stages, sizes, strict=True))
            for name in self.shares
        }


def compose(
    modalities: Mapping[str, ModalitySpec],
    mix: Sequence[MixSpec],
    manifests: Mapping[str, Manifest],
    sequence_length: int,
    tokens: float,
) -> Composition:
    """The composition of a run of `tokens`. Raises RuleError where all weights of a stage are zero, a padded sequence
    would not fit, or the stages do not follow one another."""
    means = {name: _mean_tokens(name, manifests[name], sequence_length) for name in modalities}
    horizon = Fraction(tokens)
    starts, stage_weights = [Fraction(0)], [{name: spec.weight for name, spec in modalities.items()}]
    for index, stage in enumerate(mix):
        start = Fraction(stage.start) * (horizon if stage.start < 1 else 1)
        path = f"mix.{index}.from"
        if start <= starts[-1]:
            raise RuleError(path, "this stage does not start after the one before", "order the stages by from")
        if start >= horizon:
            what = f"the stage starts at {float(start):,.0f} tokens, after the run's {tokens:,.0f}"
            raise RuleError(path, what, "give a share of the tokens, such as 0.5", also=("tokens",))
        unknown = sorted(set(stage.weights) - set(modalities))
        if unknown:
            what = f"'{unknown[0]}' is no modality of this study"
            raise RuleError(f"mix.{index}.weights.{unknown[0]}", what, f"use one of: {', '.join(modalities)}")
        starts.append(start)
        stage_weights.append(stage_weights[-1] | stage.weights)

    stages: list[MixStage] = []
    total = Fraction(0)
    token_sums, sequence_sums = (dict.fromkeys(modalities, Fraction(0)) for _ in range(2))
    for index, (start, end, given) in enumerate(zip(starts, [*starts[1:], horizon], stage_weights, strict=True)):
        whole = sum(Fraction(repr(weight)) for weight in given.values())
        if whole == 0:
            path = f"mix.{index - 1}.weights" if index else "modalities"
            raise RuleError(path, "all weights are zero", "give one modality a weight above zero")
        weights = {name: Fraction(repr(weight)) / whole for name, weight in given.items()}
        per_token = {name: weights[name] / means[name] for name in modalities}
        rate = sum(per_token.values(), Fraction(0))
        if stages and stages[-1].start == round(total):
            what = "this stage starts at the same sequence as the one before"
            raise RuleError(f"mix.{index - 1}.from", what, "give a share below 1, such as 0.5, or more tokens")
        stages.append(
            MixStage(
                start=round(total),
                weights={name: float(weight) for name, weight in weights.items()},
                shares={name: float(value / rate) for name, value in per_token.items()},
            )
        )
        total += (end - start) * rate
        for name in modalities:
            token_sums[name] += (end - start) * weights[name]
            sequence_sums[name] += (end - start) * per_token[name]
    return Composition(
        weights={name: float(value / horizon) for name, value in token_sums.items()},
        shares={name: float(value / total) for name, value in sequence_sums.items()},
        mean_tokens={name: float(mean) for name, mean in means.items()},
        stages=tuple(stages),
        sequences=total,
    )


def _mean_tokens(name: str, manifest: Manifest, sequence_length: int) -> Fraction:
    if manifest.packed:
        return Fraction(sequence_length)
    specials = 1 + 2 * (len(manifest.segments) - 1)
    longest = max(manifest.train.longest, manifest.held_out.longest) + specials
    if longest > sequence_length:
        what = f"a sequence of '{name}' has {longest} tokens, more than sequence_length {sequence_length}"
        also = (f"modalities.{name}.data", "modalities")
        raise RuleError("sequence_length", what, f"give at least {longest}", also=also)
    return Fraction(manifest.train.tokens, manifest.train.sequences) + specials


def available(manifest: Manifest, sequence_length: int) -> float:
    """Sequences of length L that one pass over the training split yields (packed: documents with their `end`, cut into
    L - 1 after the task token)."""
    if manifest.packed:
        return (manifest.train.tokens + manifest.train.sequences) / (sequence_length - 1)
    return float(manifest.train.sequences)
