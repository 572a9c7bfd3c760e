"""Patches turned, scaled and bent: what moves where, and that labels move along."""

import math

import numpy as np
import pytest
import torch
from changed_at_random import augmented

from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Case, ResidentCases, padded_crop
from unetx_evaluators.training.recipe import STRONG, Recipe
from unetx_evaluators.training.warping import Warps, draw_warps, warped

CPU = torch.device("cpu")


def turned(angle: float, spacing: tuple[float, float]) -> Warps:
    """One patch, turned by an angle (degrees) in its plane: the matrix by hand."""
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    across = np.array([[cosine, -sine * spacing[1] / spacing[0]], [sine * spacing[0] / spacing[1], cosine]])
    return Warps((4, 4), {0: across}, {})


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    image = torch.arange(17.0 * 17).view(1, 1, 17, 17)
    found, labels = warped(image, image[:, 0].to(torch.uint8), (9, 9), turned(90, (1.0, 1.0)))
    expected = torch.rot90(image[..., 4:-4, 4:-4], -1, (2, 3))
    assert torch.allclose(found, expected, atol=1e-3)
    assert torch.equal(labels, expected[:, 0].to(torch.uint8))


def test_turning_keeps_lengths_in_mm() -> None:
    """A bar of 7 mm along columns of 1 mm covers the centres of 3 rows of 2 mm, not 7, once it stands upright."""
    label = torch.zeros(1, 17, 17, dtype=torch.uint8)
    label[0, 8, 5:12] = 1
    _, found = warped(label[:, None].float(), label, (9, 9), turned(90, (2.0, 1.0)))
    rows, columns = np.nonzero(found[0].numpy())
    assert set(rows.tolist()) == {3, 4, 5}
    assert set(columns.tolist()) <= {3, 4, 5}


def test_patches_that_nothing_happens_to_are_the_cut_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(2, 1, 12, 12, generator=generator), torch.ones(2, 12, 12, dtype=torch.uint8)
    found, _ = warped(images, labels, (8, 8), Warps((2, 2), {1: np.eye(2) * 1.2}, {}))
    assert torch.equal(found[0], images[0, :, 2:-2, 2:-2])
    assert not torch.allclose(found[1], images[1, :, 2:-2, 2:-2])


def test_planes_of_thick_slices_are_not_turned() -> None:
    recipe = Recipe(rotation=30.0)
    warps = draw_warps(40, (8, 16, 16), (5.0, 1.0, 1.0), recipe, np.random.default_rng(0))
    assert 4 < len(warps.matrices) < 24, "about three of ten"
    for matrix in warps.matrices.values():
        assert matrix[0].tolist() == [1, 0, 0]
        assert np.linalg.det(matrix) == pytest.approx(1.0)
    assert warps.margin[0] == 0


def test_the_margin_holds_all_that_a_turned_and_enlarged_patch_shows() -> None:
    warps = draw_warps(60, (16, 24), (1.0, 1.0), Recipe(rotation=30.0, scaling=0.4), np.random.default_rng(1))
    ones = torch.ones(60, 1, *(n + 2 * m for n, m in zip((16, 24), warps.margin, strict=True)))
    images, _ = warped(ones, ones[:, 0].to(torch.uint8), (16, 24), warps)
    assert images.min() == pytest.approx(1.0, abs=1e-5), "zeros would come from outside"


@pytest.mark.parametrize("is_stack", [False, True])
def test_batches_with_every_change_are_the_same_from_cases_and_from_flat_tensors(is_stack: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 20, 13), (4, 9, 30)] if is_stack else [(20, 13), (9, 30)]
    cases = [
        Case(
            str(number),
            torch.randn(2, *size, generator=generator),
            torch.randint(0, 3, size, generator=generator).to(torch.uint8),
            3,
        )
        for number, size in enumerate(sizes)
    ]
    streams = [BatchStream(cases, (12, 16), 4, 0, STRONG, CPU)]
    expected = [streams[0].batch(step) for step in range(1, 6)]
    resident = BatchStream(cases, (12, 16), 4, 0, STRONG, CPU, ResidentCases(cases, CPU))
    for step, batch in enumerate(expected, start=1):
        assert batch.images.shape == (4, 2, 12, 16)
        assert set(batch.labels.flatten().tolist()) <= {0, 1, 2}
        assert torch.equal(resident.batch(step).images, batch.images)
        assert torch.equal(resident.batch(step).labels, batch.labels)


def test_a_cut_outside_of_an_image_is_zero() -> None:
    tensor = torch.arange(1, 13).view(3, 4)
    assert padded_crop(tensor, (-1, 2), (3, 3)).tolist() == [[0, 0, 0], [3, 4, 0], [7, 8, 0]]
    assert not padded_crop(tensor, (5, -7), (2, 2)).any()


def test_gamma_keeps_mean_and_spread_and_changes_what_lies_between() -> None:
    images = torch.rand(32, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(gamma=0.5, intensity_scale=0, intensity_shift=0, noise=0)
    changed, _ = augmented(images, torch.zeros(32, 16, 16), recipe, np.random.default_rng(0))
    is_changed = (changed - images).abs().amax((1, 2, 3)) > 0.01
    assert 4 <= int(is_changed.sum()) <= 16, "about three of ten"
    assert torch.allclose(changed.mean((2, 3)), images.mean((2, 3)), atol=1e-5)
    assert torch.allclose(changed.std((2, 3)), images.std((2, 3)), atol=1e-4)


def test_only_the_axes_that_the_user_allows_are_mirrored() -> None:
    images = torch.arange(64.0).view(1, 1, 8, 8).repeat(16, 1, 1, 1)
    recipe = Recipe(mirror=(1,), intensity_scale=0, intensity_shift=0, noise=0)
    changed, labels = augmented(images, images[:, 0], recipe, np.random.default_rng(0))
    kinds = {tuple(image.flatten().tolist()) for image in changed}
    assert kinds == {tuple(images[0].flatten().tolist()), tuple(images[0].flip(-1).flatten().tolist())}
    assert torch.equal(changed[:, 0], labels)
