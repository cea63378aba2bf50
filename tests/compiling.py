"""Studies compiled from data, on two small sources that exist only as manifests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from compiler.compile import Compiled, compile_whole
from compiler.manifest import Manifest, Segment, Split, VocabularyManifest
from compiler.plan import Group, RunPlan, StudyPlan
from specs.errors import Problem, SpecError

WORDS = VocabularyManifest(name="words", size=100, fingerprint="w")
PIXELS = VocabularyManifest(name="pixels", size=40, fingerprint="p")


def manifest(name: str, packed: bool, vocabularies: tuple[VocabularyManifest, ...], **counts: int) -> Manifest:
    split = Split(sequences=counts["sequences"], tokens=counts["tokens"], longest=counts["longest"], digest=name)
    segments = tuple(Segment(vocabulary=v.name, tokens=1, entropy=1.0, field_entropy=1.0) for v in vocabularies)
    return Manifest(
        name=name,
        description=name,
        licence="CC0-1.0",
        packed=packed,
        vocabularies=vocabularies,
        segments=segments,
        train=split,
        held_out=split,
    )


MANIFESTS = {
    "prose": manifest("prose", True, (WORDS,), sequences=100, tokens=50_000, longest=900),
    "pictures": manifest("pictures", False, (WORDS, PIXELS), sequences=1000, tokens=20_500, longest=25),
}


def study(**base: Any) -> dict[str, Any]:
    """A study's data: `base` replaces keys of its base, dotted with `__`."""
    data: dict[str, Any] = {
        "study": "tiny",
        "base": {
            "model": {"width": 64, "depth": 2},
            "modalities": {
                "text": {"weight": 1, "data": "prose"},
                "image": {"weight": 1, "data": "pictures", "noise": "cosine"},
            },
            "sequence_length": 32,
            "tokens": "100K",
            "batch": {"physical": 16},
        },
        "axes": [],
    }
    for path, value in base.items():
        *around, last = path.split("__")
        here = data["base"]
        for part in around:
            here = here.setdefault(part, {})
        here[last] = value
    return data


def compile_data(data: dict[str, Any], *overrides: str) -> StudyPlan:
    """The plan of `data`."""
    return compile_data_whole(data, *overrides).plan


def compile_data_whole(data: dict[str, Any], *overrides: str) -> Compiled:
    """Compile `data`, written as YAML (JSON is YAML), beside the manifests."""
    with tempfile.TemporaryDirectory() as folder:
        for name, one in MANIFESTS.items():
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "manifest.json").write_bytes(msgspec.json.encode(one))
        path = Path(folder) / "study.yaml"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1))
        return compile_whole(path, overrides)


def run(data: dict[str, Any] | None = None, **base: Any) -> RunPlan:
    [only] = compile_data(data or study(**base)).runs
    return only


def group(plan: RunPlan, name: str) -> Group:
    return next(one for one in plan.groups if one.name == name)


def refused(data: dict[str, Any], *overrides: str) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        compile_data(data, *overrides)
    return list(caught.value.problems)
