"""The training loop ``train``, and the state that it keeps; ``proxy.py`` prepares and calls it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.diagnosis import stage_gradients
from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, EvaluationEnded, NetworkScores, Observer, Outcome
from unetx_evaluators.insight import Insight, SkipSimilarity, StageGradient, ZeroCost
from unetx_evaluators.metrics import objective
from unetx_evaluators.scoring import Scorer
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Cases
from unetx_evaluators.training.checkpoint import Checkpoint
from unetx_evaluators.training.iteration import Iteration, LossLog, capture_if_possible
from unetx_evaluators.training.rank import SINGLE_PROCESS, Rank
from unetx_evaluators.training.step import EagerStep
from unetx_evaluators.views import Prediction
from unetx_space.network import SkipUNet

CHECK_EVERY_STEPS = 20
"""Number of steps after which losses are checked, which on CUDA waits for the device."""
SAVE_EVERY_S = 60.0
"""Seconds after which the state of a training is saved between rungs: about what a kill costs at most."""


@dataclass
class Progress:
    """The results of an evaluation so far, which remain when it ends early."""

    max_seconds: float
    started: float = field(default_factory=time.monotonic)
    curve: list[CurvePoint] = field(default_factory=list)
    case_scores: tuple[CaseScore, ...] = ()
    loss_sum: float | None = None
    """Sum of the losses of all steps up to the last rung."""
    n_parameters: int | None = None
    zero_cost: ZeroCost | None = None
    gradients: dict[int, tuple[StageGradient, ...]] = field(default_factory=dict)
    similarities: tuple[SkipSimilarity, ...] = ()
    final_scores: NetworkScores | None = None
    """All scores at the last rung of the budget."""
    predictions: list[Prediction] | None = None
    """Predictions at the last rung of the budget; None where they are not wanted."""
    step_mode: str = ""
    """How steps are executed, as ``ChosenIteration.mode`` says."""
    norm_backend: str = ""
    """What computes the norms, as ``fast_cuda.norm_backend`` says."""
    needs_new_process: bool = False

    @property
    def insight(self) -> Insight:
        """The diagnostics that are known so far."""
        insight = Insight(self.zero_cost, self.gradients, self.similarities)
        if self.final_scores is None:
            return insight
        original_dice = objective(self.final_scores.case_scores, "original_dice")
        return replace(insight, recalls=self.final_scores.recalls, original_dice=original_dice)

    @property
    def modes(self) -> dict[str, str]:
        """How steps and norms were computed, where there was a choice."""
        modes = {"steps": self.step_mode, "norms": self.norm_backend}
        return {name: mode for name, mode in modes.items() if mode}

    @property
    def seconds(self) -> float:
        """Seconds spent on the evaluation, those before a resumption too."""
        return time.monotonic() - self.started

    def check_time(self) -> None:
        """Raise EvaluationEnded (timed-out) when the budget's time is over."""
        if self.seconds > self.max_seconds:
            raise EvaluationEnded(
                Outcome.TIMED_OUT, f"stopped after {self.seconds:.0f} s; the budget allows {self.max_seconds:g} s"
            )

    def add_rung(self, step: int, losses: list[float], case_scores: tuple[CaseScore, ...]) -> CurvePoint:
        """Add a rung to the curve: the losses since the one before, and the scores there."""
        self.case_scores = case_scores
        self.loss_sum = math.fsum([self.loss_sum or 0.0, *losses])
        self.curve.append(CurvePoint(step, objective(case_scores), math.fsum(losses) / len(losses), self.seconds))
        return self.curve[-1]

    def state_dict(self) -> dict[str, Any]:
        return {
            "curve": [(point.step, point.score, point.loss, point.seconds) for point in self.curve],
            "case_scores": [(score.case, score.class_name, dict(score.values)) for score in self.case_scores],
            "loss_sum": self.loss_sum,
            "gradients": {step: [(g.stage, g.norm) for g in stages] for step, stages in self.gradients.items()},
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.curve[:] = (CurvePoint(*point) for point in state["curve"])
        self.case_scores = tuple(CaseScore(*score) for score in state["case_scores"])
        self.loss_sum = state["loss_sum"]
        for step, stages in state["gradients"].items():
            self.gradients[step] = tuple(StageGradient(*stage) for stage in stages)
        self.started -= state["seconds"]


@dataclass
class Training:
    """The state of a training, which a checkpoint saves."""

    network: nn.Module
    eager: EagerStep
    average: WeightAverage
    progress: Progress
    losses: LossLog
    checkpoint: Checkpoint | None
    saved_at: float = field(default_factory=time.monotonic)

    def save(self, step: int) -> None:
        """Save the state after a step, if there is a checkpoint."""
        self.saved_at = time.monotonic()
        if self.checkpoint is not None:
            self.checkpoint.save(
                {
                    "done": step,
                    "losses": self.losses.check(step),
                    "network": self.network.state_dict(),
                    "step": self.eager.state_dict(),
                    "average": self.average.state_dict(),
                    "progress": self.progress.state_dict(),
                }
            )

    def save_when_due(self, step: int) -> None:
        """Save the state after a step if SAVE_EVERY_S have passed since it was saved last."""
        if self.checkpoint is not None and time.monotonic() - self.saved_at >= SAVE_EVERY_S:
            self.save(step)

    def resume(self) -> int:
        """Restore the state that was saved last, if any, and return its step; 0 at the start."""
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is None:
            return 0
        self.network.load_state_dict(state["network"])
        self.eager.load_state_dict(state["step"])
        self.average.load_state_dict(state["average"])
        self.progress.load_state_dict(state["progress"])
        self.losses.restore(state["done"], state["losses"])
        return int(state["done"])

    def score(self, step: int, scorer: Scorer, *, is_final: bool) -> CurvePoint:
        """Score the averaged weights at a rung, and add it to the curve."""
        losses = self.losses.take(step)
        with self.average.averaged_weights():
            if is_final:
                self.progress.final_scores = scorer.all_scores(self.network, self.progress.predictions)
                case_scores = self.progress.final_scores.case_scores
            else:
                case_scores = scorer.rung_scores(self.network)
        return self.progress.add_rung(step, losses, case_scores)


def train(
    network: SkipUNet,
    cases: Cases,
    task: Task,
    budget: Budget,
    seed: int,
    device: DeviceProfile,
    observer: Observer,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    *,
    gradients_at: Collection[int] = (),
    rank: Rank = SINGLE_PROCESS,
) -> None:
    """Train a network in place for the whole budget, scoring it at every rung into ``progress``: on a few cases, the
    same for all trainings, and at the last rung on all.

    It ends with the weights that were scored last. ``checkpoint`` is read once and written after every rung at which
    the observer let it go on, and every minute or so; so the observer sees a rung twice only if the process died in
    between. Gradients are recorded at the steps ``gradients_at``. Raises EvaluationEnded when it ends early (pruned,
    diverged, timed-out), and what ``observer`` raises.

    Several processes may train the network together inside of ``process_group``, and get the same weights; only the
    first scores them, saves the state and asks the observer at rungs.
    """
    recipe = budget.recipe
    batches = BatchStream(
        cases.train, task.patch, budget.batch_size, seed, recipe, device.device, cases.resident, task.spacing
    )
    eager = EagerStep(network, recipe, device, ignores=task.ignores, rank=rank)
    average = WeightAverage(network, recipe.averaging * budget.steps)
    losses = LossLog(budget.steps, device.device)
    training = Training(network, eager, average, progress, losses, checkpoint)
    done = training.resume()
    if not rank.is_leader:
        training.checkpoint = None
    eager_iteration = Iteration(eager, batches, average, losses, done, rank.part(budget.batch_size))
    iteration = capture_if_possible(eager_iteration, done + 1)
    progress.step_mode, progress.needs_new_process = iteration.mode, iteration.needs_new_process
    early, final = (Scorer(task, scored, device, progress.check_time) for scored in (cases.early, cases.validation))
    for step in range(done + 1, budget.steps + 1):
        progress.check_time()
        iteration.run(step)
        if step in gradients_at:
            progress.gradients[step] = stage_gradients(network)
        observer.on_step(step)
        if step % CHECK_EVERY_STEPS == 0:
            losses.check(step)
        if step not in budget.rungs:
            training.save_when_due(step)
        elif not rank.is_leader:
            losses.take(step)
        elif step == budget.steps:
            training.score(step, final, is_final=True)
        else:
            point = training.score(step, early, is_final=False)
            if observer.on_rung(point):
                raise EvaluationEnded(Outcome.PRUNED, f"behind at step {step} with a score of {point.score:.4f}")
            training.save(step)
    average.copy_to_network()
