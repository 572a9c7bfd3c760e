"""Devices: what they can do, that settings are put back, and which errors mean a lack of memory."""

import numpy as np
import pytest
import torch

from unetx_evaluators.device import (
    DeviceProfile,
    PeakMemory,
    check_alive,
    is_out_of_memory,
    memory_format,
    open_device,
    profile,
    torch_settings,
    versions,
    with_safe_precision,
)
from unetx_evaluators.evaluation import MEMORY_FRACTION, DeviceFailed
from unetx_evaluators.host_memory import MIB
from unetx_space.errors import RequestError

CUDA = torch.device("cuda")


def test_threads_and_settings_are_those_asked_inside_and_the_old_ones_afterwards() -> None:
    before = (torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision())
    for n_steps, is_tried in ((0, False), (1999, False), (2000, True)):
        with torch_settings(profile("cpu"), n_threads=2, n_steps=n_steps):
            assert torch.get_num_threads() == 2
            assert torch.backends.cudnn.benchmark is is_tried, "all algorithms pay in long trainings alone"
    with pytest.raises(KeyError), torch_settings(profile("cpu"), n_threads=3):
        raise KeyError
    after = (torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision())
    assert after == before


@pytest.mark.parametrize(("features", "expected"), [({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, None)])
def test_a_cpu_computes_in_bfloat16_only_where_it_has_instructions_for_it(
    features: dict[str, bool], expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert profile("cpu").autocast_dtype == expected


def test_a_torch_that_cannot_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    cpu = profile("cpu")
    assert cpu.autocast_dtype is None
    with cpu.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_missing_gpu_is_a_wrong_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match="torch sees none"):
        profile("cuda:3")


@pytest.mark.parametrize("dims", [2, 3])
def test_the_memory_format_fits_the_dimensions(dims: int) -> None:
    batch = torch.zeros(2, 3, *[4] * dims).contiguous(memory_format=memory_format(dims, torch.device("cpu")))
    assert batch.stride(1) == 1


def test_on_cuda_images_are_channels_last_and_volumes_are_not() -> None:
    assert memory_format(2, CUDA) is torch.channels_last
    assert memory_format(3, CUDA) is torch.contiguous_format


def test_a_real_failure_of_the_cpu_allocator_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in the documents"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("FIND was unable to find an engine to execute this computation after trying 10 plans."),
        RuntimeError("could not create a memory object"),
    ],
)
def test_every_library_has_its_own_words_for_a_lack_of_memory(error: RuntimeError) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
    ],
)
def test_what_the_same_libraries_say_otherwise_is_no_lack_of_memory(words: str) -> None:
    assert not is_out_of_memory(torch.AcceleratorError(words))


def pretended_sync(monkeypatch: pytest.MonkeyPatch, error: RuntimeError | None) -> None:
    """The device answers a wait with this error, as a dead context does at every call."""

    def synchronize(device: torch.device) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)


@pytest.mark.parametrize(
    ("words", "may_be_design"),
    [  # cudaGetErrorString of 710, 700, 719, 716, 901, 214, 46, 100, 999
        ("device-side assert triggered", True),
        ("an illegal memory access was encountered", True),
        ("unspecified launch failure", True),
        ("misaligned address", True),
        ("operation failed due to a previous error during capture", True),
        ("uncorrectable ECC error encountered", False),
        ("CUDA-capable device(s) is/are busy or unavailable", False),
        ("no CUDA-capable device is detected", False),
        ("unknown error", False),
    ],
)
def test_an_error_after_which_the_device_does_not_answer_ends_the_process(
    words: str, may_be_design: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever text it came with: cuBLAS's error of a kernel that had failed before tells nothing of the device."""
    pretended_sync(monkeypatch, torch.AcceleratorError(f"CUDA error: {words}\nCompile with `TORCH_USE_CUDA_DSA`"))
    with pytest.raises(DeviceFailed) as caught:
        check_alive(CUDA, RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))
    assert (str(caught.value), caught.value.may_be_design) == (f"CUDA error: {words}", may_be_design)


def test_an_error_of_the_accelerator_ends_the_process_though_the_device_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretended_sync(monkeypatch, None)
    with pytest.raises(DeviceFailed, match="launch timed out"):
        check_alive(CUDA, torch.AcceleratorError("CUDA error: the launch timed out and was terminated"))


@pytest.mark.parametrize(
    ("device", "error"),
    [
        (CUDA, RuntimeError("shapes cannot be multiplied")),
        (CUDA, torch.OutOfMemoryError("CUDA out of memory")),
        (CUDA, torch.AcceleratorError("CUDA error: out of memory")),
        (torch.device("cpu"), torch.AcceleratorError("CUDA error: device-side assert triggered")),
    ],
)
def test_a_device_that_answers_after_an_ordinary_error_goes_on(
    device: torch.device, error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended_sync(monkeypatch, None)
    check_alive(device, error)


def test_a_worker_opens_its_share_of_the_device_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[float, torch.device]] = []
    monkeypatch.setattr("unetx_evaluators.device.profile", lambda name: DeviceProfile(CUDA, None))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *taking: taken.append(taking))
    monkeypatch.setenv(MEMORY_FRACTION, "0.225")
    assert open_device("cuda") == DeviceProfile(CUDA, None)
    assert taken == [(0.225, CUDA)]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("No CUDA GPUs are available"), AssertionError("Torch not compiled"), RequestError("sees none")],
)
def test_a_device_that_cannot_be_opened_any_more_is_not_the_designs_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str) -> DeviceProfile:
        raise error

    monkeypatch.setattr("unetx_evaluators.device.profile", gone)
    with pytest.raises(DeviceFailed) as caught:
        open_device("cuda")
    assert not caught.value.may_be_design


def test_memory_is_told_by_the_share_and_by_what_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1000 MiB 450 are this worker's, of which it keeps 200 and uses 150; the device has 100 free."""
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.45)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * MIB, 1000 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 200 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 150 * MIB)
    cuda = DeviceProfile(CUDA, None)
    assert (cuda.share_bytes(), cuda.free_bytes()) == (300 * MIB, 150 * MIB)
    assert (cuda.has_room_for(37 * MIB), cuda.has_room_for(38 * MIB)) == (True, False), "a quarter of 150"
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
    assert cuda.share_bytes() is None, "not divided"
    assert profile("cpu").share_bytes() is None


def test_peak_memory_rises_with_what_is_used() -> None:
    peak = PeakMemory(torch.device("cpu"))
    before = peak.mib()
    block = np.ones(64 * 2**20 // 8)
    after = peak.mib()
    assert before is not None
    assert after is not None
    assert after > before + 48, f"64 MiB more in use: {block.nbytes}"


def test_versions_name_what_decides_the_numbers() -> None:
    assert versions().keys() == {"python", "torch", "monai", "numpy", "numba", "unetx-search"}
    assert versions()["torch"] == torch.__version__.partition("+")[0] or versions()["torch"] == torch.__version__


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_in_half_precision_and_reports_its_own_memory() -> None:
    cuda = profile("cuda")
    assert cuda.autocast_dtype in (torch.bfloat16, torch.float16)
    peak = PeakMemory(cuda.device)
    block = torch.zeros(32, 2**20, device=cuda.device)
    mib = peak.mib()
    assert mib is not None
    assert mib >= block.nbytes / 2**20


@pytest.mark.parametrize(
    ("sizes", "is_trusted"),
    [
        ([(32, 48, 32), (16, 24, 16), (8, 12, 8), (4, 6, 4)], True),
        ([(16, 48, 32), (8, 24, 16), (4, 12, 8), (2, 6, 4)], False),
        ([(9, 8, 8), (5, 4, 4), (3, 2, 2)], True),
        ([(1, 8, 8)], True),
        ([(2, 8)], True),
    ],
)
def test_bfloat16_is_not_used_where_onednn_leaves_weight_gradients_uninitialised(
    sizes: list[tuple[int, ...]], is_trusted: bool
) -> None:
    cpu = DeviceProfile(torch.device("cpu"), torch.bfloat16)
    assert with_safe_precision(cpu, sizes).autocast_dtype == (torch.bfloat16 if is_trusted else None)
    cuda = DeviceProfile(torch.device("cuda"), torch.bfloat16)
    assert with_safe_precision(cuda, sizes) is cuda


@pytest.mark.parametrize("size", [(4, 6, 4), (3, 3, 3), (3, 2, 2), (1, 8, 8), (8, 2, 8), (2, 8, 8)])
def test_trusted_bfloat16_gradients_of_a_3d_convolution_are_those_of_float32(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(16, 16, 3, padding=1, bias=False)
    image = torch.randn(2, 16, *size)
    gradients = []
    for device in (with_safe_precision(profile("cpu"), [size]), DeviceProfile(torch.device("cpu"), None)):
        poisoned = [torch.full((2**power,), torch.nan) for power in range(6, 20)]
        del poisoned  # what is not initialised now holds NaN
        with device.autocast():
            output = conv(image)
        (gradient,) = torch.autograd.grad(output.float().square().mean(), conv.weight)
        gradients.append(gradient)
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()
