"""The interface of evaluators: what an evaluation is given and what it returns; no torch here.

An evaluation is a function of (architecture, task, budget, seed) with no hidden state: the same inputs and the same
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
"""Environment variable of a worker: its share of its GPU's memory, from 0 to 1, by which designs are judged."""
COLLAPSED_FROM = 3
"""Number of files from which on a reason that holds for all of them is stated once."""


class DataError(RequestError):
    """The data cannot be used as they are: names the file, the reason and the remedy. CLI exit code 2."""


class DataErrors(DataError):
    """Everything that is wrong with a dataset, so that it can be corrected in one go."""

    SHOWN: ClassVar[int] = 20

    def __init__(self, errors: Sequence[DataError]) -> None:
        messages = distinct_messages(errors)
        more = len(messages) - self.SHOWN
        super().__init__("\n".join([*messages[: self.SHOWN], *([f"and {more} more"] if more > 0 else [])]))
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[type[DataErrors], tuple[tuple[DataError, ...]]]:
        return type(self), (self.errors,)  # an exception is otherwise made anew from its text


def distinct_messages(errors: Sequence[DataError]) -> list[str]:
    """The errors' messages in their order; a reason that several files share is stated once, with their number."""
    by_reason: dict[str, list[str]] = {}
    for error in errors:
        file, _, reason = str(error).partition(": ")
        by_reason.setdefault(reason if os.sep in file else str(error), []).append(str(error))
    messages: list[str] = []
    for texts in by_reason.values():
        if len(texts) < COLLAPSED_FROM:
            messages += texts
        else:
            names = list(dict.fromkeys(Path(text.partition(": ")[0]).name for text in texts[1:]))
            shown = ", ".join(names[:COLLAPSED_FROM]) + (", ..." if len(names) > COLLAPSED_FROM else "")
            messages.append(f"{texts[0]} (the same of {len(texts) - 1} more: {shown})")
    return messages


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
        """Whether the outcome says nothing about the design, which is Optuna's FAIL."""
        return self in (Outcome.TIMED_OUT, Outcome.DATA_ERROR, Outcome.CRASHED)

    @property
    def violates(self) -> bool:
        """Whether the design itself is at fault: Optuna's PRUNED with a violated constraint, which samplers learn
        from."""
        return self in (Outcome.INFEASIBLE, Outcome.OUT_OF_MEMORY, Outcome.DIVERGED)


class EvaluationEnded(Exception):
    """Raised where an evaluation ends early with a result; ``evaluate`` turns it into an Evaluation."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.outcome = outcome
        self.reason = reason
        super().__init__(reason)


class DeviceFailed(UnetxError):
    """Raised when this process can no longer use its device, or its share of it; another one has to evaluate."""

    def __init__(self, reason: str, *, may_be_design: bool = False) -> None:
        super().__init__(reason)
        self.may_be_design = may_be_design
        """Whether the design's computation may be the cause, such as an index out of range; otherwise the device is
        gone, or other processes hold its memory."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A trained network of the same task and width, whose parameters an evaluation starts from."""

    file: str
    """Path of its weights (safetensors) in the task's folder."""
    sha256: str
    """SHA-256 of that file."""
    parts: tuple[str, ...] = ("stem.", "encoder.")
    """Prefixes of the names of the inherited parameters, which also need the same shape; "" stands for all of them."""


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
    """Largest number of validation cases that are scored, the first in the split's order; early rungs score a part of
    them (``training.cases.early_cases``)."""
    max_seconds: float = 3600.0
    """An evaluation that runs longer ends as timed-out."""
    recipe: Recipe = field(default_factory=Recipe)
    """Learning rate, class weighting and augmentation, shared by all evaluations of a study."""
    parent: Parent | None = None
    """The network whose weights an evaluation starts from; None: random initial values."""

    def __post_init__(self) -> None:
        if not self.rungs or self.rungs[-1] != self.steps or list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs ascend to steps={self.steps}, got {self.rungs}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The budget of which ``data`` is the ``dataclasses.asdict``, read from JSON."""
        parent = data["parent"]
        if parent is not None:
            parent = Parent(**{**parent, "parts": tuple(parent["parts"])})
        recipe = Recipe(**{**data["recipe"], "mirror": tuple(data["recipe"].get("mirror", ()))})
        return cls(**{**data, "rungs": tuple(data["rungs"]), "recipe": recipe, "parent": parent})


@dataclass(frozen=True, slots=True)
class CaseScore:
    """The scores of one class on one case.

    Rungs before the last score only some of the cases by some of the metrics of ``metrics/registry.py``.
    """

    case: str
    class_name: str
    values: Mapping[str, float | None]
    """Value by name of the metric; None where the class is absent from truth and prediction alike."""


@dataclass(frozen=True, slots=True)
class NetworkScores:
    """All scores of a trained network."""

    case_scores: tuple[CaseScore, ...]
    recalls: Mapping[str, tuple[SizeRecall, ...]]
    """Recall of small, medium and large targets by name of the class."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The scores of which ``data`` is the ``dataclasses.asdict``, read from JSON."""
        scores = tuple(CaseScore(**score) for score in data["case_scores"])
        recalls = {name: tuple(SizeRecall(**part) for part in parts) for name, parts in data["recalls"].items()}
        return cls(scores, recalls)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One rung of the learning curve."""

    step: int
    score: float
    """Mean over foreground classes of the mean Dice over cases. Before the last rung few cases are scored, the same for
    all evaluations of a study: rungs of one step can be compared, but the last rung with no earlier one."""
    loss: float
    """Mean training loss since the previous rung."""
    seconds: float
    """Seconds since the evaluation began."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of training and scoring an architecture under a budget and a seed."""

    outcome: Outcome
    reason: str = ""
    """Why it did not complete, in one sentence; empty when it did."""
    score: float | None = None
    """The objective at the last rung that was reached; None when no rung was."""
    case_scores: tuple[CaseScore, ...] = ()
    """Scores at the last rung that was reached."""
    curve: tuple[CurvePoint, ...] = ()
    """All rungs that were reached, those before a resumption too."""
    loss_sum: float | None = None
    """Sum of the losses of all training steps up to the last rung that was reached, which is low where training is fast
    (arXiv:2006.04492)."""
    n_parameters: int | None = None
    """Number of parameters of the trained (width-scaled) network."""
    seconds: float = 0.0
    """Seconds of work, those before a resumption too."""
    peak_mem_mib: float | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of all that decides the numbers; ``steps`` says how a GPU ran the training steps: "graph", or "eager: "
    and why."""
    traceback: str = ""
    insight: Insight = field(default_factory=Insight)
    predictions: tuple[Prediction, ...] = ()
    """Predictions for the cases that were scored last, in their order, where images may be shown."""
    needs_new_process: bool = False
    """Whether the process that computed it holds memory that only its end frees, so that another has to replace it."""


class Observer(Protocol):
    """Callbacks of an evaluation. Both may raise EvaluationInterrupted."""

    def on_step(self, step: int) -> None:
        """Called after every training step."""

    def on_rung(self, point: CurvePoint) -> bool:
        """Called at every rung but the last; returns whether to stop there (pruned)."""


class Evaluator(Protocol):
    """Trains and scores architectures. Instances are picklable and import torch only when called."""

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
        """Train and score ``architecture``; however it ends, the result is an Evaluation with a typed outcome.

        A design never makes it raise; a bug of ours is raised. Raises DeviceFailed when this process cannot be used any
        more, which says nothing about the design unless it happens again.

        ``checkpoint`` names a file for the state of this evaluation, written every minute or so, and after every rung
        but the last at which the observer let it go on. An interrupted evaluation resumes from there: the observer is
        called for later steps and rungs only, and the result is that of an uninterrupted run (on a CPU to the bit),
        with the whole curve. A file that is damaged or of another evaluation is not used. The caller deletes it when
        the result is stored.

        ``weights`` names a file (safetensors) for the trained network's parameters, written when it is complete.

        A complete evaluation whose score lies above ``diagnosed_above`` also returns zero-cost features and
        similarities of skips; with minus infinity, one that ends early returns the features, too. All evaluations
        return gradients by stage, and predictions where the task lets images be shown, unless it is infinity. No score
        depends on any of it.
        """


class NullObserver:
    """An observer that does nothing and never stops an evaluation."""

    def on_step(self, step: int) -> None:
        return None

    def on_rung(self, point: CurvePoint) -> bool:
        return False
