"""The unified vocabulary: the sources' vocabularies one after another, then the special tokens."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.manifest import Manifest, VocabularyManifest
from compiler.plan import Vocabulary, VocabularyPart
from specs.errors import RuleError


def unify(manifests: Mapping[str, Manifest]) -> Vocabulary:
    """The vocabulary of modalities with these manifests (modality name to manifest).

    Distinct vocabularies by name, then mask, pad, end, `task:MODALITY` by name, and `begin:PART`, `end:PART` by name
    for each part that is not a sequence's first. Raises RuleError where two sources mean different vocabularies by one
    name.
    """
    distinct: dict[str, VocabularyManifest] = {}
    for modality, manifest in manifests.items():
        for vocabulary in manifest.vocabularies:
            known = distinct.setdefault(vocabulary.name, vocabulary)
            if known != vocabulary:
                what = f"vocabulary '{vocabulary.name}' of '{manifest.name}' is not the one that other sources call so"
                raise RuleError(f"modalities.{modality}.data", what, "build the sources with one tokenizer")
    parts, offset = [], 0
    for name in sorted(distinct):
        parts.append(VocabularyPart(name=name, offset=offset, size=distinct[name].size))
        offset += distinct[name].size
    later = sorted({segment.vocabulary for m in manifests.values() for segment in m.segments[1:]})
    names = ["mask", "pad", "end", *(f"task:{modality}" for modality in sorted(manifests))]
    names += [f"{edge}:{part}" for part in later for edge in ("begin", "end")]
    specials = {name: offset + index for index, name in enumerate(names)}
    return Vocabulary(size=offset + len(names), parts=tuple(parts), specials=specials)
