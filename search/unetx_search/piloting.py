"""Runs the pilot of a dataset on a search's own workers, once, and keeps what it settled with the prepared task."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.pilot import Limits, Pilot, PilotJob, settle
from unetx_evaluators.tasks.cache import read_json, usable
from unetx_search.executors.base import Job, failed_evaluation
from unetx_space.architecture import Architecture
from unetx_space.errors import UnetxError
from unetx_space.files import write_whole
from unetx_space.presets import PRESETS

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation
    from unetx_evaluators.tasks import Task
    from unetx_search.executors.base import Executor
    from unetx_studies.processes import ProcessIdentity

FORMAT = 3
"""Raised whenever the same question would be answered differently."""
FOLDER = "pilots"
"""In a task's folder."""
PRESET = "u-net"
SEED = 0
"""Of all trainings of a pilot: apart from --seed, since its answer is of the dataset."""

ExecutorOf = Callable[["Task"], "Executor"]
"""Opens an executor of the search's workers on a task."""
PreparedAt = Callable[[tuple[float, ...]], "Task"]
"""The task at another voxel size."""


class PilotFailed(UnetxError):
    """Not one training of a pilot's round was completed. CLI exit code 1."""


@dataclass(frozen=True, slots=True)
class PilotFile:
    """Where a pilot's answer is kept: in the task's folder, named by all that the answer depends on."""

    path: Path

    @classmethod
    def of(cls, task: Task, budget: Budget, limits: Limits) -> PilotFile:
        question = json.dumps([FORMAT, task.digest, asdict(budget), asdict(limits)], sort_keys=True)
        return cls(task.folder / FOLDER / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.json")

    def read(self) -> Pilot | None:
        """None where there is none, or none that can be used."""
        data = read_json(self.path)
        try:
            return None if data is None else Pilot.from_json(data)
        except (KeyError, TypeError, ValueError):
            return None

    def write(self, pilot: Pilot) -> None:
        with usable(self.path.parent):
            self.path.parent.mkdir(exist_ok=True)
            write_whole(self.path, json.dumps(pilot.to_json(), indent=2) + "\n")


def piloted(
    task: Task, budget: Budget, limits: Limits, executor_of: ExecutorOf, prepared_at: PreparedAt, console: Console
) -> Pilot:
    """What the pilot of a task settles about a budget: found with the task, or run now.

    Raises PilotFailed when a whole round comes to nothing, and what executors raise.
    """
    kept = PilotFile.of(task, budget, limits)
    pilot = kept.read()
    if pilot is None:
        pilot = _Pilot(task, executor_of, prepared_at, console).run(budget, limits)
        kept.write(pilot)
    return pilot


class _Pilot:
    """A pilot under way."""

    def __init__(self, task: Task, executor_of: ExecutorOf, prepared_at: PreparedAt, console: Console) -> None:
        self._task = task
        self._executor_of = executor_of
        self._prepared_at = prepared_at
        self._console = console

    def run(self, budget: Budget, limits: Limits) -> Pilot:
        self._say("pilot: short trainings of the U-Net settle how this dataset is trained (once; --no-pilot spares it)")
        rounds, told = settle(budget, limits), 0
        try:
            jobs = next(rounds)
            while True:
                answers = self._answered(jobs)
                if not any(answer.outcome is Outcome.COMPLETE for answer in answers):
                    raise PilotFailed(_why_failed(jobs[0], answers[0]))
                for job, answer in zip(jobs, answers, strict=True):
                    told += 1
                    self._say(f"  {job.words}: {_told(answer)}")
                jobs = rounds.send(answers)
        except StopIteration as end:
            pilot: Pilot = end.value
        for reason in pilot.reasons.values():
            self._say(f"  {reason}")
        return pilot

    def _answered(self, jobs: Sequence[PilotJob]) -> list[Evaluation]:
        """In the order of the jobs; those of one voxel size run together."""
        answers: dict[int, Evaluation] = {}
        for spacing in dict.fromkeys(job.spacing for job in jobs):
            task = self._task
            if spacing is not None and spacing != task.alternatives[-1]:  # the last is the task's own
                task = self._prepared_at(spacing)
            architecture = Architecture(task.backbone(), PRESETS[PRESET].genome(len(task.strides)))
            numbered = {n: job for n, job in enumerate(jobs) if job.spacing == spacing}
            with self._executor_of(task) as executor:
                jobs_there = [
                    Job(n, architecture, job.budget, SEED, diagnosed_above=math.inf) for n, job in numbered.items()
                ]
                answers |= Answers().of(executor, jobs_there)
        return [answers[n] for n in range(len(jobs))]

    def _say(self, words: str) -> None:
        self._console.print(words, markup=False, soft_wrap=True)


@dataclass(slots=True)
class Answers:
    """Collects the evaluations of a few jobs; an executor's Handler."""

    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    _waiting: list[Job] = field(default_factory=list)
    _jobs: dict[int, Job] = field(default_factory=dict)

    def of(self, executor: Executor, jobs: Sequence[Job]) -> dict[int, Evaluation]:
        """All of them, by the jobs' numbers."""
        self._jobs = {job.trial: job for job in jobs}
        self._waiting = list(jobs)
        while len(self.evaluations) < len(jobs):
            while self._waiting and executor.n_free() > 0:
                executor.submit(self._waiting.pop(0))
            executor.poll(self, timeout_s=0.5)
        return self.evaluations

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None: ...

    def on_step(self, trial: int, step: int) -> None: ...

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.evaluations[trial] = evaluation

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.evaluations[trial] = evaluation

    def on_displaced(self, trial: int, reason: str) -> None:
        self._waiting.append(self._jobs[trial])

    def on_interrupted(self, trial: int) -> None:
        self.evaluations[trial] = failed_evaluation(Outcome.CRASHED, "interrupted")


def _told(answer: Evaluation) -> str:
    if answer.outcome is not Outcome.COMPLETE or answer.score is None:
        return f"{answer.outcome}: {answer.reason}"
    return f"Dice {answer.score:.4f} in {answer.seconds:.0f} s"


def _why_failed(job: PilotJob, answer: Evaluation) -> str:
    return (
        f"the pilot's trainings of the U-Net all failed, so a search would only burn time; the one with {job.words} "
        f"ended as {answer.outcome}: {answer.reason}"
    )
