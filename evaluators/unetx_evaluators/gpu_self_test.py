"""A test of one GPU in a process of its own: ``python -m unetx_evaluators.gpu_self_test`` prints one line of JSON.

The caller selects the GPU by the environment, as for a worker. A GPU that hangs hangs this process alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from unetx_evaluators.device import DeviceProfile, first_line, memory_format, profile
from unetx_evaluators.host_memory import MIB
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Case, ResidentCases
from unetx_evaluators.training.iteration import ChosenIteration, Iteration, LossLog, capture_if_possible
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.errors import RequestError
from unetx_space.network import build
from unetx_space.presets import preset

SIZE = 64
N_STEPS = 3


@dataclass(frozen=True, slots=True)
class GpuSelfTest:
    """The result of probing a GPU; fields that were not reached are empty."""

    torch: str
    trouble: str = ""
    """Message of CUDA or torch on why no step could be computed."""
    architecture: str = ""
    """Architecture of the GPU, such as "sm_90"."""
    built_for: tuple[str, ...] = ()
    """Architectures that this build of torch supports."""
    precision: str = ""
    steps: str = ""
    """How steps are executed, as ``ChosenIteration.mode`` says: "graph", or "eager: " and why."""
    difference: float | None = None
    """Largest relative difference between the losses of captured steps and eager ones."""
    free_mib: int | None = None
    """Free memory with this process's context open and empty."""
    total_mib: int | None = None


def runs_on(major: int, minor: int, built_for: Sequence[str]) -> bool:
    """Whether a build of torch runs on a GPU of this compute capability, by CUDA's rules of compatibility.

    Machine code runs on the same major version from its minor version on, where "a" and "f" variants do not count; PTX
    ("compute_") is compiled for any later architecture.
    """
    for name in built_for:
        if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)", name)) is None:
            continue
        target = int(match[2]), int(match[3])
        if (match[1] == "compute" and target <= (major, minor)) or (target[0] == major and target[1] <= minor):
            return True
    return False


def self_test(name: str = "cuda") -> GpuSelfTest:
    """Open a context on the device ``name``, and train a small network there with captured and with eager steps."""
    result = GpuSelfTest(torch.__version__)
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        major, minor = torch.cuda.get_device_capability()
        built_for = tuple(torch.cuda.get_arch_list())
        result = replace(result, architecture=f"sm_{major}{minor}", built_for=built_for)
        if not runs_on(major, minor, built_for):
            return replace(result, trouble="no kernel image is available for it in this build of torch")
        free, total = torch.cuda.mem_get_info()
        result = replace(result, free_mib=free // MIB, total_mib=total // MIB)
        device = profile(name)
        chosen, difference = compare_captured(device)
        precision = str(device.autocast_dtype or torch.float32).removeprefix("torch.")
        return replace(result, precision=precision, steps=chosen.mode, difference=difference)
    except (RuntimeError, AssertionError, RequestError) as error:
        return replace(result, trouble=first_line(error))


def compare_captured(device: DeviceProfile) -> tuple[ChosenIteration, float]:
    """The iteration that a training would choose, and the largest relative difference of its losses to eager ones."""
    image = torch.randn(1, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(0))
    cases = [Case("noise", image, (image[0] > 0).to(torch.uint8), 2)]
    resident = ResidentCases(cases, device.device)
    batches = BatchStream(cases, (SIZE, SIZE), 2, 0, Recipe(), device.device, resident)

    def eager_iteration(losses: LossLog) -> Iteration:
        network = build(
            Architecture(isotropic_backbone(2, n_levels=3, base_width=8), preset("u-net").genome(3)), seed=0
        )
        network.to(device.device)
        network.to(memory_format=memory_format(2, device.device))  # type: ignore[call-overload]  # not in torch's stubs
        return Iteration(EagerStep(network, Recipe(), device), batches, WeightAverage(network, 0), losses)

    logs = LossLog(N_STEPS, device.device), LossLog(N_STEPS, device.device)
    eager, chosen = eager_iteration(logs[0]), capture_if_possible(eager_iteration(logs[1]), 1)
    for step in range(1, N_STEPS + 1):
        eager(step)
        chosen.run(step)
    pairs = zip(*(log.values.tolist() for log in logs), strict=True)
    return chosen, max(abs(one - other) / abs(one) for one, other in pairs)


if __name__ == "__main__":
    print(json.dumps(asdict(self_test())))
