"""Attention: modules that reweight a map and keep its shape.

Every class is built by ``(channels, dims)``, takes ``x[b,c,*size]`` of any size and any number of channels, and starts
near the identity: a gate that starts at one half would halve a skip before anything was learnt. ``start()`` sets those
values after the generic ones (see ``initial.py``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.operators.catalogue import CBAM_KERNEL, SCSE_REDUCTION, SE_REDUCTION, eca_kernel, hidden_width
from unetx_space.operators.nd import conv, per_channel

OPEN_LOGIT = 3.0
"""Starting logit of a gate: sigmoid(3) = 0.953."""
OPEN_SCALE = 0.1
"""Factor on the weights in front of a gate at the start, so that the logit is near OPEN_LOGIT for every input."""


def _open(layer: nn.Linear | nn.Conv2d | nn.Conv3d, logit: float) -> None:
    """Let ``layer``, the one in front of a sigmoid, say about ``logit`` whatever comes in."""
    layer.weight.mul_(OPEN_SCALE)
    if layer.bias is not None:
        layer.bias.fill_(logit)


def _spatial_axes(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


class SqueezeExcite(nn.Module):
    """Squeeze and excitation, x * sigmoid(W2 relu(W1 mean(x))) (Hu et al. 2018, arXiv:1709.01507, equations 2 to 4).

    Departs from the paper in its start (the gate is open, see OPEN_LOGIT) and in its hidden width, which is at least
    4: ``channels // 16`` alone is 0 below 16 channels. The mean depends on the field of view: patches in training, a
    sliding window of the same patch in inference.
    """

    def __init__(self, channels: int, dims: int, reduction: int = SE_REDUCTION) -> None:
        super().__init__()
        self.dims = dims
        hidden = hidden_width(channels, reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def start(self) -> None:
        _open(self.excite, OPEN_LOGIT)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(_spatial_axes(x))  # [b, c]
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))
        return x * per_channel(gate, self.dims)


class CBAM(nn.Module):
    """Channel attention, then spatial attention (Woo et al. 2018, arXiv:1807.06521, equations 2 and 3).

    The two are sequential, and the MLP of the channel gate is shared by the average and the maximum, whose logits add
    up. Departs from the authors' code in the spatial gate: no batch normalisation on its one-channel map, which with
    the batches of 1 or 2 of medical volumes would be noise; a bias stands in. Both gates start open.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        hidden = hidden_width(channels, SE_REDUCTION)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.spatial = conv(dims, 2, 1, CBAM_KERNEL)

    def start(self) -> None:
        _open(self.excite, OPEN_LOGIT / 2)  # counted twice: for the average and for the maximum
        _open(self.spatial, OPEN_LOGIT)

    def forward(self, x: Tensor) -> Tensor:
        axes = _spatial_axes(x)
        pooled = torch.stack([x.mean(axes), x.amax(axes)])  # [2, b, c]
        logits = self.excite(F.relu(self.squeeze(pooled))).sum(0)  # [b, c]
        x = x * per_channel(torch.sigmoid(logits), self.dims)
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)  # [b, 2, *size]
        return x * torch.sigmoid(self.spatial(pooled))


class ECA(nn.Module):
    """Efficient channel attention, x * 2 sigmoid(conv1d(mean(x))) (Wang et al. 2020, arXiv:1910.03151, equation 9).

    Departs from the paper by the factor 2 and by weights that start at 0: as there is no bias to open the gate with,
    this makes it exactly the identity at the start, while its weights already receive gradients.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        kernel = eca_kernel(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def start(self) -> None:
        self.conv.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(_spatial_axes(x))  # [b, c]
        logits = self.conv(mean.unsqueeze(1)).squeeze(1)  # the channels are the sequence
        return x * per_channel(2 * torch.sigmoid(logits), self.dims)


class SCSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation (Roy et al. 2018, arXiv:1803.02579, section 2).

    The voxelwise maximum of x gated per channel and x gated per voxel: the combination of the authors' code, with its
    reduction of 2. Both gates start open.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.channel = SqueezeExcite(channels, dims, SCSE_REDUCTION)
        self.spatial = conv(dims, channels, 1, 1)

    def start(self) -> None:
        _open(self.spatial, OPEN_LOGIT)

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(self.channel(x), x * torch.sigmoid(self.spatial(x)))
