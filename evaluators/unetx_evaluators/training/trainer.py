"""The training loop, to be read from top to bottom. What surrounds it is ``proxy.py``."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.diagnosis import stage_gradients
from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, EvaluationEnded, Measured, Observer, Outcome
from unetx_evaluators.insight import Insight, SkipSimilarity, StageGradient, ZeroCost
from unetx_evaluators.metrics import objective
from unetx_evaluators.scoring import Scorer
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Cases
from unetx_evaluators.training.checkpoint import Checkpoint
from unetx_evaluators.training.rank import ALONE, Rank
from unetx_evaluators.training.rounds import LossLog, Round, captured_where_possible
from unetx_evaluators.training.step import EagerStep
from unetx_evaluators.views import Prediction
from unetx_space.network import SkipUNet

CHECK_EVERY_STEPS = 20
"""How often losses are looked at: on CUDA each look waits for the device."""
SAVE_EVERY_S = 60.0
"""How often the state of a training is kept between rungs, about: what a kill costs at most."""


@dataclass
class Progress:
    """What is known of an evaluation so far; stays when it ends early."""

    max_seconds: float
    started: float = field(default_factory=time.monotonic)
    curve: list[CurvePoint] = field(default_factory=list)
    case_scores: tuple[CaseScore, ...] = ()
    loss_sum: float | None = None
    """Of all steps up to the last rung."""
    n_parameters: int | None = None
    zero_cost: ZeroCost | None = None
    gradients: dict[int, tuple[StageGradient, ...]] = field(default_factory=dict)
    similarities: tuple[SkipSimilarity, ...] = ()
    measured: Measured | None = None
    """At the last rung of the budget."""
    predictions: list[Prediction] | None = None
    """At that rung; None where they are not wanted."""
    steps_run_as: str = ""
    """As ``ChosenRound`` has it."""
    norms_run_as: str = ""
    """As ``fast_cuda`` has it."""
    spends_process: bool = False

    @property
    def insight(self) -> Insight:
        """All that is known beside the scores."""
        told = Insight(self.zero_cost, self.gradients, self.similarities)
        if self.measured is None:
            return told
        return replace(
            told, recalls=self.measured.recalls, original_dice=objective(self.measured.case_scores, "original_dice")
        )

    @property
    def run_as(self) -> dict[str, str]:
        """How steps and norms were computed, where there was a choice."""
        told = {"steps": self.steps_run_as, "norms": self.norms_run_as}
        return {what: how for what, how in told.items() if how}

    @property
    def seconds(self) -> float:
        """Spent on the evaluation, before a checkpoint it was resumed from too."""
        return time.monotonic() - self.started

    def check_time(self) -> None:
        """Ends the evaluation as timed-out when its time is over."""
        if self.seconds > self.max_seconds:
            raise EvaluationEnded(
                Outcome.TIMED_OUT, f"stopped after {self.seconds:.0f} s; the budget allows {self.max_seconds:g} s"
            )

    def reached(self, step: int, losses: list[float], case_scores: tuple[CaseScore, ...]) -> CurvePoint:
        """Note a rung: the losses since the one before, and the scores there."""
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
    """Everything that changes while a network is trained."""

    network: nn.Module
    eager: EagerStep
    average: WeightAverage
    progress: Progress
    losses: LossLog
    checkpoint: Checkpoint | None
    """Where the state is kept."""
    saved_at: float = field(default_factory=time.monotonic)

    def save(self, step: int) -> None:
        """Keep the state after a step."""
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
        if self.checkpoint is not None and time.monotonic() - self.saved_at >= SAVE_EVERY_S:
            self.save(step)

    def resume(self) -> int:
        """Go back to the state that was saved last, if any; its step, 0 at the start."""
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is None:
            return 0
        self.network.load_state_dict(state["network"])
        self.eager.load_state_dict(state["step"])
        self.average.load_state_dict(state["average"])
        self.progress.load_state_dict(state["progress"])
        self.losses.restore(state["done"], state["losses"])
        return int(state["done"])


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
    rank: Rank = ALONE,
) -> None:
    """Train a network in place for the whole budget, scoring it at every rung into ``progress``: on a few cases, the
    same for all trainings, and at the last rung on all.

    It ends with the weights that were scored last. ``checkpoint`` is read once and written after every rung at which
    the observer let it go on, and every minute or so; so a rung is asked about again only if the process died in
    between. Gradients are noted at the steps ``gradients_at``. Raises EvaluationEnded when it ends early (pruned,
    diverged, timed-out), and what ``observer`` raises.

    Of several processes that train the network together, ``joined``, each comes to the same weights; only the first
    scores them, keeps the state and asks the observer.
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
    if not rank.leads:
        training.checkpoint = None
    part = rank.part(budget.batch_size)
    chosen = captured_where_possible(Round(eager, batches, average, losses, done, part), done + 1)
    progress.steps_run_as, progress.spends_process = chosen.run_as, chosen.spends_process
    early, final = (Scorer(task, scored, device, progress.check_time) for scored in (cases.early, cases.validation))
    for step in range(done + 1, budget.steps + 1):
        progress.check_time()
        chosen.do(step)
        if step in gradients_at:
            progress.gradients[step] = stage_gradients(network)
        observer.on_step(step)
        if step % CHECK_EVERY_STEPS == 0:
            losses.check(step)
        if step in budget.rungs and not rank.leads:
            losses.taken(step)
        elif step in budget.rungs:
            values = losses.taken(step)
            with average.in_place():
                if step == budget.steps:
                    progress.measured = final.everything(network, progress.predictions)
                scores = progress.measured.case_scores if progress.measured else early.at_a_rung(network)
            point = progress.reached(step, values, scores)
            if step < budget.steps:
                if observer.on_rung(point):
                    raise EvaluationEnded(Outcome.PRUNED, f"behind at step {step} with a score of {point.score:.4f}")
                training.save(step)
        else:
            training.save_when_due(step)
    average.settle()
