"""Measures what 1, 2, 3, ... workers do on one device at the same time, with the workers that a search uses.

A worker that joins first makes a short evaluation, from its start to its scores: afterwards its process holds as much
memory as evaluations of that design ever take there, for torch keeps what it once had. Then all begin to train at once,
and are watched for a few seconds. So a measurement of n workers costs the start of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Self

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation, Evaluator, Outcome
from unetx_evaluators.host_memory import resident_peak_mib
from unetx_search.executors.base import Job, failed_evaluation
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.memory import FreeMemoryProbe, device_of, nvidia_smi_free
from unetx_search.sharing.choice import Sample
from unetx_studies.processes import ProcessIdentity

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task
    from unetx_search.executors.slots import Slot
    from unetx_space.architecture import Architecture

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

HeldMemory = Callable[[Sequence[int]], float | None]
"""MiB of the device that these processes hold together; None where the system does not tell."""


def less_than_at_first(slot: Slot, probe: FreeMemoryProbe = nvidia_smi_free) -> HeldMemory:
    """What a GPU has free less than now, before any worker; its driver does not always know whose the memory is."""
    device = device_of(slot)
    at_first = probe().get(device)

    def held(processes: Sequence[int]) -> float | None:
        now = probe().get(device)
        return None if at_first is None or now is None or now >= at_first else float(at_first - now)

    return held


def resident(processes: Sequence[int]) -> float | None:
    """The peaks of the resident sets of processes on a CPU, summed up; pages that they share count for each."""
    peaks = [resident_peak_mib(process) for process in processes]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if known and len(known) == len(peaks) else None


class Trouble(Exception):
    """So many workers cannot be measured, for this reason."""


@dataclass(slots=True)
class Window:
    """The steps that workers were seen to make from an instant on."""

    n_workers: int
    seen: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    """Of each job, instants with the steps reached by then."""

    def note(self, job: int, now_s: float, step: int) -> None:
        self.seen.setdefault(job, []).append((now_s, step))

    def is_over(self) -> bool:
        """Every worker was seen long enough, at enough steps."""
        return len(self.seen) == self.n_workers and all(map(_is_enough, self.seen.values()))

    def steps_per_s(self) -> float:
        """Of all workers together."""
        return sum((seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]) for seen in self.seen.values())


def _is_enough(seen: Sequence[tuple[float, int]]) -> bool:
    (began_s, first), (now_s, last) = seen[0], seen[-1]
    n_steps = ENOUGH_STEPS if now_s - began_s < LONGEST_WINDOW_S else 1
    return now_s - began_s >= LEAST_WINDOW_S and last - first >= n_steps


class Workbench(AbstractContextManager["Workbench"]):
    """Call it with 1, 2, 3, ... in this order: so many workers train on the device of its ``slots``.

    ``slots`` are seats on one device, as many as may be tried. Implements an executor's Handler. Leaves no process
    behind. Raises UnetxError when workers cannot be started at all.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        architecture: Architecture,
        budget: Budget,
        held_memory: HeldMemory,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = LocalExecutor(evaluator, task, slots)
        self._held_memory = held_memory
        self._clock = clock
        n_cases = min(SCORED_CASES, budget.validation_cases)
        self._architecture = architecture
        self._short = replace(budget, steps=WARM_UP_STEPS, rungs=(WARM_UP_STEPS,), validation_cases=n_cases)
        self._endless = replace(budget, steps=10**9, rungs=(10**9,))
        self._numbers = count()
        self._processes: dict[int, int] = {}
        """Of each worker."""
        self._steps: dict[int, int] = {}
        """That each job has reached."""
        self._ended: dict[int, Evaluation] = {}
        self._window: Window | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __call__(self, n_workers: int) -> Sample:
        """What ``n_workers`` do together, one more than the call before."""
        try:
            self._warm_up()
            held_mib = self._held_memory(tuple(self._processes.values()))
            steps_per_s = self._train_together(n_workers)
        except Trouble as trouble:
            return Sample(n_workers, 0.0, None, str(trouble))
        return Sample(n_workers, steps_per_s, None if held_mib is None else held_mib / n_workers)

    def _warm_up(self) -> None:
        """A worker joins the others, which keep their seats, and makes a short evaluation."""
        number = self._submit(self._short)
        self._wait(lambda: number in self._ended, "the short evaluation of a new worker")

    def _train_together(self, n_workers: int) -> float:
        """All begin to train anew, and are watched once each has made its first steps; their steps a second."""
        self._executor.interrupt()
        self._wait(lambda: self._executor.n_free() == self._executor.n_slots, "the end of a training")
        self._steps.clear()
        for _ in range(n_workers):
            self._submit(self._endless)
        self._wait(
            lambda: len(self._steps) == n_workers and min(self._steps.values()) >= WARM_UP_STEPS,
            f"the first steps of {n_workers} worker(s)",
        )
        self._window = window = Window(n_workers)
        self._wait(window.is_over, f"the steps of {n_workers} worker(s)")
        self._window = None
        return window.steps_per_s()

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

    # The executor's events.

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None:
        self._processes[worker] = process.pid

    def on_step(self, trial: int, step: int) -> None:
        self._steps[trial] = step
        if self._window is not None:
            self._window.note(trial, self._clock(), step)

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._ended[trial] = evaluation

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._ended[trial] = evaluation

    def on_displaced(self, trial: int, reason: str) -> None:
        self._ended[trial] = failed_evaluation(Outcome.CRASHED, reason)

    def on_interrupted(self, trial: int) -> None: ...
