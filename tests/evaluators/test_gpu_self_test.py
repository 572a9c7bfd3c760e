"""The trial of a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from unetx_evaluators.device import DeviceProfile, profile
from unetx_evaluators.gpu_self_test import compare_captured, runs_on, self_test
from unetx_evaluators.training.iteration import ChosenIteration

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    ("capability", "built_for", "expected"),
    [  # CUDA C++ programming guide, "Binary compatibility" and "PTX compatibility"
        ((9, 0), ("sm_80", "sm_90"), True),
        ((8, 6), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80", "sm_86"), False),
        ((12, 0), ("sm_90", "sm_120"), True),
        ((12, 0), ("sm_90",), False),
        ((12, 0), ("sm_90", "compute_90"), True),
        ((7, 5), ("compute_80",), False),
        ((9, 0), ("sm_90a",), False),
        ((9, 0), (), False),
    ],
)
def test_a_gpu_runs_the_code_of_its_major_version_and_any_earlier_ptx(
    capability: tuple[int, int], built_for: tuple[str, ...], expected: bool
) -> None:
    assert runs_on(*capability, built_for) is expected


@pytest.mark.usefixtures("one_thread")
def test_the_same_steps_on_a_cpu_differ_by_nothing() -> None:
    chosen, difference = compare_captured(DeviceProfile(torch.device("cpu"), None))
    assert (chosen.mode, difference) == ("", 0.0)
    assert isinstance(chosen, ChosenIteration)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_the_reason_is_one_line_of_json() -> None:
    assert self_test().trouble
    done = subprocess.run([sys.executable, "-m", "unetx_evaluators.gpu_self_test"], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert (found["trouble"], found["difference"]) == (self_test().trouble, None)


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_real_gpu_is_fit() -> None:
    found = self_test()
    assert (found.trouble, found.steps) == ("", "graph")
    assert found.difference is not None
    assert found.difference < 0.05
    assert found.precision == str(profile("cuda").autocast_dtype).removeprefix("torch.")
