"""The campaign: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.faults import plan
from tests.faults.ground import Impossible, Study, build_clock, train_in_peace
from tests.faults.life import Outcome, live
from tests.faults.plan import KINDS, Variant

ROUNDS = 3
"""Times that a fault which hit nothing is tried again."""

COLUMNS = ("tried", "survived", "lost", "missed", "skipped")


def campaign(lives: list[plan.Life], seed: int, folder: Path, at_once: int) -> list[Outcome]:
    """Let lives happen in `folder`, so many at once, and others for the faults that hit nothing."""
    try:
        clock = build_clock(folder)
    except Impossible:
        clock = None
    studies: dict[Variant, Study] = {}
    outcomes: list[Outcome] = []
    for attempt in range(ROUNDS):
        for variant in sorted({life.variant for life in lives} - studies.keys()):
            studies[variant] = train_in_peace(variant, folder)
        with ThreadPoolExecutor(at_once) as pool:
            waiting = [
                pool.submit(live, life, studies[life.variant], folder / f"life-{life.number}", clock) for life in lives
            ]
            for done in as_completed(waiting):
                outcomes.append(done.result())
                print(line(outcomes[-1]), file=sys.stderr, flush=True)
        latest = outcomes[-len(lives) :]
        missed = [fault.kind for outcome in latest for fault, result, _ in outcome.results if result == "missed"]
        if not missed or attempt == ROUNDS - 1:
            break
        for outcome in latest:
            outcome.results = [entry for entry in outcome.results if entry[1] != "missed"]
        rng = random.Random(f"faults {seed} again {attempt}")
        lives = plan.share_out(sorted(missed), rng, first=1 + max(outcome.life.number for outcome in outcomes))
    return outcomes


def line(outcome: Outcome) -> str:
    """A life in a line, and the folder and problems of one that was lost."""
    told = []
    for fault, result, _ in outcome.results:
        words = [
            fault.kind,
            f"({fault.file})" if fault.file else "",
            fault.when,
            "" if result == "survived" else result,
        ]
        told.append(" ".join(filter(None, words)))
    life = outcome.life
    failed = f" ({outcome.failures} failed)" if outcome.failures else ""
    text = f"life {life.number} ({life.variant}): {', '.join(told)}; {outcome.starts} starts{failed}, "
    text += f"{outcome.seconds:.0f} s"
    if outcome.problems:
        text += f"\n  LOST in {outcome.folder}: " + "; ".join(outcome.problems)[:1000]
    return text


def counts(outcomes: Sequence[Outcome]) -> dict[str, Counter[str]]:
    """By kind: faults tried, and what became of them."""
    found: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        for fault, result, _ in outcome.results:
            counter = found.setdefault(fault.kind, Counter())
            counter["tried"] += 1
            counter[result] += 1
    return {kind: found[kind] for kind in KINDS if kind in found}


def table(counted: dict[str, Counter[str]]) -> str:
    """The counts as text."""
    rows = [("fault", *COLUMNS)]
    rows += [(kind, *(str(counter[name]) for name in COLUMNS)) for kind, counter in counted.items()]
    total = sum(counted.values(), Counter[str]())
    rows.append(("all", *(str(total[name]) for name in COLUMNS)))
    return "\n".join(f"{row[0]:15}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; returns 1 where a fault was not survived."""
    parser = argparse.ArgumentParser(description="A campaign of seeded faults on small studies.")
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--only", type=int, nargs="+", help="these lives of the campaign, by number")
    parser.add_argument("--lives", type=int, default=2, help="studies at once")
    parser.add_argument("--out", type=Path, help="where lives happen; lost ones stay there")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    kinds = given.kinds.split(",")
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=given.out)).resolve()
    began = time.monotonic()
    lives = [
        life for life in plan.draw(given.faults, given.seed, kinds) if given.only is None or life.number in given.only
    ]
    outcomes = campaign(lives, given.seed, folder, given.lives)
    counted = counts(outcomes)
    lost = [outcome for outcome in outcomes if outcome.problems]
    reasons = sorted({reason for outcome in outcomes for _, result, reason in outcome.results if result == "skipped"})
    if given.json:
        report = {
            "seed": given.seed,
            "seconds": time.monotonic() - began,
            "kinds": {kind: {name: counter[name] for name in COLUMNS} for kind, counter in counted.items()},
            "lost": [{"folder": str(outcome.folder), "problems": outcome.problems} for outcome in lost],
            "skipped": reasons,
        }
        print(json.dumps(report))
    else:
        print(table(counted))
        for reason in reasons:
            print(f"skipped: {reason}")
        for outcome in lost:
            print(f"lost: seed {given.seed}, life {outcome.life.number}, {outcome.folder}: {outcome.problems[0]}")
        print(f"{len(outcomes)} lives, {time.monotonic() - began:.0f} s")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
