"""What a model would score that knows token frequencies and nothing else: the entropies to beat.

Computed from the manifests' content entropies and the special tokens that the compiler puts around the content: a task
token for every sequence; a begin and an end token around every segment but the first; for packed sources an end token
after every document instead.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import polars as pl

from compiler.manifest import Manifest, load_manifest
from compiler.plan import ModalityPlan
from compiler.records import MIX
from studies.analysis.results import Study


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Unigram entropies of one modality, in nats per token.

    `unigram` and `positioned` are over whole sequences, special tokens included, to compare with `nelbo`; in
    `positioned` the place inside a frame of interleaved codes is known. `last_unigram` and `last_positioned` are those
    of the last segment's content, to compare with `conditional`; None for sources of one segment.
    """

    unigram: float
    positioned: float
    last_unigram: float | None
    last_positioned: float | None


def baseline(manifest: Manifest, plan: ModalityPlan) -> Baseline:
    """The entropies of a source's training split, as the sequences of `plan`.

    With shares s over segments and kinds of special token, H = -Σ s log s + Σ s_segment · H_segment. Segments are told
    apart, which is exact where they are of different vocabularies and otherwise too low, so never too easy to beat.
    """
    content = [segment.tokens for segment in manifest.segments]
    if plan.packed:
        documents = manifest.train.sequences
        # mean_tokens counts one task token in each packed sequence.
        sequences = (sum(content) + documents) / max(plan.mean_tokens - 1, 1)
        specials = [sequences, documents]
    else:
        sequences = manifest.train.sequences
        specials = [sequences] * (1 + 2 * (len(content) - 1))
    total = sum(content) + sum(specials)
    between = -math.fsum(c / total * math.log(c / total) for c in [*content, *specials] if c)
    last = manifest.segments[-1] if len(content) > 1 else None
    return Baseline(
        unigram=between + math.fsum(s.tokens / total * s.entropy for s in manifest.segments),
        positioned=between + math.fsum(s.tokens / total * s.field_entropy for s in manifest.segments),
        last_unigram=last.entropy if last else None,
        last_positioned=last.field_entropy if last else None,
    )


def study_baselines(study: Study, folder: Path | None = None) -> dict[str, Baseline]:
    """The baseline of each modality whose manifest can be read; data paths are relative to `folder`.

    `folder` is the study file's; by default the study's own folder, which finds all sources that ship with the package.
    Where runs give one modality different sources, it has no one baseline and is left out.
    """
    found = {}
    for name in study.modalities:
        plans = [run.modalities[name] for run in study.plan.runs if name in run.modalities]
        if len({plan.data for plan in plans}) > 1:
            continue
        try:
            found[name] = baseline(load_manifest(plans[0].data, folder or study.folder), plans[0])
        except (OSError, msgspec.MsgspecError):
            continue
    return found


def comparison(study: Study, baselines: dict[str, Baseline]) -> pl.DataFrame:
    """Each modality's `nelbo` at the largest token count against its baseline.

    Columns: `modality`, `tokens`, `largest` and `smallest` (mean nelbo over seeds of the runs with the most and the
    fewest non-embedding parameters at that token count), `conditional` (of the largest), and the four entropies of
    `Baseline`, null where unknown.
    """
    results = study.results().filter(pl.col("modality") != MIX)
    results = results.filter(pl.col("tokens") == pl.col("tokens").max().over("modality"))
    size = pl.col("params_non_embedding")
    largest, smallest = (pl.col("nelbo").filter(size == edge) for edge in (size.max(), size.min()))
    measured = results.group_by("modality", maintain_order=True).agg(
        pl.col("tokens").first(),
        largest.mean().alias("largest"),
        smallest.mean().alias("smallest"),
        pl.col("conditional").filter(size == size.max()).mean(),
    )
    fields = Baseline.__struct_fields__
    known = pl.DataFrame(
        [(name, *(getattr(b, field) for field in fields)) for name, b in baselines.items()],
        schema={"modality": pl.String, **dict.fromkeys(fields, pl.Float64)},
        orient="row",
    )
    return measured.join(known, on="modality", how="left", maintain_order="left")
