"""Sliding windows: where they lie, how they are weighed, and that they agree with a plain forward pass."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.inference import BATCH_VOXELS, gaussian_weight, predict_logits, window_corners

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = DeviceProfile(torch.device("cpu"), autocast_dtype=None)


def pointwise(dims: int) -> nn.Module:
    """A network whose output at a voxel depends on that voxel alone, so that windows cannot matter."""
    torch.manual_seed(0)
    convolution = nn.Conv2d if dims == 2 else nn.Conv3d
    return nn.Sequential(convolution(2, 5, 1), nn.ReLU(), convolution(5, 3, 1))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(
    ("spatial", "patch"),
    [((37, 53), (16, 16)), ((33, 7), (16, 12)), ((5, 3), (8, 8)), ((19, 23, 11), (8, 16, 8)), ((9, 4, 30), (12, 5, 8))],
)
def test_a_pointwise_network_gives_the_same_through_windows_as_directly(
    spatial: tuple[int, ...], patch: tuple[int, ...], overlap: float
) -> None:
    network = pointwise(len(spatial))
    image = torch.randn(2, *spatial, generator=torch.Generator().manual_seed(1))
    logits = next(predict_logits(network, [image], patch, FLOAT32, overlap=overlap, batch_size=3))
    with torch.no_grad():
        torch.testing.assert_close(logits, network(image[None])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("size", [16, 17, 31, 32, 33, 47, 100])
def test_windows_cover_every_voxel_inside_the_image_and_overlap_as_asked(size: int, overlap: float) -> None:
    starts = [corner[0] for corner in window_corners((size,), (16,), overlap)]
    covered = {voxel for start in starts for voxel in range(start, start + 16)}
    assert covered == set(range(size))
    assert all(b - a <= 16 * (1 - overlap) for a, b in itertools.pairwise(starts))


def test_an_image_of_one_patch_needs_one_window() -> None:
    assert list(window_corners((16, 8), (16, 8), 0.5)) == [(0, 0)]


def test_the_weight_is_the_gaussian_of_an_eighth_of_the_window_with_a_floor() -> None:
    weight = gaussian_weight((9, 17))
    assert weight.shape == (9, 17)
    assert weight[4, 8] == 1
    # one voxel off the centre of 9, sigma = 9 / 8
    assert weight[5, 8].item() == pytest.approx(torch.exp(torch.tensor(-0.5 * (8 / 9) ** 2)).item())
    assert weight.min() == pytest.approx(1e-3), "a corner is far out, and still counts"


def test_windows_go_through_the_network_in_batches_of_at_most_the_size_asked() -> None:
    sizes: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return x

    next(predict_logits(Counting(), [torch.zeros(1, 40, 16)], (16, 16), FLOAT32, overlap=0.5, batch_size=3))
    assert sizes == [3, 1]  # ceil((40 - 16) / 8) + 1 = 4 windows


@pytest.mark.parametrize("batch_size", [None, 1, 5, 64])
def test_several_images_at_once_are_predicted_as_one_by_one(batch_size: int | None) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 3, 1)).eval()
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(1, *size, generator=generator) for size in ((40, 33), (16, 16), (9, 50), (3, 20, 24))]
    together = list(predict_logits(network, iter(images), (16, 16), FLOAT32, batch_size=batch_size))
    assert len(together) == len(images)
    for image, logits in zip(images, together, strict=True):
        alone = next(predict_logits(network, [image], (16, 16), FLOAT32, batch_size=1))
        assert logits.shape == (3, *image.shape[1:])
        torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)


def test_images_are_read_when_their_turn_comes() -> None:
    read: list[int] = []

    def images() -> Iterator[torch.Tensor]:
        for number in range(5):
            read.append(number)
            yield torch.zeros(1, 16, 16)

    first = next(predict_logits(nn.Identity(), images(), (16, 16), FLOAT32, batch_size=2))
    assert first.shape == (1, 16, 16)
    assert read == [0, 1]


def test_windows_of_several_images_share_a_batch() -> None:
    sizes: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return x

    images = [torch.zeros(1, 40, 16)] * 3  # four windows each
    assert len(list(predict_logits(Counting(), images, (16, 16), FLOAT32, batch_size=5))) == 3
    assert sizes == [5, 5, 2]


def test_a_batch_of_windows_is_bounded_by_its_voxels() -> None:
    sizes: list[tuple[int, ...]] = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(x.shape))
            return x

    together = BATCH_VOXELS["cpu"] // 64**2
    next(predict_logits(Counting(), [torch.zeros(1, 64, 64 * 2 * together)], (64, 64), FLOAT32, overlap=0.0))
    next(predict_logits(Counting(), [torch.zeros(1, 512, 512)], (512, 512), FLOAT32))
    assert sizes == [(together, 1, 64, 64)] * 2 + [(1, 1, 512, 512)], "at least one"


def test_the_image_is_left_as_it_was() -> None:
    image = torch.randn(2, 20, 20, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    next(predict_logits(pointwise(2), [image], (8, 8), FLOAT32))
    assert torch.equal(image, before)
