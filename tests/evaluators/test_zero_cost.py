"""Features of untrained networks: hand-worked values, naive loops, and every operator of the catalogue."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import astuple, replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.insight import ZeroCost
from unetx_evaluators.tasks.task import IGNORED
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.loss import dice_ce_loss
from unetx_evaluators.zero_cost import (
    RectifiedMaps,
    hamming_kernel,
    linearised,
    log_determinant,
    log_synflow,
    record_fisher,
    zero_cost,
)
from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, isotropic_backbone
from unetx_space.cost import Cost, cost
from unetx_space.design_space import SPACES, attention_genes, design_space
from unetx_space.genome import NO_ATTENTION, Attention, Genome, encoder
from unetx_space.network import SkipUNet, build
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS
from unetx_space.presets import own_level, plain, preset

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FLOAT32 = DeviceProfile(CPU, autocast_dtype=None)
BACKGROUND_WEIGHT = 0.3
NO_COST = Cost(0, 0, 0)
N_LEVELS = 3
DIMS: tuple[Literal[2, 3], ...] = (2, 3)
GENES = [gene for gene in attention_genes(tuple(ATTENTIONS)) if gene != NO_ATTENTION]


def backbone_of(dims: Literal[2, 3]) -> Backbone:
    return isotropic_backbone(dims, n_levels=N_LEVELS, base_width=4, out_channels=3)


def network_of(genome: Genome, dims: Literal[2, 3] = 2, **changes: object) -> SkipUNet:
    return build(Architecture(replace(backbone_of(dims), **changes), genome))  # type: ignore[arg-type]


def unet(dims: Literal[2, 3] = 2, **changes: object) -> SkipUNet:
    return network_of(preset("u-net").genome(N_LEVELS), dims, **changes)


def batch_of(dims: int = 2, *, n_images: int = 3, n_classes: int = 3) -> Batch:
    generator, size = torch.Generator().manual_seed(5), (12, 13) if dims == 2 else (8, 7, 6)
    images = torch.randn(n_images, 1, *size, generator=generator)
    labels = torch.randint(n_classes, (n_images, *size), generator=generator, dtype=torch.uint8)
    return Batch(images, labels)


def features_of(network: nn.Module, batch: Batch, device: DeviceProfile = FLOAT32) -> ZeroCost:
    return zero_cost(network, batch, NO_COST, BACKGROUND_WEIGHT, device)


def loss_of(network: nn.Module, batch: Batch) -> Tensor:
    return dice_ce_loss(network(batch.images), batch.labels, BACKGROUND_WEIGHT)


def gradients_of(network: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Each weight of more than one axis with its gradient: norms, biases and fusion weights have one axis."""
    loss_of(network, batch).backward()  # type: ignore[no-untyped-call]
    for parameter in network.parameters():
        if parameter.ndim > 1:
            assert parameter.grad is not None
            yield parameter.detach(), parameter.grad


# With the loss


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("gene", [NO_ATTENTION, Attention("se", "fused"), Attention("eca", "block")], ids=str)
def test_gradient_norm_and_snip_equal_a_loop_over_all_weights(dims: Literal[2, 3], gene: Attention) -> None:
    """Transposed convolutions, 3D ones, linear layers and the one-dimensional ones of ECA included."""
    network = network_of(plain(N_LEVELS, own_level, attention=gene, fusion="gated"), dims)
    batch = batch_of(dims)
    norms, sensitivity = 0.0, 0.0
    for weight, gradient in gradients_of(deepcopy(network), batch):
        pairs = list(zip(weight.flatten().tolist(), gradient.flatten().tolist(), strict=True))
        norms += math.sqrt(sum(g * g for _, g in pairs))
        sensitivity += sum(abs(w * g) for w, g in pairs)
    features = features_of(network, batch)
    assert features.grad_norm == pytest.approx(norms, rel=1e-4)
    assert features.snip == pytest.approx(sensitivity, rel=1e-4)


def test_snip_is_the_sensitivity_of_the_loss_to_a_mask_on_every_weight() -> None:
    network, batch = unet(), batch_of()
    values = dict(network.named_parameters())
    masks = {name: torch.ones_like(value, requires_grad=True) for name, value in values.items() if value.ndim > 1}
    masked = {name: value.detach() * masks.get(name, 1.0) for name, value in values.items()}
    logits = functional_call(network, masked, (batch.images,))
    loss = dice_ce_loss(logits, batch.labels, BACKGROUND_WEIGHT)
    by_mask = torch.autograd.grad(loss, list(masks.values()))
    assert features_of(network, batch).snip == pytest.approx(sum(float(g.abs().sum()) for g in by_mask), rel=1e-4)


def test_the_loss_is_that_of_training_with_its_background_weight_and_its_ignored_voxels() -> None:
    network, batch = unet(), batch_of()
    batch.labels[:, 2:5] = IGNORED
    copy = deepcopy(network)
    dice_ce_loss(copy(batch.images), batch.labels, 0.7, ignores=True).backward()  # type: ignore[no-untyped-call]
    expected = sum(float(p.grad.norm()) for p in copy.parameters() if p.ndim > 1 and p.grad is not None)
    found = zero_cost(network, batch, NO_COST, 0.7, FLOAT32, ignores=True)
    assert found.grad_norm == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_lower_precision_and_its_loss_scaling_change_the_features_by_little(dtype: torch.dtype) -> None:
    network, batch = unet(), batch_of()
    for low, full in zip(
        astuple(features_of(network, batch, DeviceProfile(CPU, dtype))),
        astuple(features_of(network, batch)),
        strict=True,
    ):
        assert low == pytest.approx(full, rel=0.1)


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(2, 3, 1))


def test_fisher_equals_a_loop_over_images_channels_and_voxels() -> None:
    network, batch = two_layers(), batch_of(n_images=2)
    activation = network[1](network[0](batch.images))
    activation.retain_grad()
    logits = network[2](activation)
    dice_ce_loss(logits, batch.labels, BACKGROUND_WEIGHT).backward()  # type: ignore[no-untyped-call]
    total = 0.0
    for image in range(2):
        for channel in range(2):
            products = activation[image, channel] * activation.grad[image, channel]
            total += sum(products.flatten().tolist()) ** 2
    assert features_of(network, batch).fisher == pytest.approx(total / (2 * 2), rel=1e-4)


def test_fisher_of_a_map_worked_by_hand() -> None:
    """Two images of two channels and two voxels; the gradient is 3 everywhere."""
    values = torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [-1.0, 2.0]]], requires_grad=True)
    parts = record_fisher([values])
    (3 * values).sum().backward()  # type: ignore[no-untyped-call]
    assert [float(part) for part in parts] == [(9**2 + 3**2 + 0**2 + 3**2) / 4]


def test_fisher_in_front_of_an_instance_normalisation_would_tell_nothing() -> None:
    """Why it is taken behind the rectifier."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(2, 3, 6, 6, generator=generator, requires_grad=True)
    after = nn.functional.leaky_relu(nn.functional.instance_norm(before), 0.01)
    parts = record_fisher([before, after])
    (after * torch.randn(2, 3, 6, 6, generator=generator)).sum().backward()  # type: ignore[no-untyped-call]
    behind, in_front = map(float, parts)
    assert in_front < 1e-6 * behind


# Codes of rectifiers


def test_the_kernel_and_its_determinant_of_three_images_worked_by_hand() -> None:
    """Signs ++-- +-+- ---+: the pairs agree in 2, 1 and 1 of 4 units; the determinant is 44."""
    codes = torch.tensor([[2.0, 1.0, -0.02, -0.01], [3.0, -0.01, 1.0, 0.0], [-0.3, -0.1, -0.2, 0.1]])
    kernel = hamming_kernel([codes.reshape(3, 1, 2, 2)])
    assert kernel.tolist() == [[4, 2, 1], [2, 4, 1], [1, 1, 4]]
    assert log_determinant(kernel) == pytest.approx(math.log(44))


def test_the_kernels_of_maps_add_up() -> None:
    one, two = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[0.0], [-2.0]])
    both = torch.cat([one, two], 1)
    assert torch.equal(hamming_kernel([one, two]), hamming_kernel([both]))


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_nwot_equals_a_loop_over_pairs_of_images(slope: float) -> None:
    network, batch = unet(negative_slope=slope), batch_of()
    codes: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.LeakyReLU):
            module.register_forward_hook(lambda module, args, output: codes.append((output > 0).flatten(1)))
    network(batch.images)
    signs = torch.cat(codes, 1)
    agreeing = [[float((a == b).sum()) for a in signs] for b in signs]
    expected = torch.linalg.slogdet(torch.tensor(agreeing, dtype=torch.float64)).logabsdet
    assert features_of(unet(negative_slope=slope), batch).nwot == pytest.approx(float(expected))


def test_equal_images_leave_nwot_finite_and_lower_it() -> None:
    network, batch = unet(), batch_of()
    equal = Batch(batch.images[[0, 1, 1]], batch.labels)
    assert 0 < features_of(network, equal).nwot < features_of(network, batch).nwot - 1


def test_without_rectified_maps_fisher_and_nwot_are_zero() -> None:
    features = features_of(nn.Conv2d(1, 3, 3, padding=1), batch_of())
    assert (features.fisher, features.nwot) == (0, 0)
    assert features.snip > 0


def test_every_rectified_map_is_seen_and_nothing_else() -> None:
    """Two in each of five blocks; those of residual blocks are functions, not modules. Vectors inside of channel gates
    and the rectified weights of a BiFPN are no maps."""
    gated = plain(N_LEVELS, own_level, attention=Attention("cbam", "block"), fusion="bifpn")
    for network, n_others in (
        (unet(), 0),
        (unet(3), 0),
        (unet(encoder_block="residual", encoder_depth=1), 0),
        (unet(normalise_upsampled=True), 2),
        (network_of(preset("attention-u-net").genome(N_LEVELS)), 2),
        (network_of(gated), 0),
    ):
        images = batch_of(network.architecture.backbone.dims).images
        with RectifiedMaps(images.ndim) as rectified:
            network(images)
        assert len(rectified.maps) == 2 * 5 + n_others
        assert all(len(x) == len(images) for x in rectified.maps)


# Synaptic flow


def with_values(layer: nn.Module, *values: float) -> nn.Module:
    """The layer with these weights in turn, and a bias that must not matter."""
    weight = layer.get_parameter("weight")
    weight.data = torch.tensor(values, dtype=torch.float32).repeat(weight.numel() // len(values)).reshape(weight.shape)
    layer.get_parameter("bias").data.fill_(5.0)
    return layer


def test_flow_of_two_linear_layers_worked_by_hand() -> None:
    """Six voxels, each |1| |3| + |-2| |-4| = 11 along its two paths; every layer passes all of it."""
    network = nn.Sequential(with_values(nn.Conv2d(1, 2, 1), 1, -2), with_values(nn.Conv2d(2, 1, 1), 3, -4))
    assert log_synflow(network, torch.zeros(4, 1, 2, 3)) == pytest.approx(math.log(2 * 66))


def test_normalisations_and_rectifiers_in_between_change_nothing() -> None:
    layers = (with_values(nn.Conv2d(1, 2, 1), 1, -2), with_values(nn.Conv2d(2, 1, 1), 3, -4))
    for norm in (nn.InstanceNorm2d(2, affine=True), nn.BatchNorm2d(2), nn.GroupNorm(1, 2)):
        network = nn.Sequential(layers[0], norm, nn.LeakyReLU(0.01, inplace=True), layers[1])
        assert log_synflow(network, torch.zeros(1, 1, 2, 3)) == pytest.approx(math.log(2 * 66))


def test_flow_of_a_padded_convolution_counts_the_taps_inside() -> None:
    """In a 2x2 image every voxel sees 4 of 9 taps, in a 2x2x2 one 8 of 27."""
    assert log_synflow(
        nn.Sequential(with_values(nn.Conv2d(1, 1, 3, padding=1), -2)), torch.zeros(1, 1, 2, 2)
    ) == pytest.approx(math.log(4 * 4 * 2))
    assert log_synflow(
        nn.Sequential(with_values(nn.Conv3d(1, 1, 3, padding=1), 3)), torch.zeros(1, 1, 2, 2, 2)
    ) == pytest.approx(math.log(8 * 8 * 3))


def test_flow_through_transposed_convolutions_counts() -> None:
    two_d = nn.Sequential(with_values(nn.ConvTranspose2d(1, 1, 2, stride=2), 1, -2, 3, -4))
    assert log_synflow(two_d, torch.zeros(1, 1, 1, 3)) == pytest.approx(math.log(3 * 10))
    three_d = nn.Sequential(with_values(nn.ConvTranspose3d(1, 1, 2, stride=2), 1, -2))
    assert log_synflow(three_d, torch.zeros(1, 1, 1, 1, 2)) == pytest.approx(math.log(2 * 12))


@pytest.mark.parametrize("dims", DIMS)
def test_along_a_chain_every_layer_passes_the_whole_flow(dims: Literal[2, 3]) -> None:
    """Without skips each of the layers lies on every path, which is the conservation law of the paper."""
    network, images = network_of(preset("no-skip").genome(N_LEVELS), dims), batch_of(dims).images
    ones = torch.ones(1, *images.shape[1:], dtype=torch.float64)
    flow = float(linearised(network)(ones).sum().detach())
    n_layers = 2 * 5 + 2 + 1
    assert log_synflow(network, images) == pytest.approx(math.log(n_layers * flow), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 1e6, 1e30], ids=["small", "beyond float32", "beyond float64"])
def test_flow_of_any_size_is_finite_and_exact_as_far_as_float64_reaches(factor: float) -> None:
    network, images = network_of(preset("no-skip").genome(N_LEVELS)), batch_of().images
    n_layers, before = 2 * 5 + 2 + 1, log_synflow(network, images)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data *= factor
    expected = before + n_layers * math.log(factor)
    assert log_synflow(network, images) == pytest.approx(min(expected, math.log(1.797e308)), rel=1e-5)


def test_a_network_that_passes_nothing_has_a_finite_flow() -> None:
    network = unet()
    network.head.get_parameter("weight").data.zero_()
    assert log_synflow(network, batch_of().images) == pytest.approx(math.log(2.2251e-308), rel=1e-4)


@pytest.mark.parametrize("gene", [gene for gene in GENES if gene.type != "attention-gate-grid"], ids=str)
def test_attention_neither_adds_to_the_flow_nor_takes_from_it(gene: Attention) -> None:
    attended = plain(N_LEVELS, own_level, attention=gene)
    images = batch_of().images
    assert log_synflow(network_of(attended), images) == log_synflow(unet(), images)


def test_frozen_sampling_is_linear_upsampling() -> None:
    flows = [
        log_synflow(network_of(plain(N_LEVELS, own_level, upsampler=upsampler)), batch_of().images)
        for upsampler in ("linear", "dysample")
    ]
    assert flows[0] == pytest.approx(flows[1], rel=1e-6)


# Every operator


def every_operator() -> Iterator[Genome]:
    """Genomes that together hold every attention at every placement, upsampler, fusion and alignment."""

    def dense(level: int) -> Iterator[object]:
        return map(encoder, range(N_LEVELS))

    def genome(**choices: object) -> Genome:
        alignment = choices.pop("alignment", "max")
        nodes = plain(N_LEVELS, dense, **choices).nodes  # type: ignore[arg-type]
        return Genome(tuple(replace(node, alignment=alignment) for node in nodes))  # type: ignore[arg-type]

    yield from (genome(attention=gene) for gene in GENES)
    yield from (genome(upsampler=name) for name in UPSAMPLERS)
    yield from (genome(fusion=name) for name in FUSIONS)
    yield from (genome(alignment=name) for name in ALIGNMENTS)


def name_of(genome: Genome) -> str:
    node = genome.output
    return f"{node.attention}-{node.upsampler}-{node.fusion}-{node.alignment}"


OPERATORS = pytest.mark.parametrize("genome", list(every_operator()), ids=name_of)


@OPERATORS
@pytest.mark.parametrize("dims", DIMS)
def test_every_operator_is_linearised(genome: Genome, dims: Literal[2, 3]) -> None:
    """Twice the input, twice the output, whatever the parameters: no gate, norm or bias is left.

    Weights are small enough that no softmax or sigmoid is saturated, which would hide it.
    """
    network, generator = network_of(genome, dims), torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel())
    flowing, images = linearised(network), batch_of(dims).images.abs().double()
    with torch.no_grad():
        once, twice = flowing(images), flowing(2 * images)
    assert float(once.min()) >= 0
    assert float(once.max()) > 0
    torch.testing.assert_close(twice, 2 * once)


@OPERATORS
@pytest.mark.parametrize("dims", DIMS)
def test_features_of_every_operator_are_finite(genome: Genome, dims: Literal[2, 3]) -> None:
    features = features_of(network_of(genome, dims), batch_of(dims, n_images=2))
    assert all(map(math.isfinite, astuple(features)))
    assert min(features.grad_norm, features.snip, features.fisher, features.nwot) > 0


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize(("norm", "block"), [("instance", "plain"), ("batch", "residual"), ("group", "resnet-d")])
def test_features_of_sampled_designs_are_finite(space: str, dims: Literal[2, 3], norm: str, block: str) -> None:
    genome = design_space(space, N_LEVELS).sample(random.Random(f"{space}|{dims}|{norm}"))
    network = network_of(genome, dims, norm=norm, encoder_block=block, deep_supervision=True)
    assert all(map(math.isfinite, astuple(features_of(network, batch_of(dims, n_images=2)))))


# The whole


def test_counts_are_those_handed_in() -> None:
    network = unet()
    whole = cost(network.architecture, (12, 13))
    features = zero_cost(network, batch_of(), whole, BACKGROUND_WEIGHT, FLOAT32)
    assert (features.n_parameters, features.macs) == (whole.n_parameters, whole.conv_macs + whole.other_macs)


def test_the_same_network_and_batch_give_the_same_bits() -> None:
    genome = plain(N_LEVELS, own_level, attention=Attention("cbam", "fused"), upsampler="carafe")
    assert features_of(network_of(genome), batch_of()) == features_of(network_of(genome), batch_of())


def state_of(network: nn.Module) -> list[object]:
    """Everything that must not change, tensors as bytes."""

    def raw(value: Tensor | None) -> object:
        return None if value is None else value.detach().numpy().tobytes()

    return [
        [(name, raw(p), raw(p.grad), p.requires_grad, p.stride()) for name, p in network.named_parameters()],
        [(name, raw(buffer)) for name, buffer in network.named_buffers()],
        [(type(module), module.training, len(module._forward_hooks)) for module in network.modules()],
    ]


def test_the_network_stays_as_it_came_to_the_bit() -> None:
    network, batch = unet(norm="batch").eval(), batch_of()
    network.encoder["E1"].train()
    network.head.get_parameter("weight").requires_grad_(False)
    for index, parameter in enumerate(network.parameters()):
        parameter.grad = torch.full_like(parameter, index) if index % 2 else None
    before, generator = state_of(network), torch.get_rng_state()
    images, labels = batch.images.clone(), batch.labels.clone()
    features_of(network, batch)
    assert state_of(network) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(batch.images, images)
    assert torch.equal(batch.labels, labels)
    assert batch.images.grad is None


def test_the_mode_and_the_frozen_parameters_of_the_network_do_not_matter() -> None:
    """Features are those of training, where batch normalisation looks at the batch."""
    batch = batch_of()
    frozen = unet(norm="batch").eval().requires_grad_(False)
    assert features_of(frozen, batch) == features_of(unet(norm="batch"), batch)
