"""Slots: which devices there are, what each worker is pinned to, and what is refused."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from unetx_evaluators.evaluation import MEMORY_FRACTION
from unetx_search.executors.gpus import Gpu, GpuState, free_memory_mib, gpu_states, usable_gpus, visible_gpus
from unetx_search.executors.slots import make_slots, shared_slots
from unetx_space.errors import RequestError

A, B, C = (Gpu(index, f"GPU-{letter}0ff-11ee", "NVIDIA H200") for index, letter in enumerate("abc"))
SLICES = tuple(
    Gpu(0, uuid, "NVIDIA A100 MIG 3g.20gb", slice_of="GPU-d0ff-11ee") for uuid in ("MIG-1111", "MIG-1222", "MIG-2222")
)


def no_gpus() -> tuple[Gpu, ...]:
    return ()


def never_asked() -> tuple[Gpu, ...]:
    raise AssertionError("CPU workers need no probe")


def test_all_is_what_is_visible_each_pinned_by_its_uuid() -> None:
    slots = make_slots("all", probe=lambda: (A, B, C), n_cores=12)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == [A.uuid, B.uuid, C.uuid]
    assert [slot.label for slot in slots] == ["GPU 0: NVIDIA H200", "GPU 1: NVIDIA H200", "GPU 2: NVIDIA H200"]
    assert {(slot.device, slot.n_threads, slot.environment["OMP_NUM_THREADS"]) for slot in slots} == {("cuda", 4, "4")}
    assert [slot.index for slot in slots] == [0, 1, 2]


def test_a_number_takes_the_first_gpus() -> None:
    slots = make_slots(2, probe=lambda: (A, B, C), n_cores=1)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == [A.uuid, B.uuid]
    assert slots[0].n_threads == 1  # never none, however few cores there are


def test_a_number_takes_the_gpus_that_are_freest_in_their_order() -> None:
    """Nothing is free where the driver does not tell."""
    for free, expected in (
        ({A.uuid: 10, B.uuid: 30, C.uuid: 20}, [B, C]),
        ({A.uuid: 30, B.uuid: 10, C.uuid: 30}, [A, C]),
        ({C.uuid: 1}, [A, C]),
        ({}, [A, B]),
    ):
        slots = make_slots(2, probe=lambda: (A, B, C), free_memory=lambda free=free: free, n_cores=8)
        assert [slot.gpu for slot in slots] == [gpu.uuid for gpu in expected]


@pytest.mark.parametrize(("workers_per_gpu", "fraction"), [(1, 0.9), (2, 0.45), (4, 0.225)])
def test_the_workers_of_a_gpu_divide_nine_tenths_of_its_memory(workers_per_gpu: int, fraction: float) -> None:
    slots = make_slots("all", workers_per_gpu=workers_per_gpu, probe=lambda: (A, B), n_cores=64)
    assert {float(slot.environment[MEMORY_FRACTION]) for slot in slots} == {fraction}
    assert {slot.n_threads for slot in slots} == {4}, "never more, however many cores there are"


def test_where_gpus_have_different_numbers_of_workers_each_divides_its_own() -> None:
    slots = make_slots("all", probe=lambda: (A, Gpu(1, "GPU-x", "Small")), n_cores=8)
    shared = shared_slots(slots, {"NVIDIA H200": 3, "Small": 1}, n_cores=8)
    assert [(slot.gpu, slot.environment[MEMORY_FRACTION]) for slot in shared] == [
        (A.uuid, "0.3000"), ("GPU-x", "0.9000"), (A.uuid, "0.3000"), (A.uuid, "0.3000"),
    ]  # fmt: skip


def test_several_workers_per_gpu_alternate_between_the_gpus() -> None:
    slots = make_slots("all", workers_per_gpu=2, probe=lambda: (A, B), n_cores=8)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == [A.uuid, B.uuid] * 2
    assert [(slot.index, slot.n_threads) for slot in slots] == [(0, 2), (1, 2), (2, 2), (3, 2)]


def test_without_gpus_there_is_a_cpu_worker_of_one_thread_per_core() -> None:
    for slots in (make_slots(0, probe=never_asked, n_cores=3), make_slots("all", probe=no_gpus, n_cores=3)):
        assert [slot.label for slot in slots] == ["CPU 0", "CPU 1", "CPU 2"]
        assert {(slot.device, slot.n_threads, slot.environment["MKL_NUM_THREADS"]) for slot in slots} == {
            ("cpu", 1, "1")
        }
        assert {slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots} == {""}


def test_the_number_of_cpu_workers_can_be_asked_for() -> None:
    assert len(make_slots(0, cpu_workers=5, probe=never_asked, n_cores=2)) == 5


def test_more_gpus_than_there_are_is_refused_with_what_is_there_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(RequestError) as caught:
        make_slots(4, probe=lambda: (A,), n_cores=2)
    assert str(caught.value) == (
        "--gpus 4 asks for more GPUs than are visible: 1 (GPU 0: NVIDIA H200); "
        "use --gpus 1 for what is there, --gpus 0 for CPU workers"
    )


def test_gpus_hidden_by_the_environment_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(RequestError, match=r"with CUDA_VISIBLE_DEVICES='-1': 0; use --gpus 0 for CPU workers"):
        make_slots(1, probe=no_gpus, n_cores=2)


@pytest.mark.parametrize(
    ("gpus", "workers_per_gpu", "cpu_workers", "words"),
    [
        (-1, 1, None, "--gpus is at least 0, got -1"),
        (1, 0, None, "--workers-per-gpu is at least 1, got 0"),
        (0, 1, 0, "--cpu-workers is at least 1, got 0"),
    ],
)
def test_impossible_numbers_are_refused(gpus: int, workers_per_gpu: int, cpu_workers: int | None, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make_slots(gpus, workers_per_gpu=workers_per_gpu, cpu_workers=cpu_workers, probe=never_asked, n_cores=2)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, (A, B, C)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1", (B,)),
        ("2,0", (C, A)),
        (" 2 , 0 ", (C, A)),
        ("0,7,1", (A,)),  # CUDA stops at the first entry that names no device
        ("0,-1,1", (A,)),
        ("1,1", (B,)),
        ("GPU-b0ff-11ee,0", (B, A)),
        ("GPU-c", (C,)),  # a beginning is enough
        ("GPU-", ()),  # unless it fits several
        ("GPU-nothing", ()),
    ],
)
def test_an_outer_cuda_visible_devices_is_read_as_cuda_reads_it(setting: str | None, expected: tuple[Gpu, ...]) -> None:
    assert visible_gpus((A, B, C), setting) == expected


def test_slices_are_visible_by_uuid_also_when_the_listing_does_not_know_them() -> None:
    assert visible_gpus(SLICES, "MIG-2222,MIG-12") == (SLICES[2], SLICES[1])
    assert visible_gpus(SLICES, "MIG-1") == ()  # the beginning of two
    [gpu] = visible_gpus((A,), "MIG-GPU-a0ff-11ee/1/0")
    assert gpu.uuid == "MIG-GPU-a0ff-11ee/1/0"


@pytest.mark.parametrize("setting", ["0", "GPU-d0ff-11ee", "GPU-d"])
def test_naming_a_sliced_gpu_means_its_first_slice(setting: str) -> None:
    assert visible_gpus((*SLICES, A), setting) == SLICES[:1]


def pretend_driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """NVIDIA's management library of four GPUs: the second is in two slices, the third is lost, the fourth is odd.

    Answers and errors are those of the library's reference: a number that names no slice is "not found", and a
    device that cannot tell is "not supported". The handle of a device is its UUID. Returns what was opened.
    """
    uuids, opened = ("GPU-whole", "GPU-sliced", None, "GPU-odd"), list[str]()
    names = {"GPU-odd": "Tesla, special edition", "MIG-a": "NVIDIA A100 MIG 3g.20gb", "MIG-b": "MIG 1g.5gb"}
    memory = {"GPU-whole": (40960, 30000), "MIG-a": (20480, 20000)}

    def told(answer: Any, error: int = pynvml.NVML_ERROR_NOT_SUPPORTED) -> Any:
        if answer is None:
            raise pynvml.NVMLError(error)
        return answer

    def memory_of(handle: str) -> SimpleNamespace:
        total, free = told(memory.get(handle))
        return SimpleNamespace(total=total * 2**20, free=free * 2**20)

    for name, answer in {
        "Init": lambda: opened.append("driver"),
        "Shutdown": opened.clear,
        "DeviceGetCount": lambda: len(uuids),
        "DeviceGetHandleByIndex": lambda index: told(uuids[index], pynvml.NVML_ERROR_GPU_IS_LOST),
        "DeviceGetUUID": lambda handle: handle,
        "DeviceGetName": lambda handle: names.get(handle, "NVIDIA A100"),
        "DeviceGetMemoryInfo": memory_of,
        "DeviceGetMigMode": lambda handle: told(None if handle == "GPU-odd" else (int(handle == "GPU-sliced"), 0)),
        "SystemGetDriverVersion": lambda: "550.54",
        "DeviceGetComputeMode": lambda handle: told({"GPU-whole": 3, "GPU-odd": 0}.get(handle)),
        "DeviceGetComputeRunningProcesses": lambda handle: told(
            {"GPU-whole": [SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=2**30)], "GPU-odd": []}.get(handle)
        ),
        "DeviceGetMaxMigDeviceCount": lambda handle: 7,
        "DeviceGetMigDeviceHandleByIndex": lambda handle, number: told(
            {0: "MIG-a", 2: "MIG-b"}.get(number), pynvml.NVML_ERROR_NOT_FOUND
        ),
    }.items():
        monkeypatch.setattr(pynvml, f"nvml{name}", answer)
    return opened


def test_the_driver_is_asked_and_a_sliced_gpu_is_replaced_by_its_slices(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = pretend_driver(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    whole, first, second, odd = usable_gpus()
    assert opened == []
    assert whole == Gpu(0, "GPU-whole", "NVIDIA A100")
    assert (first.index, first.uuid, first.label) == (1, "MIG-a", "GPU 1: NVIDIA A100 MIG 3g.20gb")
    assert (second.uuid, second.name, second.slice_of) == ("MIG-b", "NVIDIA A100 MIG 1g.5gb", "GPU-sliced")
    assert odd == Gpu(3, "GPU-odd", "Tesla, special edition")
    assert "GPU 2 is left out, for the driver says of it: GPU is lost" in caplog.text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert usable_gpus() == (odd,)


def test_free_memory_is_that_of_every_device_that_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_driver(monkeypatch)
    assert free_memory_mib() == {"GPU-whole": 30000, "MIG-a": 20000}


def test_the_state_of_every_device_is_told_as_far_as_the_driver_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_driver(monkeypatch)
    states = gpu_states()
    name = psutil.Process().name()
    others = (f"{name} (pid {os.getpid()})", f"pid {2**30}")
    assert states["GPU-whole"] == GpuState("550.54", "exclusive", 30000, 40960, others)
    assert states["MIG-a"] == GpuState("550.54", "", 20000, 20480)
    assert states["GPU-odd"] == GpuState("550.54", "default", None, None)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, ""),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "so no GPU is used: RM has detected an NVML/RM version mismatch"),
    ],
)
def test_without_a_driver_there_is_no_gpu_and_with_a_broken_one_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, words: str
) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert (usable_gpus(), free_memory_mib()) == ((), {})
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)


def test_each_kind_of_gpu_gets_its_own_number_of_workers_which_alternate_between_the_gpus() -> None:
    small = Gpu(3, "GPU-small", "Small")
    one_each = make_slots("all", probe=lambda: (A, small, B), n_cores=16)
    assert [slot.kind for slot in one_each] == ["NVIDIA H200", "Small", "NVIDIA H200"]
    workers = {"NVIDIA H200": 3, "Small": 1}
    shared = shared_slots(one_each, workers, n_cores=16)
    pinned = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared]
    assert pinned == [A.uuid, small.uuid, B.uuid, A.uuid, B.uuid, A.uuid, B.uuid]
    assert [(slot.index, slot.n_threads) for slot in shared] == [(index, 2) for index in range(7)]
    assert {slot.environment["OMP_NUM_THREADS"] for slot in shared} == {"2"}
    assert shared_slots(one_each, workers, at_most=2, n_cores=6)[1].n_threads == 3
