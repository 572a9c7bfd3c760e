"""The iterations of a training: device-made batches, nothing that waits or copies, and when a CUDA graph takes over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

import pytest
import torch
from dispatch_modes import NothingCrosses, NothingIsRead
from torch import Tensor

from unetx_evaluators.device import DeviceProfile, profile
from unetx_evaluators.evaluation import EvaluationEnded
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Case, ResidentCases
from unetx_evaluators.training.iteration import (
    CaptureFailed,
    ChosenIteration,
    DeviceBatches,
    GraphedIteration,
    Iteration,
    LossLog,
    capture_if_possible,
)
from unetx_evaluators.training.recipe import STRONG, Recipe
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.network import SkipUNet, build
from unetx_space.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = DeviceProfile(torch.device("cpu"), autocast_dtype=None)
FLOAT16 = DeviceProfile(torch.device("cpu"), autocast_dtype=torch.float16)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
N_STEPS = 12
ALL_CHANGES = Recipe(flips=True, mirror=(0,), gamma=0.5, averaging=0.3)


def network(name: str = "u-net", dims: Literal[2, 3] = 2) -> SkipUNet:
    return build(Architecture(isotropic_backbone(dims, n_levels=3, base_width=4), preset(name).genome(3)))


def weights(trained: SkipUNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trained.state_dict().items()}


def check_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def stream(
    recipe: Recipe, device: torch.device = CPU.device, dims: int = 2, channels: int = 1, *, on_host: bool = False
) -> BatchStream:
    """Batches of two patches from three cases on the device; one of them is smaller than a patch."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(channels, *(n,) * (dims - 1), 20, generator=generator) for n in (24, 12, 17)]
    cases = [Case(str(n), image, (image[0] > 0).to(torch.uint8), 2) for n, image in enumerate(images)]
    resident = None if on_host else ResidentCases(cases, device)
    return BatchStream(cases, (16,) * dims, 2, 0, recipe, device, resident)


@dataclass
class Trained:
    """A network and what trains it."""

    network: SkipUNet
    iteration: Iteration
    losses: LossLog
    average: WeightAverage


def training(
    trained: SkipUNet, device: DeviceProfile, recipe: Recipe = ALL_CHANGES, *, on_host: bool = False, dims: int = 2
) -> Trained:
    batches = stream(recipe, device.device, dims, on_host=on_host)
    average, losses = WeightAverage(trained, recipe.averaging * N_STEPS), LossLog(N_STEPS, device.device)
    return Trained(trained, Iteration(EagerStep(trained, recipe, device), batches, average, losses), losses, average)


@pytest.mark.parametrize(("recipe", "dims"), [(Recipe(), 3), (ALL_CHANGES, 2)])
def test_iterations_with_batches_made_on_the_device_train_to_the_same_bits(recipe: Recipe, dims: Literal[2, 3]) -> None:
    made, handed = (training(network(dims=dims), CPU, recipe, on_host=on_host, dims=dims) for on_host in (False, True))
    for step in range(1, 5):
        made.iteration(step)
        handed.iteration(step)
    assert made.losses.check(4) == handed.losses.check(4)
    check_same_bits(weights(made.network), weights(handed.network))
    check_same_bits(made.average.state_dict(), handed.average.state_dict())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("recipe", [Recipe(), ALL_CHANGES])
def test_batches_made_from_tables_are_those_of_the_stream(recipe: Recipe, dims: int, channels: int) -> None:
    batches = stream(recipe, dims=dims, channels=channels)
    feed = DeviceBatches(batches, N_STEPS, CPU.device)
    for step in (1, 2, 7, N_STEPS):
        feed.prepare(step)
        made, expected = feed.batch(torch.tensor([step - 1])), batches.batch(step)
        assert torch.equal(made.images, expected.images)
        assert torch.equal(made.labels, expected.labels)


def test_patches_that_are_warped_are_put_together_by_the_host() -> None:
    assert stream(Recipe()).can_assemble_on_device
    assert not stream(STRONG).can_assemble_on_device
    assert not BatchStream([], (16, 16), 2, 0, Recipe(), CPU.device).can_assemble_on_device


@pytest.mark.parametrize("device", [CPU, FLOAT16])
def test_an_iteration_reads_nothing_of_its_device_and_all_iterations_do_the_same(device: DeviceProfile) -> None:
    """From the batch to the loss's entry in the log: so it can be captured once, and replays can be queued."""
    trained, counts = training(network(), device), []
    trained.iteration(1)  # makes the optimiser's moments
    for step in range(2, 6):
        trained.iteration.feed.prepare(step)
        with NothingIsRead() as watch:
            trained.iteration.run()
        counts.append(watch.counts)
    assert counts[0] == counts[1] == counts[2] == counts[3]
    assert trained.iteration.counter.tolist() == [5]
    assert all(loss > 0 for loss in trained.losses.check(5))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_is_made_with_nothing_of_the_host(dims: int) -> None:
    meta = torch.device("meta")
    tables, _ = stream(ALL_CHANGES, dims=dims).tables(1)
    row, there = {name: table[0].to(meta) for name, table in tables.items()}, stream(ALL_CHANGES, meta, dims)
    with NothingCrosses():
        made = there.assemble(row, None)
    assert made.images.shape == (2, 1, *(16,) * dims)


@pytest.mark.parametrize("device", [CPU, replace(CPU, autocast_dtype=torch.bfloat16), FLOAT16])
def test_no_graph_is_captured_on_a_cpu(device: DeviceProfile) -> None:
    eager = training(network(), device).iteration
    chosen = capture_if_possible(eager, 1, capture=lambda eager, step: pytest.fail("captured"))
    assert chosen == ChosenIteration(eager)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_a_graph_takes_the_place_of_the_iteration_where_it_can(dtype: torch.dtype | None) -> None:
    def replay(step: int) -> None: ...

    eager = training(network(), CPU).iteration
    eager.eager.device = DeviceProfile(torch.device("cuda"), dtype)
    assert capture_if_possible(eager, 1, capture=lambda eager, step: replay) == ChosenIteration(replay, "graph")


@pytest.mark.parametrize(
    "error",
    [
        CaptureFailed("operation not permitted when stream is capturing\nSearch for `cudaErrorStreamCapture'"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_an_iteration_that_cannot_be_captured_stays_eager_and_says_why(
    error: RuntimeError, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append(torch.device("cuda")))

    def capture(eager: Iteration, step: int) -> Callable[[int], None]:
        eager(step)
        raise error

    trained = network()
    eager = training(trained, CPU).iteration
    eager.eager.device = DeviceProfile(torch.device("cuda"), torch.bfloat16)
    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(DeviceProfile, "autocast", lambda self: torch.autocast("cpu", enabled=False))
        chosen = capture_if_possible(eager, 1, capture=capture)
    reason = "eager: " + str(error).partition("\n")[0]
    assert chosen == ChosenIteration(eager, reason, needs_new_process=isinstance(error, CaptureFailed))
    assert "without a CUDA graph; " + reason in caplog.text
    assert released
    assert all(parameter.grad is None for parameter in trained.parameters()), "they lay in the graph's memory"


class FakeStream:
    def wait_stream(self, other: object) -> None: ...


@dataclass
class FakeGraph:
    """Replays by doing again what was done while it was captured."""

    body: Callable[[], None] = lambda: None
    generators: list[torch.Generator] = field(default_factory=list)

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def replay(self) -> None:
        self.body()


@dataclass
class FakeCuda:
    """As much of CUDA as the capture of an iteration needs, computing on the CPU; as in torch, what is captured changes
    nothing, and the end of a capture whose body raised raises, too (torch.cuda.graph.__exit__ of torch 2.13)."""

    iteration: Iteration
    captures: int = 0
    modes: list[str] = field(default_factory=lambda: ["default"])

    def take_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, fake in {
            "CUDAGraph": FakeGraph,
            "Stream": lambda device: FakeStream(),
            "current_stream": lambda device: FakeStream(),
            "stream": lambda stream: nullcontext(),
            "set_stream": lambda stream: None,
            "get_sync_debug_mode": lambda: self.modes[-1],
            "set_sync_debug_mode": self.modes.append,
            "empty_cache": lambda: None,
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)

    @contextmanager
    def graph(self, graph: FakeGraph, stream: object) -> Iterator[None]:
        self.captures += 1
        undo, graph.body = self.iteration.snapshot(), self.iteration.run
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from error
        finally:
            undo()


def on_fake_cuda(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeCuda, ChosenIteration]:
    """What is chosen where the device passes for a GPU, and computes as it is."""
    cuda, own = FakeCuda(trained.iteration), trained.iteration.eager.device
    in_its_precision = own.autocast
    cuda.take_over(monkeypatch)
    monkeypatch.setattr(DeviceProfile, "autocast", lambda self: in_its_precision())
    trained.iteration.eager.device = DeviceProfile(torch.device("cuda"), own.autocast_dtype)
    chosen = capture_if_possible(trained.iteration, 1)
    trained.iteration.eager.device = own
    return cuda, chosen


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("device", [CPU, FLOAT16])
def test_replays_train_to_the_same_bits_as_eager_iterations(
    device: DeviceProfile, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of the iterations before the capture: not in the counter, the losses nor the averages."""
    graphed, eager = (training(network(), device, on_host=on_host) for _ in range(2))
    cuda, chosen = on_fake_cuda(graphed, monkeypatch)
    assert (type(chosen.run), chosen.mode, cuda.captures) == (GraphedIteration, "graph", 1)
    for step in range(1, 6):
        chosen.run(step)
        eager.iteration(step)
    assert graphed.losses.check(5) == eager.losses.check(5)
    check_same_bits(weights(graphed.network), weights(eager.network))
    check_same_bits(graphed.average.state_dict(), eager.average.state_dict())


def test_a_graph_knows_the_noise_that_is_drawn_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[torch.Generator] = []
    monkeypatch.setattr(FakeGraph, "register_generator_state", lambda self, noise: registered.append(noise))
    made, handed = training(network(), CPU), training(network(), CPU, on_host=True)
    on_fake_cuda(made, monkeypatch)
    on_fake_cuda(handed, monkeypatch)
    assert registered == [made.iteration.feed.noise]


def breaking_at(forward: int) -> SkipUNet:
    """A network whose forward pass of this number waits for the device, which no capture and no test of one admits."""
    trained, n_passes = network(), count(1)

    def wait(module: object, inputs: object, output: Tensor) -> None:
        if next(n_passes) == forward:
            raise RuntimeError("called a synchronizing CUDA operation")

    trained.register_forward_hook(wait)
    return trained


@pytest.mark.parametrize(
    ("forward", "captures", "needs_new_process"),
    [(4, 0, False), (5, 1, True)],  # three to warm up, one that is watched, one that is captured
)
@pytest.mark.parametrize("device", [CPU, FLOAT16])
def test_an_iteration_that_breaks_in_its_capture_spends_the_process_and_one_that_was_found_before_does_not(
    device: DeviceProfile, forward: int, captures: int, needs_new_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way the training goes on as if nothing had been tried."""
    broken, eager = training(breaking_at(forward), device), training(network(), device)
    cuda, chosen = on_fake_cuda(broken, monkeypatch)
    assert (chosen.run, chosen.needs_new_process) == (broken.iteration, needs_new_process)
    assert chosen.mode == "eager: called a synchronizing CUDA operation", "the cause, not what follows from it"
    assert (cuda.captures, cuda.modes) == (captures, ["default", "error", "default"])
    for step in range(1, 3):
        chosen.run(step)
        eager.iteration(step)
    assert broken.losses.check(2) == eager.losses.check(2)
    check_same_bits(weights(broken.network), weights(eager.network))


def test_a_bug_in_a_capture_flies_out() -> None:
    def capture(eager: Iteration, step: int) -> Callable[[int], None]:
        raise TypeError("a bug")

    eager = training(network(), CPU).iteration
    eager.eager.device = DeviceProfile(torch.device("cuda"), torch.bfloat16)
    with pytest.raises(TypeError, match="a bug"):
        capture_if_possible(eager, 1, capture=capture)


def test_losses_are_told_once_and_go_on_where_they_were() -> None:
    losses = LossLog(6, CPU.device)
    losses.values[:] = torch.arange(1.0, 7.0)
    assert losses.take(2) == [1.0, 2.0]
    resumed = LossLog(6, CPU.device)
    resumed.restore(4, losses.check(4))
    resumed.values[4:] = losses.values[4:]
    assert resumed.take(6) == losses.take(6) == [3.0, 4.0, 5.0, 6.0]
    broken = LossLog(6, CPU.device)
    broken.values[3] = float("nan")
    assert broken.check(3) == [0.0, 0.0, 0.0]
    with pytest.raises(EvaluationEnded, match="the training loss was nan by step 6"):
        broken.check(6)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("name", ["u-net", "attention-u-net", "no-skip"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("on_host", [False, True])
def test_a_graph_trains_as_the_eager_iteration_does(name: str, dtype: torch.dtype | None, on_host: bool) -> None:
    cuda = replace(profile("cuda"), autocast_dtype=dtype)
    nets = [network(name).to(cuda.device, memory_format=torch.channels_last) for _ in range(2)]  # type: ignore[call-overload]
    eager, graphed = (training(net, cuda, on_host=on_host) for net in nets)
    chosen = capture_if_possible(graphed.iteration, 1)
    assert isinstance(chosen.run, GraphedIteration), chosen.mode
    for step in range(1, N_STEPS + 1):
        eager.iteration(step)
        chosen.run(step)
    told = graphed.losses.check(N_STEPS)
    assert told == pytest.approx(eager.losses.check(N_STEPS), rel=2e-2), "bfloat16, and algorithms chosen anew"
    assert all(parameter.grad is not None for parameter in graphed.network.parameters())


@pytest.mark.gpu
@NEEDS_CUDA
def test_an_iteration_that_waits_for_the_device_is_not_captured_and_trains_on() -> None:
    cuda = profile("cuda")
    trained = network().to(cuda.device)
    trained.head.register_forward_hook(lambda module, inputs, output: output * float(output.mean().item() > -1e9))
    waiting = training(trained, cuda)
    chosen = capture_if_possible(waiting.iteration, 1)
    assert chosen.run is waiting.iteration
    assert not chosen.needs_new_process, "it was found before the capture"
    for step in range(1, N_STEPS + 1):
        chosen.run(step)
    losses = waiting.losses.check(N_STEPS)
    assert losses[-1] < losses[0]
