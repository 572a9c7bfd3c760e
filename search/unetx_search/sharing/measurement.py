"""``--workers-per-gpu auto``: 1, 2, 3, ... workers train on a GPU, as those of a search do, until no more would pay.

A worker that joins first makes a short evaluation, from its start to its scores: afterwards its process holds as much
memory as evaluations of that design ever take there, for torch keeps what it once had. Then all begin to train at once,
and are watched for a few seconds. So a measurement of n workers costs the start of one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation, Evaluator, Outcome
from unetx_evaluators.host_cores import usable_cores
from unetx_search.executors.base import Executor, Handler, Job, failed_evaluation
from unetx_search.executors.gpus import FreeMemoryProbe, free_memory_mib
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import Slot, shared_slots
from unetx_search.sharing.choice import MOST_WORKERS, SHARING, Limits, Sample, decide, read_sharing, write_sharing
from unetx_space.training_memory import FLOAT32_BYTES, training_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig
    from unetx_search.study_setup import StudySetup
    from unetx_space.architecture import Architecture
    from unetx_studies.processes import ProcessIdentity

WARM_UP_STEPS = 30
"""Past the choice of algorithms and the capture of a step."""
SCORED_CASES = 4
"""At the end of the short evaluation, at most."""
LEAST_WINDOW_S = 2.0
"""From a worker's first report to its last."""
ENOUGH_STEPS = 60
"""Of each worker between the two; the trainer waits for its device every 20 steps."""
LONGEST_WINDOW_S = 6.0
"""Then fewer steps are enough, too, at least one."""
PATIENCE_S = 120.0
"""For a worker to start and warm up, and for a window."""
N_DRAWN = 200
"""Designs that stand for the most expensive one."""

Measure = Callable[[int], Sample]
"""Called with 1, 2, 3, ... in this order: so many workers train on the device, and this is what they do."""
Bench = Callable[[Slot, int], AbstractContextManager[Measure]]
"""Opens a measurement on the slot's device, of up to so many workers."""


def slots_that_pay(
    config: SearchConfig,
    slots: Sequence[Slot],
    evaluator: Evaluator,
    task: Task,
    setup: StudySetup,
    n_missing: int,
    console: Console,
    *,
    bench: Bench | None = None,
    free_memory: FreeMemoryProbe = free_memory_mib,
    n_cores: int | None = None,
) -> tuple[Slot, ...]:
    """Slots on the devices of ``slots``, of which there is one a device, as many on each as pay; CPU workers stay.

    What has been measured for this study already is not measured again. ``console`` is told what was measured and what
    it came to; ``bench``, ``free_memory`` and ``n_cores`` replace the machine in tests.
    """
    if any(slot.device == "cpu" for slot in slots):
        console.print("--workers-per-gpu auto is about GPUs, and none is used: CPU workers share nothing")
        return tuple(slots)
    cores = usable_cores() if n_cores is None else n_cores
    kinds: dict[str, list[Slot]] = {}
    for slot in slots:
        kinds.setdefault(slot.kind, []).append(slot)

    @contextmanager
    def with_own_workers(slot: Slot, at_most: int) -> Iterator[Measure]:
        shared = shared_slots([slot], {slot.kind: at_most}, n_cores=cores)
        with LocalExecutor(evaluator, task, shared) as executor:
            yield Workbench(executor, setup.u_net, setup.budget, lambda: free_memory().get(slot.gpu))

    at_most = useful_workers(len(slots), cores=cores, n_missing=n_missing, window=config.deterministic)
    free, extra_mib, path = free_memory(), _extra_mib(setup), config.folder / SHARING
    kept = dict(read_sharing(path, version("torch")))
    for kind, same in kinds.items():
        known = [free.get(slot.gpu) for slot in same]
        least = None if None in known else float(min(mib for mib in known if mib is not None))
        limits = Limits(least, at_most, extra_mib)
        sharing = decide(kind, kept[kind].samples if kind in kept else (), limits)
        if not sharing.reason:
            console.print(
                f"measuring how many workers a {kind} can feed: about ten seconds for each that is tried; "
                "--workers-per-gpu N spares it"
            )
            sharing = decide(kind, (), limits)
            with (bench or with_own_workers)(same[0], at_most) as measure:
                while not sharing.reason:
                    sample = measure(len(sharing.samples) + 1)
                    sharing = decide(kind, (*sharing.samples, sample), limits)
        kept[kind] = sharing
        others = f" and {len(same) - 1} more of the kind" if len(same) > 1 else ""
        console.print(f"{same[0].label}{others}: {sharing}")
    write_sharing(path, kept.values(), version("torch"))
    workers = {kind: kept[kind].n_workers for kind in kinds}
    return shared_slots(slots, workers, at_most=config.deterministic, n_cores=cores)


def useful_workers(n_gpus: int, *, cores: int, n_missing: int, window: int | None) -> int:
    """How many workers could be of use on each GPU: each needs a core of the host and a trial, and the window of
    --deterministic allows so many in all."""
    wanted = [MOST_WORKERS, cores // n_gpus, -(-n_missing // n_gpus)]
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


class Trouble(Exception):
    """So many workers cannot be measured, for this reason."""


class Workbench(Handler):
    """Call it with 1, 2, 3, ... in this order: so many workers of the executor train at the same time.

    What the device has free less than at first is theirs; its driver does not always know whose the memory is. Raises
    UnetxError when workers cannot be started at all.
    """

    def __init__(
        self,
        executor: Executor,
        architecture: Architecture,
        budget: Budget,
        free_mib: Callable[[], float | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._architecture = architecture
        n_cases = min(SCORED_CASES, budget.validation_cases)
        self._short = replace(budget, steps=WARM_UP_STEPS, rungs=(WARM_UP_STEPS,), validation_cases=n_cases)
        self._endless = replace(budget, steps=10**9, rungs=(10**9,))
        self._free_mib = free_mib
        self._free_at_first_mib = free_mib()
        self._clock = clock
        self._numbers = count()
        self._seen: dict[int, list[tuple[float, int]]] = {}
        """Of each training, instants with the steps reached by then."""
        self._ended: dict[int, Evaluation] = {}

    def __call__(self, n_workers: int) -> Sample:
        """What ``n_workers`` do together, one more than the call before."""
        try:
            short = self._submit(self._short)  # a worker joins the others, which keep their slots
            self._wait(lambda: short in self._ended, "the short evaluation of a new worker")
            free_mib = self._free_mib()
            self._executor.interrupt()
            self._wait(lambda: self._executor.n_free() == self._executor.n_slots, "the end of a training")
            trainings = [self._submit(self._endless) for _ in range(n_workers)]
            self._wait(
                lambda: all(self._seen.get(number, [(0, 0)])[-1][1] >= WARM_UP_STEPS for number in trainings),
                f"the first steps of {n_workers} worker(s)",
            )
            self._seen.clear()
            self._wait(
                lambda: all(is_window(self._seen.get(number, ())) for number in trainings),
                f"the steps of {n_workers} worker(s)",
            )
        except Trouble as trouble:
            return Sample(n_workers, 0.0, None, str(trouble))
        at_first_mib, steps_per_s = self._free_at_first_mib, sum(pace(self._seen[number]) for number in trainings)
        if at_first_mib is None or free_mib is None or free_mib >= at_first_mib:
            return Sample(n_workers, steps_per_s, None)
        return Sample(n_workers, steps_per_s, (at_first_mib - free_mib) / n_workers)

    def _submit(self, budget: Budget) -> int:
        number = next(self._numbers)
        self._executor.submit(Job(number, self._architecture, budget, seed=0))
        return number

    def _wait(self, is_over: Callable[[], bool], what: str) -> None:
        """Poll until it is over. Raises Trouble when a training ends meanwhile, or nothing comes of it."""
        until_s = self._clock() + PATIENCE_S
        while not is_over():
            if self._clock() >= until_s:
                raise Trouble(f"{what} took longer than {PATIENCE_S:g} s")
            self._executor.poll(self, timeout_s=0.1)
            for evaluation in self._ended.values():
                if evaluation.outcome is not Outcome.COMPLETE:
                    raise Trouble(f"a training ended as {evaluation.outcome}: {evaluation.reason}")

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None: ...

    def on_step(self, trial: int, step: int) -> None:
        self._seen.setdefault(trial, []).append((self._clock(), step))

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._ended[trial] = evaluation

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._ended[trial] = evaluation

    def on_preempted(self, trial: int, reason: str) -> None:
        self._ended[trial] = failed_evaluation(Outcome.CRASHED, reason)

    def on_interrupted(self, trial: int) -> None: ...


def is_window(seen: Sequence[tuple[float, int]]) -> bool:
    """A training was seen long enough, at enough steps; reports that were read late and together are no window."""
    if not seen:
        return False
    (began_s, first), (now_s, last) = seen[0], seen[-1]
    n_steps = ENOUGH_STEPS if now_s - began_s < LONGEST_WINDOW_S else 1
    return now_s - began_s >= LEAST_WINDOW_S and last - first >= n_steps


def pace(seen: Sequence[tuple[float, int]]) -> float:
    """The steps a second of a training."""
    return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
