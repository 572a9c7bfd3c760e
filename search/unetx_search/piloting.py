"""Runs the pilot of a dataset on a search's own workers, once, and keeps what it settled with the prepared task."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.pilot import Limits, Pilot, PilotJob, settle
from unetx_evaluators.tasks.cache import read_json, reporting_write_errors
from unetx_search.executors.base import Job, failed_evaluation
from unetx_search.progress import say
from unetx_space.architecture import Architecture
from unetx_space.errors import Interrupted, UnetxError
from unetx_space.files import write_whole
from unetx_space.presets import PRESETS

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation
    from unetx_evaluators.tasks import Task
    from unetx_search.executors.base import Executor
    from unetx_studies.processes import ProcessIdentity

FORMAT = 4
"""The version of the answers, which is raised whenever the same question would be answered differently."""
PILOTS = "pilots"
"""Name of the folder in a task's, and in the package for the built-in demo, that keeps pilots' answers."""
PRESET = "u-net"
ExecutorOf = Callable[["Task"], "Executor"]
"""Opens an executor of the search's workers on a task."""
PreparedAt = Callable[[tuple[float, ...]], "Task"]
"""Prepares the task at another voxel size."""


class PilotFailed(UnetxError):
    """No training of a pilot's first round was completed. CLI exit code 1."""


@dataclass(frozen=True, slots=True)
class PilotFile:
    """The file that keeps a pilot's answer, in the task's folder and named by all that the answer depends on."""

    path: Path

    @classmethod
    def of(cls, task: Task, budget: Budget, limits: Limits) -> PilotFile:
        question = json.dumps([FORMAT, task.digest, asdict(budget), asdict(limits)], sort_keys=True)
        return cls(task.folder / PILOTS / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.json")

    def read(self) -> Pilot | None:
        """Read the answer in the task's folder, or in the package; None where there is none that can be used."""
        with as_file(files("unetx_evaluators") / PILOTS / self.path.name) as packaged:
            answers = map(_pilot_in, (self.path, packaged))
            return next((pilot for pilot in answers if pilot is not None), None)

    def write(self, pilot: Pilot) -> None:
        with reporting_write_errors(self.path.parent):
            self.path.parent.mkdir(exist_ok=True)
            write_whole(self.path, json.dumps(pilot.to_json(), indent=2) + "\n")


def _pilot_in(file: Path) -> Pilot | None:
    data = read_json(file)
    try:
        return None if data is None else Pilot.from_json(data)
    except (KeyError, TypeError, ValueError):
        return None


def piloted(
    task: Task, budget: Budget, limits: Limits, executor_of: ExecutorOf, prepared_at: PreparedAt, console: Console
) -> Pilot:
    """Return what the pilot of a task settles about a budget; it is read from the task's folder, or run now.

    Raises PilotFailed when no training of the first round is completed, and what executors raise.
    """
    kept = PilotFile.of(task, budget, limits)
    pilot = kept.read()
    if pilot is None:
        pilot = _Pilot(task, executor_of, prepared_at, console).run(budget, limits)
        kept.write(pilot)
    return pilot


class _Pilot:
    """Runs a pilot."""

    def __init__(self, task: Task, executor_of: ExecutorOf, prepared_at: PreparedAt, console: Console) -> None:
        self._task = task
        self._executor_of = executor_of
        self._prepared_at = prepared_at
        self._console = console

    def run(self, budget: Budget, limits: Limits) -> Pilot:
        say(
            self._console,
            "pilot: short trainings of the U-Net settle how this dataset is trained (once; --no-pilot spares it)",
        )
        rounds, is_any_complete = settle(budget, limits), False
        try:
            jobs = next(rounds)
            while True:
                with RoundBar(jobs, self._console) as bar:
                    answers = self._answered(jobs, bar)
                is_any_complete |= any(answer.outcome is Outcome.COMPLETE for answer in answers)
                if not is_any_complete:
                    raise PilotFailed(_why_failed(jobs[0], answers[0]))
                for job, answer in zip(jobs, answers, strict=True):
                    say(self._console, f"  {job.description}: {_result_words(answer)}")
                jobs = rounds.send(answers)
        except StopIteration as end:
            pilot: Pilot = end.value
        for reason in pilot.reasons.values():
            say(self._console, f"  {reason}")
        return pilot

    def _answered(self, jobs: Sequence[PilotJob], bar: RoundBar) -> list[Evaluation]:
        """Run the jobs, those of one voxel size together, and return their evaluations in order."""
        answers: dict[int, Evaluation] = {}
        for spacing in dict.fromkeys(job.spacing for job in jobs):
            task = self._task
            if spacing is not None and spacing != task.alternatives[-1]:  # the last is the task's own
                task = self._prepared_at(spacing)
            architecture = Architecture(task.backbone(), PRESETS[PRESET].genome(len(task.strides)))
            numbered = {n: job for n, job in enumerate(jobs) if job.spacing == spacing}
            with self._executor_of(task) as executor:
                jobs_there = [
                    Job(n, architecture, job.budget, job.seed, diagnosed_above=math.inf) for n, job in numbered.items()
                ]
                answers |= Answers(bar).of(executor, jobs_there)
        return [answers[n] for n in range(len(jobs))]


class RoundBar:
    """Shows the progress of a pilot's round on a terminal, in steps and trainings; nothing elsewhere."""

    def __init__(self, jobs: Sequence[PilotJob], console: Console) -> None:
        trainings = TextColumn("{task.fields[n_done]} of {task.fields[n_jobs]} trainings")
        steps = TextColumn("{task.completed:.0f} of {task.total:.0f} steps")
        columns = (TextColumn("pilot: {task.description}"), BarColumn(), trainings, steps, TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._budgets = [job.budget.steps for job in jobs]
        self._steps = [0] * len(jobs)
        self._n_done = 0
        self._task = self._progress.add_task(jobs[0].round, total=sum(self._budgets), n_done=0, n_jobs=len(jobs))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._progress.stop()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                f"stopped in the pilot with {self._n_done} of {len(self._budgets)} trainings of its round done; the "
                "prepared data are kept, and the same command begins the pilot anew"
            ) from error

    def on_step(self, trial: int, step: int) -> None:
        """A training has come to ``step``, which is lower again where its worker was lost."""
        self._steps[trial] = step
        self._progress.update(self._task, completed=sum(self._steps), n_done=self._n_done)

    def on_end(self, trial: int) -> None:
        """A training is over, however it ended."""
        self._n_done += 1
        self.on_step(trial, self._budgets[trial])


@dataclass(slots=True)
class Answers:
    """Runs a few jobs and collects their evaluations, as the Handler of an executor's events."""

    bar: RoundBar
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    _waiting: list[Job] = field(default_factory=list)
    _jobs: dict[int, Job] = field(default_factory=dict)

    def of(self, executor: Executor, jobs: Sequence[Job]) -> dict[int, Evaluation]:
        """Run all jobs and return their evaluations by the jobs' numbers."""
        self._jobs = {job.trial: job for job in jobs}
        self._waiting = list(jobs)
        while len(self.evaluations) < len(jobs):
            while self._waiting and executor.n_free() > 0:
                executor.submit(self._waiting.pop(0))
            executor.poll(self, timeout_s=0.5)
        return self.evaluations

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None: ...

    def on_step(self, trial: int, step: int) -> None:
        self.bar.on_step(trial, step)

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._end(trial, evaluation)

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._end(trial, evaluation)

    def on_preempted(self, trial: int, reason: str) -> None:
        self._waiting.append(self._jobs[trial])

    def on_interrupted(self, trial: int) -> None:
        self._end(trial, failed_evaluation(Outcome.CRASHED, "interrupted"))

    def _end(self, trial: int, evaluation: Evaluation) -> None:
        self.evaluations[trial] = evaluation
        self.bar.on_end(trial)


def _result_words(answer: Evaluation) -> str:
    if answer.outcome is not Outcome.COMPLETE or answer.score is None:
        return f"{answer.outcome}: {answer.reason}"
    return f"Dice {answer.score:.4f} in {answer.seconds:.0f} s"


def _why_failed(job: PilotJob, answer: Evaluation) -> str:
    return (
        "the pilot's trainings of the U-Net all failed, so a search would only burn time; the one with "
        f"{job.description} ended as {answer.outcome}: {answer.reason}"
    )
