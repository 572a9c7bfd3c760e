"""The one writer: asks the sampler, hands jobs to the executor, records what comes back, tells Optuna.

What belongs together is one transaction: a trial with its genome, our record and its job; a result with Optuna's state.
So after any crash a trial is there as a whole or not at all, and finished or not; what is not is resumed from its last
checkpoint, or run again, under the same number.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import Trial

from unetx_evaluators.evaluation import Outcome
from unetx_search import ledger
from unetx_search.config import FIRST_PRESETS, REPEATED_FROM, Diagnosis
from unetx_search.executors.base import Job, failed_evaluation
from unetx_search.samplers.guard import ORIGIN, Guard
from unetx_search.stale_workers import end_stale_workers
from unetx_space.canonical import canonical, key
from unetx_space.cost import cost
from unetx_space.design_space import adapted
from unetx_space.errors import UnetxError
from unetx_space.presets import PRESETS
from unetx_studies.evidence import evidence
from unetx_studies.ranking import ADAPTED, PRESET, REPLICATE_OF, is_given, ranking
from unetx_studies.store import DecisionRecord, JobRecord, again

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CurvePoint, Evaluation
    from unetx_search.book import Book
    from unetx_search.executors.base import Executor
    from unetx_search.ground import Ground
    from unetx_search.reporter import Reporter
    from unetx_space.architecture import Architecture
    from unetx_space.genome import Genome
    from unetx_studies.processes import ProcessIdentity
    from unetx_studies.store import EvaluationRecord

N_HOPELESS = 5
"""When the first evaluations of a run all fail, this many are enough to stop."""
N_UNTIL_MEASURED = 20
"""After so many finished trials of a study it is said what its scores can tell apart."""
STOP_WITHIN = timedelta(seconds=20)
"""Then workers that did not answer are ended; a batch system kills everything after 30 s."""


class SearchFailed(UnetxError):
    """The work failed for a reason that more trials would not mend. CLI exit code 1."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How far a run goes, and what a proposal may know."""

    n_trials: int
    """The study's total."""
    lag: int | None = None
    """Proposal and pruning of trial n see exactly the trials 0..n-lag, so that any number of workers up to ``lag``
    gives the same study. None: whatever has finished by then."""
    ends_at: datetime | None = None
    """When to stop in order, whatever is missing."""
    checkpoints: Path | None = None
    """Folder for the state of running evaluations."""
    diagnosis: Diagnosis = "best"
    """Which evaluations are diagnosed."""


@dataclass(slots=True)
class _Trial:
    """An unfinished trial."""

    trial: Trial
    job: JobRecord
    origin: str = ""
    design: str = ""
    """Its key, once it is known."""
    reported: set[int] = field(default_factory=set)
    """Steps of which Optuna has the score."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A trial that can be handed out."""

    held: _Trial
    architecture: Architecture
    seed: int
    is_recorded_now: bool
    """Its record was begun with this."""


class Coordinator:
    """Runs a study to its total; implements the executor's Handler."""

    def __init__(
        self,
        *,
        book: Book,
        executor: Executor,
        ground: Ground,
        reporter: Reporter,
        terms: Terms,
        on_best: Callable[[int], None],
        on_dispatch: Callable[[Trial, Architecture], None] = lambda trial, architecture: None,
    ) -> None:
        self._book = book
        self._executor = executor
        self._ground = ground
        self._reporter = reporter
        self._terms = terms
        self._on_best = on_best
        self._on_dispatch = on_dispatch
        self._running: dict[int, _Trial] = {}
        self._to_rerun: deque[_Trial] = deque()
        self._n_asked = 0
        self._n_finished_now = 0
        self._n_useless_now = 0
        self._stopping = False
        self.ran_out_of_time = False
        """The run ended because its time was up."""
        self._uses = Counter(record.key for record in book.records.evaluations())
        self._n_finished = 0
        """Of the study, by this run or an earlier one."""
        self._first = {e.key: (-(e.score or 0.0), e.trial_number) for e in ranking(book.records.evaluations())}
        """Score, negative, and trial of every design's first complete evaluation: the least is the best design's."""
        self._best_trial = min(self._first.values(), default=(0.0, -1))[1]

    def is_new(self, genome: Genome) -> bool:
        """No trial of this study has evaluated, or is evaluating, an equal design."""
        return key(self._ground.architecture(genome)) not in self._uses

    def stop(self) -> None:
        """Ask for an orderly end; safe to call from a signal handler."""
        self._stopping = True
        self._book.hurry()

    @property
    def was_stopped(self) -> bool:
        """The run ended because someone asked."""
        return self._stopping

    def run(self) -> None:
        """Returns when the study has its total, its time is up, or after ``stop``.

        Raises SearchFailed when going on is pointless, StorageFull when nothing more can be written, ServerGone when
        the database stays away, LeaseLost when another run has the study by now.
        """
        self._recover()
        self._enqueue_presets()
        self._n_finished = len(self._book.records.evaluations(finished_only=True))
        while not self._stopping and not self._is_time_up():
            self._fill()
            if not self._running and not self._is_work_left():
                return
            self._executor.poll(self, timeout_s=0.5)
            self._book.give_sign_of_life()
            if self._n_useless_now == self._n_finished_now >= N_HOPELESS:
                self._leave_running()
                raise SearchFailed(self._why_hopeless())
        self._leave_running()

    def _is_time_up(self) -> bool:
        ends_at = self._terms.ends_at
        self.ran_out_of_time = ends_at is not None and self._book.clock() >= ends_at
        return self.ran_out_of_time

    # What an earlier life of this study left.

    def _recover(self) -> None:
        """Finish what can be finished, and queue what has to be run again."""
        book = self._book
        trials = book.study.get_trials(deepcopy=False)
        records = {record.trial_number: record for record in book.records.evaluations()}
        jobs = {job.trial: job for job in book.ledger.jobs()}
        end_stale_workers(jobs.values())
        plan = ledger.recovery(trials, records)
        self._n_asked = plan.n_asked
        for number in plan.to_tell:
            job = jobs.get(number, JobRecord(number))
            book.write(partial(self._tell_late, records[number], set(trials[number].intermediate_values), job))
        for number in plan.to_close:
            reason = f"finished in Optuna's tables as {trials[number].state.name} by somebody else, without a result"
            job = jobs.get(number, JobRecord(number))
            book.write(partial(self._close, failed_evaluation(Outcome.CRASHED, reason), job))
        for number in plan.to_run:
            job = ledger.left(jobs.get(number, JobRecord(number)))
            reported = set(trials[number].intermediate_values)
            self._to_rerun.append(_Trial(self._trial(number), job, reported=reported))

    def _tell_late(self, record: EvaluationRecord, reported: set[int], job: JobRecord) -> None:
        """A result that Optuna has not heard of."""
        book, trial = self._book, self._trial(job.trial)
        assert record.outcome is not None
        book.report(trial, book.records.curve(job.trial), reported)
        book.tell(trial, record.outcome, record.score)
        book.ledger.write(ledger.finished(job))

    def _close(self, evaluation: Evaluation, job: JobRecord) -> None:
        """A trial that has no result and will get none."""
        book = self._book
        book.records.finish(job.trial, evaluation, worker=-1, ended_at=book.clock())
        book.ledger.write(ledger.finished(job))

    def _trial(self, number: int) -> Trial:
        study = self._book.study
        return Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))

    def _enqueue_presets(self) -> None:
        """Queue the presets that the study does not have yet, as far as its total allows.

        In a narrowed space a preset is tried with the nearest choices there are, and called adapted. From a certain
        total on the first, U-Net, is evaluated with a second seed, too: it tells what a seed is worth.
        """
        study, space = self._book.study, self._ground.space
        given: dict[str, dict[str, Any]] = {}
        for name in FIRST_PRESETS:
            genome = canonical(PRESETS[name].genome(self._ground.backbone.n_levels))
            params = adapted(space, genome)
            is_exact = canonical(space.from_params(params)) == canonical(genome)
            if params not in given.values():
                given[f"{PRESET}{name}{'' if is_exact else ADAPTED}"] = params
        if self._terms.n_trials >= REPEATED_FROM:
            first = next(iter(given))
            given[f"{REPLICATE_OF}{first}"] = given[first]
        trials = study.get_trials(deepcopy=False)
        known = {trial.user_attrs.get(ORIGIN) for trial in trials}
        missing = [origin for origin in given if origin not in known]
        for origin in missing[: max(0, self._terms.n_trials - len(trials))]:
            self._book.write(partial(study.enqueue_trial, given[origin], user_attrs={ORIGIN: origin}))

    # From a free slot to a job.

    def _is_work_left(self) -> bool:
        return bool(self._to_rerun) or self._n_asked < self._terms.n_trials

    def _fill(self) -> None:
        """Give every free slot a trial."""
        while self._executor.n_free() > 0 and not self._stopping:
            if self._to_rerun:
                self._dispatch(self._to_rerun.popleft())
            elif self._n_asked < self._terms.n_trials and self._is_enough_known():
                self._dispatch(None)
            else:
                return

    def _is_enough_known(self) -> bool:
        """Every trial that the next proposal has to see has finished."""
        horizon = self._horizon(self._n_asked)
        return horizon is None or all(number > horizon for number in self._running)

    def _horizon(self, number: int) -> int | None:
        """The last trial that this one may see."""
        return None if self._terms.lag is None else number - self._terms.lag

    def _dispatch(self, left: _Trial | None) -> None:
        """Hand a trial out: one that was left, or a new one, which is asked, recorded and logged in one transaction."""
        book, ground = self._book, self._ground
        ready = book.write(partial(self._prepare, left), before_again=partial(self._renew, left))
        held, trial, architecture = ready.held, ready.held.trial, ready.architecture
        self._n_asked += left is None
        self._uses[held.design] += ready.is_recorded_now
        self._running[trial.number] = held
        folder = self._terms.checkpoints
        checkpoint = folder / f"trial-{trial.number}" if folder is not None else None
        above = self._diagnosed_above(held)
        job = Job(trial.number, architecture, ground.budget, ready.seed, checkpoint, diagnosed_above=above)
        self._executor.submit(job)
        self._write(held, lambda: self._on_dispatch(held.trial, architecture))

    def _prepare(self, left: _Trial | None) -> _Ready:
        """A trial with its genome and its seed, recorded as far as it is not yet."""
        book, ground = self._book, self._ground
        held = left or self._ask()
        trial = held.trial
        with book.storage.seeing(self._horizon(trial.number)):
            architecture = ground.architecture(ground.space.suggest(trial))
        held.origin, held.design = trial.user_attrs.get(ORIGIN, "sampler"), key(architecture)
        earlier = book.records.evaluation(trial.number) if left else None
        n_finished = self._n_asked - len(self._running) - len(self._to_rerun) - (left is not None)
        seed = self._record(held, architecture, n_finished) if earlier is None else earlier.seed
        book.ledger.write(held.job)
        return _Ready(held, architecture, seed, is_recorded_now=earlier is None)

    def _write(self, held: _Trial, change: Callable[[], None]) -> None:
        """One transaction about a trial; should it have to be run again, then with the trial as it stands."""
        self._book.write(change, before_again=partial(self._renew, held))

    def _renew(self, held: _Trial | None) -> None:
        """Optuna's object remembers what it has written, also when that was rolled back: take a new one."""
        if held is not None:
            held.trial = self._trial(held.trial.number)

    def _ask(self) -> _Trial:
        trial = self._book.study.ask()
        return _Trial(trial, JobRecord(trial.number))

    def _record(self, held: _Trial, architecture: Architecture, n_finished: int) -> int:
        """Begin the trial's record; the seed it is evaluated with."""
        book, number, design = self._book, held.trial.number, held.design
        seed = self._ground.seed + self._uses[design]
        full = cost(architecture, self._ground.patch)
        now = book.clock()
        book.records.add_architecture(design, architecture, full.n_parameters, full.macs)
        book.records.start(number, design, seed=seed, origin=held.origin, budget=self._ground.budget, started_at=now)
        book.ledger.decide(DecisionRecord(number, held.origin, self._reason(number, held.origin, n_finished), now))
        return seed

    def _reason(self, number: int, origin: str, n_finished: int) -> str:
        """For the decision log."""
        sampler = self._book.study.sampler
        why = sampler.why(number) if isinstance(sampler, Guard) else ""
        if not why:
            return f"{origin}: given, not proposed"
        horizon = self._horizon(number)
        saw = f"{n_finished} finished trials" if horizon is None else f"exactly trials 0..{horizon}"
        return f"{why}; it saw {saw if horizon is None or horizon >= 0 else 'no trial'}"

    # The end.

    def _leave_running(self) -> None:
        """Ask the running evaluations to stop and wait for their answers, but not for long."""
        self._executor.interrupt()
        deadline = self._book.clock() + STOP_WITHIN
        while self._running and self._book.clock() < deadline:
            self._executor.poll(self, timeout_s=0.2)

    def _why_hopeless(self) -> str:
        last = self._book.records.evaluations(finished_only=True)[-1]
        return (
            f"the first {self._n_finished_now} evaluations of this run all failed, so going on would only burn time; "
            f"the last one ended as {last.outcome}: {last.reason}"
        )

    # The executor's events.

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None:
        held = self._running[trial]
        held.job = ledger.taken(held.job, worker, device, process, self._book.clock())
        self._note(held)
        self._reporter.trial_started(trial, worker, device, held.origin)

    def on_step(self, trial: int, step: int) -> None:
        self._reporter.trial_step(trial, step)

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        held = self._running[trial]
        if point.step not in held.reported:  # else a trial that is run again has come here before: the answer stands
            self._write(held, lambda: self._judge(held, point))
            held.reported.add(point.step)
        self._reporter.trial_rung(trial, point)
        return held.job.pruned_at == point.step

    def _judge(self, held: _Trial, point: CurvePoint) -> None:
        """Tell Optuna the score at a rung, and note the pruner's word."""
        self._book.report(held.trial, [point], held.reported)
        if self._is_behind(held):
            held.job = ledger.told_to_stop(held.job, point.step)
            self._book.ledger.write(held.job)

    def _is_behind(self, held: _Trial) -> bool:
        """The pruner's word. It is asked about presets, too, because the others are compared with them."""
        with self._book.storage.seeing(self._horizon(held.trial.number)):
            is_behind = held.trial.should_prune()
        return is_behind and not is_given(held.origin)

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        held = self._running.pop(trial)
        self._write(held, lambda: self._finish(held, worker, evaluation))
        if self._terms.checkpoints is not None:
            (self._terms.checkpoints / f"trial-{trial}").unlink(missing_ok=True)
        self._n_finished += 1
        self._n_finished_now += 1
        self._n_useless_now += evaluation.outcome not in (Outcome.COMPLETE, Outcome.PRUNED)
        best_before, self._best_trial = self._best_trial, self._best_with(held, evaluation)
        if self._best_trial != best_before:
            again(lambda: self._on_best(self._best_trial))
        self._reporter.trial_finished(trial, evaluation, self._best_trial == trial)
        if self._n_finished == N_UNTIL_MEASURED:
            self._reporter.measured(again(lambda: evidence(self._book.records.evaluations(finished_only=True))))

    def _finish(self, held: _Trial, worker: int, evaluation: Evaluation) -> None:
        self._book.finish(held.trial, evaluation, worker=worker, reported=held.reported)
        self._book.ledger.write(ledger.finished(held.job))

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        held = self._running[trial]
        held.job = ledger.lost(held.job, evaluation.reason)
        if ledger.is_deadly(held.job):
            reason = f"{held.job.n_deaths} workers died of it; the last: {evaluation.reason}"
            self.on_finished(trial, worker, replace(evaluation, reason=reason))
            return
        self._run_again(trial, evaluation.reason)

    def on_preempted(self, trial: int, reason: str) -> None:
        held = self._running[trial]
        held.job = ledger.left(held.job)
        self._run_again(trial, reason)

    def _run_again(self, trial: int, reason: str) -> None:
        self._note(self._running[trial])
        self._to_rerun.append(self._running.pop(trial))
        self._reporter.trial_lost(trial, reason)

    def on_interrupted(self, trial: int) -> None:
        held = self._running.pop(trial)
        held.job = ledger.left(held.job)
        self._note(held)
        self._reporter.trial_interrupted(trial)

    def _note(self, held: _Trial) -> None:
        """How far the trial has come, for whoever asks and for the next run."""
        self._write(held, lambda: self._book.ledger.write(held.job))

    def _best_with(self, held: _Trial, evaluation: Evaluation) -> int:
        """The trial of the best design, as ``ranking`` has it, with this result."""
        number, score = held.trial.number, evaluation.score
        is_first = number <= self._first.get(held.design, (0.0, number))[1]
        if evaluation.outcome is Outcome.COMPLETE and score is not None and math.isfinite(score) and is_first:
            self._first[held.design] = (-score, number)
        return min(self._first.values(), default=(0.0, -1))[1]

    def _diagnosed_above(self, held: _Trial) -> float:
        """The score above which a trial is diagnosed."""
        if self._terms.diagnosis == "none":
            return math.inf
        if self._terms.diagnosis == "all" or held.origin.startswith("preset"):
            return -math.inf
        until = self._horizon(held.trial.number)
        scores = (-score for score, trial in self._first.values() if until is None or trial <= until)
        return max(scores, default=-math.inf)
