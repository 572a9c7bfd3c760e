"""Gradients by stage and similarity of skips: loops and plain formulas as oracles, invariances, networks left alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from unetx_evaluators import diagnosis
from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.diagnosis import linear_hsic, skip_similarities, stage_gradients
from unetx_evaluators.insight import SkipSimilarity, StageGradient
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, isotropic_backbone
from unetx_space.network import SkipUNet, build
from unetx_space.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FLOAT32 = DeviceProfile(CPU, autocast_dtype=None)
BACKBONE = isotropic_backbone(2, n_levels=3, base_width=4)


def network_on(backbone: Backbone = BACKBONE, name: str = "u-net") -> SkipUNet:
    return build(Architecture(backbone, preset(name).genome(backbone.n_levels)))


def batch_of(size: tuple[int, ...] = (13, 18), *, n_images: int = 2, seed: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n_images, 1, *size, generator=generator)
    return Batch(images, torch.randint(2, (n_images, *size), generator=generator, dtype=torch.uint8))


def with_gradients(network: SkipUNet, size: tuple[int, ...] = (13, 18)) -> SkipUNet:
    generator = torch.Generator().manual_seed(1)
    logits = network(batch_of(size).images)
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    return network


def norms_of(network: SkipUNet) -> dict[str, float | None]:
    return {gradient.stage: gradient.norm for gradient in stage_gradients(network)}


# Gradients


def root_mean_square(network: SkipUNet, *prefixes: str) -> float:
    """Of the gradients of all parameters whose names begin so, value by value."""
    squares = [
        value**2
        for name, parameter in network.named_parameters()
        if name.startswith(prefixes) and parameter.grad is not None
        for value in parameter.grad.flatten().tolist()
    ]
    return math.sqrt(sum(squares) / len(squares))


@pytest.mark.parametrize("dims", [2, 3])
def test_every_stage_has_the_root_mean_square_of_its_gradients(dims: int) -> None:
    backbone = isotropic_backbone(2 if dims == 2 else 3, n_levels=3, base_width=4)
    network = with_gradients(network_on(backbone), (13, 18, 9)[:dims])
    expected = {
        "E0": root_mean_square(network, "encoder.E0."),
        "E1": root_mean_square(network, "encoder.E1."),
        "E2": root_mean_square(network, "encoder.E2."),
        "D1": root_mean_square(network, "decoder.D1."),
        "D0": root_mean_square(network, "decoder.D0."),
        "head": root_mean_square(network, "head."),
    }
    found = norms_of(network)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 0


def test_nodes_of_nested_decoders_have_their_columns() -> None:
    found = norms_of(with_gradients(network_on(name="unet++")))
    assert sorted(found) == ["D0.1", "D0.2", "D1.1", "E0", "E1", "E2", "head"]


def test_the_stem_counts_as_part_of_the_first_stage() -> None:
    network = with_gradients(network_on(replace(BACKBONE, encoder_block="resnet-d")))
    assert norms_of(network)["E0"] == pytest.approx(root_mean_square(network, "encoder.E0.", "stem."), rel=1e-4)


def test_a_parameter_without_a_gradient_counts_as_zero() -> None:
    network = with_gradients(network_on())
    weight, bias = network.head.get_parameter("weight"), network.head.get_parameter("bias")
    assert weight.grad is not None
    bias.grad = None
    expected = float(weight.grad.norm()) / math.sqrt(weight.numel() + bias.numel())
    assert norms_of(network)["head"] == pytest.approx(expected, rel=1e-5)
    weight.grad = None
    assert norms_of(network)["head"] == 0


def test_without_a_backward_pass_there_is_nothing_to_read() -> None:
    with pytest.raises(ValueError, match="after a backward pass"):
        stage_gradients(network_on())


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_leaves_its_stage_without_a_norm(broken: float) -> None:
    network = with_gradients(network_on())
    gradient = network.encoder["E1"].get_parameter("conv1.weight").grad
    assert gradient is not None
    gradient[0, 0, 0, 0] = broken
    found = norms_of(network)
    assert found.pop("E1") is None
    assert all(norm is not None for norm in found.values())


def test_gradients_can_be_read_behind_a_training_step() -> None:
    network = network_on()
    step = EagerStep(network, replace(Recipe(), max_grad_norm=1e-3), FLOAT32)
    step(batch_of(), 1e-3)
    gradients = [parameter.grad for parameter in network.parameters()]
    before = [None if gradient is None else gradient.clone() for gradient in gradients]
    found = norms_of(network)
    assert found["D1"] == pytest.approx(root_mean_square(network, "decoder.D1."), rel=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(gradients, before, strict=True) if a is not None and b is not None)


# The criterion


def naive_hsic(x: Tensor, y: Tensor) -> float:
    """The estimate as its authors write it, with both kernels; nothing is centred."""
    n, (k, l) = len(x), (x @ x.T, y @ y.T)  # noqa: E741
    k, l = k - k.diag().diag(), l - l.diag().diag()  # noqa: E741
    ones = torch.ones(n, dtype=x.dtype)
    trace = (k @ l).trace()
    product = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    return float((trace + product - 2 / (n - 2) * (ones @ k @ l @ ones)) / (n * (n - 3)))


def cka(x: Tensor, y: Tensor) -> float:
    return float(linear_hsic(x, y) / (linear_hsic(x, x) * linear_hsic(y, y)).sqrt())


def rows(n: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def test_the_criterion_worked_by_hand() -> None:
    """Rows 1, -1, 1, -1: tr = 12, sums -4 and 4, hence (12 + 16/6 - 4) / 4."""
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    assert float(linear_hsic(x, x)) == pytest.approx(8 / 3)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 1), (5, 3, 2), (40, 7, 12)])
def test_the_criterion_equals_the_formula_with_kernels(n: int, c: int, k: int) -> None:
    x, y = rows(n, c), rows(n, k, seed=1)
    y[:, 0] += x[:, 0]
    assert float(linear_hsic(x, y)) == pytest.approx(naive_hsic(x, y))
    assert float(linear_hsic(x, x)) == pytest.approx(naive_hsic(x, x))


def test_a_map_is_entirely_like_itself_and_whatever_rotates_shifts_and_scales_it() -> None:
    x = rows(50, 6)
    rotation = torch.linalg.qr(rows(6, 6, seed=2)).Q
    for other in (x, x @ rotation, -3 * x, x + rows(1, 6, seed=3), 0.1 * x @ rotation - 7):
        assert cka(x, other) == pytest.approx(1)


def test_rotations_and_scales_of_either_map_do_not_matter() -> None:
    x, y = rows(50, 6), rows(50, 4, seed=1)
    y = y + x[:, :4]
    rotation = torch.linalg.qr(rows(6, 6, seed=2)).Q
    assert cka(5 * x @ rotation, y - 1) == pytest.approx(cka(x, y))
    assert 0.1 < cka(x, y) < 0.9


def test_a_stretch_of_one_channel_does_matter() -> None:
    x, y = rows(50, 6), rows(50, 6)
    y[:, 0] *= 10
    assert cka(x, y) < 0.9


def test_unrelated_maps_are_unlike_even_with_as_many_channels_as_rows() -> None:
    """The biased estimate is near one half there."""
    found = [cka(rows(64, 64, seed=2 * i), rows(64, 64, seed=2 * i + 1)) for i in range(30)]
    assert abs(sum(found) / len(found)) < 0.01
    assert max(map(abs, found)) < 0.1


def test_a_constant_map_has_no_variance_at_all() -> None:
    for n in (5, 50, 999):
        constant = torch.full((n, 3), 0.1, dtype=torch.float64)
        assert float(linear_hsic(constant, constant)) == 0
        assert float(linear_hsic(constant, rows(n, 3))) == 0


def test_fewer_than_four_rows_are_not_enough() -> None:
    assert all(linear_hsic(rows(n, 2), rows(n, 2)).isnan() for n in (1, 2, 3))


# Skips


def recorded(network: SkipUNet) -> dict[str, list[list[Tensor]]]:
    """What every node of the network will fuse, batch by batch, seen by hooks of the test's own."""
    maps: dict[str, list[list[Tensor]]] = {}

    def watch(name: str, node: nn.Module) -> None:
        batches = maps[name.replace("_", ".")] = []
        node.get_submodule("fusion").register_forward_pre_hook(
            lambda module, args: batches.append([_flat(x) for x in args[0]])
        )

    for name, node in network.decoder.items():
        watch(name, node)
    return maps


def _flat(x: Tensor) -> Tensor:
    return x.detach().double().movedim(1, -1).flatten(0, -2)


def expected_cka(batches: Sequence[list[Tensor]], source: int) -> float:
    """Of one node, with minibatches joined before the ratio is taken."""
    xy = sum(naive_hsic(maps[source], maps[-1]) for maps in batches)
    xx = sum(naive_hsic(maps[source], maps[source]) for maps in batches)
    yy = sum(naive_hsic(maps[-1], maps[-1]) for maps in batches)
    return xy / math.sqrt(xx * yy)


@pytest.mark.parametrize("name", ["u-net", "attention-u-net", "unet-3+", "unet++", "linknet"])
@pytest.mark.parametrize("n_batches", [1, 2])
def test_every_source_is_compared_with_the_upsampled_map_beside_it(name: str, n_batches: int) -> None:
    batches = [batch_of(seed=seed) for seed in range(n_batches)]
    reference = network_on(name=name).eval()
    maps = recorded(reference)
    for batch in batches:
        reference(batch.images)
    found = {(s.node, s.source): s.cka for s in skip_similarities(network_on(name=name), batches, FLOAT32)}
    expected = {
        (str(node.ref), str(source.ref)): expected_cka(maps[str(node.ref)], index)
        for node in reference.plan.nodes
        for index, source in enumerate(node.sources)
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_three_dimensional_networks_are_compared_too() -> None:
    network = network_on(isotropic_backbone(3, n_levels=3, base_width=4))
    found = skip_similarities(network, [batch_of((8, 9, 12))], FLOAT32)
    assert [(s.node, s.source) for s in found] == [("D1", "E1"), ("D0", "E0")]
    assert all(s.cka is not None and -0.1 < s.cka < 1 for s in found)


class Copies(nn.Module):
    """Gives the same map whatever comes in, once for each channel, scaled."""

    def __init__(self, single: Tensor, *scales: float) -> None:
        super().__init__()
        self.map = torch.cat([scale * single for scale in scales], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.map


def test_a_source_that_says_the_same_as_the_upsampled_map_is_entirely_like_it() -> None:
    network, batch = network_on(), batch_of((16, 16))
    network.decoder["D0"].add_module("upsampler", Copies(batch.images, 1, 2, 3, 4))
    network.decoder["D0"].get_submodule("sources.E0").add_module("attention", Copies(batch.images, -1, 0, 0, 2))
    found = {s.node: s.cka for s in skip_similarities(network, [batch], FLOAT32)}
    assert found["D0"] == pytest.approx(1)
    assert found["D1"] != pytest.approx(1)


def test_a_network_without_skips_has_nothing_to_compare() -> None:
    assert skip_similarities(network_on(name="no-skip"), [batch_of()], FLOAT32) == ()


def test_a_constant_source_has_no_similarity() -> None:
    network = network_on()
    network.encoder["E0"].get_parameter("norm2.weight").data.zero_()
    network.encoder["E0"].get_parameter("norm2.bias").data.fill_(0.3)
    found = {s.node: s.cka for s in skip_similarities(network, [batch_of()], FLOAT32)}
    assert found["D0"] is None
    assert found["D1"] is not None


def test_too_few_voxels_have_no_similarity() -> None:
    network = network_on(isotropic_backbone(2, n_levels=2, base_width=4))
    assert skip_similarities(network, [batch_of((1, 3), n_images=1)], FLOAT32) == (SkipSimilarity("D0", "E0", None),)


def test_rows_are_drawn_by_the_seed_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = network_on(), batch_of((64, 64))
    (whole,) = (s.cka for s in skip_similarities(network, [batch], FLOAT32) if s.node == "D0")
    monkeypatch.setattr(diagnosis, "MAX_ROWS", 500)
    drawn = [
        next(s.cka for s in skip_similarities(network, [batch], FLOAT32, seed=seed) if s.node == "D0")
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != pytest.approx(drawn[2], abs=1e-6)
    assert drawn == pytest.approx([whole] * 3, abs=0.1)


def test_the_network_stays_as_it_came() -> None:
    network = network_on(replace(BACKBONE, norm="batch"))
    network.encoder["E1"].eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    skip_similarities(network, [batch_of()], FLOAT32)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_the_network_stays_as_it_came_when_it_fails() -> None:
    network = network_on()
    with pytest.raises(RuntimeError):
        skip_similarities(network, [Batch(torch.zeros(2, 5, 16, 16), torch.zeros(2, 16, 16))], FLOAT32)
    assert all(module.training for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_lower_precision_changes_little() -> None:
    network, batch = network_on(), batch_of()
    low = skip_similarities(network, [batch], DeviceProfile(CPU, torch.bfloat16))
    full = skip_similarities(network, [batch], FLOAT32)
    assert [s.cka for s in low] == pytest.approx([s.cka for s in full], abs=0.05)


def test_both_findings_survive_json() -> None:
    network = with_gradients(network_on())
    similarities = skip_similarities(network, [batch_of()], FLOAT32)
    gradients = stage_gradients(network)
    text = json.dumps([*map(asdict, similarities), *map(asdict, gradients)], allow_nan=False)
    back = json.loads(text)
    assert tuple(SkipSimilarity(**d) for d in back[: len(similarities)]) == similarities
    assert tuple(StageGradient(**d) for d in back[len(similarities) :]) == gradients
