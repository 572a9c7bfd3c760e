"""The coordinator, a study's only writer: it asks the sampler, submits jobs to the executor, and records the results.

Every event is one transaction of our records. So after any crash a trial is there as a whole or not at all, and
finished or not; what is not is resumed from its last checkpoint, or run again, under the same number. The sampler's
study in memory and the mirror in Optuna's tables follow the records.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Outcome
from unetx_search.config import Diagnosis
from unetx_search.executors.base import Job, failed_evaluation
from unetx_search.executors.stale_workers import end_stale_workers
from unetx_space.errors import UnetxError
from unetx_studies import job_states
from unetx_studies.candidate import OriginKind
from unetx_studies.evidence import evidence
from unetx_studies.ranking import Ranking, is_complete
from unetx_studies.store import TrialRecord, utc_now

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CurvePoint, Evaluation
    from unetx_search.executors.base import Executor
    from unetx_search.proposals import Proposals
    from unetx_search.reporter import Reporter
    from unetx_search.sampler_study import SamplerStudy
    from unetx_space.architecture import Architecture
    from unetx_studies.processes import ProcessIdentity
    from unetx_studies.store import OptunaMirror, Records

logger = logging.getLogger(__name__)

N_HOPELESS = 5
"""So many evaluations end a run, when they are its first and all have failed."""
N_UNTIL_MEASURED = 20
"""Finished trials, a replicate among them, after which the reporter is told what the study's scores can tell apart."""
MAX_PREEMPTIONS = 5
"""Preemptions of a trial without coming further after which it is given up. Where workers come and go, a trial goes on
from its checkpoint and comes further now and then; one that does not in five tries is what stops it, or takes too long
between two checkpoints for the machines there are, and would keep a study from ever ending."""
STOP_WITHIN = timedelta(seconds=20)
"""Time for workers to answer at the end, before they are killed; a batch system kills everything after 30 s."""


class SearchFailed(UnetxError):
    """The work failed for a reason that more trials would not mend. CLI exit code 1."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run: what a proposal may know, when to end, where checkpoints lie, what is diagnosed."""

    lag: int | None = None
    """Proposal and pruning of trial n see exactly the trials 0..n-lag, so that any number of workers up to ``lag``
    gives the same study. None: whatever has finished by then."""
    ahead: int = 0
    """Trials that are asked before a slot is free for them, so that none waits for the sampler; what they know is then
    older by as many results."""
    ends_at: datetime | None = None
    """When to end the run in order, whatever is missing; None for no limit."""
    checkpoints: Path | None = None
    """Folder for the state of running evaluations; None keeps none."""
    diagnosis: Diagnosis = "best"
    """Which evaluations are diagnosed."""


@dataclass(slots=True)
class _Unfinished:
    """A trial without a result: one that runs, or one that an earlier worker has left."""

    trial: TrialRecord
    architecture: Architecture
    scores: dict[int, float]
    """The score at each rung that the pruner has seen, by step."""
    furthest: int = 0
    """The furthest step that it has reached."""
    n_preemptions: int = 0
    """How often it was preempted since it last came further."""


class Coordinator:
    """Runs a study to its total, as the Handler of an executor's events.

    ``study`` and ``mirror`` belong to the same study as ``records``, from which the former is filled here.
    ``proposals`` decide what is trained. ``on_ranked`` is called with the ranking after each evaluation that changed
    it, ``on_evaluated`` with every evaluation before it is recorded, and with the ranking of the others.
    """

    def __init__(
        self,
        *,
        records: Records,
        study: SamplerStudy,
        proposals: Proposals,
        mirror: OptunaMirror,
        executor: Executor,
        reporter: Reporter,
        options: RunOptions,
        on_ranked: Callable[[Ranking], None],
        on_evaluated: Callable[[TrialRecord, Evaluation, Ranking], None] = lambda trial, evaluation, ranking: None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._records = records
        self._study = study
        self._proposals = proposals
        self._mirror = mirror
        self._executor = executor
        self._reporter = reporter
        self._options = options
        self._on_ranked = on_ranked
        self._on_evaluated = on_evaluated
        self._clock = clock
        self._running: dict[int, _Unfinished] = {}
        self._waiting: deque[_Unfinished] = deque()
        """Trials that wait for a slot: to be run again, or asked ahead."""
        self._n_asked = 0
        """The number of the study's trials."""
        self._ranking = Ranking()
        self._has_replicate = False
        """Whether a replicate has a score."""
        self._has_told_spread = False
        self._n_finished = 0
        """The number of finished trials, by this run or an earlier one."""
        self._n_finished_now = 0
        self._n_failed_now = 0
        self._eager_reasons: set[str] = set()
        """The reasons already logged why a GPU runs steps without a graph."""
        self._stopping = False
        self.ran_out_of_time = False
        """Whether the run ended because its time was up."""

    def stop(self) -> None:
        """Ask for a graceful shutdown; this may be called from a signal handler."""
        self._stopping = True
        self._records.hurry()

    @property
    def was_stopped(self) -> bool:
        """Whether the run ended because a signal asked for it."""
        return self._stopping

    def run(self) -> None:
        """Run the study until it has its total, its time is up, or ``stop`` was called.

        Raises SearchFailed when going on is pointless, StorageFull when nothing more can be written, ServerGone when
        the database stays away, LeaseLost when another run has the study by now.
        """
        self._resume()
        while not self._stopping and not self._is_time_up():
            self._fill()
            if not self._running and not self._waiting and not self._proposals.has_more():
                return
            self._executor.poll(self, timeout_s=0.5)
            self._records.heartbeat()
            if self._n_failed_now == self._n_finished_now >= N_HOPELESS:
                self._shut_down()
                raise SearchFailed(self._why_hopeless())
        self._shut_down()

    def _is_time_up(self) -> bool:
        ends_at = self._options.ends_at
        self.ran_out_of_time = ends_at is not None and self._clock() >= ends_at
        return self.ran_out_of_time

    def _resume(self) -> None:
        """Take up what earlier runs of this study have recorded, and queue what has to be run again."""
        trials, curves = self._records.trials(), self._records.curves()
        end_stale_workers(trials)
        for trial in trials:
            scores = {point.step: point.score for point in curves.get(trial.number, ())}
            self._study.restore(trial, scores)
            self._proposals.observe(trial)
            self._ranking.add(trial)
            self._n_asked += 1
            self._has_replicate |= _is_measured_replicate(trial)
            self._n_finished += trial.is_finished
            if trial.is_finished:
                self._remove_checkpoint(trial.number)  # of a run that ended between the two
            else:
                architecture = self._records.architecture(trial.key)
                self._waiting.append(_Unfinished(job_states.requeued(trial), architecture, scores))
        self._has_told_spread = self._is_spread_known()

    def _is_spread_known(self) -> bool:
        return self._has_replicate and self._n_finished >= N_UNTIL_MEASURED

    # From a free slot to a job.

    def _fill(self) -> None:
        """Give every free slot a trial, and have some ready for those that become free next."""
        while not self._stopping:
            ready = next((trial for trial in self._waiting if self._executor.takes(trial.trial.number)), None)
            if ready is not None:
                self._waiting.remove(ready)
                self._dispatch(ready)
            elif not self._proposals.has_more() or not self._is_enough_known():
                return
            elif self._executor.n_free() > 0:
                self._dispatch(self._ask())
            elif len(self._waiting) < self._options.ahead:
                self._waiting.append(self._ask())
            else:
                return

    def _is_enough_known(self) -> bool:
        """Whether every trial that the next proposal has to see has finished."""
        horizon = self._horizon(self._n_asked)
        unfinished = [*self._running, *(waiting.trial.number for waiting in self._waiting)]
        return horizon is None or all(number > horizon for number in unfinished)

    def _horizon(self, number: int) -> int | None:
        """The last trial that this one may see."""
        return None if self._options.lag is None else number - self._options.lag

    def _ask(self) -> _Unfinished:
        """A new trial with its design, recorded."""
        asked = self._study.ask()
        candidate, seed, budget = self._proposals.propose(asked, self._horizon(asked.number), self._ranking)
        self._study.set_params(asked.number, candidate.params, candidate.origin)
        trial = TrialRecord(
            number=asked.number,
            key=candidate.key,
            params=candidate.params,
            origin=candidate.origin,
            why=candidate.reason,
            n_parameters=candidate.cost.n_parameters,
            macs=candidate.cost.macs,
            seed=seed,
            budget=budget,
            asked_at=self._clock(),
            optuna_notes=self._study.notes(asked.number),
        )
        self._records.begin(trial, candidate.architecture)
        self._proposals.observe(trial)
        self._n_asked += 1
        return _Unfinished(trial, candidate.architecture, {})

    def _dispatch(self, unfinished: _Unfinished) -> None:
        """Hand a trial out, then show it."""
        trial = unfinished.trial
        self._running[trial.number] = unfinished
        job = Job(
            trial.number,
            unfinished.architecture,
            trial.budget,
            trial.seed,
            self._checkpoint(trial.number),
            diagnosed_above=self._diagnosed_above(trial),
        )
        self._executor.submit(job)
        self._mirror.follow(trial, unfinished.scores, unfinished.architecture)

    def _checkpoint(self, number: int) -> Path | None:
        folder = self._options.checkpoints
        return None if folder is None else folder / f"trial-{number}"

    def _remove_checkpoint(self, number: int) -> None:
        checkpoint = self._checkpoint(number)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)

    def _diagnosed_above(self, trial: TrialRecord) -> float:
        """The score above which a trial is diagnosed."""
        if self._options.diagnosis == "none":
            return math.inf
        if self._options.diagnosis == "all" or trial.origin.kind is OriginKind.PRESET:
            return -math.inf
        ranking = self._ranking.up_to(self._horizon(trial.number))
        if ranking.is_by_score:
            return -math.inf if ranking.leader is None or ranking.leader.score is None else ranking.leader.score
        return -math.inf if ranking.best is None else ranking.best.dice

    # The end.

    def _shut_down(self) -> None:
        """Ask the running evaluations to stop and wait for their answers, but not for long."""
        self._executor.interrupt()
        deadline = self._clock() + STOP_WITHIN
        while self._running and self._clock() < deadline:
            self._executor.poll(self, timeout_s=0.2)

    def _why_hopeless(self) -> str:
        last = self._records.trials(finished_only=True)[-1]
        return (
            f"the first {self._n_finished_now} evaluations of this run all failed, so going on would only burn time; "
            f"the last one ended as {last.outcome}: {last.reason}"
        )

    # The executor's events.

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None:
        running = self._running[trial]
        running.trial = job_states.started(running.trial, worker, device, process, self._clock())
        self._records.update(running.trial)
        self._reporter.trial_started(trial, worker, device, str(running.trial.origin))

    def _note_step(self, running: _Unfinished, step: int) -> None:
        if step > running.furthest:
            running.furthest, running.n_preemptions = step, 0

    def on_step(self, trial: int, step: int) -> None:
        self._note_step(self._running[trial], step)
        self._reporter.trial_step(trial, step)

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        running = self._running[trial]
        if point.step not in running.scores:  # else a trial that is run again has come here before: the answer stands
            self._study.report(trial, point.step, point.score)
            running.scores[point.step] = point.score
            self._note_step(running, point.step)
            pruned_at = point.step if self._is_to_be_pruned(running.trial) else running.trial.pruned_at
            running.trial = replace(running.trial, pruned_at=pruned_at, optuna_notes=self._study.notes(trial))
            self._records.update(running.trial, point)
            self._mirror.follow(running.trial, running.scores)
        self._reporter.trial_rung(trial, point)
        return running.trial.pruned_at == point.step

    def _is_to_be_pruned(self, trial: TrialRecord) -> bool:
        """The pruner's word; it is asked about presets, too, as the others compare with them."""
        if trial.origin.kind is OriginKind.REPLICATE:
            return False
        with self._study.seeing(self._horizon(trial.number)):
            return self._study.should_prune(trial.number) and not trial.origin.is_given

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        running = self._running.pop(trial)
        for point in evaluation.curve:
            if point.step not in running.scores:
                self._study.report(trial, point.step, point.score)
                running.scores[point.step] = point.score
        finished = job_states.finished(running.trial, evaluation, worker, self._clock())
        self._on_evaluated(finished, evaluation, self._ranking)
        self._records.finish(finished, evaluation)
        self._remove_checkpoint(trial)
        self._study.end(finished)
        self._mirror.follow(finished, running.scores)
        self._n_finished += 1
        self._n_finished_now += 1
        self._n_failed_now += evaluation.outcome not in (Outcome.COMPLETE, Outcome.PRUNED)
        self._warn_of_eager_steps(trial, evaluation)
        is_new_best = self._rank(finished)
        moved = is_new_best or not self._ranking.is_by_score
        self._reporter.trial_finished(trial, evaluation, self._ranking.best if moved else None, is_new_best)
        if self._is_spread_known() and not self._has_told_spread and self._proposals.has_more():
            self._has_told_spread = True
            self._reporter.measured(evidence(self._records.trials(finished_only=True)))

    def _warn_of_eager_steps(self, trial: int, evaluation: Evaluation) -> None:
        steps = evaluation.versions.get("steps", "")
        if steps.startswith("eager: ") and steps not in self._eager_reasons:
            self._eager_reasons.add(steps)
            words = "trial %d trained correctly but slowly, as its steps could not be captured as a CUDA graph (%s)"
            logger.warning(words, trial, steps.removeprefix("eager: "))

    def _rank(self, finished: TrialRecord) -> bool:
        """Take a result into the ranking; whether its design is the best since now."""
        self._proposals.observe(finished)
        self._has_replicate |= _is_measured_replicate(finished)
        if not is_complete(finished):
            return False
        before = self._ranking.leader
        self._ranking.add(finished)
        leader = self._ranking.leader
        if leader is not before or not self._ranking.is_by_score:
            self._on_ranked(self._ranking)
        is_other = before is None or leader is None or leader.key != before.key
        return is_other and leader is not None and leader.key == finished.key

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        running = self._running[trial]
        running.trial = job_states.worker_lost(running.trial, evaluation.reason)
        if job_states.has_lost_too_many(running.trial):
            reason = f"{running.trial.n_lost} workers died of it; the last: {evaluation.reason}"
            self.on_finished(trial, worker, replace(evaluation, reason=reason))
        else:
            self._requeue(trial, evaluation.reason)

    def on_preempted(self, trial: int, reason: str) -> None:
        running = self._running[trial]
        running.n_preemptions += 1
        if running.n_preemptions >= MAX_PREEMPTIONS:
            words = f"preempted {running.n_preemptions} times without coming any further; the last: {reason}"
            self.on_finished(trial, running.trial.worker or 0, failed_evaluation(Outcome.CRASHED, words))
            return
        running.trial = job_states.requeued(running.trial)
        self._requeue(trial, reason)

    def _requeue(self, trial: int, reason: str) -> None:
        running = self._running.pop(trial)
        self._records.update(running.trial)
        self._waiting.append(running)
        self._reporter.trial_lost(trial, reason)

    def on_interrupted(self, trial: int) -> None:
        self._records.update(job_states.requeued(self._running.pop(trial).trial))
        self._reporter.trial_interrupted(trial)


def _is_measured_replicate(trial: TrialRecord) -> bool:
    return trial.origin.kind is OriginKind.REPLICATE and is_complete(trial)
