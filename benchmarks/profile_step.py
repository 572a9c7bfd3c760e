"""Where does a short-proxy evaluation spend its time, and what would a bare loop of the same network take?

    python benchmarks/profile_step.py > benchmarks/results/profile_step-1thread.txt

One U-Net at the default budget in 2D and in 3D. The parts of a step are timed by themselves, in turn, so that a busy
machine distorts none more than the others; the least of several turns counts. On a CPU the clock is this process's CPU
time, on CUDA (``--device cuda``) the wall clock, the device awaited before and after.

The bare loop is what anyone would write: forward and loss in the same precision, backward, AdamW; one batch that lies
ready, no clipping, no checks. It is timed on the module as it is, and on the module as the trainer computes it
(training/fast_cpu/), where only what the trainer adds makes a difference.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unetx_evaluators.budgets import default_budget
from unetx_evaluators.device import DeviceProfile, memory_format, profile, torch_settings
from unetx_evaluators.evaluation import Budget
from unetx_evaluators.proxy import accelerated
from unetx_evaluators.scoring import Scorer
from unetx_evaluators.tasks.task import Splits, Task
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.batches import Batch, BatchStream
from unetx_evaluators.training.cases import open_cases
from unetx_evaluators.training.iteration import Iteration, LossLog, capture_if_possible
from unetx_evaluators.training.loss import heads_loss
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.network import SkipUNet, build
from unetx_space.presets import PRESETS

TURNS = 15
WARM_UP_TURNS = 2
SHAPES: Mapping[int, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    2: ((128, 128), (256, 256), 5),
    3: ((32, 48, 32), (35, 51, 35), 4),
}
"""By dimensions: patch, image, levels; those of the nuclei and the hippocampus data."""


def task_on(folder: Path, dims: int) -> Task:
    """A task of noise with two classes, since content does not matter for the time."""
    patch, size, n_levels = SHAPES[dims]
    names = tuple(f"case{number}" for number in range(8))
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name in names:
        np.save(folder / "images" / f"{name}.npy", rng.standard_normal((1, *size), dtype=np.float32))
        np.save(folder / "labels" / f"{name}.npy", rng.integers(0, 3, size, dtype=np.uint8))
    return Task(
        folder=folder,
        name="noise",
        source="made up",
        dims=2 if dims == 2 else 3,
        channels=("x",),
        classes=("background", "a", "b"),
        spacing=(1.0,) * dims,
        patch=patch,
        strides=((1,) * dims, *[(2,) * dims] * (n_levels - 1)),
        widths=tuple(32 * 2**level for level in range(n_levels)),
        splits=Splits(names[:4], names[4:], ()),
        digest="noise",
    )


@dataclass
class Parts:
    """The parts of a training step on one network, each to be run by itself."""

    network: SkipUNet
    batches: BatchStream
    batch: Batch
    device: DeviceProfile
    recipe: Recipe

    def __post_init__(self) -> None:
        self.images = self.batch.images.contiguous(
            memory_format=memory_format(self.batch.images.ndim - 2, self.batch.images.device)
        )
        self.parameters = [*self.network.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True)
        self.logits: Tensor = self.forward()
        self.scalar: Tensor = self.loss()
        self.backward()

    def forward(self) -> Tensor:
        with self.device.autocast():
            self.logits = self.network(self.images)
        return self.logits

    def loss(self) -> Tensor:
        self.scalar = heads_loss([self.logits], self.batch.labels, self.recipe.background_weight)
        return self.scalar

    def backward(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scalar.backward()  # type: ignore[no-untyped-call]

    def clip(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm)

    def update(self) -> None:
        self.optimizer.step()

    def bare_step(self) -> None:
        self.forward()
        self.loss()
        self.backward()
        self.update()


def least_ms(parts: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Milliseconds of every part, the parts taking turns in their order."""
    on_cuda = device.type == "cuda"
    least = dict.fromkeys(parts, float("inf"))
    for turn in range(TURNS + WARM_UP_TURNS):
        for name, run in parts.items():
            if on_cuda:
                torch.cuda.synchronize(device)
            begin = time.perf_counter() if on_cuda else time.process_time()
            run()
            if on_cuda:
                torch.cuda.synchronize(device)
            seconds = (time.perf_counter() if on_cuda else time.process_time()) - begin
            if turn >= WARM_UP_TURNS:
                least[name] = min(least[name], 1000 * seconds)
    return least


def report(task: Task, budget: Budget, device: DeviceProfile) -> None:
    """Print one table."""
    recipe = Recipe()
    backbone = task.backbone().scaled(budget.width_factor)
    architecture = Architecture(backbone, PRESETS["u-net"].genome(backbone.n_levels))
    plain, timed, trained = (build(architecture).to(device.device) for _ in range(3))
    for network in (plain, timed, trained):
        network.to(memory_format=memory_format(task.dims, device.device))  # type: ignore[call-overload]  # not in torch's stubs
    cases = open_cases(task, device, budget.validation_cases)
    batches = BatchStream(cases.train, task.patch, budget.batch_size, 0, recipe, device.device, cases.resident)
    batch = batches.batch(1)
    made, done = count(1), count(1)
    with accelerated(timed, device), accelerated(trained, device):
        parts = Parts(timed, batches, batch, device, recipe)
        step, log = EagerStep(trained, recipe, device), LossLog(TURNS + WARM_UP_TURNS, device.device)
        ours = capture_if_possible(Iteration(step, batches, WeightAverage(trained, 0), log), 1)
        times = least_ms(
            {
                "batch": lambda: batches.batch(next(made)),
                "forward": parts.forward,
                "loss": parts.loss,
                "backward": parts.backward,
                "clip": parts.clip,
                "update": parts.update,
                "our round": lambda: ours.run(next(done)),
                "bare step": parts.bare_step,
                "bare step of the plain module": Parts(plain, batches, batch, device, recipe).bare_step,
            },
            device.device,
        )
        scorer = Scorer(task, cases.validation[:4], device, lambda: None)
        scoring = least_ms({"4 cases": lambda: scorer.rung_scores(timed)}, device.device)
    print(f"\n{task.dims}D, {budget.batch_size} patches of {'x'.join(map(str, task.patch))}, base width 8, ms")
    print("  " + "  ".join(f"{name} {ms:.1f}" for name, ms in times.items()))
    for bare in ("bare step", "bare step of the plain module"):
        print(f"  our round / {bare} {times['our round'] / times[bare]:.3f}", end="; ")
        print(f"without the making of its batch {(times['our round'] - times['batch']) / times[bare]:.3f}")
    print(f"  scoring a case of {'x'.join(map(str, cases.validation[0].label.shape))} {scoring['4 cases'] / 4:.1f}")


def main() -> None:
    device = profile("cuda" if "cuda" in sys.argv else "cpu")
    with torch_settings(device, n_threads=1), tempfile.TemporaryDirectory() as folder:
        print(f"torch {torch.__version__}, {device.name}, autocast {device.autocast_dtype}; least of {TURNS} turns")
        for dims in SHAPES:
            task = task_on(Path(folder) / str(dims), dims)
            report(task, default_budget(task), device)


if __name__ == "__main__":
    main()
