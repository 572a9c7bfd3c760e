"""Devices: their precision, memory layout, threads and memory, and errors after which they cannot be used."""

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
from unetx_evaluators.host_memory import MIB, available_bytes, reset_resident_peak, resident_peak_mib
from unetx_space.errors import RequestError

OUT_OF_MEMORY_MESSAGE = re.compile(
    # The CPU's allocator and oneDNN; CUDA itself; its libraries, which have a name each for it.
    r"DefaultCPUAllocator|could not create a memory object|CUDA (driver )?error: out of memory"
    r"|(CUBLAS|CUDNN|CUFFT|CUSOLVER|CUSPARSE)_\w*ALLOC\w*_FAILED"
    # cuBLAS has no memory for its handle; cuDNN none for the workspace of any algorithm.
    r"|CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate|unable to find an engine"
)
AUTOTUNED_STEPS = 2000
"""Training steps from which on cuDNN benchmarks all its algorithms, for every shape of every new design; an estimate,
not measured: a design has some dozens of shapes, and benchmarking one takes as long as some dozens of convolutions."""
KERNEL_FAULT_MESSAGE = re.compile(
    "device-side assert|illegal memory access|unspecified launch failure|misaligned address|illegal instruction"
    "|invalid program counter|global/shared address space|hardware stack error|launch timed out|too many resources"
    "|invalid configuration|invalid argument|captur"
)
"""Messages of cudaGetErrorString on errors that a kernel may have caused, rather than the device or its driver."""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device, with the precision and memory layout that train fastest on it."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """Precision of convolutions and matrix products; None computes everything in float32."""

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients would underflow without loss scaling, as they do in float16."""
        return self.autocast_dtype == torch.float16

    def autocast(self) -> torch.autocast:
        """A context in which forward passes use the profile's precision."""
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def has_room_for(self, n_bytes: int) -> bool:
        """Whether ``n_bytes`` of data may stay on the device: at most a quarter of what is left of this process's
        share.

        Always true on a CPU, where arrays are memory-mapped and all workers read the same pages.
        """
        limits = [n for n in (self.share_bytes(), self.free_bytes()) if n is not None]
        return self.device.type != "cuda" or n_bytes <= min(limits) // 4

    def share_bytes(self) -> int | None:
        """Memory that is left of this process's share of a GPU, whatever others hold; None where it is not shared."""
        fraction = torch.cuda.get_per_process_memory_fraction(self.device) if self.device.type == "cuda" else 1.0
        if fraction == 1.0:
            return None
        _, total = torch.cuda.mem_get_info(self.device)
        return int(total * fraction) - torch.cuda.memory_allocated(self.device)

    def free_bytes(self) -> int | None:
        """Memory that can be allocated now; None where the system does not report it.

        On CUDA this is what the device has free, and what torch's cache holds unused; on a CPU what Linux calls
        available, or what is left of the control group's limit (of a container or a batch system), if that is less.
        """
        if self.device.type != "cuda":
            return available_bytes()
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)

    @property
    def name(self) -> str:
        """The GPU's name, or the CPU's with its number of threads."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        cpu = _cpu_capabilities().get("cpu_name") or platform.processor() or platform.machine()
        return f"{cpu}, {torch.get_num_threads()} thread(s)"


def best_device() -> str:
    """``cuda`` where torch sees a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def profile(name: str) -> DeviceProfile:
    """The profile of the device ``cpu``, ``cuda`` or ``cuda:1``. Raises RequestError where there is no such device."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            "a CUDA device was asked for and torch sees none; use --gpus 0, or install a torch with CUDA"
        )
    return DeviceProfile(device, _autocast_dtype(device))


def open_device(name: str) -> DeviceProfile:
    """The profile of a device for an evaluation, this process limited to its share of a GPU's memory.

    Raises DeviceFailed where there is no such device (any more), as a worker is only started for one that is there.
    """
    try:
        opened = profile(name)
        if opened.device.type == "cuda":
            fraction = float(os.environ.get(MEMORY_FRACTION, "1"))
            torch.cuda.set_per_process_memory_fraction(fraction, opened.device)
    except (RequestError, RuntimeError, AssertionError) as error:
        raise DeviceFailed(first_line(error)) from error
    return opened


def with_safe_precision(device: DeviceProfile, sizes: Sequence[tuple[int, ...]]) -> DeviceProfile:
    """The profile, with float32 in place of a precision that computes maps of these ``sizes`` wrongly.

    On CPUs, oneDNN's bfloat16 weight gradient of a 3^3 convolution is uninitialised memory where the map has two voxels
    along its first axis: seen with torch 2.13 in nearly every try on reused memory, and on no other size.
    """
    wrong = device.device.type == "cpu" and any(len(size) == 3 and size[0] == 2 for size in sizes)
    return replace(device, autocast_dtype=None) if wrong else device


def memory_format(dims: int, device: torch.device) -> torch.memory_format:
    """The layout of maps: channels last, in which oneDNN and cuDNN convolve without reordering, but contiguous for
    volumes on CUDA.

    Measured on one core with avx512_bf16, a U-Net of base width 8: a bf16 step takes 101 ms instead of 128 in 2D (8
    patches of 128x128) and 83 instead of 107 in 3D (2 of 32x48x32). On CUDA nothing was measured; others found 3D
    networks with instance norms slower in channels last (pytorch#59168), since each norm reorders its map twice.
    """
    if dims == 3 and device.type == "cuda":
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def in_memory_format(maps: torch.Tensor) -> torch.Tensor:
    """The maps ``[b, c, *size]`` in the memory format of networks on their device."""
    return maps.contiguous(memory_format=memory_format(maps.ndim - 2, maps.device))


@contextmanager
def torch_settings(device: DeviceProfile, n_threads: int, n_steps: int = 0) -> Iterator[None]:
    """Inside, torch uses ``n_threads`` CPU threads and, on CUDA, TF32, and benchmarks cuDNN's algorithms if that pays
    for a training of ``n_steps``. The settings are restored afterwards."""
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
    """The peak of used memory since the creation of this object.

    On CUDA it is what torch has allocated; on a CPU the resident set of the process, interpreter and mapped pages of
    data included. Where the kernel cannot reset that peak (anything but Linux), it counts from the process's start.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_resident_peak()

    def mib(self) -> float | None:
        """The peak in MiB; None where the system does not report it."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / MIB
        return resident_peak_mib()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on either kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY_MESSAGE.search(str(error)) is not None


def check_alive(device: torch.device, error: BaseException) -> None:
    """Raise DeviceFailed if after ``error``, raised by torch, this process cannot use its device any more.

    A CUDA context that has met an error of the device raises it in every later call, and so in all later evaluations;
    other errors leave it intact. Errors are asynchronous, so this synchronises with the device.
    """
    if device.type != "cuda":
        return
    is_fatal = isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)
    fatal: BaseException | None = error if is_fatal else None
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as late:
        fatal = fatal or late
    if fatal is not None:
        reason = first_line(fatal)
        raise DeviceFailed(reason, may_be_design=KERNEL_FAULT_MESSAGE.search(reason) is not None) from error


@contextmanager
def raising_device_failed(device: torch.device) -> Iterator[None]:
    """Inside, an error of torch becomes DeviceFailed when this process cannot use the device any more."""
    try:
        yield
    except RuntimeError as error:
        check_alive(device, error)
        raise


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the advice that CUDA's errors add."""
    return str(error).partition("\n")[0] or type(error).__name__


def release_memory(device: torch.device) -> None:
    """Return torch's cached blocks to the device, for other workers and the next evaluation."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers; ``unknown`` for one that is not installed."""
    known = {"python": platform.python_version()}
    for package in ("torch", "monai", "numpy", "numba", "unetx-search"):
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            known[package] = "unknown"
    return known


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 or float16 where the device computes it faster than float32."""
    if device.type == "cuda":
        # Emulated bfloat16 (before Ampere) is slower than float16.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    has_bf16 = any(_cpu_capabilities().get(feature, False) for feature in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if has_bf16 else None


def _cpu_capabilities() -> Mapping[str, Any]:
    """Features of this CPU as torch reports them; empty where torch is too old to do so."""
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)
    return get_capabilities() if get_capabilities else {}
