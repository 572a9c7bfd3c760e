"""Which devices there are, and the seats that evaluations run in; no torch here.

A slot is one worker process with its device. The device is pinned by environment variables that must stand before
torch is imported, which is why GPUs are counted with ``nvidia-smi`` and not with torch.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from unetx_evaluators.host_cores import usable_cores
from unetx_space.errors import RequestError

logger = logging.getLogger(__name__)

Device = Literal["cuda", "cpu"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read once, when torch, MKL and numpy's OpenBLAS are loaded."""

_MIG_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-\S+)\)")
_GPU_LINE = re.compile(r"GPU (\d+): .* \(UUID: (GPU-\S+)\)")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device CUDA can be pinned to: a whole GPU, or a slice of one (MIG)."""

    index: int
    """``nvidia-smi``'s, which is the order on the PCI bus; slices of one GPU share it."""
    uuid: str
    name: str
    memory_mib: int | None = None
    """None where ``nvidia-smi`` does not say."""
    slice_of: str = ""
    """UUID of the GPU that this is a slice of; empty for a whole GPU."""

    @property
    def label(self) -> str:
        return f"GPU {self.index}: {self.name}"

    @property
    def whole_uuid(self) -> str:
        return self.slice_of or self.uuid


@dataclass(frozen=True, slots=True)
class Slot:
    """A seat for one worker process."""

    index: int
    device: Device
    label: str
    """For people: "GPU 0: NVIDIA H200" or "CPU 1"."""
    environment: Mapping[str, str]
    """Set before the worker imports torch: pins the device and the number of threads."""
    n_threads: int

    @property
    def kind(self) -> str:
        """The name of its GPU, which others may have, too; empty for a CPU."""
        return self.label.partition(": ")[2] if self.device == "cuda" else ""


class GpuProbe(Protocol):
    """Says which GPUs may be used. The default asks ``nvidia-smi``; tests pretend."""

    def __call__(self) -> tuple[Gpu, ...]: ...


def make_slots(
    gpus: int | Literal["all"],
    *,
    workers_per_gpu: int = 1,
    cpu_workers: int | None = None,
    probe: GpuProbe | None = None,
    n_cores: int | None = None,
) -> tuple[Slot, ...]:
    """Seats on the first ``gpus`` visible GPUs, or CPU workers with one thread each where that means none.

    ``all`` means what is visible. ``cpu_workers`` counts where it comes to CPU workers; by default one per usable core.
    Neighbouring slots sit on different GPUs, so that few jobs spread over all of them. Raises RequestError for
    numbers that are negative or more than there is.
    """
    _refuse_below("--gpus", gpus if isinstance(gpus, int) else 0, 0)
    _refuse_below("--workers-per-gpu", workers_per_gpu, 1)
    _refuse_below("--cpu-workers", 1 if cpu_workers is None else cpu_workers, 1)
    cores = usable_cores() if n_cores is None else n_cores
    chosen = () if gpus == 0 else _choose(gpus, (probe or nvidia_smi_probe)())
    return _gpu_slots(chosen * workers_per_gpu, cores) if chosen else _cpu_slots(cpu_workers or cores)


def shared_slots(
    slots: Sequence[Slot], workers: Mapping[str, int], *, at_most: int | None = None, n_cores: int | None = None
) -> tuple[Slot, ...]:
    """Seats on the devices of ``slots``, one a device, with so many ``workers`` on each GPU by its kind.

    Neighbours still sit on different GPUs as far as there are any; the first ``at_most`` seats in all.
    """
    cores = usable_cores() if n_cores is None else n_cores
    rounds = range(max(workers[slot.kind] for slot in slots))
    seats = [slot for turn in rounds for slot in slots if turn < workers[slot.kind]][:at_most]
    n_threads = max(1, cores // len(seats))
    return tuple(
        replace(slot, index=index, environment={**slot.environment, **_threads(n_threads)}, n_threads=n_threads)
        for index, slot in enumerate(seats)
    )


def _refuse_below(option: str, value: int, least: int) -> None:
    if value < least:
        way_out = (
            "--gpus 0 for CPU workers, or leave it out for all visible GPUs" if option == "--gpus" else "leave it out"
        )
        raise RequestError(f"{option} is at least {least}, got {value}; {way_out}")


def _choose(gpus: int | Literal["all"], visible: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    if gpus == "all":
        return visible
    if gpus > len(visible):
        names = f" ({', '.join(gpu.label for gpu in visible)})" if visible else ""
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if setting is None else f" with CUDA_VISIBLE_DEVICES={setting!r}"
        fewer = f"--gpus {len(visible)} for what is there, " if visible else ""
        raise RequestError(
            f"--gpus {gpus} asks for more GPUs than are visible{hidden}: {len(visible)}{names}; "
            f"use {fewer}--gpus 0 for CPU workers"
        )
    return visible[:gpus]


def _gpu_slots(gpus: Sequence[Gpu], n_cores: int) -> tuple[Slot, ...]:
    n_threads = max(1, n_cores // len(gpus))
    # The UUID, not the index: CUDA numbers devices by speed unless told otherwise, nvidia-smi by their place on the bus
    return tuple(
        Slot(
            index,
            "cuda",
            gpu.label,
            {"CUDA_VISIBLE_DEVICES": gpu.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", **_threads(n_threads)},
            n_threads,
        )
        for index, gpu in enumerate(gpus)
    )


def _cpu_slots(n_workers: int) -> tuple[Slot, ...]:
    # An empty list hides the GPUs: a CPU worker must not open a context on one.
    return tuple(
        Slot(index, "cpu", f"CPU {index}", {"CUDA_VISIBLE_DEVICES": "", **_threads(1)}, 1) for index in range(n_workers)
    )


def _threads(n_threads: int) -> dict[str, str]:
    return dict.fromkeys(THREAD_VARIABLES, str(n_threads))


def nvidia_smi_probe() -> tuple[Gpu, ...]:
    """The GPUs that ``nvidia-smi`` lists and an outer CUDA_VISIBLE_DEVICES leaves; none where there is no driver."""
    table = _ask_nvidia_smi("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
    if not table.strip():
        return ()
    gpus = with_slices(parse_gpus(table), _ask_nvidia_smi("-L"))
    return visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _ask_nvidia_smi(*arguments: str) -> str:
    """Its answer; empty where it is absent or fails. A failure is logged, for a night on CPUs would surprise."""
    try:
        answer = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return ""
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("nvidia-smi could not be asked, so no GPU is used: %s", error)
        return ""
    if answer.returncode != 0:
        said = (answer.stderr or answer.stdout).strip()
        logger.warning("nvidia-smi failed with exit code %d, so no GPU is used: %s", answer.returncode, said)
        return ""
    return answer.stdout


def parse_gpus(table: str) -> tuple[Gpu, ...]:
    """GPUs from ``index, uuid, name, memory in MiB`` lines."""
    gpus = []
    for line in table.strip().splitlines():
        index, uuid, rest = (part.strip() for part in line.split(",", 2))
        name, _, memory = (part.strip() for part in rest.rpartition(","))
        gpus.append(Gpu(int(index), uuid, name, int(memory) if memory.isdigit() else None))
    return tuple(gpus)


def with_slices(gpus: Sequence[Gpu], listing: str) -> tuple[Gpu, ...]:
    """The same with every GPU that ``nvidia-smi -L`` shows in slices (MIG) replaced by its slices.

    One process sees one slice only, so a slice, not the GPU, is what a worker can be pinned to.
    """
    slices: dict[str, list[tuple[str, str]]] = {}
    owner = ""
    for line in listing.splitlines():
        if gpu_line := _GPU_LINE.match(line):
            owner = gpu_line[2]
        elif mig_line := _MIG_LINE.match(line):
            slices.setdefault(owner, []).append((mig_line[1], mig_line[2]))
    found: list[Gpu] = []
    for gpu in gpus:
        parts = [
            Gpu(gpu.index, uuid, f"{gpu.name} MIG {profile}", slice_of=gpu.uuid)
            for profile, uuid in slices.get(gpu.uuid, ())
        ]
        found.extend(parts or [gpu])
    return tuple(found)


def visible_gpus(gpus: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """What a CUDA_VISIBLE_DEVICES of ``setting`` leaves, in its order; None leaves everything.

    As in CUDA's programming guide (environment variables): indices or UUIDs, whose beginning is enough when it is
    unique; the first entry that names no device ends the list, so that "" and "-1" leave nothing. Indices are read
    as ``nvidia-smi``'s, the order that CUDA_DEVICE_ORDER=PCI_BUS_ID means.
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
