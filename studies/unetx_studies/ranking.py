"""Which design of a study is the best so far, and which evaluations belong to a preset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Outcome

if TYPE_CHECKING:
    from unetx_studies.store import TrialRecord


class Ranking:
    """Every design by its first complete evaluation, the best score first and the earlier of equals.

    That is the evaluation on the seed which all designs share, initial values and batches included, so that like is
    compared with like. A second seed measures noise and moves nobody: the highest of several seeds would favour who was
    tried more often, and so would a mean, up or down, by what the seeds have in common for all designs.
    """

    def __init__(self, trials: Iterable[TrialRecord] = ()) -> None:
        self._first: dict[str, TrialRecord] = {}
        for trial in trials:
            self.add(trial)

    def add(self, trial: TrialRecord) -> None:
        """One more trial, in whatever order they come."""
        if is_complete(trial) and trial.number <= self._first.get(trial.key, trial).number:
            self._first[trial.key] = trial

    def designs(self) -> tuple[TrialRecord, ...]:
        """Every design once, the best first."""
        return tuple(sorted(self._first.values(), key=_place))

    def best(self, *, up_to: int | None = None) -> TrialRecord | None:
        """The first of them, of those by trials of numbers up to this one where it is given."""
        designs = (trial for trial in self._first.values() if up_to is None or trial.number <= up_to)
        return min(designs, key=_place, default=None)


def ranking(trials: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Every design once, the best first, as ``Ranking`` has it."""
    return Ranking(trials).designs()


def _place(trial: TrialRecord) -> tuple[float, int]:
    return -(trial.score or 0.0), trial.number


def is_complete(trial: TrialRecord) -> bool:
    """It has a final score."""
    return trial.outcome is Outcome.COMPLETE and trial.score is not None and math.isfinite(trial.score)


def complete(trials: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Those that have a final score, in order of their numbers."""
    return tuple(sorted(filter(is_complete, trials), key=lambda trial: trial.number))


def preset_key(trials: Iterable[TrialRecord], name: str) -> str | None:
    """The design as which a preset was tried, adapted to a narrowed space or not; None before it was."""
    return next((trial.key for trial in trials if trial.origin.preset == name), None)


def outcome_counts(trials: Iterable[TrialRecord]) -> dict[str, int]:
    """How many trials ended in which way, by the outcome's name."""
    return dict(sorted(Counter(str(trial.outcome) for trial in trials if trial.outcome is not None).items()))
