"""Every question that a study may ask, in the order in which answers are shown."""

from __future__ import annotations

from typing import Any

from studies.analysis.how import How
from studies.analysis.questions.scaling import Scaling
from studies.analysis.results import Study
from studies.analysis.views.batch_law import BATCH_LAW
from studies.analysis.views.coordinates import COORDINATES
from studies.analysis.views.critical_batch import CRITICAL_BATCH
from studies.analysis.views.gamma import GAMMA
from studies.analysis.views.interaction import INTERACTION
from studies.analysis.views.invariance import INVARIANCE
from studies.analysis.views.learning_rate import LEARNING_RATE
from studies.analysis.views.mixing import MIXING
from studies.analysis.views.noise_schedules import NOISE
from studies.analysis.views.question import Answer, Question
from studies.analysis.views.scaling import SCALING
from studies.analysis.views.step_law import STEP_LAW

QUESTIONS: tuple[Question[Any], ...] = (
    SCALING,
    MIXING,
    INTERACTION,
    NOISE,
    COORDINATES,
    LEARNING_RATE,
    STEP_LAW,
    INVARIANCE,
    CRITICAL_BATCH,
    GAMMA,
    BATCH_LAW,
)


def answers(study: Study, how: How) -> list[Answer]:
    """What each question finds in `study`; those that it does not ask are left out."""
    asked = ((question, question.ask(study, how)) for question in QUESTIONS)
    return [Answer(question, found) for question, found in asked if found]


def summary(found: list[Answer]) -> dict[str, Any]:
    """`found` as plain values ready for JSON, by the questions' keys."""
    return {answer.question.key: answer.plain() for answer in found}


def laws_of(found: list[Answer]) -> Scaling | None:
    """The answer on scaling; None where the study does not ask."""
    return next((answer.found[0] for answer in found if answer.question is SCALING), None)
