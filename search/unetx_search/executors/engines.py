"""Engines open what a request's ``--engine`` names: worker slots, and executors that run jobs in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from unetx_search.executors.registry import ENGINES
from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Evaluator
    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig
    from unetx_search.executors.base import Executor
    from unetx_search.executors.gpus import GpuProbe
    from unetx_search.executors.slots import Slot

LOGS = "logs"
CHECKPOINTS = "checkpoints"
"""Names of the folders in a study's for the workers' logs and the state of running evaluations."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The slots that a request may use, and a function that makes an executor over some of them."""

    slots: tuple[Slot, ...]
    executor: Callable[[Evaluator, Task, Sequence[Slot]], Executor]


def open_engine(config: SearchConfig, *, probe: GpuProbe) -> AbstractContextManager[Engine]:
    """Open the engine that a request names. Raises RequestError when there are not the slots that it asks for."""
    engine: AbstractContextManager[Engine] = resolve_name(ENGINES[config.engine])(config, probe)
    return engine


def check_torch(slots: Sequence[Slot]) -> None:
    """Raises RequestError where slots are on GPUs and the installed torch was built for CPUs only.

    The version of the package tells, without the seconds of an import.
    """
    if any(slot.device != "cpu" for slot in slots) and version("torch").endswith("+cpu"):
        raise RequestError(
            f"{len(slots)} GPU worker(s) were asked for, but the installed torch {version('torch')} was built for CPUs "
            "only; install a CUDA build of torch, or use --gpus 0 for CPU workers"
        )


def proxy_evaluator(slots: Sequence[Slot]) -> Evaluator:
    """Return the trainer for the device and the number of threads of these slots."""
    from unetx_evaluators.proxy import ProxyEvaluator

    return ProxyEvaluator(device=slots[0].device, n_threads=slots[0].n_threads)
