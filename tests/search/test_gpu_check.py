"""GPUs are tried before a search: what is wrong, what to do about it, and what is only told."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unetx_search import gpu_check
from unetx_search import run as whole_run
from unetx_search.config import SearchConfig
from unetx_search.data_choices import DataChoices
from unetx_search.doctor import diagnose, findings_json, findings_text
from unetx_search.executors.gpus import Gpu, GpuState
from unetx_search.executors.slots import Slot, make_slots
from unetx_search.gpu_check import check_gpus, preflight, try_in_processes
from unetx_space.errors import RequestError

A, B = Gpu(0, "GPU-a", "NVIDIA H200"), Gpu(1, "GPU-b", "NVIDIA H200")
FIT = {
    "torch": "2.13.0+cu130",
    "trouble": "",
    "architecture": "sm_90",
    "built_for": ["sm_80", "sm_90"],
    "precision": "bfloat16",
    "steps": "graph",
    "difference": 1e-3,
    "free_mib": 143000,
    "total_mib": 143771,
}
CALM = GpuState("550.54", "default", 143000, 143771)


def slots(workers_per_gpu: int = 1, *gpus: Gpu) -> tuple[Slot, ...]:
    return make_slots("all", workers_per_gpu=workers_per_gpu, probe=lambda: gpus or (A, B), n_cores=8)


def checked(trial: Mapping[str, Any], state: GpuState = CALM, workers_per_gpu: int = 1) -> gpu_check.GpuFacts:
    """What is found of one GPU."""
    [facts] = check_gpus(
        slots(workers_per_gpu, A), try_gpus=lambda slots: [{**FIT, **trial}], states=lambda: {"GPU-a": state}
    )
    return facts


def test_a_sound_gpu_is_one_row_without_a_word() -> None:
    facts = checked({})
    assert (facts.problems, facts.warnings) == ((), ())
    assert facts.row() == (
        "GPU 0: NVIDIA H200", "550.54", "default", "sm_90", "bfloat16", "graph", "139.6 of 140.4 GiB", "fit",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040).", "install a newer driver than 550.54"),
        ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", "install a newer driver"),
        (
            "no kernel image is available for it in this build of torch",
            "the GPU is sm_90 and this torch was built for sm_80, sm_90: install a build for it",
        ),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", "other processes have it (python (pid 7))"),
        ("CUDA error: out of memory", "other processes have it (python (pid 7)): wait for their end"),
        ("Torch not compiled with CUDA enabled", "install a CUDA build of torch"),
        ("it did not answer within 120 s", "leave it out with CUDA_VISIBLE_DEVICES, or reset it"),
        ("CUDA error: uncorrectable ECC error encountered", "leave it out with CUDA_VISIBLE_DEVICES, or reset it"),
    ],
)
def test_every_trouble_has_its_remedy(trouble: str, remedy: str) -> None:
    facts = checked({"trouble": trouble}, GpuState("550.54", "default", 9, 10, ("python (pid 7)",)))
    [problem] = facts.problems
    assert problem.startswith(f"GPU 0: NVIDIA H200 cannot be used: {trouble}; ")
    assert remedy in problem
    assert facts.row()[-1] == "unfit"


@pytest.mark.parametrize(
    ("mode", "workers_per_gpu", "words"),
    [
        ("default", 2, None),
        ("exclusive", 1, None),
        ("exclusive", 2, "2 workers were asked for: use --workers-per-gpu 1, or nvidia-smi -i GPU-a -c DEFAULT"),
        ("prohibited", 1, "admits no process (compute mode): nvidia-smi -i GPU-a -c DEFAULT"),
    ],
)
def test_a_compute_mode_is_a_problem_where_it_admits_too_few(mode: str, workers_per_gpu: int, words: str) -> None:
    problems = checked({}, GpuState("550.54", mode, 9, 10), workers_per_gpu).problems
    assert len(problems) == (words is not None)
    assert words is None or words in problems[0]


@pytest.mark.parametrize("difference", [0.2, float("nan")])
def test_a_gpu_that_computes_wrongly_is_unfit(difference: float) -> None:
    assert "computes wrongly" in checked({"difference": difference}).problems[0]


def test_others_on_a_gpu_and_steps_without_a_graph_are_told_and_stop_nothing() -> None:
    facts = checked(
        {"free_mib": 100_000, "steps": "eager: too little memory"}, GpuState("", "", 1, 2, ("python (pid 7)",))
    )
    assert facts.problems == ()
    used, full, slow = facts.warnings
    assert used == "GPU 0: NVIDIA H200 is used by other processes, too: python (pid 7)"
    assert "97.7 GiB free of the 126.4 GiB that its workers divide" in full, "0.9 of 143,771 MiB"
    assert "cannot be captured (too little memory)" in slow
    assert facts.row()[5:] == ("eager", "97.7 of 140.4 GiB", "fit, with a warning")


def test_each_gpu_is_tried_once_with_the_environment_of_its_workers() -> None:
    asked: list[tuple[str, ...]] = []

    def trying(slots: Sequence[Slot]) -> list[Mapping[str, Any]]:
        asked.append(tuple(slot.gpu for slot in slots))
        return [FIT] * len(slots)

    facts = check_gpus(slots(3), try_gpus=trying, states=dict)
    assert asked == [("GPU-a", "GPU-b")]
    assert [gpu.label for gpu in facts] == [A.label, B.label]
    cpu = make_slots(0, cpu_workers=2, n_cores=2)
    assert check_gpus(cpu, try_gpus=lambda slots: [], states=lambda: pytest.fail("asked")) == ()


def test_a_search_is_refused_with_all_that_is_wrong_and_told_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "check_torch", lambda slots: None)
    said = io.StringIO()
    trials = [{**FIT, "trouble": "it did not answer"}, {**FIT, "steps": "eager: it waits"}]
    with pytest.raises(RequestError, match=r"doctor --gpu tells more\):\nGPU 0: NVIDIA H200 cannot be used") as caught:
        preflight(slots(), Console(file=said, width=200), try_gpus=lambda slots: trials)
    assert "GPU 1" not in str(caught.value)
    assert "Warning: GPU 1: NVIDIA H200 trains correctly but slowly" in said.getvalue()


def test_a_search_tries_its_gpus_before_it_writes_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def trying(slots: Sequence[Slot]) -> list[Mapping[str, Any]]:
        asked.extend(slot.gpu for slot in slots)
        return [{"trouble": "it did not answer"}] * len(slots)

    monkeypatch.setattr(gpu_check, "try_in_processes", trying)
    monkeypatch.setattr(gpu_check, "check_torch", lambda slots: None)
    config = SearchConfig(out=tmp_path / "runs", study="s", gpus=1)
    with pytest.raises(RequestError, match="GPU 0: NVIDIA H200 cannot be used: it did not answer"):
        whole_run.search(config, console=Console(file=io.StringIO()), probe=lambda: (A, B))
    assert asked == ["GPU-a"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "patience_s", "trouble"),
    [
        ('print("noise"); print(\'{"trouble": "told"}\')', 60.0, "told"),
        (
            "import sys; sys.exit('a library is missing')",
            60.0,
            "its trial ended with exit code 1: a library is missing",
        ),
        ("import os; os._exit(3)", 60.0, "its trial ended with exit code 3: nothing was said"),
        ("import time; time.sleep(600)", 0.2, "it did not answer within 0.2 s"),
    ],
)
def test_a_trial_that_dies_or_hangs_is_a_trouble_of_its_gpu(
    code: str, patience_s: float, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "SELF_TEST", (sys.executable, "-c", code))
    monkeypatch.setattr(gpu_check, "TIMEOUT_S", patience_s)
    assert try_in_processes(slots()) == [{"trouble": trouble}] * 2


def test_a_trial_sees_its_own_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import json, os; print(json.dumps({'trouble': os.environ['CUDA_VISIBLE_DEVICES']}))"
    monkeypatch.setattr(gpu_check, "SELF_TEST", (sys.executable, "-c", code))
    assert [trial["trouble"] for trial in try_in_processes(slots())] == ["GPU-a", "GPU-b"]


def test_doctor_tells_of_each_gpu_in_a_table_and_is_not_content_with_one_that_is_unfit() -> None:
    trials: list[Mapping[str, Any]] = [FIT, {"trouble": "it did not answer"}]
    findings = diagnose(
        DataChoices(),
        console=Console(file=io.StringIO()),
        gpu=True,
        probe=lambda: (A, B),
        try_gpus=lambda slots: trials,
    )
    told = findings_text(findings)
    assert "GPU                 driver  mode  built as  trains in  steps  free" in told
    assert "GPU 1: NVIDIA H200 cannot be used: it did not answer" in told
    assert not findings.is_fit
    facts = json.loads(findings_json(findings))
    assert [len(gpu["problems"]) for gpu in facts["gpus"]] == [0, 1]
    with pytest.raises(RequestError, match="--gpu tries GPUs, and none is visible"):
        diagnose(DataChoices(), console=Console(file=io.StringIO()), gpu=True, probe=lambda: ())
