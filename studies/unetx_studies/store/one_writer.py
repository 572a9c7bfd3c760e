"""Optuna's storage for a study that one process writes: read from memory, written in few transactions.

Optuna commits each parameter by itself and reads every running trial anew for each proposal, because other processes
might write. Here none does (a lease holds that), so that what was written is known, and everything that belongs
together, our own records included, is committed together: after a crash a trial is there as a whole or not at all.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb.models import StudyModel, TrialIntermediateValueModel, TrialModel, TrialParamModel
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, insert, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from unetx_studies.store.open import Store, optuna_storage

READ_AT_ONCE = 250
"""Trials."""


class OneWriterStorage(BaseStorage):
    """Optuna's tables in the database of ``store``, whose only writer this process is. For one thread.

    Every call is a transaction of its own, or part of the one that ``together`` or ``store.writing`` holds open. A
    transaction that fails is forgotten in memory, too.

    ``seeing`` narrows what samplers and pruners find in the study.
    """

    def __init__(self, backend: RDBStorage, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._trials: dict[int, list[FrozenTrial]] = {}
        """Of each study, by number: the list index."""
        self._places: dict[int, tuple[int, int]] = {}
        """Study and number of each trial, by its id."""
        self._distributions: dict[str, tuple[BaseDistribution, str]] = {}
        """Of each parameter, with its JSON: one object for all trials."""
        self._params: list[dict[str, Any]] = []
        self._values: list[dict[str, Any]] = []
        self._attrs: dict[tuple[bool, int, str], Any] = {}
        """Written at the end of the transaction; by (is it a system attribute, trial id, key)."""
        self._depth = 0
        self._horizon: int | None = None

    # Transactions.

    @contextmanager
    def together(self) -> Iterator[Session]:
        """One transaction for all that is written inside, Optuna's and ours; may be nested.

        When it fails, its commit included, what was remembered of it is forgotten.
        """
        if self._depth:
            with self._store.writing() as session:
                yield session
            return
        try:
            with self._store.writing() as session, self._joined(session.connection()):
                self._depth = 1
                try:
                    yield session
                    self._write_kept()
                finally:
                    self._depth = 0
        except BaseException:
            self._forget()
            raise

    @contextmanager
    def _joined(self, connection: Connection) -> Iterator[None]:
        """Inside, Optuna works on this connection, as a part of the transaction that is open on it."""
        usual = self._backend.scoped_session
        self._backend.scoped_session = scoped_session(sessionmaker(connection, join_transaction_mode="rollback_only"))
        try:
            yield
        finally:
            self._backend.scoped_session.remove()
            self._backend.scoped_session = usual

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Inside, Optuna reads on a connection of the store, which knows how to wait for a server."""
        if self._depth:
            yield
            return
        with self._store.connected() as connection, self._joined(connection):
            yield

    def _forget(self) -> None:
        """What was rolled back is not so: everything is read anew."""
        self._trials.clear()
        self._places.clear()
        self._params, self._values, self._attrs = [], [], {}

    def _write_kept(self) -> None:
        """The rows that were kept back, each kind in one statement."""
        params, values, attrs = self._params, self._values, self._attrs
        self._params, self._values, self._attrs = [], [], {}
        with self._store.writing() as session:
            if params:
                session.execute(insert(TrialParamModel), params)
            if values:
                session.execute(insert(TrialIntermediateValueModel), values)
        for (is_system, trial_id, key), value in attrs.items():
            if is_system:
                self._backend.set_trial_system_attr(trial_id, key, value)
            else:
                self._backend.set_trial_user_attr(trial_id, key, value)

    @contextmanager
    def seeing(self, up_to: int | None) -> Iterator[None]:
        """Inside, ``get_all_trials`` gives the trials of numbers up to this one; None gives all."""
        before, self._horizon = self._horizon, up_to
        try:
            yield
        finally:
            self._horizon = before

    @property
    def is_on_server(self) -> bool:
        """The database may go away and come back while it is used."""
        return self._store.is_on_server

    def hurry(self) -> None:
        """Wait next to no time for a server from now on; safe to call from a signal handler."""
        self._store.patience.hurry()

    def close(self) -> None:
        """Give the connections of Optuna's own engine back; the store's are the store's to close."""
        self._backend.engine.dispose()

    # Studies.

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        with self.together():
            return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        with self.together():
            self._backend.delete_study(study_id)
        self._forget()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.together():
            self._backend.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.together():
            self._backend.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        with self._reading():
            return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        with self._reading():
            return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        with self._reading():
            return self._backend.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with self._reading():
            return self._backend.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with self._reading():
            return self._backend.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        with self._reading():
            return self._backend.get_all_studies()

    # Trials: written.

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._of(study_id)
        with self.together():
            trial = self._created(study_id, template_trial)
            self._remember(study_id, trial)
        return trial._trial_id

    def _created(self, study_id: int, template: FrozenTrial | None) -> FrozenTrial:
        """A trial that the database has made now, without reading what is known.

        Not by ``create_new_trial`` of the backend, which tries again inside a transaction that has failed.
        """
        with self._store.writing() as session:
            StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            row: Any = self._backend._get_prepared_new_trial(study_id, template, session)
            session.flush()
        trial = create_trial(state=TrialState.RUNNING) if template is None else copy.deepcopy(template)
        trial.number, trial.datetime_start, trial._trial_id = row.number, row.datetime_start, row.trial_id
        return trial

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        distribution, as_json = self._shared(param_name, distribution)
        with self.together():
            trial = self._changed(trial_id)
            trial.params[param_name] = distribution.to_external_repr(param_value_internal)
            trial.distributions[param_name] = distribution
            self._params.append(
                {
                    "trial_id": trial_id,
                    "param_name": param_name,
                    "param_value": param_value_internal,
                    "distribution_json": as_json,
                }
            )

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        with self.together():
            self._write_kept()  # a finished trial takes nothing more
            if not self._backend.set_trial_state_values(trial_id, state, values):
                return False
            trial = self._changed(trial_id)
            trial.state = state
            if values is not None:
                trial.values = list(values)
            if state is TrialState.RUNNING:
                trial.datetime_start = datetime.now()
            if state.is_finished():
                trial.datetime_complete = datetime.now()
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        with self.together():
            trial = self._changed(trial_id)
            if step in trial.intermediate_values:
                self._write_kept()
                self._backend.set_trial_intermediate_value(trial_id, step, intermediate_value)
            else:
                stored, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
                self._values.append(
                    {
                        "trial_id": trial_id,
                        "step": step,
                        "intermediate_value": stored,
                        "intermediate_value_type": kind,
                    }
                )
            trial.intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self.together():
            self._changed(trial_id).user_attrs[key] = value
            self._attrs[False, trial_id, key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self.together():
            self._changed(trial_id).system_attrs[key] = value
            self._attrs[True, trial_id, key] = value

    def _changed(self, trial_id: int) -> FrozenTrial:
        """A copy of an unfinished trial that takes its place and may be written into.

        Whoever holds a list of trials then keeps what they were, as with Optuna's own storages.
        """
        study, number = self._place(trial_id)
        trial = self._trials[study][number]
        self.check_trial_is_updatable(trial_id, trial.state)
        self._trials[study][number] = own = _copy(trial)
        return own

    # Trials: read.

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A finished trial as it is; of another a copy, for whoever asks may write into it."""
        study, number = self._place(trial_id)
        trial = self._trials[study][number]
        return trial if trial.state.is_finished() else _copy(trial)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._of(study_id)
        seen = trials if self._horizon is None else trials[: max(0, self._horizon + 1)]
        chosen = list(seen) if states is None else [trial for trial in seen if trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        trials = self._of(study_id)
        if not 0 <= trial_number < len(trials):
            raise KeyError(f"study {study_id} has trials 0 to {len(trials) - 1}, got {trial_number}")
        return trials[trial_number]._trial_id

    def _place(self, trial_id: int) -> tuple[int, int]:
        """Study and number of a trial. Raises KeyError."""
        if trial_id not in self._places:
            table = TrialModel.__table__.c
            with self._store.reading() as session:
                study_id = session.scalar(select(table.study_id).where(table.trial_id == trial_id))
            if study_id is not None:
                self._of(study_id)
        return self._places[trial_id]

    def _of(self, study_id: int) -> list[FrozenTrial]:
        """The trials of a study by number, read on first use."""
        if study_id not in self._trials:
            found = list(self._read(study_id))  # whole or, when it fails in the middle, not at all
            self._trials[study_id] = []
            for trial in found:
                self._remember(study_id, trial)
        return self._trials[study_id]

    def _read(self, study_id: int) -> Iterator[FrozenTrial]:
        """Every trial in order, some at a time: thousands at once take a hundred times the memory they need."""
        table = TrialModel.__table__.c
        with self._store.reading() as session:
            ids = session.scalars(select(table.trial_id).where(table.study_id == study_id)).all()
        ids = sorted(ids)
        for begin in range(0, len(ids), READ_AT_ONCE):
            chunk = set(ids[begin : begin + READ_AT_ONCE])
            with self._reading():
                trials = self._backend._get_trials(study_id, None, chunk, ids[-1])
            yield from trials

    def _remember(self, study_id: int, trial: FrozenTrial) -> None:
        known = self._trials[study_id]
        if trial.number != len(known):
            raise RuntimeError(f"trial {trial.number} follows trial {len(known) - 1}: another process has written, too")
        trial.distributions = {name: self._shared(name, d)[0] for name, d in trial.distributions.items()}
        known.append(trial)
        self._places[trial._trial_id] = study_id, trial.number

    def _shared(self, name: str, distribution: BaseDistribution) -> tuple[BaseDistribution, str]:
        """The one object for equal distributions of a parameter, and its JSON. ValueError for incompatible ones."""
        known = self._distributions.get(name)
        if known is not None and known[0] == distribution:
            return known
        if known is not None:
            check_distribution_compatibility(known[0], distribution)
            return distribution, distribution_to_json(distribution)
        self._distributions[name] = distribution, distribution_to_json(distribution)
        return self._distributions[name]


def _copy(trial: FrozenTrial) -> FrozenTrial:
    """With tables of its own, which may be written into."""
    own = copy.copy(trial)
    own.params, own.distributions = dict(trial.params), dict(trial.distributions)
    own.user_attrs, own.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
    own.intermediate_values = dict(trial.intermediate_values)
    return own


def one_writer_storage(store: Store) -> OneWriterStorage:
    """Optuna's storage in the database of an open store, its tables created where they are missing."""
    with store.making_tables():
        backend = optuna_storage(store.url)
    return OneWriterStorage(backend, store)
