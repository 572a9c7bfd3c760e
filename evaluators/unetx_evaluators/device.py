"""What a device can do and how it is set up: precision, memory layout, threads, memory readings."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from unetx_evaluators.evaluation import MEMORY_FRACTION, DeviceFailed
from unetx_evaluators.host_memory import available_bytes, reset_resident_peak, resident_peak_mib
from unetx_space.errors import RequestError

MIB = 2**20
NO_MEMORY = re.compile(
    # The CPU's allocator and oneDNN; CUDA itself; its libraries, which have a name each for it.
    r"DefaultCPUAllocator|could not create a memory object|CUDA (driver )?error: out of memory"
    r"|(CUBLAS|CUDNN|CUFFT|CUSOLVER|CUSPARSE)_\w*ALLOC\w*_FAILED"
    # cuBLAS has no memory for its handle; cuDNN none for the workspace of any algorithm.
    r"|CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate|unable to find an engine"
)
AUTOTUNED_STEPS = 2000
"""Steps from which on cuDNN tries all its algorithms, for every shape of every new design; an estimate, not measured:
a design has some dozens of shapes, and trying one takes as long as some dozens of its convolutions."""
BY_A_PROGRAM = re.compile(
    "device-side assert|illegal memory access|unspecified launch failure|misaligned address|illegal instruction"
    "|invalid program counter|global/shared address space|hardware stack error|launch timed out|too many resources"
    "|invalid configuration|invalid argument|captur"
)
"""In the words of cudaGetErrorString: what the computation may have done, rather than the device or its driver."""


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
        """Whether so much data may stay on the device: a quarter of what is left of this process's share.

        On a CPU always: the arrays are memory-mapped, and all workers read the same pages.
        """
        known = [n for n in (self.share_bytes(), self.free_bytes()) if n is not None]
        return self.device.type != "cuda" or n_bytes <= min(known) // 4

    def share_bytes(self) -> int | None:
        """What is left of the part of a GPU's memory that is this process's own, whatever others hold; None where
        nothing is divided."""
        fraction = torch.cuda.get_per_process_memory_fraction(self.device) if self.device.type == "cuda" else 1.0
        if fraction == 1.0:
            return None
        _, total = torch.cuda.mem_get_info(self.device)
        return int(total * fraction) - torch.cuda.memory_allocated(self.device)

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


def opened(name: str) -> DeviceProfile:
    """The device for an evaluation, of whose memory this process takes its share only.

    Raises DeviceFailed when it is not there, or no more: a worker was started because it was.
    """
    try:
        found = profile(name)
        if found.device.type == "cuda":
            fraction = float(os.environ.get(MEMORY_FRACTION, "1"))
            torch.cuda.set_per_process_memory_fraction(fraction, found.device)
    except (RequestError, RuntimeError, AssertionError) as error:
        raise DeviceFailed(first_line(error)) from error
    return found


def trusted(device: DeviceProfile, sizes: Sequence[tuple[int, ...]]) -> DeviceProfile:
    """The profile with float32 in place of a precision that computes maps of these ``sizes`` wrongly.

    On CPUs, oneDNN's bfloat16 weight gradient of a 3^3 convolution is uninitialised memory where the map has two voxels
    along its first axis: seen with torch 2.13 in nearly every try on reused memory, and on no other size.
    """
    wrong = device.device.type == "cpu" and any(len(size) == 3 and size[0] == 2 for size in sizes)
    return replace(device, autocast_dtype=None) if wrong else device


def memory_format(dims: int, device: torch.device) -> torch.memory_format:
    """Channels last, in which oneDNN and cuDNN convolve without reordering; for volumes on CUDA the plain layout.

    Measured on one core with avx512_bf16, a U-Net of base width 8: a bf16 step takes 101 ms instead of 128 in 2D (8
    patches of 128x128) and 83 instead of 107 in 3D (2 of 32x48x32). On CUDA nothing is measured here; others found 3D
    networks with instance norms slower in channels last (pytorch#59168), since each norm turns its map round and back.
    """
    if dims == 3 and device.type == "cuda":
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


@contextmanager
def tuned(device: DeviceProfile, n_threads: int, n_steps: int = 0) -> Iterator[None]:
    """Inside: this many CPU threads and, on CUDA, TF32 and cuDNN's algorithms as they pay for a training of so many
    steps. All is put back afterwards."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(n_threads)
    torch.backends.cudnn.benchmark = n_steps >= AUTOTUNED_STEPS
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
    return isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None


def check_alive(device: torch.device, error: BaseException) -> None:
    """After an error of torch: raises DeviceFailed when this process cannot use its device any more.

    A CUDA context that has met an error of the device answers every later call with that error, and so do all
    evaluations after it; other errors leave it sound. Errors come late, so the device is waited for.
    """
    if device.type != "cuda":
        return
    is_dead = isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)
    found: BaseException | None = error if is_dead else None
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as dead:
        found = found or dead
    if found is not None:
        reason = first_line(found)
        raise DeviceFailed(reason, may_be_design=BY_A_PROGRAM.search(reason) is not None) from error


@contextmanager
def watched(device: torch.device) -> Iterator[None]:
    """Inside, an error of torch raises DeviceFailed in its place when this process cannot use the device any more."""
    try:
        yield
    except RuntimeError as error:
        check_alive(device, error)
        raise


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that CUDA's errors have in further lines."""
    return str(error).partition("\n")[0] or type(error).__name__


def release_memory(device: torch.device) -> None:
    """Give cached blocks back, so that other workers of the device, and the next evaluation, find them."""
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
