"""The choice of Triton's norms: where they can be had, where not, and what is said of it; with fakes of Triton."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import DeviceFailed
from unetx_evaluators.proxy import accelerated
from unetx_evaluators.training.fast_cuda import choice, fast_on_cuda, norm_backend
from unetx_evaluators.training.module_swaps import FusedNorm
from unetx_evaluators.training.trainer import Progress

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which comes with torch for CUDA")
NormAct = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]


@pytest.fixture(autouse=True)
def _nothing_is_known_yet() -> Iterator[None]:
    choice.triton_failure.cache_clear()
    yield
    choice.triton_failure.cache_clear()


@pytest.fixture
def stands_for_triton(monkeypatch: pytest.MonkeyPatch) -> Callable[[NormAct], None]:
    """Puts a function in the place of Triton's."""

    def put(norm_act: NormAct) -> None:
        fake = SimpleNamespace(norm_act=norm_act, DTYPES=(torch.float32,))
        monkeypatch.setitem(sys.modules, "unetx_evaluators.training.fast_cuda.triton_norm", fake)

    return put


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    return F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias, eps=eps), slope)


def network() -> nn.Sequential:
    norms = (nn.InstanceNorm2d(3, affine=True), nn.LeakyReLU(0.1), nn.InstanceNorm2d(3, affine=True), nn.ReLU())
    return nn.Sequential(nn.Conv2d(1, 3, 3), *norms, nn.InstanceNorm2d(3, affine=True), nn.Conv2d(3, 2, 1))


def test_norms_are_exchanged_with_what_activates_them_and_put_back(
    stands_for_triton: Callable[[NormAct], None],
) -> None:
    stands_for_triton(by_torch)
    plain, x = network(), torch.linspace(-1, 1, 128).view(2, 1, 8, 8).square()
    before, wanted = dict(plain.named_modules()), plain(x)
    with fast_on_cuda(plain, CPU):
        kinds = [type(module) for module in plain]
        assert kinds == [nn.Conv2d, FusedNorm, nn.Identity, FusedNorm, nn.Identity, FusedNorm, nn.Conv2d]
        torch.testing.assert_close(plain(x), wanted)
    assert dict(plain.named_modules()) == before


def test_without_triton_the_network_stays_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for part in ("kernels", "norm"):
        monkeypatch.delitem(sys.modules, f"unetx_evaluators.training.fast_cuda.triton_{part}", raising=False)
    caplog.set_level(logging.INFO)
    plain = network()
    before = dict(plain.named_modules())
    for _ in range(2):
        with fast_on_cuda(plain, CPU):
            assert dict(plain.named_modules()) == before
    assert [record.getMessage() for record in caplog.records] == [
        f"instance norms are computed by torch, not by Triton; {choice.triton_failure(CPU)}"
    ]
    assert "triton" in choice.triton_failure(CPU)


def test_a_triton_without_a_compiler_or_with_wrong_numbers_is_not_used(
    stands_for_triton: Callable[[NormAct], None],
) -> None:
    def without_compiler(*_: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify it")

    stands_for_triton(without_compiler)
    assert choice.triton_failure(CPU) == "RuntimeError: Failed to find C compiler."
    choice.triton_failure.cache_clear()
    stands_for_triton(lambda x, weight, bias, eps, slope: by_torch(x, weight, bias, eps, slope / 2))
    assert choice.triton_failure(CPU) == "RuntimeError: its numbers are not torch's"


def test_the_trial_works_while_gradients_are_off(stands_for_triton: Callable[[NormAct], None]) -> None:
    stands_for_triton(by_torch)
    with torch.inference_mode():
        assert choice.triton_failure(CPU) == ""


def test_a_device_that_dies_in_the_trial_is_no_reason_to_go_on_with_torch(
    stands_for_triton: Callable[[NormAct], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(device: torch.device, error: BaseException) -> None:
        raise DeviceFailed("illegal memory access") from error

    stands_for_triton(lambda *_: torch.empty(0).view(1))
    monkeypatch.setattr(choice, "check_alive", dead)
    with pytest.raises(DeviceFailed):
        choice.triton_failure(CPU)


def test_unless_they_are_asked_for_nothing_is_tried_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(device: torch.device) -> str:
        raise AssertionError("tried")

    monkeypatch.setattr(choice, "triton_failure", never)
    plain = network()
    before = dict(plain.named_modules())
    assert (norm_backend(CUDA), norm_backend(CPU)) == ("", "")
    with accelerated(plain, DeviceProfile(CUDA, None)):
        assert dict(plain.named_modules()) == before


@pytest.mark.parametrize(("reason", "told"), [("", "triton"), ("no compiler", "torch: no compiler")])
def test_where_they_are_asked_for_an_evaluation_tells_what_came_of_it(
    stands_for_triton: Callable[[NormAct], None], monkeypatch: pytest.MonkeyPatch, reason: str, told: str
) -> None:
    stands_for_triton(by_torch)
    monkeypatch.setattr(choice, "USE_TRITON", True)
    monkeypatch.setattr(choice, "triton_failure", lambda device: reason)
    assert (norm_backend(CUDA), norm_backend(CPU)) == (told, "")
    assert Progress(1.0, step_mode="graph", norm_backend=told).modes == {"steps": "graph", "norms": told}
    assert Progress(1.0).modes == {}
    plain = network()
    with accelerated(plain, DeviceProfile(CUDA, None)):
        assert any(isinstance(module, FusedNorm) for module in plain) == (told == "triton")


@needs_triton
@pytest.mark.timeout(300)
def test_tritons_kernels_interpreted_on_a_cpu_have_torchs_numbers() -> None:
    tests = Path(__file__).with_name("test_triton_norm.py")
    command = [sys.executable, "-m", "pytest", "-q", str(tests)]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@needs_triton
@pytest.mark.parametrize(("map_type", "unit"), [("*bf16", "c_stride"), ("*fp16", "n_stride"), ("*fp32", "c_stride")])
def test_the_kernels_compile_for_a_gpu_that_is_not_there(map_type: str, unit: str) -> None:
    compile_kernel: Any = importlib.import_module("triton").compile
    source: Any = importlib.import_module("triton.compiler").ASTSource
    target: Any = importlib.import_module("triton.backends.compiler").GPUTarget
    kernels: Any = importlib.import_module("unetx_evaluators.training.fast_cuda.triton_kernels")
    fixed = {"CHANNELS": 8, "VOXELS": 256, "PARTS": 64, unit: 1}
    types = dict.fromkeys(("x", "y", "dy", "dx"), map_type) | dict.fromkeys(("eps", "slope"), "fp32")
    types |= dict.fromkeys(("c_stride", "n_stride", "c", "n", "part", "parts"), "i32") | dict.fromkeys(
        fixed, "constexpr"
    )
    for kernel in (kernels.statistics, kernels.normalised, kernels.gradient_sums, kernels.gradient):
        signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
        constants = {(kernel.arg_names.index(name),): fixed[name] for name in kernel.arg_names if name in fixed}
        made = compile_kernel(source(kernel, signature, constants), target=target("cuda", 80, 32))
        assert made.asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@needs_triton
def test_on_a_gpu_the_trial_finds_torchs_numbers() -> None:
    assert choice.triton_failure(torch.device("cuda", 0)) == ""
