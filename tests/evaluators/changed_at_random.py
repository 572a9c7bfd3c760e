"""A batch augmented with changes that are drawn for it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from unetx_evaluators.training import augmentation
from unetx_evaluators.training.recipe import Recipe


def augmented(images: Tensor, labels: Tensor, recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    b, c, *patch = images.shape
    return augmentation.augment(images, labels, recipe, augmentation.draw_augmentation(b, c, patch, recipe, rng))
