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
    """An evaluation that an executor is to run in a worker."""

    trial: int
    architecture: Architecture
    budget: Budget
    seed: int
    checkpoint: Path | None = None
    """The file in which the evaluation keeps its state, and finds that of an earlier try; None keeps none."""
    weights: Path | None = None
    """The file for the trained parameters, as safetensors; None writes none."""
    diagnosed_above: float = -math.inf
    """The score above which the evaluation is diagnosed: zero-cost features, similarities."""


class Handler(Protocol):
    """Receives an executor's events, as the coordinator does. An error that it raises leaves ``poll``."""

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None:
        """The evaluation begins in slot ``worker`` on a device such as "GPU 0: NVIDIA H200", in a process."""

    def on_step(self, trial: int, step: int) -> None:
        """Training has reached ``step``; this is called for the first step, then about twice a second."""

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        """The evaluation has a score at a rung and waits for the answer: True prunes it."""

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        """The evaluation has ended, with whatever outcome. Its slot is free again."""

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        """The job's worker died, or its device failed in a way that the job may have caused.

        ``evaluation`` is the result, with the outcome CRASHED, for a job that is not given to another worker.
        """

    def on_preempted(self, trial: int, reason: str) -> None:
        """The worker, or the connection to it, was lost through no fault of the job, which is to be run again."""

    def on_interrupted(self, trial: int) -> None:
        """The job was stopped without a result and is to be run again. Its slot is free again."""


class Executor(Protocol):
    """Runs jobs in ``n_slots`` slots. To be used from one thread, as a context manager."""

    n_slots: int

    def n_free(self) -> int:
        """Return how many slots take a job now; one whose worker died does not before its GPU's memory is free."""

    def takes(self, trial: int) -> bool:
        """Return whether a slot takes this trial now; one whose device failed under it does only as the last."""
        return self.n_free() > 0

    def submit(self, job: Job) -> None:
        """Give the job to a free slot. Raises RuntimeError when no slot is free or the executor is closed."""

    def poll(self, handler: Handler, timeout_s: float) -> None:
        """Pass what has happened to the handler, after a wait of at most ``timeout_s`` for something to happen.

        Raises UnetxError when no slot is left in which workers can work, StorageFull when a worker cannot write; the
        worker's job has been reported as interrupted then.
        """

    def interrupt(self) -> None:
        """Ask every job under way to stop at its next step; ``on_interrupted`` follows through ``poll``.

        Jobs that are submitted later are not concerned. A job that ends by itself before is reported as finished.
        """

    def close(self, timeout_s: float = 10.0) -> None:
        """End all workers. Jobs under way are dropped without an event. May be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def failed_evaluation(
    outcome: Outcome, reason: str, *, curve: Sequence[CurvePoint] = (), seconds: float = 0.0, traceback: str = ""
) -> Evaluation:
    """Return the evaluation of a training that failed, with the points of its curve that were reached."""
    return Evaluation(
        outcome,
        reason,
        score=curve[-1].score if curve else None,
        curve=tuple(curve),
        seconds=seconds,
        traceback=traceback,
    )
