"""What a study's folder was made from: the study's file and the command line's overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from compiler.files import decode
from specs.errors import Problem, SpecError


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """`source.json`: the study's file at the time, the overrides, the plan's digest, and which command trained it."""

    file: str
    overrides: tuple[str, ...]
    digest: str
    launcher: Literal["run", "submit"] = "run"


_SOURCES = msgspec.json.Decoder(Source)


def studies_of(home: Path) -> list[Path]:
    """The folders of the studies that have a run, given its folder in the store."""
    return sorted(link.parent.parent for link in home.parent.parent.glob(f"*/runs/{home.name}"))


def source_of(folder: Path) -> tuple[Path, list[str], str]:
    """The study file, overrides and run id behind a run's folder, DIR/STUDY/runs/ID or DIR/store/ID.

    Raises SpecError where there is none, or the study's file is no longer there.
    """
    # Not resolved: runs/ID is a link into the store, which does not know its studies.
    home = folder.absolute()
    for study in [home.parent.parent] if home.parent.name == "runs" else studies_of(home):
        try:
            source = decode(study / "source.json", _SOURCES)
        except (OSError, msgspec.MsgspecError):
            continue
        if not Path(source.file).is_file():
            what, todo = f"its study, {source.file}, is no longer there", "give the study's file and the run's name"
            raise SpecError([Problem(str(folder), 1, "source.json", what, todo)])
        return Path(source.file), list(source.overrides), home.name
    todo = "give a folder such as runs/demo/runs/ID, or a study's file and a run's name"
    raise SpecError([Problem(str(folder), 1, "source.json", "this is not the folder of a study's run", todo)])


def launcher_of(study: Path) -> Source:
    """What trained the study in folder `study`. Raises SpecError where it does not say."""
    try:
        return decode(study / "source.json", _SOURCES)
    except (OSError, msgspec.MsgspecError) as error:
        todo = "run or submit the study again"
        raise SpecError([Problem(str(study / "source.json"), 1, "source", f"cannot be read ({error})", todo)]) from None
