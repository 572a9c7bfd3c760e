"""What the coordinator and an executor promise each other; no torch here.

An executor owns worker slots. The coordinator hands it jobs and polls; everything that happened is told to a handler
from inside ``poll``, in the coordinator's own thread, so that there is one writer and nothing to lock. The life of a
submitted job, told in this order::

    on_started   (on_step | on_rung)*   on_finished
                                      | on_lost
                                      | on_preempted
                                      | on_interrupted

A job that is withdrawn before it began is only told as ``on_interrupted``, one that could not begin where it was to run
only as ``on_preempted``. Every submitted job ends in exactly one of ``on_finished``, ``on_lost``, ``on_preempted`` and
``on_interrupted``, unless the executor is closed first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation, Outcome
from unetx_space.architecture import Architecture
from unetx_studies.processes import ProcessIdentity


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is asked: one evaluation."""

    trial: int
    architecture: Architecture
    budget: Budget
    seed: int
    checkpoint: Path | None = None
    """Where the evaluation keeps its state at rungs, and finds that of an earlier try."""
    weights: Path | None = None
    """Where the trained parameters go."""
    diagnosed_above: float = -math.inf
    """The score above which the evaluation is diagnosed: zero-cost features, similarities."""


class Handler(Protocol):
    """Who is told what happened: the coordinator. An error it raises flies out of ``poll``."""

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None:
        """The evaluation begins in slot ``worker`` on a device such as "GPU 0: NVIDIA H200", in a process."""

    def on_step(self, trial: int, step: int) -> None:
        """Training reached ``step``; the first step is told, then about two a second."""

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        """What is known at a rung; the evaluation waits for the answer. True: prune."""

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        """The answer, whatever its outcome. The slot is free again when this is told."""

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        """Its worker's exit code or signal speaks against it, or an error of its device that it may have caused.

        ``evaluation`` is what that comes to, CRASHED, should the job not be given to another worker.
        """

    def on_preempted(self, trial: int, reason: str) -> None:
        """The worker, or the way to it, was lost through no fault of the job: to be run again from its checkpoint."""

    def on_interrupted(self, trial: int) -> None:
        """Left without a result, to be run again. The slot is free again when this is told."""


class Executor(Protocol):
    """Runs jobs in ``n_slots`` slots. To be used from one thread, as a context manager."""

    n_slots: int

    def n_free(self) -> int:
        """Slots that take a job now. A slot whose last worker died takes none before its memory is free again."""

    def takes(self, trial: int) -> bool:
        """A slot takes this trial now: not where its device failed under it, as long as there are other devices."""
        return self.n_free() > 0

    def submit(self, job: Job) -> None:
        """Give a free slot the job. Raises RuntimeError when no slot is free or the executor is closed."""

    def poll(self, handler: Handler, timeout_s: float) -> None:
        """Tell the handler what happened; wait at most ``timeout_s`` for something, return earlier at will.

        Raises UnetxError when no slot is left in which workers can work, StorageFull when a worker cannot write: its
        job has been told as interrupted then.
        """

    def interrupt(self) -> None:
        """Ask every job under way to stop at its next step; ``on_interrupted`` follows through ``poll``.

        Jobs submitted later are not concerned. A job that ends by itself first is told as finished.
        """

    def close(self, timeout_s: float = 10.0) -> None:
        """Leave no process behind, whatever happened; jobs under way are dropped without a word. May be repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def failed_evaluation(
    outcome: Outcome, reason: str, *, curve: Sequence[CurvePoint] = (), seconds: float = 0.0, traceback: str = ""
) -> Evaluation:
    """What an executor answers for an evaluator that could not; rungs that were reached still count."""
    return Evaluation(
        outcome,
        reason,
        score=curve[-1].score if curve else None,
        curve=tuple(curve),
        seconds=seconds,
        traceback=traceback,
    )
