"""Which experiments a study's plan makes, and what they found: several questions of one study, each in its module.

What a study asks is read off its plan, never off its name, so that anybody's study has its answer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from studies.analysis.coordinates import Sweep, coordinate_check
from studies.analysis.gamma import Gamma, batch_exponent
from studies.analysis.invariance import Invariance, batch_invariance
from studies.analysis.learning_rate import Transfer, learning_rate_transfer
from studies.analysis.results import Study


class Experiments(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What each experiment found; empty where the study does not make it, or nothing of it has ended yet."""

    coordinates: tuple[Sweep, ...] = ()
    learning_rate: tuple[Transfer, ...] = ()
    invariance: tuple[Invariance, ...] = ()
    gamma: tuple[Gamma, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.coordinates or self.learning_rate or self.invariance or self.gamma)

    def summary(self) -> dict[str, Any]:
        """The experiments that were made, as plain values ready for JSON (where inf, a failed run, is null)."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def experiments(study: Study, bootstrap: int = 1000, seed: int = 0) -> Experiments:
    """Ask every experiment of `study`; intervals are of `bootstrap` resamples (none where it is 0)."""
    return Experiments(
        coordinates=coordinate_check(study),
        learning_rate=learning_rate_transfer(study),
        invariance=batch_invariance(study, bootstrap, seed),
        gamma=batch_exponent(study, bootstrap, seed),
    )
