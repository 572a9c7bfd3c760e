"""Every operator of the design space as data: name, paper, parameter and multiply-add formulas, limits.

No torch here. The modules stand in the sibling files, and ``network.py`` maps each name to its class; a test keeps the
two sets of names equal. To add an operator: one spec here, one module, one line in that mapping.

Letters, used everywhere in this package:

========== =========================================================================================
``dims``   spatial axes, 2 or 3
``sites``  voxels of the map an operator reads (one image, not a batch)
``factor`` voxels of the finer map per voxel of the coarser one: the product of the per-axis strides
========== =========================================================================================

``conv_macs`` are the multiply-adds of convolutions and matrix products, exactly as ``torch.utils.flop_counter`` counts
them (half its FLOPs). ``other_macs`` are what it leaves out: 2^dims per interpolated or sampled value, one per pooled,
gated or added value. Without them sampling operators would look free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unetx_space.genome import PLACEMENTS, Placement

EDGE = 3
"""Kernel edge of the pixel-shuffle and deformable upsamplers."""
CBAM_KERNEL = 7
SE_REDUCTION = 16
SCSE_REDUCTION = 2
MIN_HIDDEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What every operator says about itself."""

    name: str
    title: str
    note: str
    """One line: what it does and what it costs or risks."""
    paper: str = ""
    dims: tuple[int, ...] = (2, 3)
    """Where it can be built."""
    min_channels: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec(Spec):
    """Reweights a map of ``channels``; shape unchanged."""

    n_parameters: Callable[[int, int], int]
    """(channels, dims)"""
    conv_macs: Callable[[int, int, int], int]
    """(channels, dims, sites)"""
    other_macs: Callable[[int, int, int], int]
    """(channels, dims, sites)"""
    placements: tuple[Placement, ...] = PLACEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsamplerSpec(Spec):
    """Brings ``c_in`` channels on ``sites`` coarse voxels to ``c_out`` channels on ``sites * factor`` fine ones."""

    n_parameters: Callable[[int, int, int, int], int]
    """(c_in, c_out, dims, factor)"""
    conv_macs: Callable[[int, int, int, int, int], int]
    """(c_in, c_out, dims, factor, sites)"""
    other_macs: Callable[[int, int, int, int, int], int]
    """(c_in, c_out, dims, factor, sites)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionSpec(Spec):
    """Makes one map of several of equal size."""

    equal_widths: bool
    """Every source must have the node's width, so that one of another width is projected first."""
    out_channels: Callable[[tuple[int, ...]], int]
    """(channels of each input)"""
    n_parameters: Callable[[int, int], int]
    """(n_inputs, out_channels)"""
    conv_macs: Callable[[int, int, int], int]
    """(n_inputs, out_channels, sites)"""
    other_macs: Callable[[int, int, int], int]
    """(n_inputs, out_channels, sites)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentSpec(Spec):
    """Brings a finer source of ``channels`` on ``sites`` voxels down by ``factor``; a 1x1 projection follows it."""

    out_channels: Callable[[int, int], int]
    """(channels, factor)"""
    n_parameters: Callable[[int, int, int], int]
    """(channels, dims, factor)"""
    conv_macs: Callable[[int, int, int, int], int]
    """(channels, dims, factor, sites)"""
    other_macs: Callable[[int, int, int, int], int]
    """(channels, dims, factor, sites)"""


def taps(edge: int, dims: int) -> int:
    """Weights of a kernel with ``edge`` voxels along each axis."""
    return edge * edge if dims == 2 else edge * edge * edge


def hidden_width(channels: int, reduction: int) -> int:
    """Width between the two dense layers; never 0, as ``channels // reduction`` would be for few channels."""
    return max(MIN_HIDDEN, channels // reduction)


def eca_kernel(channels: int) -> int:
    """Odd kernel of ECA that grows with log2 of the channels (equation 12 with gamma = 2, b = 1), at least 3."""
    size = ((channels.bit_length() - 1) + 1) // 2
    return max(3, size if size % 2 else size + 1)


def _se_parameters(channels: int, reduction: int) -> int:
    hidden = hidden_width(channels, reduction)
    return 2 * channels * hidden + hidden + channels


def _se_macs(channels: int, reduction: int) -> int:
    return 2 * channels * hidden_width(channels, reduction)


def _deformable_parameters(c_in: int, c_out: int, dims: int, factor: int) -> int:
    k = taps(EDGE, dims)
    return k * c_in * c_out + c_out + (k * c_in + 1) * (dims + 1) * k


def _deformable_macs(c_in: int, c_out: int, dims: int, factor: int, sites: int) -> int:
    k = taps(EDGE, dims)
    return sites * k * c_in * (c_out + (dims + 1) * k)


def _deformable_sampling(c_in: int, c_out: int, dims: int, factor: int, sites: int) -> int:
    k, corners = taps(EDGE, dims), 1 << dims
    offsets = (dims + 1) * k * corners
    return sites * factor * (offsets + k * c_out * (corners + 1))


ATTENTIONS: Mapping[str, AttentionSpec] = {
    "none": AttentionSpec(
        name="none",
        title="No attention",
        note="The map as it is.",
        n_parameters=lambda channels, dims: 0,
        conv_macs=lambda channels, dims, sites: 0,
        other_macs=lambda channels, dims, sites: 0,
        placements=(),
    ),
    "se": AttentionSpec(
        name="se",
        title="Squeeze and excitation",
        note="One gate per channel from the global average through two dense layers; nearly free.",
        paper="Hu et al. 2018, arXiv:1709.01507",
        n_parameters=lambda channels, dims: _se_parameters(channels, SE_REDUCTION),
        conv_macs=lambda channels, dims, sites: _se_macs(channels, SE_REDUCTION),
        other_macs=lambda channels, dims, sites: 2 * channels * sites,
    ),
    "cbam": AttentionSpec(
        name="cbam",
        title="Convolutional block attention module",
        note="Channel gate from average and maximum, then a spatial gate from a 7^d convolution.",
        paper="Woo et al. 2018, arXiv:1807.06521",
        n_parameters=lambda channels, dims: _se_parameters(channels, SE_REDUCTION) + 2 * taps(CBAM_KERNEL, dims) + 1,
        conv_macs=lambda channels, dims, sites: (
            2 * _se_macs(channels, SE_REDUCTION) + 2 * taps(CBAM_KERNEL, dims) * sites
        ),
        other_macs=lambda channels, dims, sites: 6 * channels * sites,
    ),
    "eca": AttentionSpec(
        name="eca",
        title="Efficient channel attention",
        note="One gate per channel from a short 1-D convolution along the channels; three to five weights.",
        paper="Wang et al. 2020, arXiv:1910.03151",
        n_parameters=lambda channels, dims: eca_kernel(channels),
        conv_macs=lambda channels, dims, sites: eca_kernel(channels) * channels,
        other_macs=lambda channels, dims, sites: 2 * channels * sites,
    ),
    "scse": AttentionSpec(
        name="scse",
        title="Concurrent spatial and channel squeeze and excitation",
        note="The larger of a channel-gated and a voxel-gated copy of the map.",
        paper="Roy et al. 2018, arXiv:1803.02579",
        n_parameters=lambda channels, dims: _se_parameters(channels, SCSE_REDUCTION) + channels + 1,
        conv_macs=lambda channels, dims, sites: _se_macs(channels, SCSE_REDUCTION) + channels * sites,
        other_macs=lambda channels, dims, sites: 4 * channels * sites,
    ),
}

UPSAMPLERS: Mapping[str, UpsamplerSpec] = {
    "linear": UpsamplerSpec(
        name="linear",
        title="1x1 convolution, then linear interpolation",
        note="Smooth and cheapest; the convolution comes first because the two commute and the coarse map is smaller.",
        n_parameters=lambda c_in, c_out, dims, factor: (c_in + 1) * c_out,
        conv_macs=lambda c_in, c_out, dims, factor, sites: sites * c_in * c_out,
        other_macs=lambda c_in, c_out, dims, factor, sites: sites * factor * (c_out << dims),
    ),
    "transposed": UpsamplerSpec(
        name="transposed",
        title="Transposed convolution with kernel = stride",
        note="Learns each fine voxel of a cell by itself, without overlap; nnU-Net's choice.",
        paper="Zeiler et al. 2010, Deconvolutional networks",
        n_parameters=lambda c_in, c_out, dims, factor: (factor * c_in + 1) * c_out,
        conv_macs=lambda c_in, c_out, dims, factor, sites: sites * factor * c_in * c_out,
        other_macs=lambda c_in, c_out, dims, factor, sites: 0,
    ),
    "pixel-shuffle": UpsamplerSpec(
        name="pixel-shuffle",
        title="3^d convolution, then pixel (voxel) shuffle, with ICNR start",
        note="A transposed convolution that also sees its neighbours, at 3^d times its cost.",
        paper="Shi et al. 2016, arXiv:1609.05158; Aitken et al. 2017, arXiv:1707.02937",
        n_parameters=lambda c_in, c_out, dims, factor: factor * c_out * (taps(EDGE, dims) * c_in + 1),
        conv_macs=lambda c_in, c_out, dims, factor, sites: sites * factor * c_out * taps(EDGE, dims) * c_in,
        other_macs=lambda c_in, c_out, dims, factor, sites: 0,
    ),
    "deformable": UpsamplerSpec(
        name="deformable",
        title="Modulated deformable convolution on the fine grid",
        note="Each fine voxel learns where on the coarse map its 3^d taps look; slow, mostly sampling.",
        paper="Zhu et al. 2019, Deformable ConvNets v2, arXiv:1811.11168",
        n_parameters=_deformable_parameters,
        conv_macs=_deformable_macs,
        other_macs=_deformable_sampling,
    ),
}

FUSIONS: Mapping[str, FusionSpec] = {
    "concat": FusionSpec(
        name="concat",
        title="Concatenation",
        note="Keeps every channel; the block's first convolution mixes them.",
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        equal_widths=False,
        out_channels=sum,
        n_parameters=lambda n_inputs, channels: 0,
        conv_macs=lambda n_inputs, channels, sites: 0,
        other_macs=lambda n_inputs, channels, sites: 0,
    ),
    "sum": FusionSpec(
        name="sum",
        title="Sum",
        note="Lighter block; equals concatenation followed by a 1x1 convolution when the sources are projected.",
        paper="Chaurasia and Culurciello 2017, LinkNet, arXiv:1707.03718",
        equal_widths=True,
        out_channels=lambda channels: channels[0],
        n_parameters=lambda n_inputs, channels: 0,
        conv_macs=lambda n_inputs, channels, sites: 0,
        other_macs=lambda n_inputs, channels, sites: (n_inputs - 1) * channels * sites,
    ),
}

ALIGNMENTS: Mapping[str, AlignmentSpec] = {
    "max": AlignmentSpec(
        name="max",
        title="Max pooling",
        note="Keeps small bright structures.",
        paper="Huang et al. 2020, UNet 3+, arXiv:2004.08790",
        out_channels=lambda channels, factor: channels,
        n_parameters=lambda channels, dims, factor: 0,
        conv_macs=lambda channels, dims, factor, sites: 0,
        other_macs=lambda channels, dims, factor, sites: channels * sites,
    ),
    "average": AlignmentSpec(
        name="average",
        title="Average pooling",
        note="Anti-aliases.",
        out_channels=lambda channels, factor: channels,
        n_parameters=lambda channels, dims, factor: 0,
        conv_macs=lambda channels, dims, factor, sites: 0,
        other_macs=lambda channels, dims, factor, sites: channels * sites,
    ),
}
