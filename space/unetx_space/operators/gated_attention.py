"""Gated attention: what a source adds is decided by a second map, the gate, which comes from the coarser level.

Called as ``module(x, gate)`` with a source ``x[b,c,*size]`` that has the node's size, and either the *upsampled* map,
``[b,c_gate,*size]``, or the *coarse* one that it was made from; the catalogue says which. Like all attention it keeps
the shape of x. The normalisations are the backbone's: batch as in the papers, or one that holds for a batch of one. All
of them see maps of the node's size, which have more than one voxel as the bottleneck has (a rule of ``validity``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.operators.attention import OPEN_LOGIT, OPEN_SCALE, open_gate, spatial_axes
from unetx_space.operators.blocks import NORMS
from unetx_space.operators.catalogue import AttentionContext
from unetx_space.operators.catalogue.attention import gate_width
from unetx_space.operators.nd import cell_conv, conv, interpolate, per_channel
from unetx_space.operators.upsampling import crop_or_pad


class AttentionGate(nn.Module):
    """x * sigmoid(N(psi(relu(N(W_g gate) + N(W_x x))))) with normalisations N and the upsampled map as gate.

    The additive gate of Attention U-Net (Oktay et al. 2018, arXiv:1804.03999, equations 1 and 2) in its common form,
    MONAI's: both maps lie on the node's grid and are compared in half as many channels as x has, by 1x1 convolutions.
    Their biases have no effect in front of a normalisation and are there so that weights can be exchanged.

    The last normalisation, of the one map of logits that all channels share, opens the gate: its scale starts at
    OPEN_SCALE and its shift at OPEN_LOGIT, where the reference starts at one half. Instance and group normalisation
    give these logits the same mean in every image: the gate then chooses places within an image, not images.
    """

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()
        dims, norm, width = at.dims, NORMS[at.norm], gate_width(at.channels)
        self.w_g = conv(dims, at.c_upsampled, width, 1)
        self.norm_g = norm(width, dims)
        self.w_x = conv(dims, at.channels, width, 1)
        self.norm_x = norm(width, dims)
        self.psi = conv(dims, width, 1, 1)
        self.norm_psi = norm(1, dims)

    def init_weights(self) -> None:
        for name, value in (("weight", OPEN_SCALE), ("bias", OPEN_LOGIT)):
            self.norm_psi.get_parameter(name).fill_(value)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        compared = F.relu(self.norm_g(self.w_g(gate)) + self.norm_x(self.w_x(x)))  # [b, width, *size]
        return x * torch.sigmoid(self.norm_psi(self.psi(compared)))  # [b, 1, *size] for all channels


class GridAttentionGate(nn.Module):
    """The gate on the coarse grid: x is brought down to meet it there, and only one map of weights is brought up.

    Attention U-Net as its authors built it (Oktay et al. 2018, arXiv:1804.03999, figure 2, and their network for CT):
    alpha = sigmoid(psi(relu(theta(x) + phi(gate)))) with the *coarse* map as gate, theta a convolution with kernel =
    stride, all as wide as x, then y = N(W(alpha x)) and relu(N(combine(y))). The gate alpha starts open, but the whole
    is not near the identity and cannot be: two 1x1 convolutions mix the channels, which are normalised and rectified.

    Departs from the authors' code where the size is no multiple of the stride: theta reads x cropped or padded to the
    cells of the coarse map, so that the two always meet voxel by voxel.
    """

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()
        dims, norm, channels = at.dims, NORMS[at.norm], at.channels
        self.stride = at.stride
        self.theta = cell_conv(channels, channels, at.stride, bias=False)
        self.phi = conv(dims, at.c_coarse, channels, 1)
        self.psi = conv(dims, channels, 1, 1)
        self.w = conv(dims, channels, channels, 1)
        self.norm_w = norm(channels, dims)
        self.combine = conv(dims, channels, channels, 1)
        self.norm_combine = norm(channels, dims)

    def init_weights(self) -> None:
        open_gate(self.psi)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        cells = crop_or_pad(x, [n * s for n, s in zip(gate.shape[2:], self.stride, strict=True)])
        alpha = torch.sigmoid(self.psi(F.relu(self.theta(cells) + self.phi(gate))))  # [b, 1, *coarse size]
        x = self.norm_w(self.w(x * interpolate(alpha, x.shape[2:])))  # [b, c, *size]
        return F.relu(self.norm_combine(self.combine(x)))


class ChannelCrossAttention(nn.Module):
    """relu(x * sigmoid((A mean(x) + B mean(gate)) / 2)) with the upsampled map as gate: one weight per channel.

    The CCA module of UCTransNet (Wang et al. 2022, arXiv:2109.04335), its rectifier included. The gate starts open;
    what is negative in x is cut off from the start, as in the paper.
    """

    def __init__(self, at: AttentionContext) -> None:
        super().__init__()
        self.dims = at.dims
        self.from_x = nn.Linear(at.channels, at.channels)
        self.from_gate = nn.Linear(at.c_upsampled, at.channels)

    def init_weights(self) -> None:
        open_gate(self.from_x)
        open_gate(self.from_gate)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        axes = spatial_axes(x)
        logits = (self.from_x(x.mean(axes)) + self.from_gate(gate.mean(axes))) / 2  # [b, c]
        return F.relu(x * per_channel(torch.sigmoid(logits), self.dims))
