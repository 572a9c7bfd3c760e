"""The recipe: how a network is trained, apart from how much, which the budget says; no torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way of training, shared by all evaluations of a study."""

    learning_rate: float = 1e-2
    """Learning rate at the end of the warm-up. It is high because a proxy is short: at 4e-3 small classes are at times
    hardly learned."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises linearly; without it a class is at times never learned."""
    weight_decay: float = 1e-2
    """Decoupled weight decay (AdamW, arXiv:1711.05101)."""
    max_grad_norm: float = 1.0
    """Largest L2 norm of the gradient of all parameters together, to which it is clipped."""
    averaging: float = 0.0
    """Time constant of the moving average of the weights that are scored, as a share of the steps; 0: the weights of
    the last step. Off: at the end of the cosine it changed scores by 0.002 at most, and it lags at early rungs."""
    deep_supervision: bool = False
    """Whether heads at the other decoder nodes learn beside the output's, with weights that halve by resolution."""
    background_weight: float = 0.3
    """Weight of the background in the cross entropy, against 1 for every other class."""
    foreground_share: float = 0.5
    """Share of the patches that are chosen to show foreground."""
    flips: bool = False
    """Whether to mirror along every axis, and swap axes on which the patch has the same size. Off, because anatomy has
    a front and a back: in a proxy of 240 steps it cost 0.13 Dice on hippocampus_msd, and 0.05 on the demo."""
    intensity_scale: float = 0.2
    """Contrast is multiplied by a factor from 1 - this to 1 + this."""
    intensity_shift: float = 0.2
    """Brightness is shifted by up to this many standard deviations of the image."""
    noise: float = 0.1
    """Largest standard deviation of the Gaussian noise added, in those of the image."""
    mirror: tuple[int, ...] = ()
    """Axes along which half of the patches are mirrored, for anatomy that has no left and right, say."""
    rotation: float = 0.0
    """Largest rotation in degrees, which some patches get in every plane of about square voxels."""
    scaling: float = 0.0
    """Some patches are enlarged or reduced by a factor of up to 1 + this."""
    elastic: float = 0.0
    """Some patches are deformed: voxels are displaced smoothly, by about this many voxels."""
    gamma: float = 0.0
    """Intensities of some patches, scaled to 0..1, are raised to a power of up to 1 + this, or to its inverse; their
    mean and standard deviation stay."""

    @property
    def warps(self) -> bool:
        """Whether patches are rotated, scaled or deformed, which needs voxels from around them."""
        return self.rotation > 0 or self.scaling > 0 or self.elastic > 0


STRONG = Recipe(rotation=30.0, scaling=0.4, elastic=3.0, gamma=0.5, deep_supervision=True, learning_rate=3e-3)
"""The recipe of long trainings, which see each case hundreds of times: nnU-Net's ranges (Nature Methods 18, 203-211,
version 2), and the deformation of its first version. The learning rate is the lower of those a pilot tries."""


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """The learning rate of step 1 to ``n_steps``: a linear warm-up, then half a cosine down to almost zero
    (arXiv:1608.03983)."""
    n_warmup = round(recipe.warmup * n_steps)
    if step <= n_warmup:
        return recipe.learning_rate * step / n_warmup
    progress = (step - 1 - n_warmup) / (n_steps - n_warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
