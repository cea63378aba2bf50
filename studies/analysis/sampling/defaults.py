"""The defaults that sampling studies find, as the YAML file that holds the project's: task to settings of the sampler.

`specs/samplers.yaml` is that file: what a task leaves out is as its `default` has it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml  # type: ignore[import-untyped]

from compiler.files import write_atomically
from compiler.sampling import Sampler
from specs.document import parse
from specs.errors import Problem, SpecError, printable
from specs.sampling import spoken
from studies.analysis.sampling.front import TaskFront
from studies.analysis.sampling.show import choice_words

_DEFAULT = "default"
_HEADER = "# How each task is sampled where nothing else is said; what a task leaves out is as in `default`.\n"
_WIDTH = 118


def defaults_text(found: Sequence[TaskFront], study: str, kept: str = "", file: str = "samplers.yaml") -> str:
    """The text of the file with what `study` found, each task under a comment that says what its settings rest on.

    What only `kept` has, the text of the file so far, stays as it is, with the comments right above it. Raises
    `SpecError`, naming `file`, where `kept` is no such text.
    """
    usual = msgspec.structs.asdict(Sampler())
    blocks = _blocks(kept, file)
    if _DEFAULT in blocks:
        usual |= parse(blocks[_DEFAULT], file, {})[_DEFAULT]
    else:
        blocks = {_DEFAULT: _HEADER + yaml.safe_dump({_DEFAULT: usual}, sort_keys=False), **blocks}
    for front in found:
        blocks[spoken(front.task)] = _block(front, study, usual)
    return "\n".join(blocks.values())


def write_defaults(path: Path, found: Sequence[TaskFront], study: str) -> None:
    """Write what `study` found into the file at `path`, which need not be there yet. Raises `SpecError` where it holds
    something else or cannot be written."""
    try:
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        write_atomically(path, defaults_text(found, study, kept, str(path)).encode())
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(str(path), f"the file cannot be written anew ({error})") from None


def changed(sampler: Sampler, usual: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's kind, and what of it is not as in `usual`."""
    return {k: v for k, v in msgspec.structs.asdict(sampler).items() if k == "kind" or v != usual[k]}


def _block(front: TaskFront, study: str, usual: Mapping[str, Any]) -> str:
    said = printable(f"From the study {study}. {'. '.join(choice_words(front))}.")
    comment = textwrap.fill(said, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    settings = {spoken(front.task): changed(front.choice.setting.sampler, usual)}
    return f"{comment}\n{yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=_WIDTH)}"


def _blocks(text: str, file: str) -> dict[str, str]:
    """The text of each entry of a file of defaults, from the comment right above it to its last setting."""
    data = parse(text, file, {})
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(settings, dict) for settings in data.values()):
        raise _unusable(file, "the file does not map tasks to settings of the sampler")
    # Only for the lines of its keys: PyYAML keeps no comments.
    root = yaml.compose(text, yaml.SafeLoader)
    if root.flow_style:
        raise _unusable(file, "its tasks do not stand on lines of their own")
    lines = text.splitlines()
    starts = [0, *(_with_comment(lines, key.start_mark.line) for key, _ in root.value[1:])]
    ends = [*starts[1:], len(lines)]
    return {
        str(key.value): "\n".join(lines[start:end]).rstrip() + "\n"
        for (key, _), start, end in zip(root.value, starts, ends, strict=True)
    }


def _with_comment(lines: Sequence[str], line: int) -> int:
    while lines[line - 1].startswith("#"):
        line -= 1
    return line


def _unusable(file: str, what: str) -> SpecError:
    return SpecError([Problem(file, 1, "defaults", what, "name the file of the sampler's defaults, or a new one")])
