"""Seats: which devices there are, what each worker is pinned to, and what is refused."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from unetx_search.executors.slots import (
    Gpu,
    make_slots,
    nvidia_smi_probe,
    parse_gpus,
    shared_slots,
    visible_gpus,
    with_slices,
)
from unetx_space.errors import RequestError

A, B, C = (Gpu(index, f"GPU-{letter}0ff-11ee", "NVIDIA H200", 143771) for index, letter in enumerate("abc"))
SLICES = tuple(
    Gpu(0, uuid, "NVIDIA A100 MIG 3g.20gb", slice_of="GPU-d0ff-11ee") for uuid in ("MIG-1111", "MIG-1222", "MIG-2222")
)

# The formats of nvidia-smi 550; the second GPU is in two slices.
TABLE = """\
0, GPU-5fcb4b34, NVIDIA A100-SXM4-40GB, 40960
1, GPU-1d1d1d1d, NVIDIA A100-SXM4-40GB, 40960
2, GPU-2e2e2e2e, Tesla, special edition, [N/A]
"""
LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5fcb4b34)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-1d1d1d1d)
  MIG 3g.20gb     Device  0: (UUID: MIG-aaaa)
  MIG 1g.5gb      Device  1: (UUID: MIG-bbbb)
GPU 2: Tesla, special edition (UUID: GPU-2e2e2e2e)
"""


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


def test_a_sliced_gpu_is_replaced_by_its_slices() -> None:
    whole, first, second, odd = with_slices(parse_gpus(TABLE), LISTING)
    assert whole == Gpu(0, "GPU-5fcb4b34", "NVIDIA A100-SXM4-40GB", 40960)
    assert (first.index, first.uuid, first.label) == (1, "MIG-aaaa", "GPU 1: NVIDIA A100-SXM4-40GB MIG 3g.20gb")
    assert (second.index, second.uuid, second.slice_of) == (1, "MIG-bbbb", "GPU-1d1d1d1d")
    assert odd == Gpu(2, "GPU-2e2e2e2e", "Tesla, special edition", None)


def pretend_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


needs_sh = pytest.mark.skipif(sys.platform == "win32", reason="the pretended nvidia-smi is a shell script")


@needs_sh
def test_the_probe_asks_nvidia_smi_and_obeys_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = f"if [ \"$1\" = -L ]; then echo '{LISTING}'; else echo '{TABLE}'; fi"
    pretend_nvidia_smi(tmp_path, monkeypatch, answers)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.uuid for gpu in nvidia_smi_probe()] == ["GPU-5fcb4b34", "MIG-aaaa", "MIG-bbbb", "GPU-2e2e2e2e"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert [gpu.uuid for gpu in nvidia_smi_probe()] == ["GPU-2e2e2e2e"]


def test_without_nvidia_smi_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi_probe() == ()


@needs_sh
def test_a_broken_driver_means_no_gpu_but_not_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_nvidia_smi(tmp_path, monkeypatch, "echo 'Driver/library version mismatch'; exit 18")
    with caplog.at_level(logging.WARNING):
        assert nvidia_smi_probe() == ()
    assert "exit code 18, so no GPU is used: Driver/library version mismatch" in caplog.text


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
    assert shared_slots(one_each, workers, at_most=2, n_cores=16)[1].n_threads == 8
