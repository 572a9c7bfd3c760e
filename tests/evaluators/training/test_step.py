"""The training step, how it is undone, and when a CUDA graph takes its place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unetx_evaluators.device import DeviceProfile, profile
from unetx_evaluators.evaluation import NullObserver, Outcome
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.training import trainer
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.loss import dice_ce_loss, heads_loss
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.step import (
    CaptureFailed,
    ChosenStep,
    EagerStep,
    GraphedStep,
    Step,
    captured_where_possible,
)
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.genome import NO_ATTENTION, Attention, DecoderNode, Genome, decoder, encoder, plain_coarser
from unetx_space.network import SkipUNet, build
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS
from unetx_space.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = DeviceProfile(torch.device("cpu"), autocast_dtype=None)
FLOAT16 = DeviceProfile(torch.device("cpu"), autocast_dtype=torch.float16)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def network(name: str = "u-net", *, norm: str = "instance", deep_supervision: bool = False) -> SkipUNet:
    backbone = isotropic_backbone(2, n_levels=3, base_width=4)
    backbone = replace(backbone, norm=norm, deep_supervision=deep_supervision)  # type: ignore[arg-type]
    return build(Architecture(backbone, preset(name).genome(3)))


def batch(number: int, device: torch.device = CPU.device) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(2, 1, 16, 16, generator=generator)
    return Batch(images.to(device), (images[:, 0] > 0).to(torch.uint8).to(device))


def weights(trained: SkipUNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trained.state_dict().items()}


def check_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("norm", "device"), [("instance", CPU), ("batch", CPU), ("instance", FLOAT16)])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_undone_steps_leave_no_trace(steps_before: int, norm: str, device: DeviceProfile) -> None:
    """Not in the weights, the running statistics, the moments, the loss scale, nor the gradients."""
    undone, other = network(norm=norm), network(norm=norm)
    step, plain = EagerStep(undone, Recipe(), device), EagerStep(other, Recipe(), device)
    for number in range(steps_before):
        step(batch(number), 1e-2)
        plain(batch(number), 1e-2)
    before, undo = weights(undone), step.undoable()
    for number in range(7, 10):
        step(batch(number), 1e-2)
    undo()
    check_same_bits(weights(undone), before)
    assert all(parameter.grad is None for parameter in undone.parameters())
    for number in range(3):
        assert torch.equal(step(batch(number), 1e-2), plain(batch(number), 1e-2))
    check_same_bits(weights(undone), weights(other))
    assert step.state_dict()["scaler"] == plain.state_dict()["scaler"]


class NothingIsRead(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Forbids what a graph cannot hold: reading a value of the device, or a size that depends on one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name
        assert name not in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", [CPU, replace(CPU, autocast_dtype=torch.bfloat16), FLOAT16])
def test_no_step_looks_at_a_value_in_any_precision(device: DeviceProfile) -> None:
    """So it can be captured in float16, too: the fused AdamW skips a step that overflowed without asking the host."""
    step = EagerStep(network(), Recipe(), device)
    with NothingIsRead():  # type: ignore[no-untyped-call]
        for number in range(2):
            step.run(batch(number).images, batch(number).labels)


def with_operators(turn: int, dims: Literal[2, 3]) -> SkipUNet:
    """A network of some operators of each kind; all have had their turn after as many as there are of the largest."""
    attentions, upsamplers, fusions, alignments = map(list, (ATTENTIONS, UPSAMPLERS, FUSIONS, ALIGNMENTS))

    def node(level: int, *sources: int) -> DecoderNode:
        name = attentions[turn % len(attentions)]
        return DecoderNode(
            ref=decoder(level),
            coarser=plain_coarser(level, 3),
            sources=tuple(map(encoder, sources)),
            attention=Attention(name, ATTENTIONS[name].placements[0]) if name != "none" else NO_ATTENTION,
            upsampler=upsamplers[turn % len(upsamplers)],
            fusion=fusions[turn % len(fusions)],
            alignment=alignments[turn % len(alignments)],
        )

    backbone = isotropic_backbone(dims, n_levels=3, base_width=4)
    return build(Architecture(backbone, Genome((node(0, 0), node(1, 0, 1)))))


@pytest.mark.parametrize("turn", range(max(map(len, (ATTENTIONS, UPSAMPLERS, FUSIONS, ALIGNMENTS)))))
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_no_operator_looks_at_a_value_so_that_all_can_be_captured(
    turn: int, dims: Literal[2, 3], dtype: torch.dtype | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, *(8,) * dims, generator=generator)
    step = EagerStep(with_operators(turn, dims), Recipe(), replace(CPU, autocast_dtype=dtype))
    with NothingIsRead():  # type: ignore[no-untyped-call]
        loss = step.run(images, (images[:, 0] > 0).to(torch.uint8))
    assert loss.isfinite()


def test_a_float16_step_that_overflows_moves_no_weight_and_halves_the_scale() -> None:
    trained = network()
    step, before = EagerStep(trained, Recipe(), FLOAT16), weights(trained)
    images, labels = batch(0).images * 1e6, batch(0).labels
    scale = step.state_dict()["scaler"]["scale"]
    step.run(images, labels)
    check_same_bits(weights(trained), before)
    assert step.state_dict()["scaler"]["scale"] == scale / 2


def test_a_saved_step_goes_on_in_another_one_with_the_same_bits() -> None:
    first, second = network(), network()
    step, resumed = EagerStep(first, Recipe(), CPU), EagerStep(second, Recipe(), CPU)
    for number in range(3):
        step(batch(number), 1e-2)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(deepcopy(step.state_dict()))
    for number, rate in ((3, 5e-3), (4, 1e-3)):
        assert torch.equal(step(batch(number), rate), resumed(batch(number), rate))
    check_same_bits(weights(first), weights(second))


def test_the_learning_rate_of_the_call_is_taken() -> None:
    """Adam's first update moves every weight by the learning rate, apart from decay and epsilon."""
    trained = network()
    before = weights(trained)["encoder.E0.conv1.weight"]
    EagerStep(trained, Recipe(weight_decay=0.0), CPU)(batch(0), 3e-3)
    moved = (weights(trained)["encoder.E0.conv1.weight"] - before).abs()
    assert moved.median().item() == pytest.approx(3e-3, rel=1e-3)


@pytest.mark.parametrize("device", [CPU, replace(CPU, autocast_dtype=torch.bfloat16), FLOAT16])
def test_no_graph_is_captured_on_a_cpu(device: DeviceProfile) -> None:
    def capture(eager: EagerStep, example: Batch) -> Step:
        raise AssertionError("captured")

    eager = EagerStep(network(), Recipe(), CPU)
    eager.device = device
    assert captured_where_possible(eager, lambda: batch(0), capture=capture) == ChosenStep(eager)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_a_graph_takes_the_place_of_the_step_where_it_can(dtype: torch.dtype | None) -> None:
    def step(batch: Batch, learning_rate: float) -> Tensor:
        return torch.zeros(())

    eager = EagerStep(network(), Recipe(), CPU)
    eager.device = DeviceProfile(torch.device("cuda"), dtype)
    chosen = captured_where_possible(eager, lambda: batch(0), capture=lambda eager, example: step)
    assert chosen == ChosenStep(step, "graph")


@pytest.mark.parametrize(
    "error",
    [
        CaptureFailed("operation not permitted when stream is capturing\nSearch for `cudaErrorStreamCapture'"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_step_that_cannot_be_captured_stays_eager_and_says_why(
    error: RuntimeError, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append(torch.device("cuda")))

    def capture(eager: EagerStep, example: Batch) -> Step:
        eager.run(example.images, example.labels)
        raise error

    trained = network()
    eager = EagerStep(trained, Recipe(), CPU)
    eager.device = DeviceProfile(torch.device("cuda"), torch.bfloat16)
    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(DeviceProfile, "autocast", lambda self: torch.autocast("cpu", enabled=False))
        chosen = captured_where_possible(eager, lambda: batch(0), capture=capture)
    reason = "eager: " + str(error).partition("\n")[0]
    assert chosen == ChosenStep(eager, reason, spends_process=isinstance(error, CaptureFailed))
    assert "without a CUDA graph; " + reason in caplog.text
    assert released
    assert all(parameter.grad is None for parameter in trained.parameters()), "they lay in the graph's memory"


class FakeStream:
    def wait_stream(self, other: object) -> None: ...


@dataclass
class FakeCuda:
    """As much of CUDA as a capture needs, computing on the CPU; as in torch, the end of a capture whose body raised
    raises, too (torch.cuda.graph.__exit__ of torch 2.13)."""

    captures: int = 0
    modes: list[str] = field(default_factory=lambda: ["default"])

    def take_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, fake in {
            "CUDAGraph": object,
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
    def graph(self, graph: object, stream: object) -> Iterator[None]:
        self.captures += 1
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from error


def breaking_at(forward: int) -> SkipUNet:
    """A network whose forward pass of this number waits for the device, which no capture and no test of one admits."""
    trained, n_passes = network(), count(1)

    def wait(module: object, inputs: object, output: Tensor) -> None:
        if next(n_passes) == forward:
            raise RuntimeError("called a synchronizing CUDA operation")

    trained.register_forward_hook(wait)
    return trained


@pytest.mark.parametrize(
    ("forward", "captures", "spends_process"),
    [(4, 0, False), (5, 1, True)],  # three to warm up, one that is watched, one that is captured
)
@pytest.mark.parametrize("device", [CPU, FLOAT16])
def test_a_step_that_breaks_in_its_capture_spends_the_process_and_one_that_was_found_before_does_not(
    device: DeviceProfile, forward: int, captures: int, spends_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way the training goes on as if nothing had been tried."""
    cuda = FakeCuda()
    cuda.take_over(monkeypatch)
    trained, plain = breaking_at(forward), network()
    eager, other = EagerStep(trained, Recipe(), device), EagerStep(plain, Recipe(), device)
    on_cuda = DeviceProfile(torch.device("cuda"), device.autocast_dtype)
    in_its_precision = device.autocast
    monkeypatch.setattr(DeviceProfile, "autocast", lambda self: in_its_precision())
    eager.device = on_cuda
    chosen = captured_where_possible(eager, lambda: batch(0))
    eager.device = device
    assert (chosen.step, chosen.spends_process) == (eager, spends_process)
    assert chosen.run_as == "eager: called a synchronizing CUDA operation", "the cause, not what follows from it"
    assert (cuda.captures, cuda.modes) == (captures, ["default", "error", "default"])
    for number in range(2):
        assert torch.equal(eager(batch(number), 1e-2), other(batch(number), 1e-2))
    check_same_bits(weights(trained), weights(plain))


def test_after_a_step_that_broke_off_in_float16_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss scaling expects an update after gradients were divided by the scale; a capture may end between them."""

    def broken(*_: object) -> Tensor:
        raise RuntimeError("broken off")

    eager = EagerStep(network(), Recipe(), FLOAT16)
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.utils, "clip_grad_norm_", broken)
        with pytest.raises(RuntimeError, match="broken off"):
            eager.run(batch(0).images, batch(0).labels)
    with pytest.raises(RuntimeError, match="unscale_"):
        eager.run(batch(0).images, batch(0).labels)
    eager.recover()
    assert eager.run(batch(0).images, batch(0).labels).isfinite()


def test_a_bug_in_a_capture_flies_out() -> None:
    def capture(eager: EagerStep, example: Batch) -> Step:
        raise TypeError("a bug")

    eager = EagerStep(network(), Recipe(), CPU)
    eager.device = DeviceProfile(torch.device("cuda"), torch.bfloat16)
    with pytest.raises(TypeError, match="a bug"):
        captured_where_possible(eager, lambda: batch(0), capture=capture)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("name", ["u-net", "attention-u-net", "no-skip"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_a_graph_trains_as_the_eager_step_does(name: str, dtype: torch.dtype | None) -> None:
    cuda = replace(profile("cuda"), autocast_dtype=dtype)
    eager_net, graphed_net = (network(name).to(cuda.device, memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
    eager = EagerStep(eager_net, Recipe(), cuda)
    graphed = captured_where_possible(EagerStep(graphed_net, Recipe(), cuda), lambda: batch(99, cuda.device)).step
    assert isinstance(graphed, GraphedStep)
    for number in range(12):
        rate = 1e-3 * (number + 1)
        one, other = eager(batch(number, cuda.device), rate), graphed(batch(number, cuda.device), rate)
        assert other.item() == pytest.approx(one.item(), rel=2e-2), "bfloat16, and algorithms chosen anew"
    assert all(parameter.grad is not None for parameter in graphed_net.parameters())


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_step_that_waits_for_the_device_is_not_captured_and_trains_on() -> None:
    cuda = profile("cuda")
    trained = network().to(cuda.device)
    trained.head.register_forward_hook(lambda module, inputs, output: output * float(output.mean().item() > -1e9))
    eager = EagerStep(trained, Recipe(), cuda)
    chosen = captured_where_possible(eager, lambda: batch(0, cuda.device))
    step = chosen.step
    assert step is eager
    assert not chosen.spends_process, "it was found before the capture"
    losses = [step(batch(number, cuda.device), 1e-2).item() for number in range(20)]
    assert losses[-1] < losses[0]


def test_the_loss_of_several_heads_halves_from_resolution_to_resolution() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 8, 6), generator=generator).to(torch.uint8)
    sizes = [(8, 6), (8, 6), (4, 3), (2, 2)]
    heads = [torch.randn(2, 3, *size, generator=generator) for size in sizes]
    half = labels[:, 1::2, 1::2]  # nearest: the middle of two lies between them, and the later one is taken
    quarter = labels[:, 2::4, [1, 4]]
    fine, same, coarse, coarsest = (
        dice_ce_loss(head, target, 0.3) for head, target in zip(heads, (labels, labels, half, quarter), strict=True)
    )
    expected = (fine + same + 0.5 * coarse + 0.25 * coarsest) / 2.75
    assert heads_loss(heads, labels, 0.3).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(heads_loss(heads[:1], labels, 0.3), fine)


def test_deep_supervision_trains_the_side_heads_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[SkipUNet] = []

    class Noting(EagerStep):
        def __init__(self, network: SkipUNet, *args: object, **options: object) -> None:
            trained.append(network)
            super().__init__(network, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "EagerStep", Noting)
    task = write_tiny_task(tmp_path)
    budget = replace(TINY_BUDGET, steps=60, batch_size=4, rungs=(60,), width_factor=1.0)
    budget = replace(budget, recipe=Recipe(deep_supervision=True, learning_rate=2e-2))
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, budget, 0, NullObserver())
    assert result.outcome is Outcome.COMPLETE
    assert result.score is not None
    assert result.score > 0.5
    start = build(trained[0].architecture).side_heads["D1"].get_parameter("weight")
    assert not torch.allclose(trained[0].side_heads["D1"].get_parameter("weight"), start)


def test_without_deep_supervision_nothing_but_the_output_has_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Architecture] = []

    def noting(architecture: Architecture, *, seed: int) -> SkipUNet:
        built.append(architecture)
        return build(architecture, seed=seed)

    monkeypatch.setattr("unetx_space.network.build", noting)
    task = write_tiny_task(tmp_path)
    ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    assert not built[0].backbone.deep_supervision
