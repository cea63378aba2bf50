"""Is what a run left the same as that of the run trained in peace: nothing lost, nothing doubled, nothing changed?"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

TIMED = {"tokens_per_second", "seconds", "data_wait", "mfu"}
"""What the clock has measured: it may differ."""

_RUN = re.compile(r"(run|status)\.json|(metrics|eval)\.jsonl|log\.txt|lease-\d+\.free|checkpoint")
_CHECKPOINT = re.compile(r"__\d+_\d+\.distcp|\.metadata|seal-\d+\.json|(metrics|eval)\.jsonl")


def problems(home: Path, calm: Path) -> list[str]:
    """What differs in a run's folder from that of the run trained in peace, in words."""
    found = []
    for name in ("metrics.jsonl", "eval.jsonl"):
        try:
            found += _rows(name, _read(home / name), _read(calm / name))
        except (OSError, ValueError) as error:
            found.append(f"{name} cannot be read: {error}")
    found += _status(home)
    found += _checkpoint(home, calm)
    return found + _strays(home)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _rows(name: str, own: list[dict[str, Any]], calm: list[dict[str, Any]]) -> list[str]:
    def place(row: dict[str, Any]) -> tuple[int, str]:
        return row["step"], row.get("modality", "")

    counts, wanted = Counter(map(place, own)), Counter(map(place, calm))
    found = [f"{name}: the row of step {step} {what}was lost".replace("  ", " ") for step, what in wanted - counts]
    found += [f"{name}: the row of step {step} {what}is doubled".replace("  ", " ") for step, what in counts - wanted]
    if found:
        return found
    if [place(row) for row in own] != [place(row) for row in calm]:
        found.append(f"{name}: rows are in another order")
    for row, same in zip(own, calm, strict=True):
        changed = [key for key in row.keys() | same.keys() if key not in TIMED and row.get(key) != same.get(key)]
        if changed:
            return [*found, f"{name}: step {row['step']} has another {', '.join(sorted(changed))}"]
    seconds = [row["seconds"] for row in own if "seconds" in row]
    if seconds != sorted(seconds):
        found.append(f"{name}: the seconds of training go back")
    return found


def _status(home: Path) -> list[str]:
    try:
        status = json.loads((home / "status.json").read_bytes())
    except (OSError, ValueError) as error:
        return [f"status.json cannot be read: {error}"]
    found = []
    if status["state"] != "done":
        found.append(f"it is {status['state']}: {status['reason']}")
    elif status["history"][-1]["state"] != "done":
        found.append("its last attempt did not end well")
    if status["results"] != {name: _sum(home / name) for name in ("metrics.jsonl", "eval.jsonl")}:
        found.append("the checksums of the results are not those of the files")
    return found


def _checkpoint(home: Path, calm: Path) -> list[str]:
    """All checkpoints that are left must be whole, and the last must hold the same state."""
    found = [
        f"{folder.name} is damaged: {what}"
        for folder in sorted((home / "checkpoint").glob("*"))
        if (what := _damage(folder))
    ]
    if found:
        return found
    last = _last(calm)
    if _last(home) != last:
        return [f"its last checkpoint is {_last(home)}, not {last}"]
    own, same = state(home / "checkpoint" / last), state(calm / "checkpoint" / last)
    differing = [name for name in own.keys() | same.keys() if not _equal(own.get(name), same.get(name))]
    return [f"{last} differs in {', '.join(sorted(differing)[:3])}"] if differing else []


def _last(home: Path) -> str:
    steps = [int(folder.name.removeprefix("step-")) for folder in (home / "checkpoint").glob("step-*")]
    return f"step-{max(steps, default=0)}"


def _damage(folder: Path) -> str:
    seals = sorted(folder.glob("seal-*.json"))
    if not seals:
        return "it has no seal"
    try:
        read = [json.loads(seal.read_bytes()) for seal in seals]
        if len(read) != read[0]["ranks"]:
            return "a seal is missing"
        sums = {name: digest for seal in read for name, digest in seal["files"].items()}
        wrong = [name for name, digest in sums.items() if _sum(folder / name) != digest]
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(wrong)} differ from their seal" if wrong else ""


def state(folder: Path) -> dict[str, Any]:
    """All that a checkpoint holds, by name, read by torch's own means."""
    nested: dict[str, Any] = {}
    _load_state_dict(
        nested, storage_reader=FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True
    )
    flat: dict[str, Any] = {}

    def flatten(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                flatten(inner, f"{name}/{key}" if name else str(key))
        else:
            flat[name] = value

    flatten(nested, "")
    return flat


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _strays(home: Path) -> list[str]:
    found = [path for path in home.iterdir() if not _RUN.fullmatch(path.name)]
    found += [path for path in (home / "checkpoint").glob("*/*") if not _CHECKPOINT.fullmatch(path.name)]
    return [f"{path.relative_to(home)} was left behind" for path in sorted(found)]


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
