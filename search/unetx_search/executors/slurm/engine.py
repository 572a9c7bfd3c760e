"""What a request asks of Slurm, and its jobs for the length of a search; submitit itself is imported on use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from unetx_search.executors.engines import CHECKPOINTS, LOGS, Engine
from unetx_search.executors.slots import MAX_THREADS, Slot
from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Evaluator
    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig
    from unetx_search.executors.base import Executor
    from unetx_search.executors.gpus import GpuProbe
    from unetx_search.executors.slurm.jobs import SlurmJobs

FOLDER = "slurm"
"""Name of the folder in a study's that has scripts and output of its jobs."""
RESERVED_OPTIONS = (
    "array",
    "error",
    "nodes",
    "no_requeue",
    "ntasks",
    "ntasks_per_node",
    "open_mode",
    "output",
    "requeue",
    "signal",
)
"""Options of sbatch that a search sets itself."""
GPU_OPTIONS = ("gres", "gpus", "gpus_per_node", "gpus_per_task", "tres_per_task")
"""Options that say which GPU a job gets."""


def sbatch_options(told: Sequence[str]) -> dict[str, str | bool]:
    """Read the options of sbatch in ``--slurm``, by their names with underscores. Raises RequestError."""
    options: dict[str, str | bool] = {}
    for each in told:
        name, equals, value = each.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if not key.replace("_", "").isalnum() or (equals and not value) or "\n" in value:
            raise RequestError(
                f"--slurm takes options of sbatch by their long names, such as partition=gpu or exclusive, got {each!r}"
            )
        if key in RESERVED_OPTIONS:
            raise RequestError(f"--slurm {name}: a search decides this itself, as it has a job for each worker")
        options[key] = value if equals else True
    return options


def slurm_slots(config: SearchConfig, options: Mapping[str, str | bool], sharing: int) -> tuple[Slot, ...]:
    """Return slots on as many GPUs as the request names, ``sharing`` on each, or CPU workers where it names none.

    Slurm decides which GPUs and cores these are, so the slots pin nothing. Raises RequestError without a number.
    """
    if config.gpus == "all":
        raise RequestError(
            "--engine slurm has a job for every GPU, so it must be told how many: --gpus 8, say, or --gpus 0 with "
            "--cpu-workers N"
        )
    if config.gpus == 0 and config.cpu_workers is None:
        raise RequestError(
            "--engine slurm has a job for every CPU worker, so it must be told how many: --cpu-workers N"
        )
    told = str(options.get("cpus_per_task", MAX_THREADS if config.gpus else 1))
    if not told.isdecimal() or int(told) < 1:
        raise RequestError(f"--slurm cpus-per-task is a whole number of at least 1, got {told}")
    if config.gpus == 0:
        return tuple(Slot(index, "cpu", f"worker {index}", {}, int(told)) for index in range(config.cpu_workers or 0))
    n_threads = min(int(told), MAX_THREADS)
    return tuple(Slot(index, "cuda", f"worker {index}", {}, n_threads) for index in range(config.gpus * sharing))


@contextmanager
def slurm_engine(config: SearchConfig, probe: GpuProbe) -> Iterator[Engine]:
    """Open the engine whose workers run in jobs of Slurm, one for each slot; this machine's GPUs do not matter."""
    if find_spec("submitit") is None:
        raise RequestError('--engine slurm needs submitit, which is not installed: pip install "unetx-search[slurm]"')
    if shutil.which("sbatch") is None:
        raise RequestError(
            "--engine slurm submits jobs with sbatch, which is not on this machine's PATH: start the search on the "
            "cluster's login node, or another of its machines, or use --engine local"
        )
    options = sbatch_options(config.slurm)
    sharing = config.fixed_workers_per_gpu if config.gpus else 1
    slots = slurm_slots(config, options, sharing)
    if config.gpus and not options.keys() & GPU_OPTIONS:
        options["gpus_per_node"] = "1"
    from unetx_search.executors.slurm.queue import SlurmQueue

    folder = config.folder.absolute()
    queue = SlurmQueue(folder / FOLDER, sharing, slots[0].n_threads, options)
    queue.check()
    with ExitStack() as stack:
        jobs: SlurmJobs | None = None

        def executor(evaluator: Evaluator, task: Task, chosen: Sequence[Slot]) -> Executor:
            """Called once for each task; all executors use the same jobs."""
            from unetx_search.executors.slurm.executor import SlurmExecutor
            from unetx_search.executors.slurm.jobs import SlurmJobs

            nonlocal jobs
            if jobs is None:
                jobs = stack.enter_context(SlurmJobs(queue))
            return SlurmExecutor(
                evaluator,
                task,
                chosen,
                jobs,
                workers_per_gpu=sharing,
                checkpoints=folder / CHECKPOINTS,
                log_folder=folder / LOGS,
            )

        yield Engine(slots, executor)
