"""1x1 convolutions that one CPU thread computes faster than torch does by default.

With one thread and fewer than 16 images torch (2.13) computes 1x1 convolutions in float32 by a loop over images, whose
gradients take several times as long as oneDNN's; 3D maps always have too few. Here each row of voxels is an image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.operators.nd import Convolution

MANY_VOXELS = 16_384
"""Voxels of a batch from which on oneDNN's convolution is faster than a product of matrices."""
MANY_IMAGES = 16
"""Number of images from which on torch uses oneDNN by itself."""


class Pointwise(nn.Module):
    """A 1x1 convolution, ``[b, c, *size] -> [b, c', *size]``, with the parameters of the one it replaces."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._plain = [convolution]  # a list: registered nowhere else

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or torch.get_num_threads() > 1:
            y: Tensor = self._plain[0](x)
            return y
        n_out, n_in = self.weight.shape[:2]
        rows = x.movedim(1, -1)
        if rows.numel() < MANY_VOXELS * n_in or n_out == 1 or math.prod(rows.shape[:-2]) < MANY_IMAGES:
            return F.linear(rows, self.weight.flatten(1), self.bias).movedim(-1, 1)
        images = rows.reshape(-1, 1, *rows.shape[-2:]).movedim(-1, 1)  # [b * rows, c, 1, columns]
        y = F.conv2d(images, self.weight.view(n_out, n_in, 1, 1), self.bias)
        return y.movedim(1, -1).reshape(*rows.shape[:-1], n_out).movedim(-1, 1)


def faster_pointwise(module: nn.Module) -> Pointwise | None:
    """The replacement of a 1x1 convolution of stride 1; None for any other module."""
    if type(module) not in (nn.Conv2d, nn.Conv3d):
        return None
    assert isinstance(module, Convolution)
    is_plain = module.groups == 1 and set(module.stride) == {1}
    return Pointwise(module) if is_plain and set(module.kernel_size) == {1} and set(module.padding) <= {0} else None
