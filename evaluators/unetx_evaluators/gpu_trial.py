"""Tries one GPU, in a process of its own: ``python -m unetx_evaluators.gpu_trial`` prints one line of JSON.

Whoever asks pins the GPU by the environment, as for a worker. A GPU that hangs hangs this process alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from unetx_evaluators.device import MIB, DeviceProfile, first_line, memory_format, profile
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Case, ResidentCases
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.rounds import ChosenRound, LossLog, Round, captured_where_possible
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.errors import RequestError
from unetx_space.network import build
from unetx_space.presets import preset

SIZE = 64
N_STEPS = 3


@dataclass(frozen=True, slots=True)
class GpuTrial:
    """What came of it; what was not reached is empty."""

    torch: str
    trouble: str = ""
    """Why no step could be computed, as CUDA or torch says it."""
    architecture: str = ""
    """Of the GPU: "sm_90"."""
    built_for: tuple[str, ...] = ()
    """Architectures of this build of torch."""
    precision: str = ""
    steps: str = ""
    """"graph", or "eager: " and why; see ``ChosenRound``."""
    difference: float | None = None
    """The largest between losses of captured steps and eager ones, relative."""
    free_mib: int | None = None
    """With this process's context open and nothing in it."""
    total_mib: int | None = None


def runs_on(major: int, minor: int, built_for: Sequence[str]) -> bool:
    """Whether a GPU of this compute capability runs a build of torch, by CUDA's rules of compatibility.

    Machine code runs on the same major version from its minor version on, that of an "a" or "f" variant is not counted;
    PTX ("compute_") is translated for anything later.
    """
    for name in built_for:
        if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)", name)) is None:
            continue
        there = int(found[2]), int(found[3])
        if (found[1] == "compute" and there <= (major, minor)) or (there[0] == major and there[1] <= minor):
            return True
    return False


def tried(name: str = "cuda") -> GpuTrial:
    """Open a context on the device, and train a small network there with captured steps and with eager ones."""
    facts = GpuTrial(torch.__version__)
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        major, minor = torch.cuda.get_device_capability()
        built_for = tuple(torch.cuda.get_arch_list())
        facts = _replaced(facts, {"architecture": f"sm_{major}{minor}", "built_for": built_for})
        if not runs_on(major, minor, built_for):
            return _replaced(facts, {"trouble": "no kernel image is available for it in this build of torch"})
        free, total = torch.cuda.mem_get_info()
        facts = _replaced(facts, {"free_mib": free // MIB, "total_mib": total // MIB})
        device = profile(name)
        chosen, difference = compared(device)
        precision = str(device.autocast_dtype or torch.float32).removeprefix("torch.")
        return _replaced(facts, {"precision": precision, "steps": chosen.run_as, "difference": difference})
    except (RuntimeError, AssertionError, RequestError) as error:
        return _replaced(facts, {"trouble": first_line(error)})


def _replaced(facts: GpuTrial, found: dict[str, object]) -> GpuTrial:
    return GpuTrial(**{**asdict(facts), **found})


def compared(device: DeviceProfile) -> tuple[ChosenRound, float]:
    """The rounds as a training would choose them, and how far their losses are from those of eager ones."""
    image = torch.randn(1, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(0))
    cases = [Case("noise", image, (image[0] > 0).to(torch.uint8), 2)]
    resident = ResidentCases(cases, device.device)
    batches = BatchStream(cases, (SIZE, SIZE), 2, 0, Recipe(), device.device, resident)

    def rounds(losses: LossLog) -> Round:
        network = build(
            Architecture(isotropic_backbone(2, n_levels=3, base_width=8), preset("u-net").genome(3)), seed=0
        )
        network.to(device.device)
        network.to(memory_format=memory_format(2, device.device))  # type: ignore[call-overload]  # not in torch's stubs
        return Round(EagerStep(network, Recipe(), device), batches, WeightAverage(network, 0), losses)

    logs = LossLog(N_STEPS, device.device), LossLog(N_STEPS, device.device)
    eager, chosen = rounds(logs[0]), captured_where_possible(rounds(logs[1]), 1)
    for step in range(1, N_STEPS + 1):
        eager(step)
        chosen.do(step)
    pairs = zip(*(log.values.tolist() for log in logs), strict=True)
    return chosen, max(abs(one - other) / abs(one) for one, other in pairs)


if __name__ == "__main__":
    print(json.dumps(asdict(tried())))
