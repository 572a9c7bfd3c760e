"""The findings of an audit: how well each proxy ranks designs, and what it costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from unetx_evaluators.insight import ZeroCost
from unetx_search.audit.recommendation import Recommendation, recommended
from unetx_studies.proxy_agreement import FEWEST_DESIGNS, Agreement, Ceiling, agreement, ceiling
from unetx_studies.shrinkage import shrinkage
from unetx_studies.spread import Scored

if TYPE_CHECKING:
    from unetx_search.audit.config import AuditConfig
    from unetx_studies.candidate import Candidate
    from unetx_studies.spread import Vector
    from unetx_studies.store import TrialRecord

Values = Mapping[tuple[str, int], float]
"""Values of a proxy or the reference, by key of the design and seed."""


@dataclass(frozen=True, slots=True)
class AuditTraining:
    """A training of an audit, with what was noted beside its score."""

    trial: TrialRecord
    is_complete: bool
    loss_sum: float
    """The sum of the losses of all training steps."""
    zero_cost: Mapping[str, float] | None
    """The zero-cost features of the untrained network, by name; None where they were not noted."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy for long training, by which designs could be ranked."""

    name: str
    n_seeds: int
    """The number of trainings of each design that it needs."""
    seconds: float | None
    """The duration of these trainings for the median design; None where it needs none, or there are none yet."""
    agreement: Agreement | None
    """Its agreement with the reference; None while too few designs have both."""

    @property
    def evaluations_an_hour(self) -> float | None:
        """How often one worker could evaluate it in an hour."""
        return 3600.0 / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Audit:
    """An audit, complete or not."""

    config: AuditConfig
    designs: tuple[Candidate, ...]
    steps: int
    """The steps of a search by default."""
    trainings: tuple[AuditTraining, ...]
    n_trainings: int
    """The number of trainings of the complete audit."""
    was_stopped: bool

    @property
    def lengths(self) -> tuple[int, ...]:
        """The steps of the short trainings, in ascending order."""
        return tuple(sorted({one.trial.budget.steps for one in self.trainings} - {self.reference_steps}))

    @property
    def reference_steps(self) -> int:
        return self.config.longer * self.steps

    @property
    def n_finished(self) -> int:
        return sum(one.trial.is_finished for one in self.trainings)

    @property
    def seconds(self) -> float:
        """The duration of all trainings together."""
        return sum(one.trial.seconds for one in self.trainings)

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each training without a score, on what it was and how it ended."""
        return tuple(
            f"{one.trial.key[:12]} after {one.trial.budget.steps} steps with seed {one.trial.seed} ended as "
            f"{one.trial.outcome}: {one.trial.reason}"
            for one in self.trainings
            if one.trial.is_finished and not one.is_complete
        )

    def _values(self, steps: int, read: Callable[[AuditTraining], float | None]) -> Values:
        """What is read from each complete training of so many steps, where it is a number."""
        told = {
            (one.trial.key, one.trial.seed): read(one)
            for one in self.trainings
            if one.is_complete and one.trial.budget.steps == steps
        }
        return {at: value for at, value in told.items() if value is not None and math.isfinite(value)}

    @cached_property
    def _references(self) -> Values:
        return self._values(self.reference_steps, lambda one: one.trial.score)

    @cached_property
    def _worth(self) -> Mapping[str, float]:
        """The best estimate of each design's true mean after long training: shrunken, by the references."""
        found = shrinkage(Scored(key, seed, score) for (key, seed), score in self._references.items())
        return {} if found is None else {one.design: one.mean for one in found.estimates}

    def _compared(self, proxies: Iterable[Values]) -> tuple[list[Vector], Vector, Vector] | None:
        """Tables ``[designs, seeds]`` of proxies and reference and the true worth, of the designs that have all."""
        tables = [(values, self._seeds(values)) for values in (*proxies, self._references)]
        whole = [
            one.key
            for one in self.designs
            if all(seeds and all((one.key, seed) in values for seed in seeds) for values, seeds in tables)
        ]
        if len(whole) < FEWEST_DESIGNS:
            return None
        *found, reference = (
            np.array([[values[key, seed] for seed in seeds] for key in whole]) for values, seeds in tables
        )
        return found, reference, np.array([self._worth[key] for key in whole])

    def _seeds(self, values: Values) -> list[int]:
        """Return the seeds of a table; of an audit that was stopped, those that most designs have."""
        n_designs = Counter(seed for _, seed in values)
        most = max(n_designs.values(), default=0)
        return sorted(seed for seed, n in n_designs.items() if n == most or not self.was_stopped)

    def _agreement(self, values: Values, *, averaged: bool = False) -> Agreement | None:
        compared = self._compared([values])
        if compared is None:
            return None
        (proxy,), reference, worth = compared
        return agreement(proxy.mean(1, keepdims=True) if averaged else proxy, reference, worth)

    @cached_property
    def proxies(self) -> tuple[Proxy, ...]:
        """The proxies: scores after each number of steps, on one seed and all; sums of losses; zero-cost features."""
        found = []
        for steps in self.lengths:
            spent = list(self._values(steps, lambda one: one.trial.seconds).values())
            seconds = median(spent) if spent else None
            scores = self._values(steps, lambda one: one.trial.score)
            found.append(Proxy(f"{steps} steps", 1, seconds, self._agreement(scores)))
            if (n_seeds := self.config.seeds) > 1:
                together = None if seconds is None else n_seeds * seconds
                both = self._agreement(scores, averaged=True)
                found.append(Proxy(f"{steps} steps", n_seeds, together, both))
            losses = self._values(steps, lambda one: -one.loss_sum)
            found.append(Proxy(f"{steps} steps, loss", 1, seconds, self._agreement(losses)))
        for name in (one.name for one in fields(ZeroCost)):
            features = self._values(self.steps, lambda one, name=name: (one.zero_cost or {}).get(name))  # type: ignore[misc]
            found.append(Proxy(name.replace("_", " "), 0, None, self._agreement(features, averaged=True)))
        return tuple(found)

    @cached_property
    def ceiling(self) -> Ceiling | None:
        """The agreement of a proxy without noise, as references have noise; None with too few designs."""
        compared = self._compared([])
        return None if compared is None else ceiling(compared[1])

    @cached_property
    def recommendation(self) -> Recommendation:
        """The recommendation to the next search."""
        compared = self._compared(self._values(steps, lambda one: one.trial.score) for steps in self.lengths)
        if compared is None or not self.lengths:
            why = f"fewer than {FEWEST_DESIGNS} designs have all their scores, so nothing is shown; {self.steps} stay"
            return Recommendation(None, why)
        proxies = dict(zip(self.lengths, compared[0], strict=True))
        return recommended(proxies, self.steps, compared[1], compared[2], self.config.margin)
