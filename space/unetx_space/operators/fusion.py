"""Making one map of a node's sources and its upsampled input, all of the node's size.

Built by ``(n_inputs, channels)`` with the fused map's channels; called with the list of maps, the upsampled one last.
Of one map alone (a node without sources) every fusion makes that map, and has no parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-4
"""Added to the sum of BiFPN's weights, as in the paper."""


class Concat(nn.Module):
    """All channels side by side: ``[b, sum of c_i, *size]`` (U-Net, arXiv:1505.04597)."""

    def __init__(self, n_inputs: int, channels: int) -> None:
        super().__init__()

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, 1) if len(maps) > 1 else maps[0]  # not a copy, which training would keep


class Sum(nn.Module):
    """The voxelwise sum of maps of equal width: ``[b, c, *size]`` (LinkNet, arXiv:1707.03718)."""

    def __init__(self, n_inputs: int, channels: int) -> None:
        super().__init__()

    def forward(self, maps: list[Tensor]) -> Tensor:
        total = maps[0]
        for other in maps[1:]:
            total = total + other
        return total


class Mean(Sum):
    """The voxelwise mean of maps of equal width: ``[b, c, *size]`` (BiX-NAS, arXiv:2106.14033)."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return super().forward(maps) / len(maps) if len(maps) > 1 else maps[0]


class BiFPN(nn.Module):
    """Fast normalised fusion, sum of w_i x_i / (sum of w_j + 1e-4) with w = relu(p) (Tan et al. 2020,
    arXiv:1911.09070, section 3.3): one learned weight per map of equal width, all 1 at the start.

    The activation and convolution that follow it in EfficientDet are the node's block.
    """

    def __init__(self, n_inputs: int, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(n_inputs)) if n_inputs > 1 else None

    def init_weights(self) -> None:
        if self.weights is not None:
            self.weights.fill_(1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        if self.weights is None:
            return maps[0]
        weights = torch.relu(self.weights)
        return _weighted_sum(maps, (weights / (weights.sum() + EPSILON)).unbind())


class Gated(nn.Module):
    """Shares decided voxel by voxel: sum of a_i x_i, a = softmax of a 1x1 convolution of all maps of equal width.

    The upsampled map's logit is fixed at 0, for only differences count: of two maps this is a x_1 + (1 - a) x_2 with
    a = sigmoid(conv), the gate of FADE (Lu et al. 2022, arXiv:2207.10392), which sees the decoder's map only, and ours
    both. The convolution starts at zero, hence with equal shares, while its weights already receive gradients.
    """

    def __init__(self, n_inputs: int, channels: int) -> None:
        super().__init__()
        # One-dimensional, over the voxels in a row: so it serves 2D and 3D alike.
        self.gate = nn.Conv1d(n_inputs * channels, n_inputs - 1, 1) if n_inputs > 1 else None

    def init_weights(self) -> None:
        if self.gate is not None:
            self.gate.weight.zero_()

    def forward(self, maps: list[Tensor]) -> Tensor:
        if self.gate is None:
            return maps[0]
        assert self.gate.bias is not None
        kernels = torch.split(self.gate.weight, maps[0].shape[1], 1)  # map by map: a concatenated copy would be kept
        logits = self.gate.bias[:, None] + sum(
            F.conv1d(x.flatten(2), kernel) for x, kernel in zip(maps, kernels, strict=True)
        )
        shares = F.pad(logits, (0, 0, 0, 1)).softmax(1)  # [b, n, voxels]
        shares = shares.to(maps[-1].dtype).reshape(-1, len(maps), 1, *maps[0].shape[2:])
        return _weighted_sum(maps, shares.unbind(1))


def _weighted_sum(maps: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
    """Sum of ``maps[i] * shares[i]``, where each share broadcasts against its map."""
    total = maps[0] * shares[0]
    for x, share in zip(maps[1:], shares[1:], strict=True):
        total = total + x * share
    return total
