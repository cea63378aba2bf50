"""Devices, and what they sustain: what device-hours are computed from."""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """One device: peak FLOP/s, and the share of it that training sustains on model FLOPs (MFU, an assumption)."""

    name: str
    peak: float
    mfu: float

    @property
    def sustained(self) -> float:
        """Model FLOP/s."""
        return self.peak * self.mfu


CLUSTERS = {
    # A CPU core with 2 AVX2 FMA units at 2.5 GHz peaks at 80 GFLOP/s in float32. A quarter of it is our assumption.
    "local": Device("CPU core", 80e9, 0.25),
}
"""Cluster profiles by name, and the device of each."""
