"""The step before training: sound networks pass it and leave as they came; broken ones are named by what is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task
from torch import nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import NullObserver, Outcome
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.training import dry_run as steps
from unetx_evaluators.training.dry_run import dry_run
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.backbone import NORMS, Backbone, isotropic_backbone
from unetx_space.network import SkipUNet, build
from unetx_space.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FLOAT32 = DeviceProfile(CPU, autocast_dtype=None)
BACKBONE = isotropic_backbone(2, n_levels=3, base_width=4)


def network_on(backbone: Backbone = BACKBONE, preset: str = "u-net") -> SkipUNet:
    return build(Architecture(backbone, PRESETS[preset].genome(backbone.n_levels)))


def faults_of(network: nn.Module, backbone: Backbone = BACKBONE, device: DeviceProfile = FLOAT32) -> tuple[str, ...]:
    return dry_run(network, backbone, (16, 12, 8)[: backbone.dims], device).faults


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_sound(name: str) -> None:
    assert faults_of(network_on(preset=name)) == ()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_sound_network_passes_in_every_precision_and_norm(norm: str, dtype: torch.dtype | None) -> None:
    backbone = replace(isotropic_backbone(3, n_levels=3, base_width=4, in_channels=2, out_channels=4), norm=norm)  # type: ignore[arg-type]
    assert faults_of(network_on(backbone), backbone, DeviceProfile(CPU, dtype)) == ()


def test_the_network_leaves_as_it_came() -> None:
    backbone = replace(BACKBONE, norm="batch")
    network = network_on(backbone).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    assert faults_of(network, backbone) == ()
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any("running_mean" in name for name in before)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks for module in network.modules())


def test_an_output_that_is_not_finite_is_named() -> None:
    network = network_on()
    network.head.get_parameter("bias").data[0] = torch.inf
    assert faults_of(network) == ("the untrained network's output is not finite",)


def test_a_node_that_nothing_reaches_is_named_with_its_parameters() -> None:
    """The head reads a constant instead of D0, so that nothing but its own bias learns."""

    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_ones(x.shape)

    network = network_on()
    network.head = nn.Sequential(Constant(), network.head)
    reached, unused = faults_of(network)
    assert reached == "no gradient reaches the output of E0, E1, E2 and 2 more"
    n_unused = sum(1 for name, _ in network.named_parameters() if not name.startswith("head"))
    assert unused.startswith("the output does not depend on encoder.E0.conv1.weight, ")
    assert unused.endswith(f" and {n_unused - 3} more")


def test_a_dead_node_is_named_though_a_gradient_of_zero_reaches_it() -> None:
    network = network_on()
    network.head.get_parameter("weight").data.zero_()
    assert faults_of(network) == ("no gradient reaches the output of E0, E1, E2 and 2 more",)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    """The square root has an infinite slope at 0, where E2 is brought by a multiplication with 0."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + (x.abs() * self.scale).sqrt()

    network = network_on()
    network.encoder["E2"].append(Root())  # type: ignore[operator]
    (problem,) = faults_of(network)
    assert problem.startswith("the gradient is not finite of ")
    assert "encoder." in problem


def test_heads_for_deep_supervision_that_the_output_does_not_read_are_no_fault() -> None:
    backbone = replace(BACKBONE, deep_supervision=True)
    assert len(network_on(backbone).side_heads) == 1
    assert faults_of(network_on(backbone), backbone) == ()


def test_the_memory_of_the_step_is_read() -> None:
    """The exponential keeps 1024 values for each of 2 x 128 x 128 voxels: 128 MiB that no process has lying about."""

    class Hungry(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.repeat(1, 256, 1, 1).exp().mean(1, keepdim=True)

    network = network_on()
    network.head = nn.Sequential(Hungry(), network.head)
    assert dry_run(network, BACKBONE, (128, 128), FLOAT32).step_bytes > 64 * 2**20


def test_on_cuda_the_second_step_is_measured_for_the_first_tries_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peaks of a device whose first step takes 900 MiB of workspaces, and every later one 300."""
    peaks = iter([(100.0, 1000.0), (110.0, 410.0)])

    class Peak:
        def __init__(self, device: torch.device) -> None:
            self._told = iter(next(peaks))

        def mib(self) -> float:
            return next(self._told)

    seen: list[tuple[int, ...]] = []
    network = network_on()
    network.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    cuda = DeviceProfile(torch.device("cuda"), None)
    monkeypatch.setattr(steps, "PeakMemory", Peak)
    monkeypatch.setattr(DeviceProfile, "autocast", lambda self: torch.autocast("cpu", enabled=False))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_: tensor)
    assert dry_run(network, BACKBONE, (16, 12), cuda).step_bytes == 300 * 2**20
    assert seen == [(2, 2, 16, 12)] * 2


def test_an_evaluation_that_fails_its_dry_run_is_infeasible_and_trains_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = write_tiny_task(tmp_path / "task")

    def broken(architecture: Architecture, *, seed: int) -> SkipUNet:
        network = build(architecture, seed=seed)
        network.head.get_parameter("weight").data.fill_(torch.nan)
        return network

    def trained(*_: object) -> None:
        raise AssertionError("a step was trained")

    monkeypatch.setattr("unetx_space.network.build", broken)
    monkeypatch.setattr(EagerStep, "__call__", trained)
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "the untrained network's output is not finite")
    assert (result.score, result.curve) == (None, ())
    assert result.n_parameters is not None
