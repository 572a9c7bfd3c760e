"""The sweep gives what the whole volume at once gives, and holds no more than a few rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.inference import predict_logits
from unetx_evaluators.label_maps import label_map, resampled_label_map
from unetx_evaluators.predicting.slabs import prepare_in_slabs
from unetx_evaluators.predicting.sweep import Rows, resampled_rows, sweep_logits
from unetx_evaluators.tasks.fingerprint import survey_image
from unetx_evaluators.tasks.preprocessing import ChannelNormalisation, Preparation, prepared_image

CPU = DeviceProfile(torch.device("cpu"), None)
SIZES = [((37, 20), (8, 12)), ((9, 30, 14), (12, 8, 8)), ((5, 26, 17), (8, 8))]
"""Of images, the second thinner than the patch along an axis, the third a stack of slices, with their patches."""


class Blurring(torch.nn.Module):
    """Logits of three classes that depend on the place in the window, as those of a network do."""

    def forward(self, batch: Tensor) -> Tensor:
        x = batch[:, :1]
        ramp = torch.linspace(0, 1, x.shape[-1])
        return torch.cat([x * ramp, x.flip(-1), x.mean(tuple(range(2, x.ndim)), keepdim=True) - x * ramp], dim=1)


def image_of(size: tuple[int, ...]) -> Tensor:
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(len(size)))


@pytest.mark.parametrize(("size", "patch"), SIZES)
def test_swept_rows_are_those_of_the_whole_image_along_any_axis(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    image, network = image_of(size), Blurring()
    expected = next(predict_logits(network, [image], patch, CPU))
    for axis in range(len(size)):
        blocks = list(sweep_logits(network, image, patch, axis, CPU))
        assert [block.first for block in blocks] == np.cumsum(
            [0, *(b.logits.shape[axis + 1] for b in blocks)]
        ).tolist()[:-1]
        assert torch.allclose(torch.cat([block.logits for block in blocks], dim=axis + 1), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(37, 20), (60, 11), (13, 45), (1, 1)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rows_together", [1, 5])
def test_rows_on_another_grid_are_those_of_the_whole(shape: tuple[int, int], axis: int, rows_together: int) -> None:
    logits = torch.randn(3, 37, 20, generator=torch.Generator().manual_seed(0))
    blocks = (
        Rows(first, logits.narrow(axis + 1, first, min(rows_together, logits.shape[axis + 1] - first)))
        for first in range(0, logits.shape[axis + 1], rows_together)
    )
    found = np.full(shape, 9, np.uint8)
    for block in resampled_rows(shape, blocks, (37, 20), axis):
        rows = slice(block.first, block.first + block.logits.shape[axis + 1])
        found[(*[slice(None)] * axis, rows)] = label_map(block.logits).numpy()
    np.testing.assert_array_equal(found, resampled_label_map(shape, logits, label_map(logits)))


def test_no_more_rows_are_held_than_a_window_is_long() -> None:
    """By arithmetic: what arrives and what leaves of a long image, in rows of it."""
    image, held, most = image_of((400, 8)), 0, 0

    def counted() -> Iterator[Rows]:
        nonlocal held, most
        for block in sweep_logits(Blurring(), image, (16, 8), 0, CPU):
            held += block.logits.shape[1]
            most = max(most, held)
            yield block

    for block in resampled_rows((800, 8), counted(), (400, 8), 0):
        held -= block.logits.shape[1] // 2
    assert most <= 16 + 2


FACTS = survey_image(np.ones((1, 60, 20, 18), np.float32), (1.0, 1.0, 1.0), "a")
SCHEMES = [
    ChannelNormalisation("ct", 100.0, 20.0, 60.0, 140.0),
    ChannelNormalisation("case"),
    ChannelNormalisation("case", masked=True),
    ChannelNormalisation("range"),
]


@pytest.mark.parametrize("how", SCHEMES, ids=lambda how: how.scheme + "-masked" * how.masked)
@pytest.mark.parametrize(
    ("spacing", "slice_axis"),
    [
        ((1.0, 1.0, 1.0), None),
        ((1.7, 0.8, 1.3), None),
        ((1.0, 1.3, 4.0), None),
        ((4.5, 1.2, 1.0), None),
        ((1.3, 1.3, 1.0), 2),
    ],
)
def test_an_image_prepared_in_slabs_is_the_one_prepared_at_once(
    how: ChannelNormalisation, spacing: tuple[float, ...], slice_axis: int | None
) -> None:
    smooth = np.random.default_rng(0).normal(100, 25, (2, 120, 20, 18)).astype(np.float32)
    smooth[:, :50, :9, :9] = 0
    preparation = Preparation(3 if slice_axis is None else 2, spacing, slice_axis, (how, how))
    facts = survey_image(smooth, (1.0, 1.0, 1.0), "a")
    whole = prepared_image(smooth, facts, preparation)
    in_slabs = prepare_in_slabs(smooth, facts, preparation, slab_voxels=5000)
    assert whole.shape == in_slabs.shape
    np.testing.assert_allclose(in_slabs, whole, atol=2e-5 * float(np.ptp(whole)))
