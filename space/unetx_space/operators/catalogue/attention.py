"""Attention operators as data."""

from __future__ import annotations

from collections.abc import Mapping

from unetx_space.operators.catalogue.spec import AttentionSpec, taps

CBAM_KERNEL = 7
SE_REDUCTION = 16
SCSE_REDUCTION = 2
MIN_HIDDEN = 4


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
