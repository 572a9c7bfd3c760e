"""Which designs of a study are the best so far, and which evaluations belong to a preset."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Outcome
from unetx_studies.shrinkage import Shrinkage, shrinkage
from unetx_studies.spread import Scored

if TYPE_CHECKING:
    from unetx_studies.candidate import Origin
    from unetx_studies.store import TrialRecord


@dataclass(frozen=True, slots=True)
class Ranked:
    """A design with the estimate of its true mean from all its complete evaluations."""

    trials: tuple[TrialRecord, ...]
    """Its complete evaluations in order of their numbers, one a seed."""
    estimate: float
    """The shrunken estimate of its Dice, which ranks."""
    standard_error: float

    @property
    def first(self) -> TrialRecord:
        """The first evaluation, which stands for the design."""
        return self.trials[0]

    @property
    def number(self) -> int:
        """The number of the first evaluation, by which the design is named."""
        return self.first.number

    @property
    def key(self) -> str:
        return self.first.key

    @property
    def origin(self) -> Origin:
        """The origin of the first evaluation."""
        return self.first.origin

    @property
    def dice(self) -> float:
        """The mean score as it was measured, over seeds."""
        return fmean(trial.score or 0.0 for trial in self.trials)

    @property
    def original_dice(self) -> float | None:
        """The mean score on the cases' original voxels; None where an evaluation did not measure it."""
        known = [trial.original_dice for trial in self.trials if trial.original_dice is not None]
        return fmean(known) if len(known) == len(self.trials) else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the evaluations, in their order."""
        return tuple(trial.seed for trial in self.trials)


class Ranking:
    """Every design by the shrunken estimate of its score, the best first.

    A plain mean over seeds would favour who was tried once and lucky, and is moved by what a seed gives to all designs
    alike; the estimate (``shrinkage.py``) takes account of both. Designs with one seed each, the same, are in the order
    of their scores. Of equals the better score comes first, then the earlier trial.
    """

    def __init__(self, trials: Iterable[TrialRecord] = ()) -> None:
        self._trials: dict[int, TrialRecord] = {}
        self._keys: set[str] = set()
        self._seeds: set[int] = set()
        self._highest: TrialRecord | None = None
        """The trial with the highest score."""
        for trial in trials:
            self.add(trial)

    def add(self, trial: TrialRecord) -> None:
        """Rank one more trial, in whatever order they come; one without a final score is passed over."""
        if is_complete(trial):
            self._trials[trial.number] = trial
            self._keys.add(trial.key)
            self._seeds.add(trial.seed)
            if self._highest is None or _place(trial) < _place(self._highest):
                self._highest = trial
            for cached in ("shrinkage", "designs"):
                self.__dict__.pop(cached, None)

    def up_to(self, number: int | None) -> Ranking:
        """The ranking of the trials with numbers up to this one; of all trials for None."""
        if number is None or all(known <= number for known in self._trials):
            return self
        return Ranking(trial for trial in self._trials.values() if trial.number <= number)

    @cached_property
    def shrinkage(self) -> Shrinkage | None:
        """The estimates of all designs together; None before a design has a score."""
        return shrinkage(Scored(trial.key, trial.seed, trial.score or 0.0) for trial in complete(self._trials.values()))

    @cached_property
    def designs(self) -> tuple[Ranked, ...]:
        """Every design once, the best first."""
        if self.shrinkage is None:
            return ()
        of_design: defaultdict[str, dict[int, TrialRecord]] = defaultdict(dict)
        for trial in complete(self._trials.values()):
            of_design[trial.key].setdefault(trial.seed, trial)
        ranked = (
            Ranked(tuple(of_design[one.design].values()), one.mean, one.standard_error)
            for one in self.shrinkage.estimates
        )
        return tuple(sorted(ranked, key=lambda one: (-one.estimate, -one.dice, one.number)))

    @property
    def best(self) -> Ranked | None:
        """The best design; None before one has a score."""
        return next(iter(self.designs), None)

    @property
    def is_by_score(self) -> bool:
        """Whether all designs share their one seed, so that estimates are in the order of scores; known at no cost."""
        return len(self._trials) == len(self._keys) and len(self._seeds) <= 1

    @property
    def leader(self) -> TrialRecord | None:
        """The first evaluation of the best design; at no cost as long as estimates are in the order of scores."""
        best = None if self.is_by_score else self.best
        return self._highest if best is None else best.first

    def get(self, key: str | None) -> Ranked | None:
        """A design by its key; None where it has no score."""
        return next((one for one in self.designs if one.key == key), None)


def _place(trial: TrialRecord) -> tuple[float, int]:
    return -(trial.score or 0.0), trial.number


def is_complete(trial: TrialRecord) -> bool:
    """Whether a trial has a final score."""
    return trial.outcome is Outcome.COMPLETE and trial.score is not None and math.isfinite(trial.score)


def complete(trials: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The trials that have a final score, in order of their numbers."""
    return tuple(sorted(filter(is_complete, trials), key=lambda trial: trial.number))


def preset_key(trials: Iterable[TrialRecord], name: str) -> str | None:
    """The key of the design as which a preset was tried, adapted to a narrowed space or not; None before it was."""
    return next((trial.key for trial in trials if trial.origin.preset == name), None)


def outcome_counts(trials: Iterable[TrialRecord]) -> dict[str, int]:
    """How many trials ended in which way, by the outcome's name."""
    return dict(sorted(Counter(str(trial.outcome) for trial in trials if trial.outcome is not None).items()))
