"""A mirror of our records in Optuna's tables of the same database, for optuna-dashboard and ``optuna.load_study``.

They are written through Optuna's public interface alone, after our records, and never read for a search. A write that
fails costs no result: the mirror is behind then, and is compared with the records and mended a while later, at the end,
or when the study is opened again. What an outside hand has changed is put right on the same occasion. What Optuna
allows nobody to change, as a finished trial, is mended by rebuilding the mirrored study as a whole; notes and artifacts
that people have added are carried over.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from unetx_evaluators.evaluation import Outcome
from unetx_space.architecture import Architecture
from unetx_space.errors import RequestError
from unetx_studies.store.open import Store, optuna_storage
from unetx_studies.store.records import Records, TrialRecord

MARK = "unetx:mirror"
"""User attribute of a study in Optuna's tables that mirrors our records; any other is left alone."""
VIOLATED = {"trainable": 1.0}
"""Optuna's constraints of a trial whose design is at fault."""
MEND_AFTER_S = 60.0
"""Seconds after a failure from which on the mirror is mended, at the next event."""
KEPT = "kept"
"""Name of the attribute under which notes and artifacts lie while a mirrored study is rebuilt."""
TRIAL_ATTRIBUTE = re.compile(r"dashboard:(?P<kind>artifacts:)?(?P<id>\d+):(?P<rest>.*)")
"""Names of a study's attributes under which optuna-dashboard keeps what belongs to a trial, by the trial's id."""

GENE = re.compile(r"(D\d+(?:\.\d+)?)\.(\D.*)")
"""The name of a gene: a decoder node, and a source or a kind of operator."""

T = TypeVar("T")
Scores = Mapping[int, float]
"""Scores by the step at which they were reached."""

logger = logging.getLogger(__name__)


def optuna_state_and_value(trial: TrialRecord, scores: Scores) -> tuple[TrialState, float | None]:
    """Optuna's state and value of a trial: RUNNING without a result; a pruned trial has its last score."""
    if trial.outcome is None:
        return TrialState.RUNNING, None
    if trial.outcome is Outcome.COMPLETE and trial.score is not None and not math.isnan(trial.score):
        return TrialState.COMPLETE, trial.score
    if trial.outcome.failed or trial.outcome is Outcome.COMPLETE:
        return TrialState.FAIL, None
    last = scores[max(scores)] if scores else math.nan
    return TrialState.PRUNED, None if math.isnan(last) else last


def optuna_constraints(trial: TrialRecord) -> Mapping[str, float]:
    """Optuna's constraints of a trial: above 0 where the design itself is at fault, so that samplers learn from it."""
    return VIOLATED if trial.outcome is not None and trial.outcome.violates else {}


class OptunaMirror:
    """The mirror of one study's ``records`` in Optuna's tables; a context manager, to be used from one thread.

    ``attach`` adds to a trial what a dashboard shows beside it, when it begins and once more before it ends.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        records: Records,
        distributions: Mapping[str, BaseDistribution],
        *,
        attach: Callable[[Trial, TrialRecord, Architecture], None] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._name = study
        self._records = records
        self._distributions = _with_readable_names(distributions)
        self._attach = attach
        self._clock_s = clock_s
        self._storage: RDBStorage | None = None
        self._study_id = -1
        self._written: dict[int, tuple[int, dict[int, float]]] = {}
        """Optuna's id and the scores at rungs of each trial that has been written, by number."""
        self._behind_since_s: float | None = None
        self._has_warned = False

    def __enter__(self) -> Self:
        """Mends what is amiss. Raises RequestError where somebody else's study of this name is in Optuna's tables."""
        self._guarded(self._mend)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Mends the mirror where it is behind, unless an error ends the run; then the next one does it."""
        try:
            if self._behind_since_s is not None and error is None:
                self._guarded(self._mend)
        finally:
            if self._storage is not None:
                self._storage.remove_session()
                self._storage.engine.dispose()

    def follow(self, trial: TrialRecord, scores: Scores, architecture: Architecture | None = None) -> None:
        """Show a trial as our record has it now, ``scores`` being what it has reached at its rungs.

        ``architecture`` is looked up in the records where it is not given and needed.
        """
        if self._behind_since_s is None:
            self._guarded(lambda: self._show(trial, scores, architecture))
        elif self._clock_s() - self._behind_since_s >= MEND_AFTER_S:
            self._guarded(self._mend)

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
            self._behind_since_s = None
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the records stand, and the mirror is mended later)
            self._behind_since_s = self._clock_s()
            if not self._has_warned:
                self._has_warned = True
                logger.warning("Optuna's tables could not be written, and are mended later: %s", error)

    def _opened(self) -> RDBStorage:
        if self._storage is None:
            with self._store.making_tables():
                self._storage = optuna_storage(self._store.url)
        return self._storage

    # One trial.

    def _show(self, trial: TrialRecord, scores: Scores, architecture: Architecture | None = None) -> None:
        storage = self._opened()
        state, final = optuna_state_and_value(trial, scores)
        if trial.number not in self._written:
            self._append(trial, {})
            if not state.is_finished():
                self._attach_to(trial, architecture)
        trial_id, written = self._written[trial.number]
        for step, score in scores.items():
            if not _is_same(written.get(step), score):
                storage.set_trial_intermediate_value(trial_id, step, score)
                written[step] = score
        if state.is_finished():
            self._attach_to(trial, architecture)
            for name, value in _failure_attributes(trial).items():
                storage.set_trial_user_attr(trial_id, name, value)
            if violated := optuna_constraints(trial):
                attributes = create_trial(state=TrialState.RUNNING, constraints=dict(violated)).system_attrs
                for name, value in attributes.items():
                    storage.set_trial_system_attr(trial_id, name, value)
            storage.set_trial_state_values(trial_id, state, None if final is None else [final])

    def _append(self, trial: TrialRecord, system_attrs: Mapping[str, Any]) -> None:
        """Add the next trial to the mirrored study, as it was when it was asked."""
        template = create_trial(
            state=TrialState.RUNNING,
            params=_with_readable_names(trial.params),
            distributions=self._distributions,
            user_attrs={
                "origin": str(trial.origin),
                "key": trial.key,
                "seed": trial.seed,
                "n_parameters": trial.n_parameters,
                "macs": trial.macs,
            },
            system_attrs=dict(system_attrs),
            constraints={},
        )
        template.datetime_start = trial.asked_at.astimezone().replace(tzinfo=None)  # Optuna knows local times only
        self._written[trial.number] = self._opened().create_new_trial(self._study_id, template), {}

    def _attach_to(self, trial: TrialRecord, architecture: Architecture | None) -> None:
        if self._attach is not None:
            study = optuna.load_study(study_name=self._name, storage=self._opened(), sampler=RandomSampler())
            found = architecture or self._records.architecture(trial.key)
            self._attach(Trial(study, self._written[trial.number][0]), trial, found)

    # The whole study.

    def _mend(self) -> None:
        """Make Optuna's tables say what our records say."""
        storage = self._opened()
        trials, curves = self._records.trials(), self._records.curves()
        scores = {t.number: {point.step: point.score for point in curves.get(t.number, ())} for t in trials}
        found = self._open_study()
        spare = f"{self._name} (kept notes)"
        is_half_rebuilt = spare in {study.study_name for study in storage.get_all_studies()}
        if is_half_rebuilt or not _can_become(found, trials, scores):
            self._rebuild(trials, found, spare)
            found = []
        else:
            self._written = {t.number: (self._id_of(t.number), dict(t.intermediate_values)) for t in found}
        for trial in found:
            if not trial.state.is_finished():
                self._attach_to(trials[trial.number], None)
        done = {trial.number for trial in found if trial.state.is_finished()}
        for record in trials:
            if record.number not in done:
                self._records.heartbeat()
                self._show(record, scores[record.number])

    def _id_of(self, number: int) -> int:
        return self._opened().get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _open_study(self) -> list[FrozenTrial]:
        """The trials of the mirrored study, which is made where it is missing. RequestError for somebody else's."""
        storage = self._opened()
        try:
            self._study_id = storage.get_study_id_from_name(self._name)
        except KeyError:
            self._study_id = storage.create_new_study([StudyDirection.MAXIMIZE], self._name)
        found = storage.get_all_trials(self._study_id, deepcopy=False)
        if MARK not in storage.get_study_user_attrs(self._study_id):
            if found:
                raise RequestError(
                    f"the database has a study {self._name!r} in Optuna's tables already that was not begun from this "
                    "folder; take another --study NAME"
                )
            storage.set_study_user_attr(self._study_id, MARK, 1)
        return found

    def _rebuild(self, trials: Sequence[TrialRecord], found: Sequence[FrozenTrial], spare: str) -> None:
        """Make the mirrored study anew, with what people have added to the old one.

        That lies in a spare study meanwhile, so that nothing of it is lost when the process ends in between.
        """
        storage = self._opened()
        try:
            spare_id = storage.get_study_id_from_name(spare)
        except KeyError:
            spare_id = storage.create_new_study([StudyDirection.MAXIMIZE], spare)
        kept = storage.get_study_user_attrs(spare_id).get(KEPT)
        if kept is None:
            kept = self._user_additions(found)
            storage.set_study_user_attr(spare_id, KEPT, kept)
        storage.delete_study(self._study_id)
        self._open_study()
        self._written = {}
        for trial in trials:
            self._records.heartbeat()
            self._append(trial, kept["artifacts"].get(str(trial.number), {}))
        ids = {str(old): self._written[number][0] for number, old in kept["ids"] if number in self._written}

        def moved(words: str) -> str:
            """The same words, with the study and the trials under their new ids in the paths of artifacts."""
            words = re.sub(
                rf"/artifacts/{kept['study_id']}/(\d+)/", lambda m: f"/artifacts/#/{ids.get(m[1], m[1])}/", words
            )
            return words.replace(f"/artifacts/{kept['study_id']}/", "/artifacts/#/").replace("#", str(self._study_id))

        for name, value in kept["study"].items():
            of_trial = TRIAL_ATTRIBUTE.fullmatch(name)
            if of_trial is not None:
                if of_trial["id"] not in ids:
                    continue
                name = f"dashboard:{of_trial['kind'] or ''}{ids[of_trial['id']]}:{of_trial['rest']}"
            storage.set_study_system_attr(self._study_id, name, moved(value) if isinstance(value, str) else value)
        storage.delete_study(spare_id)

    def _user_additions(self, found: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Notes and artifacts of the study and its trials, with the ids under which they are kept now."""
        n_of = Counter(trial.number for trial in found)
        unique = [trial for trial in found if n_of[trial.number] == 1]
        return {
            "study_id": self._study_id,
            "ids": [(trial.number, self._id_of(trial.number)) for trial in unique],
            "study": dict(self._opened().get_study_system_attrs(self._study_id)),
            "artifacts": {
                str(trial.number): {n: value for n, value in trial.system_attrs.items() if n.startswith("artifacts:")}
                for trial in unique
            },
        }


def _with_readable_names(by_gene: Mapping[str, T]) -> dict[str, T]:
    """Values of genes under names that read well among Optuna's parameters: ``D1.E3`` is ``D1 reads E3``."""
    return {GENE.sub(lambda m: f"{m[1]} {'reads ' if m[2][0] in 'DE' else ''}{m[2]}", name): value
            for name, value in by_gene.items()}  # fmt: skip


def _failure_attributes(trial: TrialRecord) -> dict[str, str]:
    """What went wrong with a trial, for whoever looks at it in a dashboard."""
    if trial.outcome is None or not (trial.outcome.failed or trial.outcome.violates):
        return {}
    attributes = {"outcome": str(trial.outcome), "reason": trial.reason, "traceback": trial.traceback}
    return {name: words for name, words in attributes.items() if words}


def _can_become(found: Sequence[FrozenTrial], trials: Sequence[TrialRecord], scores: Mapping[int, Scores]) -> bool:
    """Whether Optuna allows the trials it has to be made what our records say."""
    if len(found) > len(trials):
        return False
    return all(
        one.number == trial.number
        and one.params == _with_readable_names(trial.params)
        and one.intermediate_values.keys() <= scores[trial.number].keys()
        and (one.state is TrialState.RUNNING or _has_ended_as(one, trial, scores[trial.number]))
        for one, trial in zip(found, trials, strict=False)
    )


def _has_ended_as(found: FrozenTrial, trial: TrialRecord, scores: Scores) -> bool:
    return (
        (found.state, found.value) == optuna_state_and_value(trial, scores)
        and found.constraints == optuna_constraints(trial)
        and all(_is_same(found.intermediate_values.get(step), score) for step, score in scores.items())
    )


def _is_same(found: float | None, score: float) -> bool:
    return found is not None and (found == score or (math.isnan(found) and math.isnan(score)))
