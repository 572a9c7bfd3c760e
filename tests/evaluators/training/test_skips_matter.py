"""The trainer can tell a network with skips from one without: only they carry fine detail past the bottleneck."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.recipe import Recipe, learning_rate
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.network import build
from unetx_space.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, N_LINES, N_LEVELS, WIDTH, N_STEPS = 48, 20, 5, 4, 120
"""A bottleneck of 3 x 3 x 4 values cannot hold where twenty lines run; a single line it could."""


def lines() -> Batch:
    """Six images of short lines, two pixels wide, in noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((6, SIZE, SIZE), bool)
    for label in labels:
        for _ in range(N_LINES):
            angle, (cx, cy) = rng.uniform(0, np.pi), rng.uniform(0, SIZE, 2)
            across = np.abs((x - cx) * np.sin(angle) - (y - cy) * np.cos(angle))
            label |= (across < 1) & (np.hypot(x - cx, y - cy) < SIZE / 5)
    images = labels + rng.normal(0, 0.3, labels.shape)
    return Batch(torch.from_numpy(images[:, None]).float(), torch.from_numpy(labels.astype(np.uint8)))


def overfitted_dice(name: str) -> float:
    """Of a preset, on the six images it was trained on."""
    backbone = replace(isotropic_backbone(2, n_levels=N_LEVELS, base_width=WIDTH), widths=(WIDTH,) * N_LEVELS)
    network = build(Architecture(backbone, preset(name).genome(N_LEVELS)))
    recipe, batch = Recipe(), lines()
    step = EagerStep(network, recipe, DeviceProfile(torch.device("cpu"), autocast_dtype=None))
    for number in range(1, N_STEPS + 1):
        step(batch, learning_rate(number, N_STEPS, recipe))
    with torch.no_grad():
        prediction, truth = network(batch.images).argmax(dim=1) == 1, batch.labels == 1
    return float(2 * (prediction & truth).sum() / (prediction.sum() + truth.sum()))


@pytest.mark.slow
def test_thin_lines_are_learned_with_skips_and_not_without() -> None:
    assert overfitted_dice("u-net") > 0.9
    assert overfitted_dice("no-skip") < 0.8
