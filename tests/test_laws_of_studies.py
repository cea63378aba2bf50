"""Laws read off a study's plan: what tokens are worth to other modalities, steps and batch, best learning rates."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from compiler.plan import RunPlan
from studies.analysis.charts.batch_law import best_batches
from studies.analysis.charts.interaction import worths
from studies.analysis.charts.step_law import best_rates
from studies.analysis.questions.batch_law import batch_law
from studies.analysis.questions.interaction import joint_laws
from studies.analysis.questions.step_law import step_law
from studies.analysis.views.batch_law import BATCH_LAW
from studies.analysis.views.interaction import INTERACTION
from studies.analysis.views.step_law import STEP_LAW
from tests.experiments import finished, level, once


def shaken(run: RunPlan, modality: str, width: float = 0.003) -> float:
    """A factor near one that depends on the run alone."""
    return math.exp(width * math.sin(int(run.id[:8], 16) + len(modality)))


def readable(question: Any, found: Any) -> str:
    """What the question shows, all of it made: tables as text, figures drawn, JSON written."""
    block = question.show(found)
    assert all(figure.draw().to_dict() for figure in block.figures)
    json.dumps(question.plain(found))
    return " ".join(
        text for table in block.tables for text in (table.title, *map(str, table.rows), *table.said, *table.warned)
    )


MIXES = {"simplex": {"parts": 5}}


def test_tokens_of_other_modalities_are_worth_what_they_are() -> None:
    runs = once(
        [MIXES, {"zip": {"model.width": [64, 128, 256], "model.heads": [2, 4, 8]}}, {"grid": {"tokens": [1e5, 4e5]}}]
    )
    names = list(runs[0].modalities)
    worth = 0.3

    def loss(run: RunPlan, modality: str) -> float:
        weights = {name: one.weight for name, one in run.modalities.items()}
        others = sum(weight for name, weight in weights.items() if name != modality)
        effective = run.tokens * (weights[modality] + worth * others)
        size = run.model.parameters.non_embedding
        return (2 + 30 / size**0.35 + 300 / effective**0.45) * shaken(run, modality)

    (found,) = joint_laws(finished(runs, loss), bootstrap=60)
    assert [one.modality for one in found.comparisons] == names
    for one in found.comparisons:
        assert one.preferred == "transfer"
        assert one.significant
        for name in names:
            if name != one.modality:
                assert one.transfer.parameters[f"tau_{name}"] == pytest.approx(worth, abs=0.15)
    assert worths(found.comparisons).to_dict()
    assert "worth" in readable(INTERACTION, found)


def test_studies_of_one_mix_or_of_one_place_do_not_ask_what_tokens_are_worth() -> None:
    assert joint_laws(finished(once([MIXES]), level)) == ()
    assert joint_laws(finished(once([{"grid": {"tokens": [1e5, 2e5, 4e5]}}]), level)) == ()


def test_the_best_batch_by_steps_and_batch_grows_as_the_law_says() -> None:
    runs = once([{"grid": {"tokens": [1e5, 4e5, 16e5, 64e5], "batch.logical": [2, 4, 8, 16, 32, 64]}}])

    def loss(run: RunPlan, modality: str) -> float:
        sequence = run.tokens / (run.steps * run.batch.physical)
        batch = sequence * run.batch.logical
        return (2 + 20 / (run.tokens / batch) ** 0.45 + 20 / batch**0.4) * shaken(run, "", 0.001)

    (found,) = batch_law(finished(runs, loss), bootstrap=60)
    assert found.law is not None
    low, high = found.law.intervals["batch_exponent"]
    assert low < 0.45 / 0.85 < high
    assert high - low < 0.4
    best = [one.best for one in found.horizons]
    assert best == sorted(best)
    assert all(one.critical > one.best for one in found.horizons)
    assert best_batches(found).to_dict()
    assert "held out" in readable(BATCH_LAW, found)


def test_one_batch_does_not_ask_and_a_flat_loss_is_said_to_show_nothing() -> None:
    assert batch_law(finished(once([{"grid": {"tokens": [1e5, 2e5, 4e5]}}]), level)) == ()
    runs = once([{"grid": {"tokens": [1e5, 4e5, 16e5], "batch.logical": [2, 4, 8]}}])
    (found,) = batch_law(finished(runs, level), bootstrap=20)
    assert found.warnings


def test_the_best_learning_rate_moves_with_tokens_as_it_was_made_to() -> None:
    rates = [1e-3 * 2 ** (k / 2) for k in range(10)]
    runs = once([{"grid": {"tokens": [1e5, 4e5, 16e5], "optimizer.lr": rates}}])

    def loss(run: RunPlan, modality: str) -> float:
        best = 8e-3 * (run.tokens / 1e5) ** -0.3
        rate = run.point["optimizer.lr"]
        assert isinstance(rate, float)
        return (3 + 0.05 * math.log(rate / best) ** 2) * shaken(run, "", 0.0005)

    (found,) = step_law(finished(runs, loss), bootstrap=200)
    assert found.law is not None
    low, high = found.law.lr.intervals["D"]
    assert low < -0.3 < high
    assert high - low < 0.3
    assert best_rates(found.law, "D").to_dict()
    assert "exponent of D" in readable(STEP_LAW, found)


def test_two_places_are_too_few_for_a_law_of_learning_rates() -> None:
    runs = once([{"grid": {"tokens": [1e5, 4e5], "optimizer.lr": [1e-3, 2e-3, 4e-3]}}])
    assert step_law(finished(runs, level)) == ()
