"""``--workers-per-gpu auto``: how many workers share each kind of GPU, measured once a study and kept beside it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from unetx_evaluators.host_cores import usable_cores
from unetx_search.executors.memory import FreeMemoryProbe, device_of, nvidia_smi_free
from unetx_search.executors.slots import Slot, shared_slots
from unetx_search.sharing.choice import (
    MOST_WORKERS,
    SHARING,
    Measure,
    Room,
    Sharing,
    decided,
    measured,
    read_sharing,
    workers_that_pay,
    write_sharing,
)
from unetx_search.sharing.workbench import Workbench, less_than_at_first
from unetx_space.memory import FLOAT32_BYTES, training_memory

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Evaluator
    from unetx_evaluators.tasks.task import Task
    from unetx_search.config import SearchConfig
    from unetx_search.study_setup import StudySetup
    from unetx_space.architecture import Architecture

N_DRAWN = 200
"""Designs that stand for the dearest one."""
MIB = 2**20

Bench = Callable[[Slot, int], AbstractContextManager[Measure]]
"""Opens a measurement on the slot's device, of up to so many workers."""


def seats_that_pay(
    config: SearchConfig,
    slots: Sequence[Slot],
    evaluator: Evaluator,
    task: Task,
    ground: StudySetup,
    n_missing: int,
    console: Console,
    *,
    bench: Bench | None = None,
    free_memory: FreeMemoryProbe = nvidia_smi_free,
    n_cores: int | None = None,
) -> tuple[Slot, ...]:
    """Seats on the devices of ``slots``, one a device, as many on each as pay; CPU workers stay as they are.

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
    at_most = useful_workers(len(slots), cores=cores, n_missing=n_missing, window=config.deterministic)
    free, dearer_mib, path = free_memory(), _dearer_mib(ground), config.folder / SHARING
    rooms = {kind: Room(_least_free(free, same), at_most, dearer_mib) for kind, same in kinds.items()}
    kept = dict(read_sharing(path, version("torch")))
    bench = bench or _bench(evaluator, task, ground, cores, free_memory)
    for kind, same in kinds.items():
        kept[kind] = _settled(kind, kept.get(kind), rooms[kind], same[0], bench, console)
        console.print(f"{_named(same)}: {kept[kind]}")
    write_sharing(path, kept.values(), version("torch"))
    workers = {kind: kept[kind].n_workers for kind in kinds}
    return shared_slots(slots, workers, at_most=config.deterministic, n_cores=cores)


def useful_workers(n_gpus: int, *, cores: int, n_missing: int, window: int | None) -> int:
    """How many workers could be of use on each GPU: each needs a core of the host and a trial, and the window of
    --deterministic allows so many in all."""
    wanted = [
        MOST_WORKERS,
        cores // n_gpus,
        -(-n_missing // n_gpus),
        *([] if window is None else [-(-window // n_gpus)]),
    ]
    return max(1, min(wanted))


def _settled(kind: str, kept: Sharing | None, room: Room, slot: Slot, bench: Bench, console: Console) -> Sharing:
    """From what was kept, if that is enough to decide; else measured now."""
    if kept is not None and workers_that_pay(kept.samples, room).is_final:
        return decided(kind, kept.samples, room)
    if workers_that_pay((), room).is_final:
        return decided(kind, (), room)
    console.print(
        f"measuring how many workers a {kind} can feed: about ten seconds for each that is tried; "
        "--workers-per-gpu N spares it"
    )
    with bench(slot, room.at_most) as measure:
        return decided(kind, measured(measure, room), room)


def _bench(evaluator: Evaluator, task: Task, ground: StudySetup, cores: int, free_memory: FreeMemoryProbe) -> Bench:
    def opened(slot: Slot, at_most: int) -> Workbench:
        seats = shared_slots([slot], {slot.kind: at_most}, n_cores=cores)
        held_memory = less_than_at_first(slot, free_memory)
        return Workbench(evaluator, task, seats, ground.u_net, ground.budget, held_memory)

    return opened


def _dearer_mib(ground: StudySetup) -> float:
    """What autograd keeps for the dearest of many designs that the search may propose more than for the U-Net.

    By the plan, for a whole batch at the width that is trained, in float32, which no GPU exceeds.
    """
    rng = random.Random(0)
    drawn = (ground.affordable(ground.space.sample(rng)) for _ in range(N_DRAWN))
    dearest = max((_kept_mib(found[0], ground) for found in drawn if found is not None), default=0.0)
    return max(0.0, dearest - _kept_mib(ground.u_net, ground))


def _kept_mib(architecture: Architecture, ground: StudySetup) -> float:
    trained = replace(architecture, backbone=architecture.backbone.scaled(ground.budget.width_factor))
    return ground.budget.batch_size * training_memory(trained, ground.patch, bytes_per_value=FLOAT32_BYTES) / MIB


def _least_free(free: Mapping[str, int], slots: Iterable[Slot]) -> float | None:
    """On the fullest of these GPUs; None when of one it is not known."""
    known = [free.get(device_of(slot)) for slot in slots]
    return None if None in known else float(min(mib for mib in known if mib is not None))


def _named(slots: Sequence[Slot]) -> str:
    """GPUs of one kind, for people."""
    first = slots[0].label
    return first if len(slots) == 1 else f"{first} and {len(slots) - 1} more of the kind"
