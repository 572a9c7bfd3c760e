"""Which executor a search runs on, and the slots it has: worker processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from unetx_evaluators.proxy import ProxyEvaluator
from unetx_search.executors.gpus import GpuProbe
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.ray.cluster import cluster_slots, connected
from unetx_search.executors.slots import Slot, make_slots
from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Evaluator
    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig
    from unetx_search.executors.base import Executor

LOGS = "logs"
CHECKPOINTS = "checkpoints"
"""Folders of a study."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Slots, and what runs jobs in them."""

    slots: tuple[Slot, ...]
    executor: Callable[[Evaluator, Task, Sequence[Slot]], Executor]


@contextmanager
def open_engine(config: SearchConfig, *, probe: GpuProbe) -> Iterator[Engine]:
    """The engine that a request names. Raises RequestError when there are not the slots it asks for."""
    sharing = 1 if config.workers_per_gpu == "auto" else config.workers_per_gpu  # auto begins with one, and adds more
    if config.engine == "ray":
        with connected(config.ray_address) as nodes:
            slots = cluster_slots(nodes, config.gpus, workers_per_gpu=sharing, cpu_workers=config.cpu_workers)

            def on_ray(evaluator: Evaluator, task: Task, chosen: Sequence[Slot]) -> Executor:
                from unetx_search.executors.ray.executor import RayExecutor

                checkpoints, logs = config.folder / CHECKPOINTS, config.folder / LOGS
                return RayExecutor(
                    evaluator, task, chosen, workers_per_gpu=sharing, checkpoints=checkpoints, log_folder=logs
                )

            yield Engine(slots, on_ray)
    else:
        slots = make_slots(config.gpus, workers_per_gpu=sharing, cpu_workers=config.cpu_workers, probe=probe)
        yield Engine(
            slots,
            lambda evaluator, task, chosen: LocalExecutor(evaluator, task, chosen, log_folder=config.folder / LOGS),
        )


def check_torch(slots: Sequence[Slot]) -> None:
    """GPU workers need a torch that was built for them; its version tells without the seconds of an import."""
    if any(slot.device != "cpu" for slot in slots) and version("torch").endswith("+cpu"):
        raise RequestError(
            f"{len(slots)} GPU worker(s) were asked for, but the installed torch {version('torch')} was built for CPUs "
            "only; install a CUDA build of torch, or use --gpus 0 for CPU workers"
        )


def proxy_evaluator(config: SearchConfig, slots: Sequence[Slot]) -> Evaluator:
    """The trainer as it runs in these slots."""
    return ProxyEvaluator(device=slots[0].device, n_threads=slots[0].n_threads)
