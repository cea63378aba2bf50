"""Per-module exceptions: optimizer groups split where a study's patterns ask for other values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from msgspec.structs import replace

from compiler.layout import GROUPS, Shape, modules
from compiler.plan import Group
from specs.errors import RuleError
from specs.study import ModuleSpec


def as_regex(glob: str) -> str:
    """A regex for names that match `glob` in full: `*` stands for anything."""
    return ".*".join(map(re.escape, glob.split("*")))


def with_exceptions(groups: tuple[Group, ...], exceptions: Mapping[str, ModuleSpec], shape: Shape) -> tuple[Group, ...]:
    """`groups`, each split by which of the exceptions its parameters match; factors of all that match are multiplied.

    Every parameter stays in exactly one group: a part's pattern looks ahead for the exceptions' patterns. Raises
    RuleError for an exception that matches no parameter, or scales initial values where none are drawn.
    """
    if not exceptions:
        return groups
    patterns = {name: as_regex(spec.pattern) for name, spec in exceptions.items()}
    parts = _parts(shape, tuple(patterns.items()))
    for name, spec in exceptions.items():
        matched = [group for group in groups for part in parts[group.name] if name in part]
        path = f"optimizer.modules.{name}"
        if not matched:
            todo = "write a glob of names such as 'layers.*.attention.wo.weight' (`triptych inspect` lists them)"
            raise RuleError(f"{path}.pattern", f"'{spec.pattern}' matches no parameter", todo)
        if spec.init != 1 and not any(group.init_std for group in matched):
            what = f"'{spec.pattern}' matches parameters that start at a constant, which init does not change"
            raise RuleError(f"{path}.init", what, "leave init out")
    return tuple(
        _part(group, part, exceptions, patterns) if len(parts[group.name]) > 1 or part else group
        for group in groups
        for part in parts[group.name]
    )


@lru_cache(maxsize=1024)
def _parts(shape: Shape, patterns: tuple[tuple[str, str], ...]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """For each group, the distinct sets of exceptions that one of its parameters matches."""
    found: dict[str, dict[tuple[str, ...], None]] = {name: {} for name in GROUPS}
    for module in modules(shape):
        for name in module.names(shape.depth):
            matches = tuple(exception for exception, pattern in patterns if re.fullmatch(pattern, name))
            found[module.group][matches] = None
    return {group: tuple(sorted(parts)) for group, parts in found.items()}


def _part(
    group: Group, part: tuple[str, ...], exceptions: Mapping[str, ModuleSpec], patterns: Mapping[str, str]
) -> Group:
    ahead = "".join(f"(?{'=' if name in part else '!'}{pattern}$)" for name, pattern in patterns.items())
    lr, eps, decay, init = group.lr, group.eps, group.weight_decay, group.init_std
    for name in part:
        spec = exceptions[name]
        lr, eps, decay = lr * spec.lr, eps * spec.eps, decay * spec.weight_decay
        init = None if init is None else init * spec.init
    return replace(
        group,
        name="+".join((group.name, *part)),
        pattern=ahead + group.pattern,
        lr=lr,
        eps=eps,
        weight_decay=decay,
        init_std=init,
    )
