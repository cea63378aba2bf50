"""Clusters by name: the accelerators that are known, and the profiles that say what a study is costed for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from compiler.plan import Accelerator, ClusterPlan, Slurm
from specs.cluster import AcceleratorSpec, read_cluster
from specs.document import Document
from specs.errors import RuleError, SpecError
from specs.suggest import suggestion

FOLDERS_VARIABLE = "TRIPTYCH_CLUSTERS"
_SHIPPED = Path(__file__).parent / "profiles"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _device(name: str, float32: float, bfloat16: float, memory: float, positions: int) -> Accelerator:
    """Peaks in TFLOP/s, memory in GB."""
    return Accelerator(
        name=name,
        peak={"float32": float32 * 1e12, "bfloat16": bfloat16 * 1e12},
        memory=round(memory * 1e9),
        positions=positions,
    )


# Data sheets give tensor-core rates with sparsity: halved here. float32 is without TF32, as PyTorch has it by default.
# `positions` are in no data sheet: an assumption, of the order of what fills a device's matrix units at width 1024.
_DEVICES = (
    # Two AVX2 FMA units at 2.5 GHz: 2 · 8 lanes · 2 FLOPs · 2.5e9. bfloat16 is computed in float32 there.
    _device("cpu-core", 0.08, 0.08, 4, 8192),
    # NVIDIA A100 Tensor Core GPU data sheet, SXM
    _device("a100-40gb", 19.5, 312, 40, 32_768),
    _device("a100", 19.5, 312, 80, 32_768),
    # NVIDIA H100 Tensor Core GPU data sheet, SXM
    _device("h100", 67, 989, 80, 65_536),
    # NVIDIA H200 Tensor Core GPU data sheet, SXM
    _device("h200", 67, 989, 141, 65_536),
    # NVIDIA Blackwell data sheet, HGX B200, each GPU
    _device("b200", 75, 2250, 180, 131_072),
    # NVIDIA L40S data sheet
    _device("l40s", 91.6, 362, 48, 32_768),
    # AMD Instinct MI300X and MI325X data sheets
    _device("mi300x", 163.4, 1307.4, 192, 65_536),
    _device("mi325x", 163.4, 1307.4, 256, 65_536),
)

ACCELERATORS: dict[str, Accelerator] = {device.name: device for device in _DEVICES}
"""Accelerators that a profile, or `batch.profile`, may name."""


class UnknownClusterError(RuleError):
    """No profile has the name that a study gives as its `cluster`."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__("cluster", what, todo)


def find_cluster(name: str) -> ClusterPlan:
    """The cluster `name`, from the first profile NAME.yaml of `profile_folders()`.

    Raises UnknownClusterError where there is none, SpecError at the profile's line where it is wrong.
    """
    path = profile_path(name)
    spec, document = read_cluster(path)
    slurm = Slurm(
        partition=spec.partition,
        account=spec.account,
        qos=spec.qos,
        constraint=spec.constraint,
        minutes=spec.time,
        array_limit=spec.array_limit,
        setup=spec.setup,
        cpus_per_task=spec.cpus_per_task,
        memory=spec.memory,
        notice=spec.notice,
        pack=spec.pack,
        options=spec.options,
    )
    return ClusterPlan(
        name=name,
        accelerator=_accelerator(spec.accelerator, document),
        mfu=spec.mfu,
        nodes=spec.nodes,
        gpus_per_node=spec.gpus_per_node,
        patience=spec.patience,
        slurm=slurm if spec.kind == "slurm" else None,
    )


def profile_path(name: str) -> Path:
    """The profile of cluster `name`. Raises UnknownClusterError."""
    if _NAME.fullmatch(name):
        for folder in profile_folders():
            path = folder / f"{name}.yaml"
            if path.is_file():
                return path
    what = f"there is no cluster profile '{name}'"
    looked = ", ".join(map(str, (*_own_folders(), "the shipped profiles")))
    raise UnknownClusterError(what, f"{suggestion(name, known_clusters())} (profiles are NAME.yaml in {looked})")


def known_clusters() -> list[str]:
    """Names of all profiles, sorted."""
    found = (path for folder in profile_folders() for path in _profiles(folder))
    return sorted({path.stem for path in found if _NAME.fullmatch(path.stem)})


def user_folder() -> Path:
    """Where a user's profiles are written: the first folder of $TRIPTYCH_CLUSTERS, else ~/.config/triptych/clusters.

    It may not exist yet.
    """
    return _own_folders()[0]


def profile_folders() -> tuple[Path, ...]:
    """Where profiles are looked for, first come first served; the shipped ones last."""
    return (*_own_folders(), _SHIPPED)


def is_shipped(path: Path) -> bool:
    """Whether the profile at `path` is one of the project's own, which no command changes."""
    return path.parent == _SHIPPED


def _own_folders() -> tuple[Path, ...]:
    given = [part for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    return tuple(Path(os.path.expanduser(part)) for part in (*given, "~/.config/triptych/clusters"))


def _profiles(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.glob("*.yaml")
    except OSError:  # a folder that may not be read has no profiles to name
        return


def _accelerator(spec: AcceleratorSpec, document: Document) -> Accelerator:
    known = ACCELERATORS.get(spec.name)
    peak = dict(known.peak) if known else {}
    peak |= {dtype: value for dtype, value in spec.peak.model_dump().items() if value is not None}
    memory = spec.memory or (known.memory if known else None)
    positions = spec.positions or (known.positions if known else None)
    missing = [f"peak.{dtype}" for dtype in type(spec.peak).model_fields if dtype not in peak]
    missing += [key for key, value in (("memory", memory), ("positions", positions)) if value is None]
    if missing or memory is None or positions is None:
        what = f"'{spec.name}' is not a known accelerator"
        todo = suggestion(spec.name, ACCELERATORS)
        if isinstance(document.data["accelerator"], dict):
            what += f", and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given"
            todo = f"give {'it' if len(missing) == 1 else 'them'}, or {todo}"
        raise SpecError([document.problem(("accelerator",), what, todo)])
    return Accelerator(name=spec.name, peak=peak, memory=round(memory), positions=positions)
