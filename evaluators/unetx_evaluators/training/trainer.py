"""The training loop, to be read from top to bottom. What surrounds it is ``proxy.py``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, Observer, Outcome
from unetx_evaluators.metrics.overlap import objective
from unetx_evaluators.scoring import score_cases
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Cases
from unetx_evaluators.training.endings import EvaluationEnded
from unetx_evaluators.training.recipe import Recipe, learning_rate
from unetx_evaluators.training.step import TrainingStep

CHECK_EVERY_STEPS = 20
"""How often losses are looked at: on CUDA each look waits for the device."""


@dataclass
class Progress:
    """What is known of an evaluation so far; stays when it ends early."""

    max_seconds: float
    started: float = field(default_factory=time.monotonic)
    curve: list[CurvePoint] = field(default_factory=list)
    case_scores: tuple[CaseScore, ...] = ()
    n_parameters: int | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def check_time(self) -> None:
        """Ends the evaluation as timed-out when its time is over."""
        if self.seconds > self.max_seconds:
            raise EvaluationEnded(
                Outcome.TIMED_OUT, f"stopped after {self.seconds:.0f} s; the budget allows {self.max_seconds:g} s"
            )


def train(
    network: nn.Module,
    cases: Cases,
    task: Task,
    budget: Budget,
    recipe: Recipe,
    seed: int,
    device: DeviceProfile,
    observer: Observer,
    progress: Progress,
) -> None:
    """Train a network in place for the whole budget, scoring it at every rung into ``progress``.

    Raises EvaluationEnded when it ends early (pruned, diverged, timed-out), and what ``observer`` raises.
    """
    batches = BatchStream(cases.train, task.patch, budget.batch_size, seed, recipe, device.device)
    train_step = TrainingStep(network, recipe, device, ignores=task.ignores)
    losses = LossLog()
    for step in range(1, budget.steps + 1):
        progress.check_time()
        losses.add(train_step(batches.batch(step), learning_rate(step, budget.steps, recipe)))
        observer.on_step(step)
        if step % CHECK_EVERY_STEPS == 0:
            losses.check(step)
        if step in budget.rungs:
            loss = losses.mean_since_last_rung(step)
            progress.case_scores = score_cases(
                network, cases.selection, task.classes, task.patch, device, progress.check_time
            )
            point = CurvePoint(step, objective(progress.case_scores), loss, progress.seconds)
            progress.curve.append(point)
            if step < budget.steps and observer.on_rung(point):
                raise EvaluationEnded(Outcome.PRUNED, f"behind at step {step} with a score of {point.score:.4f}")


class LossLog:
    """The losses since the last rung, kept on their device."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        self._losses.append(loss)

    def check(self, step: int) -> float:
        """The mean so far. Ends the evaluation as diverged when a loss was not finite."""
        mean = float(torch.stack(self._losses).double().mean())
        if not math.isfinite(mean):
            raise EvaluationEnded(Outcome.DIVERGED, f"the training loss was {mean} by step {step}")
        return mean

    def mean_since_last_rung(self, step: int) -> float:
        mean = self.check(step)
        self._losses.clear()
        return mean
