"""A user's mistakes: where they are, what they are, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


def printable(text: str) -> str:
    """A line of text without what could command a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in text)


@dataclass(frozen=True)
class Problem:
    """One mistake in what a user wrote. `path` is dotted from the study's root; `line` counts from 1."""

    file: str
    line: int
    path: str
    what: str
    todo: str

    def __str__(self) -> str:
        return printable(f"{self.file}:{self.line}: {self.path}: {self.what}; {self.todo}")


class SpecError(Exception):
    """A study that cannot be planned, with all that was found wrong in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def to_json(self) -> list[dict[str, str | int]]:
        """The problems as plain records, for programs."""
        return [asdict(problem) for problem in self.problems]


class RuleError(Exception):
    """A mistake found by a rule that knows the path (dotted, from `base`) but not the file.

    `also` names the other paths that took part: where an axis set one of these, the axis' line is the one to name.
    """

    def __init__(self, path: str, what: str, todo: str, also: tuple[str, ...] = ()) -> None:
        super().__init__(f"{path}: {what}; {todo}")
        self.path, self.what, self.todo, self.also = path, what, todo, also
