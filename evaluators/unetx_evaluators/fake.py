"""A closed-form evaluator for tests and simulations, which can also inject faults; no torch.

The final score of an architecture under a seed, with n decoder nodes of which n_own read the encoder stage of their
own level, n_far read another level too, n_attention have attention and n_concat fuse by concatenation::

    score = 0.55 + 0.25 n_own/n + 0.03 n_far/n + 0.02 n_attention/n + 0.01 n_concat/n + noise * u

so that a U-Net beats a net without skips by far and all else matters little, as on real data. u in [-1, 1) is drawn
from SHA-256 of (backbone, genome, seed). After step t of T the score is s(t) = score * (1 - e^(-4t/T)) / (1 - e^-4),
and the loss 1 - s(t), whose sum runs over the rungs only. Cases of a class lie evenly within 0.03 around the score, so
that their mean is the score.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from unetx_evaluators.evaluation import (
    OBJECTIVE,
    Budget,
    CaseScore,
    CurvePoint,
    DeviceFailed,
    Evaluation,
    Observer,
    Outcome,
)
from unetx_evaluators.tasks.task import IGNORED
from unetx_evaluators.views import Prediction, slice_axis, view_of
from unetx_space.architecture import Architecture
from unetx_space.files import write_whole
from unetx_space.genome import NO_ATTENTION, DecoderNode, StageRef, encoder
from unetx_space.operators.catalogue import PLAIN_FUSION

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

CASE_SPREAD = 0.03

_failed: list[DeviceFailed] = []
"""The error that the device of this process raises since it failed, as a CUDA context does."""


class InjectedFault(StrEnum):
    """Faults that can be injected into an evaluation."""

    RAISE = "raise"  # an ordinary error
    RAISE_UNPICKLABLE = "raise-unpicklable"  # an error that no pipe can carry
    RETURN_UNPICKLABLE = "return-unpicklable"  # a result that no pipe can carry
    EXIT = "exit"  # os._exit(3)
    SEGFAULT = "segfault"  # SIGSEGV to its own process
    KILL = "kill"  # SIGKILL, as the kernel does when memory runs out
    HANG = "hang"  # never calls its observer again
    HANG_IN_C = "hang-in-c"  # the same without letting any other thread run
    ALLOCATE = "allocate"  # more memory than any machine has
    DEVICE_ASSERT = "device-assert"  # its device fails, for every later evaluation of the process, too
    DEVICE_GONE = "device-gone"  # the same, with an error that no computation brings about
    FULL_DISK = "full-disk"  # a write that fails with ENOSPC, as on a full disk


@dataclass(frozen=True, slots=True)
class FakeEvaluator:
    """Scores by the formula in the module's docstring. It is picklable, and behaves the same in every process."""

    noise: float = 0.01
    """Largest distance from the noiseless score."""
    seconds_per_step: float = 0.0
    acts_by_seed: Mapping[int, InjectedFault | Outcome] = field(default_factory=dict)
    """The fault to inject, or the outcome to return at once, by seed of the evaluation."""
    acts_by_call: Mapping[int, InjectedFault | Outcome] = field(default_factory=dict)
    """The fault or outcome by number of the evaluation, counted from 0 over all processes; needs ``calls_folder``."""
    act_after_step: int = 0
    """Training step after which the fault or outcome comes; 0 is before the first step."""
    calls_folder: Path | None = None
    """A folder in which each evaluation writes ``{n}.json``: process id, seed and the architecture's digest."""
    shown_variables: tuple[str, ...] = ()
    """Environment variables to put into ``versions`` as this process sees them, beside ``pid`` and ``torch``."""
    ballast_bytes: int = 0
    """Number of bytes to add to the result."""
    predicts: bool = False
    """Whether to return predictions, too: the reference, moved by a voxel along every axis."""

    def __post_init__(self) -> None:
        if self.acts_by_call and self.calls_folder is None:
            raise ValueError("acts_by_call counts calls over processes in a calls_folder, got none")

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
        """Evaluate as an Evaluator does, unless a fault is to be injected."""
        for failed in _failed:
            raise failed
        act = self.acts_by_seed.get(seed)
        if self.calls_folder is not None:
            call = _register_call(self.calls_folder, {"pid": os.getpid(), "seed": seed, "digest": digest(architecture)})
            act = self.acts_by_call.get(call, act)
        final = self.final_score(architecture, seed)
        identity = f"{digest(architecture)} {task.digest} {budget} {seed}"
        curve = _saved_curve(checkpoint, identity)
        began_s = time.monotonic() - (curve[-1].seconds if curve else 0.0)
        if act is not None and self.act_after_step == 0:
            return _perform(act)
        for step in range(curve[-1].step + 1 if curve else 1, budget.steps + 1):
            time.sleep(self.seconds_per_step)
            observer.on_step(step)
            if time.monotonic() - began_s > budget.max_seconds:
                return self._answer(Outcome.TIMED_OUT, f"longer than {budget.max_seconds:g} s", curve, began_s)
            if step in budget.rungs:
                score = final * learning_curve(step / budget.steps)
                curve.append(CurvePoint(step, score, 1.0 - score, time.monotonic() - began_s))
                if step < budget.steps:
                    if observer.on_rung(curve[-1]):
                        return self._answer(Outcome.PRUNED, f"behind at step {step}", curve, began_s)
                    if checkpoint is not None:
                        checkpoint.parent.mkdir(parents=True, exist_ok=True)
                        state = {"identity": identity, "curve": list(map(astuple, curve))}
                        write_whole(checkpoint, json.dumps(state), durable=False)
            if act is not None and self.act_after_step == step:
                return _perform(act)
        if weights is not None:
            weights.parent.mkdir(parents=True, exist_ok=True)
            weights.write_bytes(b"")
        answer = self._answer(Outcome.COMPLETE, "", curve, began_s, case_scores(task, budget, final))
        is_shown = self.predicts and diagnosed_above < math.inf and not task.no_images
        return replace(answer, predictions=_moved(task, budget) if is_shown else ())

    def final_score(self, architecture: Architecture, seed: int) -> float:
        """The score of a complete evaluation."""
        nodes = architecture.genome.nodes
        drawn = hashlib.sha256(f"{digest(architecture)}:{seed}".encode()).digest()
        return (
            0.55
            + 0.25 * _share(nodes, lambda node: _own_skip(node) in node.sources)
            + 0.03 * _share(nodes, lambda node: any(source != _own_skip(node) for source in node.sources))
            + 0.02 * _share(nodes, lambda node: node.attention != NO_ATTENTION)
            + 0.01 * _share(nodes, lambda node: node.fusion == PLAIN_FUSION)
            + self.noise * (int.from_bytes(drawn[:8], "big") / 2**63 - 1.0)
        )

    def _answer(
        self,
        outcome: Outcome,
        reason: str,
        curve: Sequence[CurvePoint],
        began_s: float,
        scores: tuple[CaseScore, ...] = (),
    ) -> Evaluation:
        return Evaluation(
            outcome,
            reason,
            score=curve[-1].score if curve else None,
            case_scores=scores,
            curve=tuple(curve),
            loss_sum=sum(point.loss for point in curve) if curve else None,
            seconds=time.monotonic() - began_s,
            device="fake",
            versions={
                "pid": str(os.getpid()),
                "torch": "imported" if "torch" in sys.modules else "absent",
                **{name: os.environ[name] for name in self.shown_variables if name in os.environ},
                **({"ballast": "x" * self.ballast_bytes} if self.ballast_bytes else {}),
            },
        )


def learning_curve(progress: float) -> float:
    """The share of the final score that is reached after a share of the steps: 0 at 0, 1 at 1, concave."""
    return math.expm1(-4.0 * progress) / math.expm1(-4.0)


def case_scores(task: Task, budget: Budget, mean: float) -> tuple[CaseScore, ...]:
    """Dice for each foreground class and validation case, with the given mean in every class."""
    cases = task.splits.validation[: budget.validation_cases]
    half = (len(cases) - 1) / 2
    spread = CASE_SPREAD / half if half else 0.0
    return tuple(
        CaseScore(case, class_name, {OBJECTIVE: mean + spread * (position - half)})
        for class_name in task.classes[1:]
        for position, case in enumerate(cases)
    )


def _moved(task: Task, budget: Budget) -> tuple[Prediction, ...]:
    found = []
    for case in task.splits.validation[: budget.validation_cases]:
        truth = np.where(task.label(case) == IGNORED, 0, task.label(case)).astype(np.uint8)
        moved = np.roll(truth, 1, tuple(range(truth.ndim)))
        found.append(Prediction.of(case, view_of(truth, slice_axis(task)), moved))
    return tuple(found)


def digest(architecture: Architecture) -> str:
    """SHA-256 of the JSON of backbone and genome, the same in every process."""
    document = {"backbone": architecture.backbone.to_json(), "genome": architecture.genome.to_json()}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _saved_curve(checkpoint: Path | None, identity: str) -> list[CurvePoint]:
    """The curve of the same evaluation in a checkpoint; empty for a file that is damaged or of another."""
    try:
        state = json.loads(checkpoint.read_text(encoding="utf-8")) if checkpoint is not None else {}
    except (OSError, ValueError):
        return []
    return [CurvePoint(*point) for point in state["curve"]] if state.get("identity") == identity else []


def _share(nodes: Sequence[DecoderNode], holds: Callable[[DecoderNode], bool]) -> float:
    return sum(map(holds, nodes)) / len(nodes)


def _own_skip(node: DecoderNode) -> StageRef:
    return encoder(node.ref.level)


def _register_call(folder: Path, facts: Mapping[str, object]) -> int:
    """Take the next free number among all processes, and write the facts into its file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(sum(1 for _ in folder.iterdir())):
        try:
            with (folder / f"{number}.json").open("x", encoding="utf-8") as file:
                json.dump(facts, file)
        except FileExistsError:
            continue  # another process was faster
        return number
    raise AssertionError("numbers never end")


class UnpicklableError(Exception):
    """An error that cannot be pickled, as those of some C++ libraries."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("this object cannot be pickled")


class _Unpicklable(str):
    def __reduce__(self) -> NoReturn:
        raise TypeError("this object cannot be pickled")


def _perform(act: InjectedFault | Outcome) -> Evaluation:
    """Return the outcome that was asked for, or inject a fault."""
    match act:
        case Outcome():
            return Evaluation(act, "" if act is Outcome.COMPLETE else f"{act.value} on request", device="fake")
        case InjectedFault.RAISE:
            raise ArithmeticError("an error on request")
        case InjectedFault.RAISE_UNPICKLABLE:
            raise UnpicklableError("an error on request")
        case InjectedFault.RETURN_UNPICKLABLE:
            return Evaluation(Outcome.COMPLETE, _Unpicklable())
        case InjectedFault.EXIT:
            os._exit(3)
        case InjectedFault.SEGFAULT | InjectedFault.KILL:
            os.kill(os.getpid(), signal.SIGSEGV if act is InjectedFault.SEGFAULT else signal.SIGKILL)
        case InjectedFault.HANG_IN_C:
            sum(itertools.repeat(0))  # an endless loop in C that keeps the interpreter's lock
        case InjectedFault.ALLOCATE:
            bytearray(2**62)
        case InjectedFault.DEVICE_ASSERT | InjectedFault.DEVICE_GONE:
            is_assert = act is InjectedFault.DEVICE_ASSERT
            words = "device-side assert triggered" if is_assert else "no CUDA-capable device is detected"
            _failed.append(DeviceFailed(f"CUDA error: {words}", may_be_design=is_assert))
            raise _failed[0]
        case InjectedFault.FULL_DISK:
            with Path("/dev/full").open("wb", buffering=0) as full:
                full.write(b"x")
    while True:  # hang, or wait for the signal
        time.sleep(3600.0)
