"""``--workers-per-gpu auto``, the default: 1, 2, 3, ... workers evaluate on a GPU, as in a search, until no more pay.

Each worker first makes a short evaluation, in which its process sets itself up. Then all evaluate the U-Net at once,
whole and with the search's own budget: a worker that trains fills the gaps of one that scores, which steps alone would
not tell. They have as many CPU threads as they would have in the search.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation, Evaluator, Outcome
from unetx_evaluators.host_cores import usable_cores
from unetx_search.executors.base import Executor, Handler, Job, failed_evaluation
from unetx_search.executors.gpus import FreeMemoryProbe, free_memory_mib
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import Slot, shared_slots
from unetx_search.sharing.choice import (
    MAX_WORKERS,
    SHARING,
    Sample,
    Sharing,
    SharingLimits,
    decide,
    read_sharing,
    write_sharing,
)
from unetx_search.sharing.mps import MpsUnavailable
from unetx_space.training_memory import FLOAT32_BYTES, training_memory

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig
    from unetx_search.study_setup import StudySetup
    from unetx_space.architecture import Architecture
    from unetx_studies.processes import ProcessIdentity

WARM_UP_STEPS = 30
"""Steps of the short evaluation, enough for the choice of algorithms and the capture of a step."""
SCORED_CASES = 4
"""Cases that are scored at the end of the short evaluation, at most."""
TIMEOUT_S = 120.0
"""Seconds for workers to start and warm up, and beyond the budget's own limit."""
LOOK_EVERY_S = 0.5
"""Seconds between two looks at the device's free memory."""
N_DRAWN = 200
"""Designs drawn at random, the most expensive of which stands for that of the search."""

Measure = Callable[[Slot, int], Sample]
"""Measures so many workers that evaluate on the slot's device at the same time."""


def slots_that_pay(
    config: SearchConfig,
    slots: Sequence[Slot],
    evaluator_of: Callable[[Sequence[Slot]], Evaluator],
    task: Task,
    setup: StudySetup,
    n_missing: int,
    console: Console,
    *,
    measure: Measure | None = None,
    free_memory: FreeMemoryProbe = free_memory_mib,
    n_cores: int | None = None,
) -> tuple[Slot, ...]:
    """Return slots on the devices of ``slots``, of which there is one a device, with as many on each as pay.

    CPU workers stay as they are. What has been measured for this study already is not measured again. ``console`` is
    told what was measured and what it came to; ``measure``, ``free_memory`` and ``n_cores`` replace the machine in
    tests.
    """
    if config.engine != "local":
        return tuple(slots)
    if any(slot.device == "cpu" for slot in slots):
        if config.workers_per_gpu == "auto":
            console.print("--workers-per-gpu auto is about GPUs, and none is used: CPU workers share nothing")
        return tuple(slots)
    cores = usable_cores() if n_cores is None else n_cores
    at_most = useful_workers(len(slots), cores=cores, n_missing=n_missing, window=config.deterministic)
    free, extra_mib, path = free_memory(), _extra_mib(setup), config.folder / SHARING
    measure = measure or partial(
        _measure, evaluator_of, task, setup, free, free_memory, n_cores=max(1, cores // len(slots))
    )
    by_kind: dict[str, list[Slot]] = {}
    for slot in slots:
        by_kind.setdefault(slot.kind, []).append(slot)
    kept = dict(read_sharing(path, version("torch")))
    for kind, same in by_kind.items():
        known = [free.get(slot.gpu) for slot in same]
        least = None if None in known else float(min(mib for mib in known if mib is not None))
        before = kept[kind].samples if kind in kept else ()
        kept[kind] = _decided(
            kind, before, SharingLimits(least, at_most, extra_mib), partial(measure, same[0]), console
        )
        others = f" and {len(same) - 1} more of the kind" if len(same) > 1 else ""
        console.print(f"{same[0].label}{others}: {kept[kind]}")
    write_sharing(path, kept.values(), version("torch"))
    workers = {kind: kept[kind].n_workers for kind in by_kind}
    return shared_slots(slots, workers, at_most=config.deterministic, n_cores=cores)


def _decided(
    kind: str, before: Sequence[Sample], limits: SharingLimits, measure: Callable[[int], Sample], console: Console
) -> Sharing:
    """Decide by what was measured before, where that is enough; else measure now, with one worker more each time."""
    sharing = decide(kind, before, limits)
    if not sharing.reason:
        console.print(
            f"measuring how many workers a {kind} can feed: a whole evaluation of the U-Net in each of 1, 2, ... "
            "workers; --workers-per-gpu N spares it"
        )
        sharing = decide(kind, (), limits)
    while not sharing.reason:
        sample = measure(len(sharing.samples) + 1)
        sharing = decide(kind, (*sharing.samples, sample), limits)
    return sharing


def _measure(
    evaluator_of: Callable[[Sequence[Slot]], Evaluator],
    task: Task,
    setup: StudySetup,
    free_at_first: Mapping[str, int],
    free_memory: FreeMemoryProbe,
    slot: Slot,
    n_workers: int,
    *,
    n_cores: int,
) -> Sample:
    """What so many of the search's own workers do on the slot's device, with so many of the host's cores."""
    shared = shared_slots([slot], {slot.kind: n_workers}, n_cores=n_cores)
    try:
        executor = LocalExecutor(evaluator_of(shared), task, shared, needs_mps=True)
    except MpsUnavailable as error:  # workers that compute in turns fill few gaps
        return Sample(n_workers, 0.0, None, f"NVIDIA's multi-process service (MPS) is not to be had: {error}")
    with executor:
        benchmark = ThroughputBenchmark(
            executor, setup.u_net, setup.budget, free_at_first.get(slot.gpu), lambda: free_memory().get(slot.gpu)
        )
        return benchmark.sample()


def useful_workers(n_gpus: int, *, cores: int, n_missing: int, window: int | None) -> int:
    """Return how many workers on each GPU could be of use.

    Each needs a core of the host and a trial, and the ``window`` of --deterministic allows so many workers in all.
    """
    wanted = [MAX_WORKERS, cores // n_gpus, -(-n_missing // n_gpus)]
    return max(1, min(wanted if window is None else [*wanted, -(-window // n_gpus)]))


def _extra_mib(setup: StudySetup) -> float:
    """What autograd keeps for the most expensive of many designs that the search may propose more than for the U-Net.

    By the plan, for a whole batch at the width that is trained, in float32, which no GPU exceeds.
    """

    def kept_mib(architecture: Architecture) -> float:
        trained = replace(architecture, backbone=architecture.backbone.scaled(setup.budget.width_factor))
        return setup.budget.batch_size * training_memory(trained, setup.patch, bytes_per_value=FLOAT32_BYTES) / 2**20

    rng = random.Random(0)
    drawn = (setup.affordable(setup.space.sample(rng)) for _ in range(N_DRAWN))
    most = max((kept_mib(found[0]) for found in drawn if found is not None), default=0.0)
    return max(0.0, most - kept_mib(setup.u_net))


class MeasurementFailed(Exception):
    """So many workers cannot be measured, for this reason."""


class ThroughputBenchmark(Handler):
    """Measures what all workers of an executor do when they evaluate at the same time, and which memory they take.

    Memory that was free at first, ``at_first_mib``, and is not now counts as theirs, as the driver does not always know
    whose memory is. Raises UnetxError when workers cannot be started at all.
    """

    def __init__(
        self,
        executor: Executor,
        architecture: Architecture,
        budget: Budget,
        at_first_mib: float | None,
        free_mib: Callable[[], float | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._architecture = architecture
        self._budget = budget
        n_cases = min(SCORED_CASES, budget.validation_cases)
        self._short = replace(budget, steps=WARM_UP_STEPS, rungs=(WARM_UP_STEPS,), validation_cases=n_cases)
        self._at_first_mib = at_first_mib
        self._free_mib = free_mib
        self._clock = clock
        self._next_look_s = -math.inf
        self._least_free_mib = math.inf
        self._numbers = count()
        self._ended: dict[int, Evaluation] = {}

    def sample(self) -> Sample:
        """Measure the workers once."""
        n_workers = self._executor.n_slots
        try:
            self._evaluate(self._short, TIMEOUT_S, f"the first steps of {n_workers} worker(s)")
            seconds = self._evaluate(
                self._budget, TIMEOUT_S + self._budget.max_seconds, f"the evaluations of {n_workers} worker(s)"
            )
        except MeasurementFailed as error:
            return Sample(n_workers, 0.0, None, str(error))
        return Sample(n_workers, 60.0 * n_workers / seconds, self._worker_mib(n_workers))

    def _worker_mib(self, n_workers: int) -> float | None:
        if self._at_first_mib is None or self._least_free_mib >= self._at_first_mib:
            return None
        return (self._at_first_mib - self._least_free_mib) / n_workers

    def _evaluate(self, budget: Budget, patience_s: float, what: str) -> float:
        """An evaluation in each slot; the seconds to the end of the last. Raises MeasurementFailed where one fails."""
        began_s = self._clock()
        numbers = [next(self._numbers) for _ in range(self._executor.n_slots)]
        for number in numbers:
            self._executor.submit(Job(number, self._architecture, budget, seed=0))
        while not all(number in self._ended for number in numbers):
            if self._clock() >= began_s + patience_s:
                raise MeasurementFailed(f"{what} took longer than {patience_s:g} s")
            self._executor.poll(self, timeout_s=0.1)
            self._look()
            for evaluation in self._ended.values():
                if evaluation.outcome is not Outcome.COMPLETE:
                    raise MeasurementFailed(f"a training ended as {evaluation.outcome}: {evaluation.reason}")
        return self._clock() - began_s

    def _look(self) -> None:
        """Note what the device has free, twice a second at most."""
        if self._clock() >= self._next_look_s:
            self._next_look_s = self._clock() + LOOK_EVERY_S
            free_mib = self._free_mib()
            self._least_free_mib = min(self._least_free_mib, math.inf if free_mib is None else free_mib)

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None: ...

    def on_step(self, trial: int, step: int) -> None: ...

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._ended[trial] = evaluation

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._ended[trial] = evaluation

    def on_preempted(self, trial: int, reason: str) -> None:
        self._ended[trial] = failed_evaluation(Outcome.CRASHED, reason)

    def on_interrupted(self, trial: int) -> None: ...
