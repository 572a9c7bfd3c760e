"""The short-proxy evaluator: what an architecture is worth after a little training; torch only once it is called."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_evaluators.endings import EvaluationEnded
from unetx_evaluators.evaluation import Budget, DataError, Evaluation, Observer, Outcome
from unetx_evaluators.recipe import Recipe
from unetx_space.architecture import Architecture
from unetx_space.validity import faults

if TYPE_CHECKING:
    from unetx_evaluators.device import DeviceProfile
    from unetx_evaluators.tasks.task import Task
    from unetx_evaluators.trainer import Progress
    from unetx_space.backbone import Backbone


@dataclass(frozen=True, slots=True)
class ProxyEvaluator:
    """Trains the architecture, its widths scaled by the budget, and scores it on the task's selection cases.

    On a CPU the same architecture, task, budget, seed and number of threads give the same bits. Not thread-safe: it
    sets torch's number of threads while it works. Each process keeps the cases of the last task open.
    """

    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:INDEX``."""
    n_threads: int = 1
    """CPU threads of torch; more of them pay off less than more workers."""
    recipe: Recipe = field(default_factory=Recipe)

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
        """Every ending is an Evaluation, with what was known by then.

        Raises RequestError when the device is not there, EvaluationInterrupted from the observer, and our own bugs.
        """
        from unetx_evaluators import device as devices
        from unetx_evaluators.trainer import Progress

        profile = devices.profile(self.device)
        progress = Progress(budget.max_seconds)
        training = partial(self._train, architecture, task, budget, seed, observer, profile, progress)
        with devices.tuned(profile, self.n_threads):
            memory = devices.PeakMemory(profile.device)
            ending = _ending_of(training)
            if ending.outcome is Outcome.OUT_OF_MEMORY:
                devices.release_memory(profile.device)
            return replace(
                ending,
                score=progress.curve[-1].score if progress.curve else None,
                case_scores=progress.case_scores,
                curve=tuple(progress.curve),
                n_parameters=progress.n_parameters,
                seconds=progress.seconds,
                peak_mem_mib=memory.mib(),
                device=profile.name,
                versions=devices.versions(),
            )

    def _train(
        self,
        architecture: Architecture,
        task: Task,
        budget: Budget,
        seed: int,
        observer: Observer,
        profile: DeviceProfile,
        progress: Progress,
    ) -> None:
        """Check, open, build, try one step, train; what comes out is noted in ``progress``."""
        from unetx_evaluators.cases import open_cases
        from unetx_evaluators.device import memory_format, trusted
        from unetx_evaluators.dry_run import dry_run
        from unetx_evaluators.trainer import train

        if problems := [*map(str, faults(architecture, task.patch)), *_misfits(architecture.backbone, task)]:
            raise EvaluationEnded(Outcome.INFEASIBLE, "; ".join(problems))
        profile = trusted(profile, architecture.backbone.sizes(task.patch))
        cases = open_cases(task, profile, budget.selection_cases)
        trained = replace(architecture, backbone=architecture.backbone.scaled(budget.width_factor))
        network = trained.build(seed=seed).to(profile.device)
        network.to(memory_format=memory_format(task.dims))  # type: ignore[call-overload]  # not in torch's stubs
        progress.n_parameters = sum(parameter.numel() for parameter in network.parameters())
        if reasons := dry_run(network, trained.backbone, task.patch, profile).faults:
            raise EvaluationEnded(Outcome.INFEASIBLE, "; ".join(reasons))
        train(network, cases, task, budget, self.recipe, seed, profile, observer, progress)


def _misfits(backbone: Backbone, task: Task) -> Iterator[str]:
    """Why a network on this backbone cannot read the task's images or name its classes."""
    for what, has, needs in (
        ("dimensions", backbone.dims, task.dims),
        ("input channels", backbone.in_channels, len(task.channels)),
        ("output channels (classes with background)", backbone.out_channels, len(task.classes)),
    ):
        if has != needs:
            yield f"the architecture has {has} {what} and task {task.name} needs {needs}; take its backbone"


def _ending_of(training: Callable[[], None]) -> Evaluation:
    """Outcome, reason and traceback of a training; what is nobody's fault but ours flies out."""
    from unetx_evaluators.device import is_out_of_memory

    try:
        training()
    except EvaluationEnded as end:
        return Evaluation(end.outcome, end.reason)
    except DataError as error:
        return Evaluation(Outcome.DATA_ERROR, str(error), traceback=traceback.format_exc())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0] or type(error).__name__
        return Evaluation(Outcome.OUT_OF_MEMORY, first_line, traceback=traceback.format_exc())
    return Evaluation(Outcome.COMPLETE)
