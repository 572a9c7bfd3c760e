"""What a device can do and how it is set up: precision, memory layout, threads, memory readings."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from unetx_evaluators.host_memory import available_bytes, reset_resident_peak, resident_peak_mib
from unetx_space.errors import RequestError

MIB = 2**20


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device, with the precision and memory layout that train fastest on it."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """Of convolutions and matrix products; None computes everything in float32."""

    @property
    def needs_loss_scaling(self) -> bool:
        """float16 gradients underflow without it."""
        return self.autocast_dtype == torch.float16

    def autocast(self) -> torch.autocast:
        """A context for forward passes."""
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def holds(self, n_bytes: int) -> bool:
        """Whether so much data may stay on the device: a quarter of its free memory, so that workers can share it.

        On a CPU always: the arrays are memory-mapped, and all workers read the same pages.
        """
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        return n_bytes <= free // 4

    def free_bytes(self) -> int | None:
        """Memory that is to be had now; None where the system does not tell.

        On CUDA what the device has free, and what torch keeps of it without use. On a CPU what Linux calls available,
        or what is left of the control group's limit, if that is less (a container, a batch system).
        """
        if self.device.type != "cuda":
            return available_bytes()
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)

    @property
    def name(self) -> str:
        """For the record: the GPU's name, or the CPU's with its number of threads."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        cpu = _cpu_capabilities().get("cpu_name") or platform.processor() or platform.machine()
        return f"{cpu}, {torch.get_num_threads()} thread(s)"


def best_device() -> str:
    """``cuda`` where torch sees a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def profile(name: str) -> DeviceProfile:
    """Of the device called ``cpu``, ``cuda`` or ``cuda:1``. Raises RequestError when it is not there."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            "a CUDA device was asked for and torch sees none; use --gpus 0, or install a torch with CUDA"
        )
    return DeviceProfile(device, _autocast_dtype(device))


def trusted(device: DeviceProfile, sizes: Sequence[tuple[int, ...]]) -> DeviceProfile:
    """The profile with float32 in place of a precision that computes maps of these ``sizes`` wrongly.

    On CPUs, oneDNN's bfloat16 weight gradient of a 3^3 convolution is uninitialised memory where the map has two voxels
    along its first axis: seen with torch 2.13 in nearly every try on reused memory, and on no other size.
    """
    wrong = device.device.type == "cpu" and any(len(size) == 3 and size[0] == 2 for size in sizes)
    return replace(device, autocast_dtype=None) if wrong else device


def memory_format(dims: int) -> torch.memory_format:
    """Channels last, in which oneDNN and cuDNN convolve without reordering.

    Measured on one core with avx512_bf16, a U-Net of base width 8: a bf16 step takes 101 ms instead of 128 in 2D (8
    patches of 128x128) and 83 instead of 107 in 3D (2 of 32x48x32).
    """
    return torch.channels_last if dims == 2 else torch.channels_last_3d


@contextmanager
def tuned(device: DeviceProfile, n_threads: int) -> Iterator[None]:
    """Inside: this many CPU threads, cuDNN's fastest algorithms and, on CUDA, TF32. All is put back afterwards."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(n_threads)
    torch.backends.cudnn.benchmark = True
    if device.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # convolutions use TF32 by default
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)


class PeakMemory:
    """The most memory used since this object was made, in MiB.

    On CUDA what torch has allocated. On a CPU the resident set of the process, its interpreter and mapped pages of
    data included; where the kernel cannot reset that mark (anything but Linux), it counts from the process's start.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_resident_peak()

    def mib(self) -> float | None:
        """None where the system does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / MIB
        return resident_peak_mib()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on either kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator, oneDNN and cuDNN have no type of their own for it.
    texts = ("DefaultCPUAllocator", "could not create a memory object", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def release_memory(device: torch.device) -> None:
    """Give cached blocks back after a failure, so that the next evaluation finds them."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def versions() -> dict[str, str]:
    """Of what decides the numbers; ``unknown`` where a source tree is run that was never installed."""
    found = {"python": platform.python_version()}
    for package in ("torch", "monai", "numpy", "numba", "unetx-search"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 or float16 where the device computes it faster than float32."""
    if device.type == "cuda":
        # Emulated bfloat16 (before Ampere) is slower than float16.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    has_bf16 = any(_cpu_capabilities().get(feature, False) for feature in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if has_bf16 else None


def _cpu_capabilities() -> Mapping[str, Any]:
    """What torch knows of this CPU; nothing where torch is too old to tell."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    return tell() if tell else {}
