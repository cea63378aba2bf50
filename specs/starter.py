"""The study that a new user starts from."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from specs.document import plain
from specs.errors import Problem, SpecError

_NAME = re.compile(r"^study: .*$", re.MULTILINE)


def starter() -> str:
    """The text of a commented study that plans as it is, on embedded data."""
    return files("specs").joinpath("starter.yaml").read_text("utf-8")


def write_starter(path: Path) -> None:
    """Write the starter study to `path`, named after the file, with the folders above it.

    Raises SpecError where there is a file already, or where none can be written.
    """

    def refuse(what: str, todo: str) -> SpecError:
        return SpecError([Problem(str(path), 1, "file", what, todo)])

    try:
        if path.exists():
            raise refuse("there is a file or folder of this name already", "give another name, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(_NAME.sub(f"study: {_name(path.stem)}", starter(), count=1))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise refuse(f"the file cannot be written ({reason})", "give a path that can be written") from None


def _name(stem: str) -> str:
    """A study's name, safe for a folder and for YAML, from a file's name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100]
    if not name or name == "store":  # the folder of all runs
        name = f"{name}-study".lstrip("-")
    return name if isinstance(plain(name), str) else f'"{name}"'
