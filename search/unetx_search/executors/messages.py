"""Messages between an executor and a worker: orders and reports, plain data that go through a pipe or a cluster.

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
    """The order, given once, to load a pickled pair of evaluator and task."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Begin:
    """The order to evaluate a job."""

    number: int
    job: Job


@dataclass(frozen=True, slots=True)
class Answer:
    """The order that answers a reported rung: to prune the job or to go on."""

    number: int
    prune: bool


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The order to interrupt a job at its next step."""

    number: int


@dataclass(frozen=True, slots=True)
class Hello:
    """The report that the worker is up and listening, on a device of this name."""

    label: str


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The report that evaluator or task could not be unpickled; the worker ends."""

    traceback: str


@dataclass(frozen=True, slots=True)
class Started:
    """The report that an evaluation begins, in this process."""

    number: int
    process: ProcessIdentity


@dataclass(frozen=True, slots=True)
class Stepped:
    """The report that the training has reached a step."""

    number: int
    step: int


@dataclass(frozen=True, slots=True)
class ReachedRung:
    """The report of a score at a rung; the worker waits for an Answer."""

    number: int
    point: CurvePoint


@dataclass(frozen=True, slots=True)
class Finished:
    """The report that an evaluation has ended, with its result."""

    number: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The report that a job was interrupted, without a result."""

    number: int


@dataclass(frozen=True, slots=True)
class DiskFull:
    """The report that a job was stopped, as something could not be written."""

    number: int
    message: str


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """The report that the worker cannot use its device any more, and ends; its job is to be run in another."""

    number: int
    reason: str
    may_be_design: bool
    """Whether the job's own computation may have caused it, as in DeviceFailed."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The last report, by the process that started the worker: its exit code or signal in words."""

    how: str


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The last report, by the handle: the connection broke, so that nothing is known of the worker."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """The only report: no worker can do its work on that node, for this reason."""

    problem: str


Order = Setup | Begin | Answer | Interrupt
JobEnd = Finished | Interrupted | DiskFull | DeviceLost
JobReport = Started | Stepped | ReachedRung | JobEnd
Report = Hello | StartFailed | JobReport | Exited | ConnectionLost | Unfit
