"""What the executors on clusters share: workers on machines that see the same files as the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Evaluator
from unetx_search.executors.base import Job
from unetx_search.executors.shared_files_check import SharedFilesCheck
from unetx_search.executors.slot_state import H, SlotState
from unetx_search.executors.slots import Slot
from unetx_search.executors.supervisor import Supervisor, Wait
from unetx_search.executors.worker_holder import Start
from unetx_space.errors import UnetxError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task


class ClusterExecutor(Supervisor[H]):
    """Workers all over a cluster, which show before their first job that they reach the task's arrays and, where one is
    given, the folder of the ``checkpoints``."""

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        start: Callable[[Start], H],
        wait: Wait[H],
        *,
        workers_per_gpu: int,
        checkpoints: Path | None,
        log_folder: Path | None,
        overtime_s: float,
    ) -> None:
        self._files = files = SharedFilesCheck.of(task, checkpoints)
        self._is_gathering = True
        """A worker that is not fit still ends the run."""
        super().__init__(
            evaluator,
            replace(task, folder=task.folder.absolute()),
            slots,
            lambda slot, log_file: start(Start(slot, log_file, workers_per_gpu, files, version("unetx-search"))),
            wait,
            starts_at_once=True,
            log_folder=log_folder,
            overtime_s=overtime_s,
        )

    def submit(self, job: Job) -> None:
        checkpoint, weights = (file and file.absolute() for file in (job.checkpoint, job.weights))
        super().submit(replace(job, checkpoint=checkpoint, weights=weights))

    def _heed_unfit(self, slot: SlotState[H], problem: str) -> None:
        """A node that is not ready when it joins later (a disk that is mounted late) ends no run."""
        if self._is_gathering:
            raise UnetxError(problem)
        super()._heed_unfit(slot, problem)

    def close(self, timeout_s: float = 10.0) -> None:
        self._files.forget()
        super().close(timeout_s)
