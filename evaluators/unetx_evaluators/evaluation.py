"""What an evaluation is asked and what it answers; no torch here.

An evaluation is one function of (architecture, task, budget, seed) with no hidden state: the same inputs and the same
number of threads on the same CPU give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task
    from unetx_space.architecture import Architecture


class DataError(RequestError):
    """The data cannot be used as they are: names the file, the reason and the remedy. CLI exit code 2."""


class EvaluationInterrupted(Exception):
    """Raised by an observer to leave an evaluation without a result; evaluators let it through."""


class Outcome(StrEnum):
    """How an evaluation ended."""

    COMPLETE = "complete"  # trained for its whole budget and scored
    PRUNED = "pruned"  # stopped at a rung because it was behind
    INFEASIBLE = "infeasible"  # cannot be trained: a fault, a cost limit, a dry run that failed
    OUT_OF_MEMORY = "out-of-memory"
    DIVERGED = "diverged"  # loss or output became infinite or NaN
    TIMED_OUT = "timed-out"
    DATA_ERROR = "data-error"  # a case could not be read
    CRASHED = "crashed"  # an unforeseen error, or a process that died

    @property
    def failed(self) -> bool:
        """Says nothing about the design: Optuna's FAIL."""
        return self in (Outcome.TIMED_OUT, Outcome.DATA_ERROR, Outcome.CRASHED)

    @property
    def violates(self) -> bool:
        """The design itself is at fault: Optuna's PRUNED with a violated constraint, so that samplers learn from it."""
        return self in (Outcome.INFEASIBLE, Outcome.OUT_OF_MEMORY, Outcome.DIVERGED)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much training one evaluation gets."""

    steps: int
    batch_size: int
    width_factor: float
    """Every width of the full-size backbone is multiplied by this for training."""
    rungs: tuple[int, ...]
    """Steps after which the selection score is reported, ascending; the last equals ``steps``."""
    selection_cases: int
    """How many selection cases (the first in the split's order) are scored at most."""
    max_seconds: float = 3600.0
    """An evaluation that runs longer ends as timed-out."""

    def __post_init__(self) -> None:
        if not self.rungs or self.rungs[-1] != self.steps or list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs ascend to steps={self.steps}, got {self.rungs}")


@dataclass(frozen=True, slots=True)
class CaseScore:
    """Dice of one class on one case; None where the class is absent from truth and prediction alike."""

    case: str
    class_name: str
    dice: float | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What was known at a rung."""

    step: int
    score: float
    """Mean over foreground classes of the mean Dice over cases."""
    loss: float
    """Mean training loss since the previous rung."""
    seconds: float
    """Since the evaluation began."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An architecture's answer under a budget and a seed."""

    outcome: Outcome
    reason: str = ""
    """Why it did not complete, in one sentence; empty when it did."""
    score: float | None = None
    """The objective at the last rung that was reached; None when no rung was."""
    case_scores: tuple[CaseScore, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    n_parameters: int | None = None
    """Of the trained (width-scaled) network."""
    seconds: float = 0.0
    peak_mem_mib: float | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    traceback: str = ""


class Observer(Protocol):
    """Whoever watches an evaluation. Both calls may raise EvaluationInterrupted."""

    def on_step(self, step: int) -> None:
        """After every training step."""

    def on_rung(self, point: CurvePoint) -> bool:
        """At every rung but the last; True asks to stop here (pruned)."""


class Evaluator(Protocol):
    """Says what an architecture is worth. Instances are picklable and import torch only when called."""

    def evaluate(
        self,
        architecture: Architecture,
        task: Task,
        budget: Budget,
        seed: int,
        observer: Observer,
        *,
        checkpoint: Path | None = None,
    ) -> Evaluation:
        """Never raises for a design's sake: every ending is a typed outcome. A bug of ours flies out.

        In the file ``checkpoint`` the state at the latest rung is kept once the observer lets the evaluation go on
        there, and an evaluation of the same architecture, task, budget and seed goes on from it: rungs before it are
        not observed again, but stand in the answer's curve. Who calls deletes the file after the end.
        """


class NullObserver:
    """Watches nothing and stops nothing."""

    def on_step(self, step: int) -> None:
        return None

    def on_rung(self, point: CurvePoint) -> bool:
        return False
