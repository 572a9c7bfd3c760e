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
from unetx_search.sharing.mps import MpsUnavailable, mps_enabled

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig


logger = logging.getLogger(__name__)

EnableMps = Callable[[Sequence[Slot]], AbstractContextManager[tuple[Slot, ...]]]
"""Makes slots that share a GPU use its multi-process service, for the length of a ``with``."""


class LocalExecutor(Supervisor[WorkerProcess]):
    """Runs evaluations in worker processes on this machine, each started with its slot's first job."""

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
        mps_enabled: EnableMps = mps_enabled,
    ) -> None:
        """Start no worker yet; those that share a GPU will compute at the same time through MPS, NVIDIA's service.

        Where the service is not to be had they compute in turns; with ``needs_mps`` MpsUnavailable is raised instead.
        """
        watch = MemoryWatch(slots, probe=free_memory)

        def start(slot: Slot, log_file: Path | None) -> WorkerProcess:
            return WorkerProcess(slot, log_file, watch.wait_for)

        with ExitStack() as services:
            try:
                slots = services.enter_context(mps_enabled(slots))
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
    """Open the engine whose workers are processes on the GPUs or cores of this machine, one for each slot."""
    sharing = config.fixed_workers_per_gpu  # auto begins with one, and adds more
    slots = make_slots(config.gpus, workers_per_gpu=sharing, cpu_workers=config.cpu_workers, probe=probe)
    logs = config.folder / LOGS
    yield Engine(slots, lambda evaluator, task, chosen: LocalExecutor(evaluator, task, chosen, log_folder=logs))
