"""Evaluations as the database gives them back, made from what a test is about."""

from __future__ import annotations

from datetime import UTC, datetime

from unetx_evaluators.evaluation import Budget, Outcome
from unetx_studies.store import EvaluationRecord

BUDGET = Budget(steps=6, batch_size=1, width_factor=0.25, rungs=(6,), validation_cases=3)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(
    trial: int,
    key: str,
    score: float | None,
    *,
    seed: int = 0,
    origin: str = "random",
    outcome: Outcome | None = Outcome.COMPLETE,
) -> EvaluationRecord:
    return EvaluationRecord(
        trial, key, seed, origin, BUDGET, NOON, NOON, 0, "CPU 0", {}, outcome, "", "", score, 1000, 10.0, 5.0
    )
