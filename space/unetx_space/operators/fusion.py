"""Making one map of a node's sources and its upsampled input, all of the node's size.

Built by ``(n_inputs, channels)`` with the fused map's channels; called with the list of maps, the upsampled one last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """All channels side by side: ``[b, sum of c_i, *size]`` (U-Net, arXiv:1505.04597)."""

    def __init__(self, n_inputs: int, channels: int) -> None:
        super().__init__()

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, 1)


class Sum(nn.Module):
    """The voxelwise sum of maps of equal width: ``[b, c, *size]`` (LinkNet, arXiv:1707.03718)."""

    def __init__(self, n_inputs: int, channels: int) -> None:
        super().__init__()

    def forward(self, maps: list[Tensor]) -> Tensor:
        total = maps[0]
        for other in maps[1:]:
            total = total + other
        return total
