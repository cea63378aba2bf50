"""What a run that trains is told from outside, and what it tells: to stop, that it may write no more, where it is."""

from __future__ import annotations

import time
from collections.abc import Callable


class Asked:
    """Whether a process was asked to stop, by a signal or by its launcher, and why; once asked it stays so."""

    def __init__(self) -> None:
        self.why = ""

    def stop(self, why: str) -> None:
        """Ask; the first reason stays."""
        self.why = self.why or why


class Control:
    """One run's, asked between its steps.

    `asked` is of the whole process; `cancelled` of this run. `check` raises where the run has another owner. `step` and
    `saved` are the last steps done and saved; `moved` is when, by the monotonic clock, the run last came further.
    """

    def __init__(self, asked: Asked | None = None) -> None:
        self.asked = asked or Asked()
        self.cancelled = False
        self.check: Callable[[], None] = lambda: None
        self.resumed: Callable[[int], None] = lambda step: None
        """Told the step that training starts after, 0 from the start."""
        self.step = self.saved = 0
        self.moved = time.monotonic()

    def stopping(self) -> bool:
        """Whether this process was asked to stop the run."""
        return self.cancelled or bool(self.asked.why)

    def at(self, step: int, saved: int) -> None:
        """The run has done `step`, and its newest checkpoint is, or is being, written of step `saved`."""
        self.step, self.saved, self.moved = step, saved, time.monotonic()
