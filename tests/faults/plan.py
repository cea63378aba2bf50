"""Which faults a campaign has, when they strike, and which share a life: all of it from the seed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

When = Literal["row", "checkpoint", "launch", "start", "between", "end"]
"""At a step; while a checkpoint is written; before there is an attempt; as one starts; between two starts; after the
end."""

Variant = Literal["one", "two", "pair"]
"""A run of one rank, a run of two ranks, or two runs at once."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault: its share of a campaign, the studies it fits and the moments it may strike at."""

    weight: int
    variants: tuple[Variant, ...]
    moments: tuple[When, ...]


_ANY: tuple[Variant, ...] = ("one", "one", "pair", "two")
_RUNNING: tuple[When, ...] = ("row", "row", "checkpoint", "start")
_STOPPED: tuple[When, ...] = ("between", "between", "end")

KINDS: dict[str, Kind] = {
    "worker": Kind(45, ("one", "one", "pair"), _RUNNING),  # kill -9 of a run's only rank
    "rank": Kind(25, ("two",), _RUNNING),  # kill -9 of one of two ranks
    "launcher": Kind(35, _ANY, _RUNNING),  # kill -9 of `triptych run`, started again at once
    "machine": Kind(20, _ANY, _RUNNING),  # kill -9 of the launcher and all its ranks
    "signal": Kind(15, _ANY, ("row", "checkpoint")),  # SIGTERM to one rank, or to the launcher
    "full": Kind(20, ("one", "one", "pair"), ("row", "checkpoint")),  # no space left on its file system
    "read-only": Kind(15, ("one", "one", "pair"), ("row", "checkpoint")),  # its file system becomes read-only
    "truncated": Kind(45, _ANY, _STOPPED),  # a file of the run loses its end
    "flipped": Kind(50, _ANY, _STOPPED),  # up to three bits of a file of the run change
    "clock": Kind(10, ("one", "pair"), ("row",)),  # the wall clock jumps by up to 30 hours
    "two launchers": Kind(12, _ANY, ("row", "launch")),  # a second `triptych run` on the same folder
    "slow": Kind(5, ("two", "one"), ("row",)),  # a rank is stopped and continued by turns
    "hanging": Kind(3, ("two",), ("row",)),  # one of two ranks is stopped for good
}

FILES = {
    "checkpoint": 6,
    "metadata": 3,
    "seal": 3,
    "checkpointed rows": 3,
    "status": 5,
    "metrics": 5,
    "evaluations": 3,
    "plan of the run": 2,
    "plan of the study": 2,
    "lease": 1,
}
"""Files that are damaged, and how often."""

CHECKPOINTED = {"checkpoint", "metadata", "seal", "checkpointed rows"}
"""Those of them that are a checkpoint's."""

FAULTS_OF_A_LIFE = 6


@dataclass(frozen=True)
class Fault:
    """One fault: `at` is the share of the study's steps that it waits for, `seed` decides its details."""

    kind: str
    when: When
    at: float
    seed: int
    file: str = ""


@dataclass(frozen=True)
class Life:
    """Faults that one study has, in order."""

    number: int
    variant: Variant
    faults: tuple[Fault, ...] = field(default=())


def draw(count: int, seed: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Life]:
    """The lives of a campaign of `count` faults."""
    rng = random.Random(f"faults {seed}")
    # Every kind its share, and what rounding leaves to the first ones.
    total = sum(KINDS[kind].weight for kind in kinds)
    names = [kind for kind in kinds for _ in range(max(1, count * KINDS[kind].weight // total))]
    names = (names + list(kinds) * count)[:count] if len(names) < count else names[:count]
    return share_out(names, rng, first=1)


def share_out(names: Iterable[str], rng: random.Random, first: int) -> list[Life]:
    """Lives, numbered from `first`, in which these kinds of faults happen."""
    by_variant: dict[Variant, list[str]] = defaultdict(list)
    for name in names:
        by_variant[rng.choice(KINDS[name].variants)].append(name)
    groups: list[tuple[Variant, list[str]]] = []
    for variant, members in by_variant.items():
        rng.shuffle(members)
        many = -(-len(members) // FAULTS_OF_A_LIFE)
        groups += [(variant, members[i::many]) for i in range(many)]
    rng.shuffle(groups)
    return [Life(first + i, variant, _faults(members, rng)) for i, (variant, members) in enumerate(groups)]


def _faults(names: list[str], rng: random.Random) -> tuple[Fault, ...]:
    """Moments for the faults of a life: spread over its steps, those after its end at last."""
    whens = [(rng.choice(KINDS[name].moments), name) for name in names]
    rng.shuffle(whens)
    whens.sort(key=lambda pair: pair[0] == "end")
    whens.sort(key=lambda pair: pair[0] not in ("launch", "start"))
    faults = []
    for place, (when, name) in enumerate(whens):
        at = 0.04 + 0.88 * (place + rng.random() * 0.7) / len(whens)
        file = rng.choices(list(FILES), list(FILES.values()))[0] if when in ("between", "end") else ""
        faults.append(Fault(name, when, at, rng.randrange(2**32), file))
    return tuple(faults)
