"""The slots that workers run in: a device each, pinned by what stands in the environment; no torch here.

The variables must stand before torch is imported, which is why GPUs are counted by the driver's library (gpus.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from unetx_evaluators.evaluation import MEMORY_FRACTION
from unetx_evaluators.host_cores import usable_cores
from unetx_search.executors.gpus import FreeMemoryProbe, Gpu, GpuProbe, free_memory_mib, usable_gpus
from unetx_space.errors import RequestError

Device = Literal["cuda", "cpu"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that torch, MKL and numpy's OpenBLAS read once, when they are loaded."""
MAX_THREADS = 4
"""CPU threads of a worker on a GPU, at most. Its host has little to compute: more threads wait for each other."""
MPS_PIPES = "CUDA_MPS_PIPE_DIRECTORY"
"""The environment variable that names the folder of the multi-process service (``sharing/mps.py``)."""
WORKERS_SHARE = 0.9
"""Share of a GPU's memory that its workers divide; the rest is for CUDA itself and for other processes."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one worker process on a device."""

    index: int
    device: Device
    label: str
    """The device's name for people, such as "GPU 0: NVIDIA H200" or "CPU 1"."""
    environment: Mapping[str, str]
    """Variables set before the worker imports torch; they pin its device, its part of the memory and its threads."""
    n_threads: int

    @classmethod
    def on_cpu(cls, index: int, label: str, n_threads: int = 1) -> Self:
        """Make a slot without a GPU. All GPUs are hidden from its worker, which must not open a context on one."""
        return cls(index, "cpu", label, {"CUDA_VISIBLE_DEVICES": "", **_threads(n_threads)}, n_threads)

    @classmethod
    def on_gpu(cls, index: int, label: str, uuid: str, n_threads: int, n_workers: int = 1) -> Self:
        """Make a slot on a GPU that ``n_workers`` share. The UUID names it, as CUDA and the driver may count
        differently.
        """
        pinned = {
            "CUDA_VISIBLE_DEVICES": uuid,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            MEMORY_FRACTION: f"{WORKERS_SHARE / n_workers:.4f}",
        }
        return cls(index, "cuda", label, {**pinned, **_threads(n_threads)}, n_threads)

    @property
    def kind(self) -> str:
        """The model of the slot's GPU, such as "NVIDIA H200"; empty for a CPU."""
        return self.label.partition(": ")[2] if self.device == "cuda" else ""

    @property
    def uses_mps(self) -> bool:
        """Whether its worker computes through a multi-process service, whose failure ends all workers of the GPU."""
        return MPS_PIPES in self.environment

    @property
    def gpu(self) -> str:
        """The UUID of the slot's GPU; empty for a CPU."""
        return self.environment.get("CUDA_VISIBLE_DEVICES", "") if self.device == "cuda" else ""


def make_slots(
    gpus: int | Literal["all"],
    *,
    workers_per_gpu: int = 1,
    cpu_workers: int | None = None,
    probe: GpuProbe | None = None,
    free_memory: FreeMemoryProbe | None = None,
    n_cores: int | None = None,
) -> tuple[Slot, ...]:
    """Return slots on those ``gpus`` visible GPUs that have the most memory free, or CPU slots where that means none.

    ``all`` means every visible GPU. CPU slots have one thread each; there are ``cpu_workers``, by default one for each
    usable core. Neighbouring slots lie on different GPUs, so that few jobs spread over all of them. Raises RequestError
    for numbers that are negative or more than there is.
    """
    way_out = "--gpus 0 for CPU workers, or leave it out for all visible GPUs"
    _refuse_below("--gpus", gpus if isinstance(gpus, int) else 0, 0, way_out)
    _refuse_below("--workers-per-gpu", workers_per_gpu, 1)
    _refuse_below("--cpu-workers", 1 if cpu_workers is None else cpu_workers, 1)
    cores = usable_cores() if n_cores is None else n_cores
    chosen = () if gpus == 0 else _choose(gpus, (probe or usable_gpus)(), free_memory or free_memory_mib)
    if not chosen:
        return tuple(Slot.on_cpu(index, f"CPU {index}") for index in range(cpu_workers or cores))
    n_threads = gpu_worker_threads(cores, len(chosen) * workers_per_gpu)
    return tuple(
        Slot.on_gpu(index, gpu.label, gpu.uuid, n_threads, workers_per_gpu)
        for index, gpu in enumerate(chosen * workers_per_gpu)
    )


def gpu_worker_threads(cores: int, n_workers: int) -> int:
    """Return the CPU threads of each of ``n_workers`` workers on the GPUs of a machine with so many cores."""
    return min(MAX_THREADS, max(1, cores // n_workers))


def shared_slots(
    slots: Sequence[Slot], workers: Mapping[str, int], *, at_most: int | None = None, n_cores: int | None = None
) -> tuple[Slot, ...]:
    """Return slots on the GPUs of ``slots``, of which there is one a GPU, with so many ``workers`` on each by its kind.

    Neighbouring slots lie on different GPUs as far as possible; there are ``at_most`` slots in all.
    """
    cores = usable_cores() if n_cores is None else n_cores
    rounds = range(max(workers[slot.kind] for slot in slots))
    chosen = [slot for turn in rounds for slot in slots if turn < workers[slot.kind]][:at_most]
    n_threads = gpu_worker_threads(cores, len(chosen))
    on_each = Counter(slot.gpu for slot in chosen)
    return tuple(
        Slot.on_gpu(index, slot.label, slot.gpu, n_threads, on_each[slot.gpu]) for index, slot in enumerate(chosen)
    )


def _refuse_below(option: str, value: int, least: int, way_out: str = "leave it out") -> None:
    if value < least:
        raise RequestError(f"{option} is at least {least}, got {value}; {way_out}")


def _choose(gpus: int | Literal["all"], visible: tuple[Gpu, ...], free_memory: FreeMemoryProbe) -> tuple[Gpu, ...]:
    if gpus in ("all", len(visible)):
        return visible
    assert isinstance(gpus, int)
    if gpus > len(visible):
        names = f" ({', '.join(gpu.label for gpu in visible)})" if visible else ""
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if setting is None else f" with CUDA_VISIBLE_DEVICES={setting!r}"
        fewer = f"--gpus {len(visible)} for what is there, " if visible else ""
        raise RequestError(
            f"--gpus {gpus} asks for more GPUs than are visible{hidden}: {len(visible)}{names}; "
            f"use {fewer}--gpus 0 for CPU workers"
        )
    free = free_memory()
    freest = sorted(visible, key=lambda gpu: -free.get(gpu.uuid, 0))[:gpus]
    return tuple(gpu for gpu in visible if gpu in freest)


def _threads(n_threads: int) -> dict[str, str]:
    return dict.fromkeys(THREAD_VARIABLES, str(n_threads))
