"""The training step, how it is undone, and that it keeps to its device."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from dispatch_modes import NothingCrosses, NothingIsRead
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task
from torch import Tensor

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import NullObserver, Outcome
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.training import trainer
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.loss import dice_ce_loss, heads_loss
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.step import EagerStep
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
    before, undo = weights(undone), step.snapshot()
    for number in range(7, 10):
        step(batch(number), 1e-2)
    undo()
    check_same_bits(weights(undone), before)
    assert all(parameter.grad is None for parameter in undone.parameters())
    for number in range(3):
        assert torch.equal(step(batch(number), 1e-2), plain(batch(number), 1e-2))
    check_same_bits(weights(undone), weights(other))
    assert step.state_dict()["scaler"] == plain.state_dict()["scaler"]


@pytest.mark.parametrize("device", [CPU, replace(CPU, autocast_dtype=torch.bfloat16), FLOAT16])
def test_no_step_looks_at_a_value_in_any_precision(device: DeviceProfile) -> None:
    """So it can be captured in float16, too: the fused AdamW skips a step that overflowed without asking the host."""
    step = EagerStep(network(), Recipe(), device)
    with NothingIsRead():
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


N_TURNS = range(max(map(len, (ATTENTIONS, UPSAMPLERS, FUSIONS, ALIGNMENTS))))


@pytest.mark.parametrize("turn", N_TURNS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_no_operator_looks_at_a_value_so_that_all_can_be_captured(
    turn: int, dims: Literal[2, 3], dtype: torch.dtype | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, *(8,) * dims, generator=generator)
    step = EagerStep(with_operators(turn, dims), Recipe(), replace(CPU, autocast_dtype=dtype))
    with NothingIsRead():
        loss = step.run(images, (images[:, 0] > 0).to(torch.uint8))
    assert loss.isfinite()


@pytest.mark.parametrize("turn", N_TURNS)
@pytest.mark.parametrize(("dims", "dtype"), [(2, torch.bfloat16), (3, torch.float16)])
def test_no_operator_needs_anything_of_the_host(turn: int, dims: Literal[2, 3], dtype: torch.dtype) -> None:
    """On a GPU a tensor of the host would be copied there in the middle of a step, which no graph can hold."""
    check_nothing_crosses(turn, dims, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("turn", N_TURNS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_no_operator_needs_anything_of_the_host_in_any_precision(
    turn: int, dims: Literal[2, 3], dtype: torch.dtype
) -> None:
    check_nothing_crosses(turn, dims, dtype)


def check_nothing_crosses(turn: int, dims: Literal[2, 3], dtype: torch.dtype) -> None:
    network = with_operators(turn, dims).to("meta", dtype)
    images = torch.empty(2, 1, *(8,) * dims, device="meta", dtype=dtype)
    labels = torch.empty(2, *(8,) * dims, device="meta", dtype=torch.uint8)
    with NothingCrosses():
        loss = heads_loss([network(images)], labels, 0.3, ignores=True)
        loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in network.parameters())


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
