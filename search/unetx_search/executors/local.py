"""One spawned process per slot on this machine, each pinned to its device before anything can import torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Evaluator
from unetx_search.executors.engines import LOGS, Engine
from unetx_search.executors.gpu_memory_wait import MemoryWatch
from unetx_search.executors.gpus import FreeMemoryProbe, GpuProbe, free_memory_mib
from unetx_search.executors.slots import Slot, make_slots
from unetx_search.executors.supervisor import Supervisor
from unetx_search.executors.worker_handle import WorkerProcess, wait_for_reports
from unetx_search.sharing.mps import MpsUnavailable, served

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig


logger = logging.getLogger(__name__)

Serve = Callable[[Sequence[Slot]], AbstractContextManager[tuple[Slot, ...]]]
"""Has slots that share a GPU served there."""


class LocalExecutor(Supervisor[WorkerProcess]):
    """Workers on this machine, each started with its slot's first job."""

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        *,
        log_folder: Path | None = None,
        overtime_s: float = 60.0,
        free_memory: FreeMemoryProbe = free_memory_mib,
        needs_mps: bool = False,
        serve: Serve = served,
    ) -> None:
        """Workers that share a GPU compute at the same time where the GPU's multi-process service is to be had, else in
        turns. With ``needs_mps`` raises MpsUnavailable there."""
        watch = MemoryWatch(slots, probe=free_memory)

        def start(slot: Slot, log_file: Path | None) -> WorkerProcess:
            return WorkerProcess(slot, log_file, watch.wait_for)

        with ExitStack() as services:
            try:
                slots = services.enter_context(serve(slots))
            except MpsUnavailable as error:
                if needs_mps:
                    raise
                words = (
                    "workers of one GPU compute in turns, as NVIDIA's multi-process service (MPS) is not to be had: %s"
                )
                logger.warning(words, error)
            super().__init__(
                evaluator, task, slots, start, wait_for_reports, log_folder=log_folder, overtime_s=overtime_s
            )
            self._services = services.pop_all()

    def close(self, timeout_s: float = 10.0) -> None:
        try:
            super().close(timeout_s)
        finally:
            self._services.close()


@contextmanager
def local_engine(config: SearchConfig, probe: GpuProbe) -> Iterator[Engine]:
    """The GPUs or cores of this machine, with a worker process for each slot."""
    sharing = config.fixed_workers_per_gpu  # auto begins with one, and adds more
    slots = make_slots(config.gpus, workers_per_gpu=sharing, cpu_workers=config.cpu_workers, probe=probe)
    logs = config.folder / LOGS
    yield Engine(slots, lambda evaluator, task, chosen: LocalExecutor(evaluator, task, chosen, log_folder=logs))
