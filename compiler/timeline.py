"""When each run of a study trains, and on which devices: list scheduling on the study's cluster."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from compiler.plan import ClusterPlan, RunPlan

Block = tuple[int, int]
"""Devices that lie side by side: the first, and how many."""


class Span(NamedTuple):
    """One run's time on the cluster, in hours from the study's start. `ranks` are its processes.

    `blocks` are its devices, numbered from 0: as many as it has ranks, or all where the cluster has too few.
    """

    run: str
    name: str
    start_hours: float
    end_hours: float
    ranks: int
    blocks: tuple[Block, ...]

    @property
    def slot(self) -> int:
        """The first of its devices."""
        return self.blocks[0][0]

    @property
    def devices(self) -> int:
        """How many devices it holds."""
        return sum(count for _, count in self.blocks)

    @property
    def hours(self) -> float:
        """How long it trains."""
        return self.end_hours - self.start_hours


def too_large(runs: Sequence[RunPlan], cluster: ClusterPlan) -> list[str]:
    """Names of the runs that need more devices than `cluster` has."""
    return [run.name for run in runs if run.parallel.ranks > cluster.devices]


def timeline(runs: Sequence[RunPlan], cluster: ClusterPlan) -> list[Span]:
    """The spans of `runs` on `cluster`, by start.

    Runs stand in the runner's order, most ranks first, then longest; whenever devices are free, the first run that fits
    them starts, up to Slurm's array limit at once. A run that is too large for the cluster counts as running alone, its
    device-hours spread over all devices. O(n log n) in the runs.
    """
    devices = cluster.devices
    at_once = len(runs) if cluster.slurm is None else cluster.slurm.array_limit or len(runs)
    waiting = _by_width(runs, devices)
    widths = sorted(waiting)
    free = _Devices(devices)
    running: list[tuple[float, int, tuple[Block, ...]]] = []
    spans: list[Span] = []
    now = 0.0
    while widths or running:
        while widths and len(running) < at_once:
            fitting = bisect_right(widths, free.count)
            if not fitting:
                break
            width = widths[fitting - 1]
            run = waiting[width].pop()
            if not waiting[width]:
                del widths[fitting - 1]
            blocks = free.take(width)
            end = now + run.device_hours / width
            heapq.heappush(running, (end, len(spans), blocks))
            spans.append(Span(run.id, run.name, now, end, run.parallel.ranks, blocks))
        now = running[0][0]
        while running and running[0][0] == now:
            free.give_back(heapq.heappop(running)[2])
    return spans


def study_hours(spans: Sequence[Span]) -> float:
    """Hours until the last run ends."""
    return max((span.end_hours for span in spans), default=0.0)


def _by_width(runs: Sequence[RunPlan], devices: int) -> dict[int, list[RunPlan]]:
    """The runs by the devices that they take, each list shortest first: the next to start is at its end."""
    waiting: dict[int, list[RunPlan]] = {}
    for run in sorted(runs, key=lambda run: (-run.parallel.ranks, -run.device_hours / run.parallel.ranks)):
        waiting.setdefault(min(run.parallel.ranks, devices), []).append(run)
    for alike in waiting.values():
        alike.reverse()
    return waiting


class _Devices:
    """Free devices, lowest numbers first, as blocks: a cluster of a million costs no more than one of two."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._blocks: list[Block] = [(0, count)]

    def take(self, wanted: int) -> tuple[Block, ...]:
        """`wanted` of the free devices, of which there must be so many."""
        self.count -= wanted
        taken: list[Block] = []
        while wanted:
            first, count = heapq.heappop(self._blocks)
            if count > wanted:
                heapq.heappush(self._blocks, (first + wanted, count - wanted))
                count = wanted
            wanted -= count
            if taken and sum(taken[-1]) == first:
                first, count = taken[-1][0], taken[-1][1] + count
                taken.pop()
            taken.append((first, count))
        return tuple(taken)

    def give_back(self, blocks: tuple[Block, ...]) -> None:
        for block in blocks:
            self.count += block[1]
            heapq.heappush(self._blocks, block)
