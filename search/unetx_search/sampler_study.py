"""What samplers and pruners see: an Optuna study in memory, made anew from our records at each start."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from unetx_studies.candidate import OriginKind
from unetx_studies.store import optuna_constraints, optuna_state_and_value

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

    from unetx_studies.candidate import Origin
    from unetx_studies.store import TrialRecord


class _NarrowedStorage(InMemoryStorage):
    """Shows trials of numbers up to ``up_to`` alone, None for all, no replicates, and estimates in place of scores."""

    def __init__(self) -> None:
        super().__init__()
        self.up_to: int | None = None
        self.replicates: set[int] = set()
        self.estimates: Mapping[int, float] = {}
        """The scores that are shown in place of the trials' own, by number of the trial."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = []
        for trial in super().get_all_trials(study_id, deepcopy, states):
            if trial.number in self.replicates or (self.up_to is not None and trial.number > self.up_to):
                continue
            if trial.number in self.estimates:
                trial = copy(trial)
                trial.value = self.estimates[trial.number]
            shown.append(trial)
        return shown


class SamplerStudy:
    """An Optuna study in memory with the trials of our records, by the same numbers.

    It has the study's name, by which Hyperband tells brackets apart. Trials are asked for, and restored, in order of
    their numbers. Replicates are not shown: each design counts once, however often it was trained.
    """

    def __init__(self, name: str, genes: Mapping[str, CategoricalDistribution], pruner: BasePruner) -> None:
        self._storage = _NarrowedStorage()
        self._genes = genes
        self.study = optuna.create_study(
            storage=self._storage, study_name=name, direction="maximize", sampler=RandomSampler(), pruner=pruner
        )
        self._running: dict[int, Trial] = {}

    @contextmanager
    def seeing(self, up_to: int | None, estimates: Mapping[int, float] | None = None) -> Iterator[None]:
        """Show samplers and pruners only the trials with numbers up to ``up_to``, all where that is None.

        ``estimates`` are shown as the scores of the trials of these numbers.
        """
        self._storage.up_to, self._storage.estimates = up_to, estimates or {}
        try:
            yield
        finally:
            self._storage.up_to, self._storage.estimates = None, {}

    def ask(self) -> FrozenTrial:
        """Ask for the next trial, which has no parameters yet."""
        trial = self.study.ask()
        self._running[trial.number] = trial
        return self._frozen(trial.number)

    def set_params(self, number: int, params: Mapping[str, Any], origin: Origin) -> None:
        """Set the parameters of a trial that was asked for."""
        if origin.kind is OriginKind.REPLICATE:
            self._storage.replicates.add(number)
        for name, gene in self._genes.items():
            self._storage.set_trial_param(self._id_of(number), name, gene.to_internal_repr(params[name]), gene)

    def report(self, number: int, step: int, score: float) -> None:
        """Report a running trial's score at a rung."""
        self._running[number].report(score, step)

    def should_prune(self, number: int) -> bool:
        """Return whether the pruner would stop a running trial."""
        return self._running[number].should_prune()

    def notes(self, number: int) -> dict[str, Any]:
        """Return what sampler and pruner have noted about a trial."""
        return dict(self._frozen(number).system_attrs)

    def end(self, trial: TrialRecord) -> None:
        """Record the result of a trial."""
        running = self._running.pop(trial.number)
        for name, violation in optuna_constraints(trial).items():
            running.set_constraint(name, violation)
        state, value = optuna_state_and_value(trial, self._frozen(trial.number).intermediate_values)
        self._storage.set_trial_state_values(self._id_of(trial.number), state, None if value is None else [value])

    def restore(self, trial: TrialRecord, scores: Mapping[int, float]) -> None:
        """Add a trial of an earlier run, as our record has it, with its scores by the steps of its rungs."""
        number = self.ask().number
        if number != trial.number:
            raise RuntimeError(f"trial {trial.number} of the records follows trial {number - 1}")
        self.set_params(number, trial.params, trial.origin)
        for step, score in scores.items():
            self.report(number, step, score)
        for name, note in trial.optuna_notes.items():
            self._storage.set_trial_system_attr(self._id_of(number), name, note)
        if trial.is_finished:
            self.end(trial)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id_of(number))

    def _id_of(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
