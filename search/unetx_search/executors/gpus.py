"""Which GPUs there are, and how much memory is free on them, by NVIDIA's management library; no torch here.

The library comes with the driver. Where there is none there are no GPUs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

logger = logging.getLogger(__name__)

MIB = 2**20
MODES = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}
"""NVML's compute modes: of a process (3), and of a thread (1) in older drivers."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that CUDA can be pinned to: a whole GPU, or a slice of one (MIG)."""

    index: int
    """The GPU's place on the PCI bus, as ``nvidia-smi`` counts; slices of one GPU share it."""
    uuid: str
    name: str
    slice_of: str = ""
    """UUID of the GPU that this is a slice of; empty for a whole GPU."""

    @property
    def label(self) -> str:
        return f"GPU {self.index}: {self.name}"

    @property
    def whole_uuid(self) -> str:
        return self.slice_of or self.uuid


@dataclass(frozen=True, slots=True)
class GpuState:
    """The state of a device at an instant, as far as the driver tells."""

    driver: str
    """Version of the driver."""
    mode: str
    """The compute mode: "default", "exclusive" (one process at a time), "prohibited"; empty where it is not known."""
    free_mib: int | None
    total_mib: int | None
    others: tuple[str, ...] = ()
    """Processes that compute on the device, such as "python (pid 123)"."""


class GpuProbe(Protocol):
    """A function that returns the GPUs which may be used; tests replace that which asks the driver."""

    def __call__(self) -> tuple[Gpu, ...]: ...


class FreeMemoryProbe(Protocol):
    """A function that returns the free memory in MiB by the device's UUID; tests replace that which asks the driver."""

    def __call__(self) -> Mapping[str, int]: ...


def usable_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the driver lists, as far as CUDA_VISIBLE_DEVICES leaves them."""
    with _driver() as nvml:
        gpus = tuple(gpu for _, gpu in _devices(nvml))
    return visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def free_memory_mib() -> Mapping[str, int]:
    """Return the free memory in MiB of every GPU and slice that tells it, by UUID."""
    with _driver() as nvml:
        told = {gpu.uuid: _ask(nvml.nvmlDeviceGetMemoryInfo, handle) for handle, gpu in _devices(nvml)}
    return {uuid: memory.free // MIB for uuid, memory in told.items() if memory is not None}


def gpu_states() -> Mapping[str, GpuState]:
    """Return the state of every GPU and slice, by UUID."""
    states: dict[str, GpuState] = {}
    with _driver() as nvml:
        driver = nvml and _ask(nvml.nvmlSystemGetDriverVersion)
        for handle, gpu in _devices(nvml):
            memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
            mode = MODES.get(_ask(nvml.nvmlDeviceGetComputeMode, handle), "")
            processes = _ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
            free, total = (None, None) if memory is None else (memory.free // MIB, memory.total // MIB)
            others = tuple(_process_words(process.pid) for process in processes)
            states[gpu.uuid] = GpuState(driver or "", mode, free, total, others)
    return states


def _process_words(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"


@contextmanager
def _driver() -> Iterator[Any]:
    """NVIDIA's management library, opened; None where there is no driver.

    A driver that fails is logged, for a night on CPUs would surprise.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        yield None
        return
    except pynvml.NVMLError as error:
        logger.warning("NVIDIA's driver could not be asked, so no GPU is used: %s", error)
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _devices(nvml: Any) -> Iterator[tuple[Any, Gpu]]:
    """Every GPU with its handle; one in slices is replaced by them, for a process sees no more than one slice."""
    for index in range(nvml.nvmlDeviceGetCount() if nvml is not None else 0):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError as error:
            logger.warning("GPU %d is left out, for the driver says of it: %s", index, error)
            continue
        slices: list[Any] = []
        if (_ask(nvml.nvmlDeviceGetMigMode, handle) or (0, 0))[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            numbers = range(_ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)
            found = (_ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number) for number in numbers)
            slices = [part for part in found if part is not None]
        for part in slices:
            profile = str(nvml.nvmlDeviceGetName(part)).removeprefix(name).strip()
            yield part, Gpu(index, nvml.nvmlDeviceGetUUID(part), f"{name} {profile}", slice_of=uuid)
        if not slices:
            yield handle, Gpu(index, uuid, name)


def _ask(ask: Callable[..., Any], *arguments: Any) -> Any:
    """What the driver answers; None where this device or this driver does not know."""
    import pynvml

    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


def visible_gpus(gpus: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves when it is ``setting``, in its order; None leaves all.

    As in CUDA's programming guide (environment variables): indices or UUIDs, whose beginning is enough when it is
    unique; the first entry that names no device ends the list, so that "" and "-1" leave nothing. Indices are read
    as the place on the PCI bus, the order that CUDA_DEVICE_ORDER=PCI_BUS_ID means.
    """
    if setting is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for entry in setting.split(","):
        gpu = _named(gpus, entry.strip())
        if gpu is None:
            break
        if gpu not in chosen:
            chosen.append(gpu)
    return tuple(chosen)


def _named(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    """The device an entry names; of a GPU in slices CUDA takes the first slice."""
    if entry.isdigit():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    if entry.startswith("MIG-"):
        slices = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        # Older drivers spell slices in a way that the listing does not show.
        return slices[0] if len(slices) == 1 else None if slices else Gpu(0, entry, "MIG slice")
    named = {gpu.whole_uuid: gpu for gpu in reversed(gpus) if entry and gpu.whole_uuid.startswith(entry)}
    return next(iter(named.values())) if len(named) == 1 else None
