"""What an executor and a worker tell each other, wherever the worker runs: plain data, through a pipe or a cluster.

Whatever concerns a job carries the job's number, which no other job of this executor has. So orders may overtake one
another, and a message about a job that has ended concerns nobody. A worker's reports come in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from unetx_evaluators.evaluation import CurvePoint, Evaluation
from unetx_search.executors.base import Job
from unetx_studies.processes import ProcessIdentity


@dataclass(frozen=True, slots=True)
class Setup:
    """Order, once: load this pickled pair of evaluator and task."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Begin:
    """Order: evaluate this job."""

    number: int
    job: Job


@dataclass(frozen=True, slots=True)
class Answer:
    """Order: what to do at the rung that the job has reported."""

    number: int
    prune: bool


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Order: leave the job at its next step."""

    number: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Report: the worker is up and listening, on this device."""

    label: str


@dataclass(frozen=True, slots=True)
class StartFailed:
    """Report: the evaluator or the task could not be unpickled; the worker ends."""

    traceback: str


@dataclass(frozen=True, slots=True)
class Started:
    """Report: the evaluation begins."""

    number: int
    process: ProcessIdentity


@dataclass(frozen=True, slots=True)
class Stepped:
    """Report: training reached this step."""

    number: int
    step: int


@dataclass(frozen=True, slots=True)
class ReachedRung:
    """Report: what is known at a rung; an Answer is awaited."""

    number: int
    point: CurvePoint


@dataclass(frozen=True, slots=True)
class Finished:
    """Report: the evaluation has ended, with this result."""

    number: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Report: the job was left without a result, as asked."""

    number: int


@dataclass(frozen=True, slots=True)
class DiskFull:
    """Report: the job was left because something could not be written."""

    number: int
    message: str


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """Report: the worker can no longer use its device, and ends; the job is to be run in another."""

    number: int
    reason: str
    may_be_design: bool
    """Whether the job's own computation may have caused it, as in DeviceFailed."""


@dataclass(frozen=True, slots=True)
class Exited:
    """Report, the last one, by the process that started the worker: the worker's exit code or signal in words."""

    how: str


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """Report, the last one, by the handle: whatever lay between broke, so that nothing is known of the worker."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """Report, the only one: no worker can do its work there."""

    problem: str


Order = Setup | Begin | Answer | Interrupt
JobEnd = Finished | Interrupted | DiskFull | DeviceLost
JobReport = Started | Stepped | ReachedRung | JobEnd
Report = Hello | StartFailed | JobReport | Exited | ConnectionLost | Unfit
