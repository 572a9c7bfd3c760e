"""Attention: modules that reweight a map and keep its shape.

Every class takes ``x[b,c,*size]`` of any size and any number of channels, and starts near the identity, or its
docstring says why not: a gate that starts at one half would halve a skip before anything was learnt. ``init_weights``
sets those values after the generic ones. Attention that reads a second map stands in ``gated_attention.py``.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.operators.blocks import NORMS
from unetx_space.operators.catalogue import AttentionContext
from unetx_space.operators.catalogue.attention import (
    CBAM_KERNEL,
    SCSE_REDUCTION,
    SE_REDUCTION,
    eca_kernel,
    hidden_width,
    token_width,
)
from unetx_space.operators.nd import conv, per_channel

OPEN_LOGIT = 3.0
"""Starting logit of a gate: sigmoid(3) = 0.953."""
OPEN_SCALE = 0.1
"""Factor on the weights in front of a gate at the start, so that the logit is near OPEN_LOGIT for every input."""


def open_gate(layer: nn.Linear | nn.Conv2d | nn.Conv3d, logit: float = OPEN_LOGIT) -> None:
    """Let ``layer``, the one in front of a sigmoid, say about ``logit`` whatever comes in."""
    layer.weight.mul_(OPEN_SCALE)
    if layer.bias is not None:
        layer.bias.fill_(logit)


def spatial_axes(x: Tensor) -> tuple[int, ...]:
    """The axes of ``x[b,c,*size]`` behind the channels."""
    return tuple(range(2, x.ndim))


class SqueezeExcite(nn.Module):
    """Squeeze and excitation, x * sigmoid(W2 relu(W1 mean(x))) (Hu et al. 2018, arXiv:1709.01507, equations 2 to 4).

    Departs from the paper in its start (the gate is open, see OPEN_LOGIT) and in its hidden width, which is at least
    4: ``channels // 16`` alone is 0 below 16 channels. The mean depends on the field of view: patches in training, a
    sliding window of the same patch in inference.
    """

    def __init__(self, at: AttentionContext, *, reduction: int = SE_REDUCTION, start_logit: float = OPEN_LOGIT) -> None:
        super().__init__()
        self.dims = at.dims
        self.start_logit = start_logit
        hidden = hidden_width(at.channels, reduction)
        self.squeeze = nn.Linear(at.channels, hidden)
        self.excite = nn.Linear(hidden, at.channels)

    def init_weights(self) -> None:
        open_gate(self.excite, self.start_logit)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(spatial_axes(x))  # [b, c]
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))
        return x * per_channel(gate, self.dims)


class CBAM(nn.Module):
    """Channel attention, then spatial attention (Woo et al. 2018, arXiv:1807.06521, equations 2 and 3).

    The two are sequential, and the MLP of the channel gate is shared by the average and the maximum, whose logits add
    up. Departs from the authors' code in the spatial gate: no batch normalisation on its one-channel map, which with
    the batches of 1 or 2 of medical volumes would be noise; a bias stands in. Both gates start open.
    """

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()
        self.dims = at.dims
        hidden = hidden_width(at.channels, SE_REDUCTION)
        self.squeeze = nn.Linear(at.channels, hidden)
        self.excite = nn.Linear(hidden, at.channels)
        self.spatial = conv(at.dims, 2, 1, CBAM_KERNEL)

    def init_weights(self) -> None:
        open_gate(self.excite, OPEN_LOGIT / 2)  # counted twice: for the average and for the maximum
        open_gate(self.spatial)

    def forward(self, x: Tensor) -> Tensor:
        axes = spatial_axes(x)
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

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()
        self.dims = at.dims
        kernel = eca_kernel(at.channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def init_weights(self) -> None:
        self.conv.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(spatial_axes(x))  # [b, c]
        logits = self.conv(mean.unsqueeze(1)).squeeze(1)  # the channels are the sequence
        return x * per_channel(2 * torch.sigmoid(logits), self.dims)


class SCSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation (Roy et al. 2018, arXiv:1803.02579, section 2).

    The voxelwise maximum of x gated per channel and x gated per voxel: the combination of the authors' code, with its
    reduction of 2. Both gates start open.
    """

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()
        self.channel = SqueezeExcite(at, reduction=SCSE_REDUCTION)
        self.spatial = conv(at.dims, at.channels, 1, 1)

    def init_weights(self) -> None:
        open_gate(self.spatial)

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(self.channel(x), x * torch.sigmoid(self.spatial(x)))


class SCSEAdd(nn.Module):
    """Concurrent spatial and channel squeeze and excitation, added (Roy et al. 2018, arXiv:1803.02579, section 2).

    x gated per channel plus x gated per voxel: the combination and the reduction of segmentation_models.pytorch, whose
    two gates together lie in 0..2. Both start at one half, so that their sum starts as the identity.
    """

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()
        self.channel = SqueezeExcite(at, start_logit=0.0)
        self.spatial = conv(at.dims, at.channels, 1, 1)

    def init_weights(self) -> None:
        open_gate(self.spatial, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel(x) + x * torch.sigmoid(self.spatial(x))  # type: ignore[no-any-return]


class CoordinateAttention(nn.Module):
    """One gate per channel and position along each axis (Hou et al. 2021, arXiv:2103.02907, equations 4 to 9).

    Every axis gives a line: x averaged over all other axes. All lines share one 1x1 convolution with normalisation and
    hard swish; a 1x1 convolution per axis then makes its gates, whose product reweights x. The paper has two axes; with
    three the averages go over planes. The normalisation is the backbone's (the paper's is batch) over all lines
    together, so that it sees as many values as there are axes even of a single voxel. The gates start open.
    """

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()
        width = token_width(at.channels)
        self.squeeze = conv(at.dims, at.channels, width, 1)
        self.norm = NORMS[at.norm](width, at.dims)
        self.excite = nn.ModuleList([conv(at.dims, width, at.channels, 1) for _ in range(at.dims)])

    def init_weights(self) -> None:
        for layer in self.excite:
            open_gate(layer)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        axes = spatial_axes(x)
        # Each line lies along the first spatial axis, whatever axis it comes from: [b, c, n, 1(, 1)].
        lines = [x.mean([other for other in axes if other != axis], keepdim=True).transpose(2, axis) for axis in axes]
        hidden = F.hardswish(self.norm(self.squeeze(torch.cat(lines, 2))))  # [b, width, sum of sizes, 1(, 1)]
        for axis, layer, line in zip(axes, self.excite, torch.split(hidden, list(x.shape[2:]), 2), strict=True):
            x = x * torch.sigmoid(layer(line)).transpose(2, axis)
        return x


SIMAM_LAMBDA = 1e-4
"""Regulariser of the authors' code."""


class SimAM(nn.Module):
    """Parameter-free attention, x * sigmoid(1 / minimal energy) (Yang et al. 2021, PMLR 139:11863, equations 5, 6).

    The inverse energy is (x - mean)^2 / (4 (variance + lambda)) + 1/2 per channel, the variance with N - 1. For one
    voxel that is 0 / 0 in the authors' code; here it is 1/2, the value of every voxel of a constant map. It stays as it
    starts, for there is nothing to learn: every gate lies between sigmoid(1/2) = 0.62 and 1. Energies are computed in
    float32 at least: in float16 a square overflows beyond 255, and lambda is hardly a number.
    """

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        axes, wide = spatial_axes(x), x.to(torch.promote_types(x.dtype, torch.float32))
        squares = (wide - wide.mean(axes, keepdim=True)).square()  # [b, c, *size]
        variance = squares.sum(axes, keepdim=True) / max(1, prod(x.shape[2:]) - 1)
        return x * torch.sigmoid(squares / (4 * (variance + SIMAM_LAMBDA)) + 0.5).to(x.dtype)
