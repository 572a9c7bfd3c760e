"""The one writer: asks the sampler, hands jobs to the executor, records what comes back, tells Optuna.

Our records of an evaluation are committed before Optuna is told, so that after any crash a trial that Optuna still
calls running either has its result here (and is told now) or has none (and is run again under the same number).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from optuna.trial import Trial, TrialState

from unetx_evaluators.evaluation import Outcome
from unetx_search.config import FIRST_PRESETS
from unetx_search.executors.base import Job
from unetx_search.samplers.guard import ORIGIN
from unetx_space.architecture import Architecture
from unetx_space.canonical import canonical, key
from unetx_space.cost import cost
from unetx_space.design_space import adapted
from unetx_space.errors import UnetxError
from unetx_space.presets import PRESETS
from unetx_space.validity import faults

if TYPE_CHECKING:
    from optuna import Study

    from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation
    from unetx_search.executors.base import Executor
    from unetx_space.backbone import Backbone
    from unetx_space.design_space import DesignSpace
    from unetx_space.genome import Genome
    from unetx_studies.store.records import Records

N_HOPELESS = 5
"""When the first evaluations of a run all fail, this many are enough to stop."""
STOP_WITHIN_S = 25.0


class SearchFailed(UnetxError):
    """The work failed for a reason that more trials would not mend. CLI exit code 1."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all trials of a study share."""

    backbone: Backbone
    patch: tuple[int, ...]
    space: DesignSpace
    budget: Budget
    seed: int
    max_cost: float
    """In multiples of the U-Net preset's multiply-adds."""

    def architecture(self, genome: Genome) -> Architecture:
        """The full-size architecture of a genome, spelt canonically."""
        return Architecture(self.backbone, canonical(genome))

    def unet_macs(self) -> int:
        """What the cost limit is measured in."""
        return cost(self.architecture(PRESETS["u-net"].genome(self.backbone.n_levels)), self.patch).macs

    def admission(self) -> Callable[[Genome], bool]:
        """A predicate: the design is valid on this patch and inside the cost limit."""
        limit = self.max_cost * self.unet_macs()

        def is_admissible(genome: Genome) -> bool:
            architecture = self.architecture(genome)
            return not faults(architecture, self.patch) and cost(architecture, self.patch).macs <= limit

        return is_admissible


class Reporter(Protocol):
    """Whoever shows the search to a person."""

    def trial_started(self, trial: int, worker: int, device: str, origin: str) -> None:
        """A worker took a trial."""

    def trial_step(self, trial: int, step: int) -> None:
        """It has trained so many steps."""

    def trial_rung(self, trial: int, point: CurvePoint) -> None:
        """It was scored on the way."""

    def trial_finished(self, trial: int, evaluation: Evaluation, is_best: bool) -> None:
        """It ended, one way or another."""

    def trial_interrupted(self, trial: int) -> None:
        """It was left without a result and will be run again."""


@dataclass(slots=True)
class _Running:
    """A trial that an executor holds."""

    trial: Trial
    origin: str
    reported: set[int]


class Coordinator:
    """Runs a study to its total of ``n_trials``; implements the executor's Handler."""

    def __init__(
        self,
        *,
        study: Study,
        records: Records,
        executor: Executor,
        ground: Ground,
        reporter: Reporter,
        n_trials: int,
        on_best: Callable[[int], None],
        on_dispatch: Callable[[Trial, Architecture], None] = lambda trial, architecture: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._study = study
        self._records = records
        self._executor = executor
        self._ground = ground
        self._reporter = reporter
        self._n_trials = n_trials
        self._on_best = on_best
        self._on_dispatch = on_dispatch
        self._clock = clock
        self._running: dict[int, _Running] = {}
        self._to_rerun: deque[tuple[Trial, set[int]]] = deque()
        self._n_created = 0
        self._n_finished_now = 0
        self._n_useless_now = 0
        self._stopping = False
        self._uses = Counter(record.key for record in records.evaluations())
        best = records.best()
        self._best_score = best.score if best is not None and best.score is not None else float("-inf")

    def is_new(self, genome: Genome) -> bool:
        """No trial of this study has evaluated, or is evaluating, an equal design."""
        return key(self._ground.architecture(genome)) not in self._uses

    def stop(self) -> None:
        """Ask for an orderly end; safe to call from a signal handler."""
        self._stopping = True

    @property
    def was_stopped(self) -> bool:
        """The run ended because someone asked."""
        return self._stopping

    def run(self) -> None:
        """Returns when the study has its total, or after ``stop``. Raises SearchFailed when going on is pointless."""
        self._recover()
        self._enqueue_presets()
        while not self._stopping:
            self._fill()
            if not self._running:
                return
            self._executor.poll(self, timeout_s=0.5)
            if self._n_useless_now == self._n_finished_now >= N_HOPELESS:
                self._leave_running()
                raise SearchFailed(self._why_hopeless())
        self._leave_running()

    def _recover(self) -> None:
        """Finish what an earlier life of this study left running."""
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state != TrialState.WAITING:
                self._n_created += 1
            if frozen.state != TrialState.RUNNING:
                continue
            trial = Trial(self._study, frozen._trial_id)
            record = self._records.evaluation(frozen.number)
            if record is not None and record.outcome is not None:
                self._tell(trial, record.outcome, record.score)
            else:
                self._to_rerun.append((trial, set(frozen.intermediate_values)))

    def _enqueue_presets(self) -> None:
        """Queue the presets that the study does not have yet, as far as its total allows.

        In a narrowed space a preset is tried with the nearest choices there are, and called adapted.
        """
        known = {trial.user_attrs.get(ORIGIN) for trial in self._study.get_trials(deepcopy=False)}
        space = self._ground.space
        queued = []
        for name in FIRST_PRESETS[: self._n_trials]:
            genome = canonical(PRESETS[name].genome(self._ground.backbone.n_levels))
            params = adapted(space, genome)
            is_exact = canonical(space.from_params(params)) == canonical(genome)
            origin = f"preset {name}" if is_exact else f"preset {name}, adapted"
            if origin not in known and params not in queued:
                self._study.enqueue_trial(params, user_attrs={ORIGIN: origin})
            queued.append(params)

    def _fill(self) -> None:
        """Give every free slot a trial."""
        while self._executor.n_free() > 0 and not self._stopping:
            if self._to_rerun:
                self._dispatch(*self._to_rerun.popleft())
            elif self._n_created < self._n_trials:
                self._n_created += 1
                self._dispatch(self._study.ask(), set())
            else:
                return

    def _dispatch(self, trial: Trial, reported: set[int]) -> None:
        architecture = self._ground.architecture(self._ground.space.suggest(trial))
        design = key(architecture)
        origin = trial.user_attrs.get(ORIGIN, "sampler")
        earlier = self._records.evaluation(trial.number)
        seed = earlier.seed if earlier is not None else self._ground.seed + self._uses[design]
        if earlier is None:
            self._uses[design] += 1
        full = cost(architecture, self._ground.patch)
        self._records.add_architecture(design, architecture, full.n_parameters, full.macs)
        self._records.start(
            trial.number, design, seed=seed, origin=origin, budget=self._ground.budget, started_at=self._clock()
        )
        self._on_dispatch(trial, architecture)
        self._running[trial.number] = _Running(trial, origin, reported)
        self._executor.submit(Job(trial.number, architecture, self._ground.budget, seed))

    def _leave_running(self) -> None:
        """Ask the running evaluations to stop and wait for their answers, but not for long."""
        self._executor.interrupt()
        deadline = self._clock().timestamp() + STOP_WITHIN_S
        while self._running and self._clock().timestamp() < deadline:
            self._executor.poll(self, timeout_s=0.2)

    def _why_hopeless(self) -> str:
        last = self._records.evaluations(finished_only=True)[-1]
        return (
            f"the first {self._n_finished_now} evaluations of this run all failed, so going on would only burn time; "
            f"the last one ended as {last.outcome}: {last.reason}"
        )

    # The executor's events.

    def on_started(self, trial: int, worker: int, device: str) -> None:
        self._reporter.trial_started(trial, worker, device, self._running[trial].origin)

    def on_step(self, trial: int, step: int) -> None:
        self._reporter.trial_step(trial, step)

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        running = self._running[trial]
        self._report(running, point)
        self._reporter.trial_rung(trial, point)
        is_reference = running.origin.startswith("preset")  # the others are compared with these
        return not is_reference and running.trial.should_prune()

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        running = self._running.pop(trial)
        self._records.finish(trial, evaluation, worker=worker, ended_at=self._clock())
        for point in evaluation.curve:
            self._report(running, point)
        self._tell(running.trial, evaluation.outcome, evaluation.score)
        self._n_finished_now += 1
        self._n_useless_now += evaluation.outcome not in (Outcome.COMPLETE, Outcome.PRUNED)
        is_best = self._is_best(evaluation)
        if is_best:
            self._on_best(trial)
        self._reporter.trial_finished(trial, evaluation, is_best)

    def on_interrupted(self, trial: int) -> None:
        self._running.pop(trial)
        self._reporter.trial_interrupted(trial)

    def _report(self, running: _Running, point: CurvePoint) -> None:
        if point.step not in running.reported:  # a trial that is run again has reported before
            running.reported.add(point.step)
            running.trial.report(point.score, point.step)

    def _is_best(self, evaluation: Evaluation) -> bool:
        if evaluation.outcome is not Outcome.COMPLETE or evaluation.score is None:
            return False
        if evaluation.score <= self._best_score:
            return False
        self._best_score = evaluation.score
        return True

    def _tell(self, trial: Trial, outcome: Outcome, score: float | None) -> None:
        """Optuna's view of an outcome."""
        if outcome is Outcome.COMPLETE:
            self._study.tell(trial, score)
        elif outcome.failed:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            if outcome.violates:
                trial.set_constraint("trainable", 1.0)
            self._study.tell(trial, state=TrialState.PRUNED)
