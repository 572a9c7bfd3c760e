"""What a coordinator writes into: Optuna's study and our records and ledger, in one database and one transaction.

A server's connection can break in the middle of a transaction, which is then run again as a whole. When it breaks at
the very end, nobody knows whether the transaction stands: so each one on a server carries a sign of life of its own,
and the database is asked whether it has that one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import optuna

from unetx_evaluators.evaluation import Outcome
from unetx_space.errors import Interrupted, RequestError, UnetxError
from unetx_studies.processes import this_process
from unetx_studies.store import (
    ConnectionLost,
    Ledger,
    OneWriterStorage,
    Records,
    RunRecord,
    ServerGone,
    Store,
    again,
    one_writer_storage,
    open_store,
)
from unetx_studies.store.patience import MAX_TRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

    from unetx_evaluators.evaluation import CurvePoint, Evaluation

T = TypeVar("T")

SIGN_OF_LIFE = timedelta(seconds=15)
INSTANT = timedelta(microseconds=1)
"""The smallest that a database tells apart."""
IDENTITY = "unetx:identity"
"""User attribute of a study on a server: the id that its folder knows it by."""


def _nothing() -> None: ...


def utc_now() -> datetime:
    """The clock of everything that is not tested for its times."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Book:
    """A study as its one writer holds it."""

    study: Study
    storage: OneWriterStorage
    records: Records
    ledger: Ledger
    run: RunRecord
    clock: Callable[[], datetime]
    seen_at: datetime
    """When the lease was renewed last."""

    def write(self, change: Callable[[], T], *, before_again: Callable[[], None] = _nothing) -> T:
        """One transaction of everything that ``change`` writes; what it gave.

        On a server it may be called again, after ``before_again``, because the connection broke: what it changes in
        memory must then come out the same. Raises LeaseLost, and nothing is written, when the study is another run's
        by now; ConnectionLost when the connection breaks again and again.
        """
        for n_left in range(MAX_TRIES - 1, -1, -1):
            before = self.seen_at
            try:
                with self.storage.together():
                    self._renew()
                    found = change()
            except ConnectionLost:
                sign, self.seen_at = self.seen_at, before
                if sign != before and again(lambda: self.ledger.seen_at(self.run)) == sign:
                    self.seen_at = sign
                    return found  # it stands as a whole; only the answer was lost
                if not n_left:
                    raise
                again(before_again)
            else:
                return found
        raise AssertionError("the last try returns or raises")

    def give_sign_of_life(self) -> None:
        """Renew the lease, unless that was done a moment ago; nobody takes it over so soon. Raises LeaseLost."""
        if self.clock() - self.seen_at >= SIGN_OF_LIFE:
            self.write(_nothing)

    def _renew(self) -> None:
        """On a server with every transaction, each time by another instant."""
        now = self.clock()
        if self.storage.is_on_server:
            now = max(now, self.seen_at + INSTANT)
        elif now - self.seen_at < SIGN_OF_LIFE:
            return
        self.seen_at = now
        self.ledger.renew(self.run, now)

    def hurry(self) -> None:
        """Wait next to no time for a server from now on; safe to call from a signal handler."""
        self.storage.hurry()

    def tell(self, trial: Trial, outcome: Outcome, score: float | None) -> None:
        """Optuna's view of an outcome."""
        if outcome is Outcome.COMPLETE:
            self.study.tell(trial, score)
        elif outcome.failed:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            if outcome.violates:
                trial.set_constraint("trainable", 1.0)
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def report(self, trial: Trial, curve: Sequence[CurvePoint], reported: Container[int]) -> None:
        """Optuna's view of rungs; those in ``reported`` stand there already."""
        for point in curve:
            if point.step not in reported:
                trial.report(point.score, point.step)

    def finish(self, trial: Trial, evaluation: Evaluation, *, worker: int, reported: Container[int]) -> None:
        """Our record, Optuna's curve, Optuna's state."""
        self.records.finish(trial.number, evaluation, worker=worker, ended_at=self.clock())
        self.report(trial, evaluation.curve, reported)
        self.tell(trial, evaluation.outcome, evaluation.score)


def new_run(study: str, *, n_trials: int, n_slots: int, clock: Callable[[], datetime] = utc_now) -> RunRecord:
    """A run of this process that begins now."""
    now = clock()
    return RunRecord(uuid4().hex, study, this_process(), n_trials, n_slots, started_at=now, seen_at=now)


@contextmanager
def open_book(
    store: Store, run: RunRecord, *, pruner: BasePruner, clock: Callable[[], datetime] = utc_now, identity: str = ""
) -> Iterator[Book]:
    """The study of ``run``, made where it is missing. The run must hold its lease.

    Raises RequestError when a study of that name is there, and not the one of ``identity``.
    """
    storage = again(lambda: one_writer_storage(store))
    try:
        study = again(
            lambda: optuna.create_study(
                storage=storage, study_name=run.study, direction="maximize", pruner=pruner, load_if_exists=True
            )
        )
        if identity:
            again(lambda: _identify(study, identity))
        yield Book(study, storage, Records(store, run.study), Ledger(store, run.study), run, clock, run.seen_at)
    finally:
        storage.close()


def _identify(study: Study, identity: str) -> None:
    """Two folders whose studies have the same name on one server must not write into one."""
    found = study.user_attrs.get(IDENTITY)
    if found is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(IDENTITY, identity)
    elif found != identity:
        raise RequestError(
            f"the database has a study {study.study_name!r} already that was not begun from this folder; take another "
            "--study NAME, or run the command where its folder is"
        )


@contextmanager
def lease(store: Store, run: RunRecord, *, clock: Callable[[], datetime] = utc_now) -> Iterator[RunRecord | None]:
    """Hold the study's lease; gives the run from which it was taken over, when that one died.

    Raises RequestError, naming the other run, when that one is at work. A lease whose giving back fails, as on a full
    disk, or is left out, as after a second Ctrl-C or because the server has gone, is taken over by the next run.
    """
    ledger = Ledger(store, run.study)
    died = again(lambda: ledger.claim(run))
    try:
        yield died
    except (KeyboardInterrupt, ServerGone):
        # The first may have cut a transaction in its middle, whose lock stands until the process ends.
        ledger.abandon(run)
        raise
    except BaseException as error:
        ending = "ended" if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}"
        again(lambda: ledger.release(run, ending, clock()))
        raise
    else:
        again(lambda: ledger.release(run, "ended", clock()))


@contextmanager
def showing_life(
    url: str, run: RunRecord, *, clock: Callable[[], datetime] = utc_now, every: timedelta = SIGN_OF_LIFE
) -> Iterator[None]:
    """Renew the lease from a thread while this one is busy with what takes long and writes nothing, as reading data.

    A lease that was lost meanwhile shows at the next write.
    """
    over = threading.Event()

    def show() -> None:
        while not over.wait(every.total_seconds()):
            with suppress(UnetxError), open_store(url, create=False) as store:  # next time it may be better
                Ledger(store, run.study).renew(run, clock())

    thread = threading.Thread(target=show, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
