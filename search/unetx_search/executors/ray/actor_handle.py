"""A worker on a node of a Ray cluster: an actor holds the worker's process there, and streams what it reports.

Its stream is read once: whatever breaks it, the actor, the node or the network, loses the worker, and another is
started.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from unetx_search.executors.messages import ConnectionLost, Hello, Order, Report, Unfit
from unetx_search.executors.worker_handle import WorkerHandle
from unetx_search.executors.worker_holder import LOOK_EVERY_S, WorkerHolder, WorkerSpec
from unetx_space.errors import UnetxError

RESOLUTION = 10_000
"""Ray counts fractions of a GPU in ten-thousandths."""


class WorkerOnRay(WorkerHandle):
    """The handle of a worker on a Ray cluster. The constructor asks for an actor, which Ray starts where it can."""

    def __init__(self, spec: WorkerSpec) -> None:
        share = RESOLUTION // spec.workers_per_gpu / RESOLUTION
        needs = {"num_cpus": 0, "num_gpus": share} if spec.slot.device == "cuda" else {"num_cpus": 1, "num_gpus": 0}
        options = {**needs, "max_restarts": 0, "max_concurrency": 2, "scheduling_strategy": "SPREAD"}
        self._spec = spec
        self._actor = ray.remote(WorkerHolder).options(**options).remote(spec)
        self._stream = self._actor.reports.options(num_returns="streaming").remote()
        self._requests: list[Any] = []
        """Requests of which it is not known whether they have arrived."""
        self._is_up = False

    @property
    def sources(self) -> list[Any]:
        """The references that Ray can wait for: the next report, and the requests under way."""
        return [self._stream, *self._requests]

    def send(self, order: Order) -> None:
        self._request("send", order)

    def _request(self, method: str, *orders: Order) -> None:
        self._requests.append(self._actor.request.remote(method, *orders))

    def receive(self) -> Report | None:
        if self._actor is None:
            return ConnectionLost("it was given up")
        try:
            for request in self._requests.copy():
                if ray.wait([request], timeout=0)[0]:
                    ray.get(request)
                    self._requests.remove(request)
            if not ray.wait([self._stream], timeout=0)[0]:
                return None
            report: Report = ray.get(next(self._stream))
            if isinstance(report, Hello):
                self._is_up = True
                self._spec.files.confirm(self._spec.slot.index, report.label)
        except RayTaskError:
            raise  # a bug of ours
        except RayError as error:
            return ConnectionLost(_error_text(error))
        except StopIteration:
            return ConnectionLost("its stream of reports ended")
        except UnetxError as error:
            return Unfit(str(error))
        return report

    def hang_up(self) -> None:
        if self._is_up:
            self._request("hang_up")
        else:  # it may not have a place yet, and has nothing to lose
            self.release()

    def kill(self) -> None:
        if self._actor is not None:
            self._request("kill")

    def is_released(self) -> bool:
        return isinstance(self.receive(), ConnectionLost)

    def release(self) -> None:
        if self._actor is not None and ray.is_initialized():
            with suppress(RayError):
                ray.kill(self._actor, no_restart=True)
        self._actor = None


def wait_for_reports(workers: Sequence[WorkerOnRay], timeout_s: float) -> None:
    """Wait until one of the workers has a report, at most ``timeout_s`` seconds."""
    sources = [source for worker in workers for source in worker.sources]
    if sources:
        ray.wait(sources, num_returns=1, timeout=timeout_s)
    else:
        time.sleep(min(timeout_s, LOOK_EVERY_S))


def _error_text(error: RayError) -> str:
    """Ray's account of a death in one line, without colours, the names of our own class and its guesses."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    own = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:", "name:", "The actor died unexpectedly")
    account = " ".join(line for line in lines if line and not line.startswith(own))
    return re.split(r"(?:Some common causes|There are some potential root causes)", account)[0].strip()[:1000]
