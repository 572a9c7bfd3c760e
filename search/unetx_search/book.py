"""What a coordinator writes into: Optuna's study and our records and ledger, in one database and one transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import optuna

from unetx_evaluators.evaluation import Outcome
from unetx_space.errors import UnetxError
from unetx_studies.processes import this_process
from unetx_studies.store import Ledger, OneWriterStorage, Records, RunRecord, Store, one_writer_storage, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

    from unetx_evaluators.evaluation import CurvePoint, Evaluation

SIGN_OF_LIFE = timedelta(seconds=15)


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

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction of everything inside.

        Raises LeaseLost, and nothing is written, when the study is another run's by now.
        """
        with self.storage.together():
            self.give_sign_of_life()
            yield

    def give_sign_of_life(self) -> None:
        """Renew the lease, unless that was done a moment ago; nobody takes it over so soon. Raises LeaseLost."""
        now = self.clock()
        if now - self.seen_at >= SIGN_OF_LIFE:
            self.ledger.renew(self.run, now)
            self.seen_at = now

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

    def report(self, trial: Trial, curve: Sequence[CurvePoint], reported: set[int]) -> None:
        """Optuna's view of rungs; those in ``reported`` stand there already, and the others are added to it."""
        for point in curve:
            if point.step not in reported:
                reported.add(point.step)
                trial.report(point.score, point.step)

    def finish(self, trial: Trial, evaluation: Evaluation, *, worker: int, reported: set[int]) -> None:
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
    store: Store, run: RunRecord, *, pruner: BasePruner, clock: Callable[[], datetime] = utc_now
) -> Iterator[Book]:
    """The study of ``run``, made where it is missing. The run must hold its lease."""
    storage = one_writer_storage(store)
    try:
        study = optuna.create_study(
            storage=storage, study_name=run.study, direction="maximize", pruner=pruner, load_if_exists=True
        )
        yield Book(study, storage, Records(store, run.study), Ledger(store, run.study), run, clock, run.seen_at)
    finally:
        storage.close()


@contextmanager
def lease(store: Store, run: RunRecord, *, clock: Callable[[], datetime] = utc_now) -> Iterator[RunRecord | None]:
    """Hold the study's lease; gives the run from which it was taken over, when that one died.

    Raises RequestError, naming the other run, when that one is at work. A lease whose giving back fails, as on a full
    disk, or is left out, as after a second Ctrl-C, is taken over by the next run.
    """
    ledger = Ledger(store, run.study)
    died = ledger.claim(run)
    try:
        yield died
    except KeyboardInterrupt:  # it may have cut a transaction in its middle, whose lock stands until the process ends
        ledger.abandon(run)
        raise
    except BaseException as error:
        ledger.release(run, f"{type(error).__name__}: {error}", clock())
        raise
    else:
        ledger.release(run, "ended", clock())


@contextmanager
def showing_life(
    url: str, run: RunRecord, *, clock: Callable[[], datetime] = utc_now, every: timedelta = SIGN_OF_LIFE
) -> Iterator[None]:
    """Renew the lease from a thread while this one is busy with what takes long and writes nothing, as reading data.

    A lease that was lost meanwhile shows at the next write.
    """
    over = threading.Event()

    def show() -> None:
        if over.wait(every.total_seconds()):
            return
        with suppress(UnetxError), open_store(url, create=False) as store:
            while not over.is_set():
                Ledger(store, run.study).renew(run, clock())
                over.wait(every.total_seconds())

    thread = threading.Thread(target=show, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
