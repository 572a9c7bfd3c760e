"""Trials as the database gives them back, made from what a test is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from unetx_evaluators.evaluation import Budget, Outcome
from unetx_studies.candidate import Origin, OriginKind
from unetx_studies.store import TrialRecord

BUDGET = Budget(steps=6, batch_size=1, width_factor=0.25, rungs=(6,), validation_cases=3)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RANDOM = Origin(OriginKind.RANDOM)
ASKED = TrialRecord(
    number=0,
    key="u",
    params={"a": True, "b": "x"},
    origin=RANDOM,
    why="drawn at random; it saw no trial",
    n_parameters=7_000_000,
    macs=9_000_000_000_000,
    seed=3,
    budget=BUDGET,
    asked_at=NOON,
)
"""A trial of which nothing but the design is known."""


def preset(name: str, *, is_adapted: bool = False) -> Origin:
    return Origin(OriginKind.PRESET, name, is_adapted)


def repeated(name: str = "", *, is_adapted: bool = False) -> Origin:
    return Origin(OriginKind.REPLICATE, name, is_adapted)


def record(
    trial: int,
    key: str,
    score: float | None,
    *,
    seed: int = 0,
    origin: Origin = RANDOM,
    outcome: Outcome | None = Outcome.COMPLETE,
    **more: Any,
) -> TrialRecord:
    return replace(ASKED, number=trial, key=key, score=score, seed=seed, origin=origin, outcome=outcome, **more)
