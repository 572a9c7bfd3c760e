"""Logits become label maps, on the network's grid and on a case's own, as torch's argmax and interpolation have it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unetx_evaluators import label_maps
from unetx_evaluators.label_maps import label_map, resampled_label_map

GRIDS = [
    ((13, 20), (37, 31)),
    ((13, 20), (7, 20)),
    ((6, 9, 7), (9, 21, 8)),
    ((6, 9, 7), (5, 4, 7)),
    ((1, 7), (3, 3)),
    ((5, 8, 8), (5, 8, 8)),
]


def logits_of(spatial: tuple[int, ...], k: int = 3, seed: int = 0) -> Tensor:
    """Noise, with the background ahead everywhere but in a box."""
    logits = torch.randn(k, *spatial, generator=torch.Generator().manual_seed(seed))
    logits[0] += 8
    logits[0][tuple(slice(n // 3, 1 + 2 * n // 3) for n in spatial)] -= 8
    return logits


def test_the_largest_logit_has_the_voxel_and_the_first_of_equals() -> None:
    logits = torch.randint(0, 3, (4, 9, 11), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(label_map(logits).long(), logits.argmax(dim=0))


@pytest.mark.parametrize(("spatial", "shape"), GRIDS)
def test_on_another_grid_labels_are_those_of_torchs_interpolation(
    spatial: tuple[int, ...], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = logits_of(spatial)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    whole = F.interpolate(logits[None], size=shape, mode=mode, align_corners=False)[0]
    first, second = whole.topk(2, dim=0).values
    clear = (first - second > 1e-4).numpy()  # elsewhere rounding decides
    for together in (1, 200, 10**6):
        monkeypatch.setattr(label_maps, "SLAB_VALUES", together)
        found = resampled_label_map(shape, logits, label_map(logits))
        assert found.shape == shape
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found[clear], whole.argmax(dim=0).numpy()[clear])
    assert clear.mean() > 0.99


def test_between_two_voxels_the_border_lies_where_a_line_crosses_zero() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[-1.0, 3.0]]])  # on 8 columns: -1, -1, -0.5, 0.5, 1.5, 2.5, 3, 3
    assert resampled_label_map((1, 8), logits, label_map(logits)).tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]]


def test_a_stack_is_interpolated_slice_by_slice() -> None:
    logits = logits_of((4, 9, 7))
    stack = resampled_label_map((4, 18, 15), logits, label_map(logits))
    for number in range(4):
        of_slice = logits[:, number]
        np.testing.assert_array_equal(stack[number], resampled_label_map((18, 15), of_slice, label_map(of_slice)))


def test_background_alone_stays_background() -> None:
    logits = torch.stack([torch.ones(4, 5), torch.zeros(4, 5)])
    assert not resampled_label_map((9, 9), logits, label_map(logits)).any()
