"""What an evaluation is asked and what it answers; no torch here.

An evaluation is one function of (architecture, task, budget, seed) with no hidden state: the same inputs and the same
number of threads on the same CPU give the same bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from unetx_evaluators.insight import Insight, SizeRecall
from unetx_evaluators.training.recipe import Recipe
from unetx_space.errors import RequestError, UnetxError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task
    from unetx_evaluators.views import Prediction
    from unetx_space.architecture import Architecture


OBJECTIVE = "dice"
"""Name of the metric that a search maximises."""
MEMORY_FRACTION = "UNETX_GPU_MEMORY_FRACTION"
"""Environment variable of a worker: the part of its GPU's memory that is its own, and by which designs are judged."""
SAID_EACH = 3
"""Files from which on a reason that holds for all of them is told once."""


class DataError(RequestError):
    """The data cannot be used as they are: names the file, the reason and the remedy. CLI exit code 2."""


class DataErrors(DataError):
    """Several at once, so that a dataset is mended in one go."""

    SHOWN: ClassVar[int] = 20

    def __init__(self, errors: Sequence[DataError]) -> None:
        told = said_once(errors)
        more = len(told) - self.SHOWN
        super().__init__("\n".join([*told[: self.SHOWN], *([f"and {more} more"] if more > 0 else [])]))
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[type[DataErrors], tuple[tuple[DataError, ...]]]:
        return type(self), (self.errors,)  # an exception is otherwise made anew from its text


def said_once(errors: Sequence[DataError]) -> list[str]:
    """What the errors say, in their order; what is true of several files is told once, with their number."""
    by_reason: dict[str, list[str]] = {}
    for error in errors:
        file, _, reason = str(error).partition(": ")
        by_reason.setdefault(reason if os.sep in file else str(error), []).append(str(error))
    told: list[str] = []
    for texts in by_reason.values():
        if len(texts) < SAID_EACH:
            told += texts
        else:
            names = list(dict.fromkeys(Path(text.partition(": ")[0]).name for text in texts[1:]))
            shown = ", ".join(names[:SAID_EACH]) + (", ..." if len(names) > SAID_EACH else "")
            told.append(f"{texts[0]} (the same of {len(texts) - 1} more: {shown})")
    return told


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


class EvaluationEnded(Exception):
    """There is nothing more to train, and that is a result; ``evaluate`` turns it into an Evaluation."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.outcome = outcome
        self.reason = reason
        super().__init__(reason)


class DeviceFailed(UnetxError):
    """This process can no longer use its device, or not its share of it: the evaluation is to be run in another."""

    def __init__(self, reason: str, *, may_be_design: bool = False) -> None:
        super().__init__(reason)
        self.may_be_design = may_be_design
        """What the design computed may have brought it about, such as an index that is out of range; False: it is the
        device that has gone, or others hold its memory."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A trained network of the same task and width, whose parameters an evaluation starts from."""

    file: str
    """Its weights (safetensors), by their path in the task's folder."""
    sha256: str
    """Of that file."""
    parts: tuple[str, ...] = ("stem.", "encoder.")
    """Beginnings of the names of the parameters that are inherited, where the shape is the same; "" is all of them."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much training one evaluation gets, and how it is trained."""

    steps: int
    batch_size: int
    width_factor: float
    """Every width of the full-size backbone is multiplied by this for training."""
    rungs: tuple[int, ...]
    """Steps after which the validation score is reported, ascending; the last equals ``steps``."""
    validation_cases: int
    """How many validation cases (the first in the split's order) are scored at most; a part of them at early rungs
    (``training.cases.early_cases``)."""
    max_seconds: float = 3600.0
    """An evaluation that runs longer ends as timed-out."""
    recipe: Recipe = field(default_factory=Recipe)
    """Learning rate, class weighting, augmentation: shared by all evaluations of a study."""
    parent: Parent | None = None
    """What an evaluation starts from; None: from initial values alone."""

    def __post_init__(self) -> None:
        if not self.rungs or self.rungs[-1] != self.steps or list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs ascend to steps={self.steps}, got {self.rungs}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` gave, after a trip through JSON."""
        parent = data["parent"]
        if parent is not None:
            parent = Parent(**{**parent, "parts": tuple(parent["parts"])})
        recipe = Recipe(**{**data["recipe"], "mirror": tuple(data["recipe"].get("mirror", ()))})
        return cls(**{**data, "rungs": tuple(data["rungs"]), "recipe": recipe, "parent": parent})


@dataclass(frozen=True, slots=True)
class CaseScore:
    """The scores of one class on one case.

    Before the last rung only a part of the cases and of the metrics is there; ``metrics/registry.py`` has them all.
    """

    case: str
    class_name: str
    values: Mapping[str, float | None]
    """By the metric's name; None where the class is absent from truth and prediction alike."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Every score of a network."""

    case_scores: tuple[CaseScore, ...]
    recalls: Mapping[str, tuple[SizeRecall, ...]]
    """By class: recall of its small, medium and large targets."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` gave, after a trip through JSON."""
        scores = tuple(CaseScore(**score) for score in data["case_scores"])
        recalls = {name: tuple(SizeRecall(**part) for part in parts) for name, parts in data["recalls"].items()}
        return cls(scores, recalls)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What was known at a rung."""

    step: int
    score: float
    """Mean over foreground classes of the mean Dice over cases: before the last rung over a few of them, the same for
    all evaluations of a study, so that rungs of one step can be compared, and the last rung with none before."""
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
    """At the last rung that was reached."""
    curve: tuple[CurvePoint, ...] = ()
    """Rungs reached before the evaluation was resumed too."""
    loss_sum: float | None = None
    """Of all training steps up to the last rung that was reached: low where training is fast (arXiv:2006.04492)."""
    n_parameters: int | None = None
    """Of the trained (width-scaled) network."""
    seconds: float = 0.0
    """Of work, before it was resumed too."""
    peak_mem_mib: float | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what decides the numbers; ``steps`` tells how a GPU ran the training steps: "graph", or "eager: " and why."""
    traceback: str = ""
    insight: Insight = field(default_factory=Insight)
    predictions: tuple[Prediction, ...] = ()
    """On the cases that were scored last, in their order, where they may be shown."""
    spends_process: bool = False
    """The process that made it keeps memory that only its end frees: another is to take its place."""


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
        weights: Path | None = None,
        diagnosed_above: float = -math.inf,
    ) -> Evaluation:
        """Never raises for a design's sake: every ending is a typed outcome. A bug of ours flies out. Raises
        DeviceFailed when this process is of no more use; it says nothing about the design unless it happens again.

        ``checkpoint`` names a file for the state of this evaluation, written every minute or so, and after every rung
        but the last at which the observer let it go on. An evaluation that was broken off goes on from there: the
        observer hears of later steps and rungs only, and the answer is that of an unbroken run (on a CPU to the bit),
        with the whole curve. A file that is damaged or of another evaluation is not used. The caller deletes it when
        the answer is safe.

        ``weights`` names a file (safetensors) for the trained network's parameters, written when it is complete.

        A complete evaluation whose score lies above ``diagnosed_above`` also tells zero-cost features and similarities
        of skips; with minus infinity one that ends early tells the features, too. Gradients by stage, and predictions
        where the task lets images be shown, are told by all but with infinity. No score depends on any of it.
        """


class NullObserver:
    """Watches nothing and stops nothing."""

    def on_step(self, step: int) -> None:
        return None

    def on_rung(self, point: CurvePoint) -> bool:
        return False
