"""The torchtitan configuration of a run, for people and programs to read."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from torchtitan.config import Configurable

from compiler.plan import RunPlan
from runtime.training.trainer import trainer_config


def torchtitan_config(run: RunPlan, folder: Path, data_root: Path) -> dict[str, Any]:
    """The configuration that `run` becomes when it trains in `folder`, as nested plain values that JSON can write.

    `class` names what a part configures. In lists, parts that are alike, such as the model's layers, are one entry
    {`count`, `each`}. Where the plan rides along, its id stands; functions stand as their names, infinity as "inf".
    """
    config = _plain(trainer_config(run, folder, data_root))
    assert isinstance(config, dict)
    return config


def _plain(value: object) -> Any:
    match value:
        case RunPlan():
            return value.id
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return _folded([_plain(one) for one in value])
        case _ if dataclasses.is_dataclass(value):
            fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
            if isinstance(value, Configurable.Config):
                return {"class": type(value).__qualname__.removesuffix(".Config")} | fields
            return fields
        case FunctionType() | type():
            return f"{value.__module__}.{value.__qualname__}"
        case _:
            return str(value)


def _folded(values: Sequence[Any]) -> list[Any]:
    folded: list[Any] = []
    for one, alike in itertools.groupby(values):
        count = len(list(alike))
        folded += [{"count": count, "each": one}] if isinstance(one, dict) and count > 1 else [one] * count
    return folded
