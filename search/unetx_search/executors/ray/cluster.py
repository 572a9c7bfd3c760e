"""The connection to a Ray cluster, and the slots that it has; ray itself is imported on use."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

from unetx_evaluators.signals import signals_blocked
from unetx_search.executors.engines import CHECKPOINTS, LOGS, Engine
from unetx_search.executors.slots import Slot, gpu_worker_threads
from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Evaluator
    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig
    from unetx_search.executors.base import Executor
    from unetx_search.executors.gpus import GpuProbe

logger = logging.getLogger(__name__)

HEAD_ANSWERS_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Node:
    """A living node of a cluster, with the GPUs and CPUs that Ray may give away there."""

    host: str
    n_gpus: int
    n_cpus: int


@contextmanager
def connected(address: str | None) -> Iterator[tuple[Node, ...]]:
    """Connect to a cluster and give its nodes. A connection that the process has already is used, and kept.

    ``address`` is what ``ray.init`` takes: HOST:PORT of the head; None for the cluster in RAY_ADDRESS, else the one
    that runs on this machine, else one that is started here and ends with this; "local" for the last in any case.
    Raises RequestError when Ray is not installed or no cluster answers.
    """
    if find_spec("ray") is None:
        raise RequestError('--engine ray needs Ray, which is not installed: pip install "unetx-search[ray]"')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    if ray.is_initialized():
        yield _nodes(ray.nodes())
        return
    with redirect_stdout(_Log()):  # Ray prints what befalls nodes to stdout, where a search's results go
        _connect(address)
        try:
            yield _nodes(ray.nodes())
        finally:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        head = os.environ.get("RAY_ADDRESS") if address in (None, "auto") else address
        if head and head != "local":  # Ray itself would try for minutes
            host, _, port = head.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_ANSWERS_WITHIN_S).close()
        with signals_blocked():
            ray.init(
                address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                namespace="unetx-search",
            )
    except (ConnectionError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = f"at {address}" if address else "that RAY_ADDRESS or an earlier `ray start` names"
        raise RequestError(
            f"--engine ray needs a Ray cluster; the one {where} cannot be joined: {error}\n"
            "start the search on a machine of the cluster (`ray start --address=HEAD:6379` makes this one its node), "
            "with RAY_AUTH_MODE=token and the head's ~/.ray/auth_token where the cluster uses tokens; or use "
            "--ray-address local for a cluster of this machine alone"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray sets its own, which would end without order
            signal.signal(signal.SIGTERM, on_sigterm)


class _Log(StringIO):
    """Takes what is printed into the log instead."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("Ray: %s", text.strip())
        return len(text)


def _nodes(found: Sequence[dict[str, Any]]) -> tuple[Node, ...]:
    return tuple(
        Node(
            node["NodeManagerHostname"],
            int(node["Resources"].get("GPU", 0)),
            int(node["Resources"].get("CPU", 0)),
        )
        for node in found
        if node["Alive"]
    )


def cluster_slots(
    nodes: Sequence[Node],
    gpus: int | Literal["all"],
    *,
    workers_per_gpu: int = 1,
    cpu_workers: int | None = None,
) -> tuple[Slot, ...]:
    """Return slots on ``gpus`` GPUs of the cluster, or CPU slots of one CPU each where that means none.

    Ray decides which GPU a slot gets, so the slots pin nothing. Raises RequestError for more than there is.
    """
    n_gpus, n_cpus = sum(node.n_gpus for node in nodes), sum(node.n_cpus for node in nodes)
    have = f"the Ray cluster has {n_gpus} GPUs and {n_cpus} CPUs on {len(nodes)} nodes"
    wanted = n_gpus if gpus == "all" else gpus
    if wanted > n_gpus:
        raise RequestError(
            f"--gpus {gpus} asks for more than is there: {have}; use --gpus all for what is there, --gpus 0 for CPU "
            "workers, or wait until all nodes have joined (`ray status` lists them)"
        )
    if wanted > 0:
        n_threads = min(
            gpu_worker_threads(node.n_cpus, node.n_gpus * workers_per_gpu) for node in nodes if node.n_gpus > 0
        )
        return tuple(Slot(index, "cuda", f"worker {index}", {}, n_threads) for index in range(wanted * workers_per_gpu))
    n_workers = n_cpus if cpu_workers is None else cpu_workers
    if n_workers > n_cpus or n_workers == 0:
        raise RequestError(
            f"a CPU worker takes one CPU of the cluster, {max(1, n_workers)} were asked for: {have}; use --cpu-workers "
            f"{n_cpus} or leave it out"
            if n_cpus
            else f"a CPU worker takes one CPU of the cluster: {have}"
        )
    return tuple(Slot(index, "cpu", f"worker {index}", {}, 1) for index in range(n_workers))


@contextmanager
def ray_engine(config: SearchConfig, probe: GpuProbe) -> Iterator[Engine]:
    """Open the engine whose workers run on the GPUs or CPUs of a Ray cluster; this machine's GPUs do not matter."""
    sharing = config.fixed_workers_per_gpu
    with connected(config.ray_address) as nodes:
        slots = cluster_slots(nodes, config.gpus, workers_per_gpu=sharing, cpu_workers=config.cpu_workers)

        def executor(evaluator: Evaluator, task: Task, chosen: Sequence[Slot]) -> Executor:
            from unetx_search.executors.ray.executor import RayExecutor

            checkpoints, logs = config.folder / CHECKPOINTS, config.folder / LOGS
            return RayExecutor(
                evaluator, task, chosen, workers_per_gpu=sharing, checkpoints=checkpoints, log_folder=logs
            )

        yield Engine(slots, executor)
