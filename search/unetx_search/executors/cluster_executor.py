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
from unetx_search.executors.supervisor import Supervisor, WaitForReports
from unetx_search.executors.worker_holder import WorkerSpec
from unetx_space.errors import UnetxError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task


class ClusterExecutor(Supervisor[H]):
    """Runs evaluations in workers all over a cluster.

    Before its first job each worker shows that it reaches the task's arrays and, where one is given, the folder of the
    ``checkpoints``.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        start: Callable[[WorkerSpec], H],
        wait: WaitForReports[H],
        *,
        workers_per_gpu: int,
        checkpoints: Path | None,
        log_folder: Path | None,
        overtime_s: float,
    ) -> None:
        self._files = files = SharedFilesCheck.of(task, checkpoints)
        self._is_starting = True
        """Whether a worker that is not fit ends the run."""
        super().__init__(
            evaluator,
            replace(task, folder=task.folder.absolute()),
            slots,
            lambda slot, log_file: start(WorkerSpec(slot, log_file, workers_per_gpu, files, version("unetx-search"))),
            wait,
            starts_at_once=True,
            log_folder=log_folder,
            overtime_s=overtime_s,
        )

    def submit(self, job: Job) -> None:
        checkpoint, weights = (file and file.absolute() for file in (job.checkpoint, job.weights))
        super().submit(replace(job, checkpoint=checkpoint, weights=weights))

    def _on_unfit(self, slot: SlotState[H], problem: str) -> None:
        """A node that joins later and is not ready (its disk is mounted late, say) does not end the run."""
        if self._is_starting:
            raise UnetxError(problem)
        super()._on_unfit(slot, problem)

    def close(self, timeout_s: float = 10.0) -> None:
        self._files.forget()
        super().close(timeout_s)
