"""Where torchtitan 0.3.0 differs off CUDA: everything it must be told to train on a CPU, in one place.

Import this module before anything of torchtitan: it fixes the device once, at its first import.
"""

from __future__ import annotations

import resource
import sys
from datetime import timedelta

import torch
import torch._utils
import torch.distributed as dist
from torch._C._distributed_c10d import Store

if torch._utils._get_available_device_type() is None:  # type: ignore[no-untyped-call]
    # torchtitan takes "cuda" for granted where no accelerator is found.
    torch._utils._get_available_device_type = lambda: "cpu"

from torch.distributed.fsdp import FSDPModule
from torchtitan.components import metrics
from torchtitan.components.metrics import DeviceMemStats
from torchtitan.tools.utils import device_type

ON_CPU: bool = device_type == "cpu"


class HostMemoryMonitor:
    """torchtitan's device memory monitor for a device that is the host: peak resident memory of the process."""

    device_name = "cpu"

    def get_peak_stats(self) -> DeviceMemStats:
        """Peak resident memory in GiB, as both active and reserved."""
        unit = 1 if sys.platform == "darwin" else 1024
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
        return DeviceMemStats(gib, 0.0, gib, 0.0, 0, 0)

    def reset_peak_stats(self) -> None:
        """The kernel's peak cannot be reset."""


if ON_CPU:
    metrics.build_device_memory_monitor = HostMemoryMonitor


def start_process_group(store: Store, rank: int, world_size: int, patience: timedelta | None = None) -> None:
    """Start the default process group: gloo on a CPU, else NCCL. torchtitan's trainer then uses it as it is. A rank
    waits for the others for `patience`, by default as long as the backend does."""
    torch.autograd.set_multithreading_enabled(False)  # as torchtitan does where it starts the group itself
    backend = "gloo" if ON_CPU else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=patience)


def adapt_fsdp(model: torch.nn.Module) -> None:
    """Make sharded modules reduce with plain sums: gloo has no PREMUL_SUM."""
    if ON_CPU:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
