"""From token weights to sequences: how many sequences of each modality make up a token horizon.

A packed sequence is `[task] document end document end …`, cut to L: L tokens. Any other is `[task] segment
[begin] segment [end] …`, padded to L. Arithmetic is exact (fractions), so that steps never hang on a rounding error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from compiler.manifest import Manifest
from specs.errors import RuleError
from specs.study import ModalitySpec


@dataclass(frozen=True)
class Composition:
    """Per modality: `weights` of tokens and `shares` of sequences (each sums to 1), `mean_tokens` of a sequence.

    `mean` is that of the mix: D tokens are D / mean sequences.
    """

    weights: Mapping[str, Fraction]
    shares: Mapping[str, Fraction]
    mean_tokens: Mapping[str, Fraction]
    mean: Fraction


def compose(
    modalities: Mapping[str, ModalitySpec], manifests: Mapping[str, Manifest], sequence_length: int
) -> Composition:
    """The mix's composition. Raises RuleError where all weights are zero, or a padded sequence would not fit."""
    total = sum(Fraction(repr(spec.weight)) for spec in modalities.values())
    if total == 0:
        raise RuleError("modalities", "all weights are zero", "give one modality a weight above zero")
    weights = {name: Fraction(repr(spec.weight)) / total for name, spec in modalities.items()}
    means = {name: _mean_tokens(name, manifests[name], sequence_length) for name in modalities}
    per_token = {name: weights[name] / means[name] for name in modalities}
    sequences_per_token = sum(per_token.values(), Fraction(0))
    shares = {name: value / sequences_per_token for name, value in per_token.items()}
    return Composition(weights, shares, means, 1 / sequences_per_token)


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
