"""What a job costs beside its evaluation: empty jobs through one slot, in a worker process here and on a Ray node here.

python benchmarks/executors.py > benchmarks/results/executors-2cores.txt
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks.task import Splits, Task
from unetx_search.executors.base import Executor, Handler, Job
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.ray.cluster import cluster_slots, connected
from unetx_search.executors.slots import make_slots
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.presets import PRESETS
from unetx_studies.processes import ProcessIdentity

N_WARM = 20
N_JOBS = 200
N_LEVELS = 5
BUDGET_STEPS = 3
TASK = Task(
    folder=Path("nowhere"),
    name="none",
    source="made up",
    dims=2,
    channels=("ct",),
    classes=("background", "vessel"),
    spacing=(1.0, 1.0),
    patch=(64, 64),
    strides=((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)),
    widths=(32, 64, 128, 256, 512),
    splits=Splits(train=("a",), validation=("b",), test=("c",)),
    digest="0",
)


class Counting(Handler):
    """A handler that lets every job continue at its rungs, and records when it ended."""

    def __init__(self) -> None:
        self.n_ended = 0

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None: ...
    def on_step(self, trial: int, step: int) -> None: ...
    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.n_ended += 1

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        raise AssertionError(evaluation.reason)

    def on_preempted(self, trial: int, reason: str) -> None:
        raise AssertionError(reason)

    def on_interrupted(self, trial: int) -> None:
        raise AssertionError("nobody interrupts")


def jobs() -> Sequence[Job]:
    architecture = Architecture(isotropic_backbone(2, n_levels=N_LEVELS), PRESETS["u-net"].genome(N_LEVELS))
    budget = Budget(BUDGET_STEPS, 1, 0.25, rungs=tuple(range(1, BUDGET_STEPS + 1)), validation_cases=1)
    return [Job(trial, architecture, budget, 0) for trial in range(N_WARM + N_JOBS)]


def milliseconds(executor: Executor) -> list[float]:
    """Milliseconds of each job from its submission to its result, with two rungs; the first ones warm up."""
    counting, found = Counting(), []
    for job in jobs():
        began = time.perf_counter()
        executor.submit(job)
        n_before = counting.n_ended
        while counting.n_ended == n_before:
            executor.poll(counting, 0.5)
        found.append((time.perf_counter() - began) * 1e3)
    return found[N_WARM:]


def on_ray(stack: ExitStack) -> Executor:
    from unetx_search.executors.ray.executor import RayExecutor

    nodes = stack.enter_context(connected("local"))
    return stack.enter_context(RayExecutor(FakeEvaluator(), TASK, cluster_slots(nodes, 0, cpu_workers=1)))


MAKERS: dict[str, Callable[[ExitStack], Executor]] = {
    "local": lambda stack: stack.enter_context(
        LocalExecutor(FakeEvaluator(), TASK, make_slots(0, cpu_workers=1, n_cores=1))
    ),
    "ray": on_ray,
}


def main() -> int:
    print(f"{N_JOBS} empty jobs with two rungs each through one slot; ms a job")
    medians = {}
    for name, make in MAKERS.items():
        with ExitStack() as stack:
            began = time.perf_counter()
            executor = make(stack)
            up_s = time.perf_counter() - began
            found = sorted(milliseconds(executor))
        medians[name] = statistics.median(found)
        late = found[int(0.95 * len(found))]
        print(f"{name:<6} median {medians[name]:6.1f}   95 % {late:6.1f}   made in {up_s:5.1f} s")
    print(f"ratio of the medians {medians['ray'] / medians['local']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
