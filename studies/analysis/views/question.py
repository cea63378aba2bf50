"""A question that a study's plan may ask: how it is answered, and how the answer is shown.

What a study asks is read off its plan, never off its name, so that anybody's study has its answers. `fit`, `report` and
`export` all go through the questions in `studies.analysis.asked`; to add one is to add its modules there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from studies.analysis.how import How
from studies.analysis.results import Study
from studies.analysis.views.words import Found

if TYPE_CHECKING:
    import altair as alt

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """A figure: `key` is unique among those of one answer, `title` (may be empty) stands above it, `draw` makes it."""

    key: str
    title: str
    draw: Callable[[], alt.TopLevelMixin]


@dataclass(frozen=True)
class Block:
    """One thing found, to be shown together: figures, tables, and what else is to be said. `small` figures stand close,
    many in a row."""

    figures: Sequence[Figure]
    tables: Sequence[Found]
    small: bool = False

    @property
    def title(self) -> str:
        """That of its first table."""
        return self.tables[0].title if self.tables else ""


@dataclass(frozen=True)
class Question(Generic[T]):
    """`key` names it in JSON, in file names and on the page; `title` and `text` (HTML of our own) head its section.

    `ask` gives what was found, a thing for each part of the study that asks it; none where the study does not ask, or
    nothing of it has ended yet. `show` puts one of them in words and figures, without drawing yet; `plain` makes it
    plain values, ready for JSON.
    """

    key: str
    title: str
    text: str
    ask: Callable[[Study, How], tuple[T, ...]]
    show: Callable[[T], Block]
    plain: Callable[[T], Any] = msgspec.to_builtins


@dataclass(frozen=True)
class Answer:
    """What one question found in one study, never empty."""

    question: Question[Any]
    found: tuple[Any, ...]

    def plain(self) -> list[Any]:
        """What was found, ready for JSON (where inf, a run that diverged, is null)."""
        return [self.question.plain(one) for one in self.found]

    def blocks(self) -> list[Block]:
        """What was found, in words and figures."""
        return [self.question.show(one) for one in self.found]
