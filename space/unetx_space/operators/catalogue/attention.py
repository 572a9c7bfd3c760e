"""Attention operators as data."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, prod

from unetx_space.operators.catalogue.spec import AttentionContext, AttentionSpec, Size, by_name, taps

CBAM_KERNEL = 7
SE_REDUCTION = 16
SCSE_REDUCTION = 2
MIN_HIDDEN = 4
COORDINATE_REDUCTION = 32
MIN_TOKEN_WIDTH = 8


def hidden_width(channels: int, reduction: int) -> int:
    """Width between the two dense layers; never 0, as ``channels // reduction`` would be for few channels."""
    return max(MIN_HIDDEN, channels // reduction)


def token_width(channels: int) -> int:
    """Width of coordinate attention's line averages (the authors' code: at least 8)."""
    return max(MIN_TOKEN_WIDTH, channels // COORDINATE_REDUCTION)


def gate_width(channels: int) -> int:
    """Width in which an attention gate compares the map with its gate; never 0."""
    return max(1, channels // 2)


def eca_kernel(channels: int) -> int:
    """Odd kernel of ECA that grows with log2 of the channels (equation 12 with gamma = 2, b = 1), at least 3."""
    size = ((channels.bit_length() - 1) + 1) // 2
    return max(3, size if size % 2 else size + 1)


def _se_parameters(channels: int, reduction: int) -> int:
    hidden = hidden_width(channels, reduction)
    return 2 * channels * hidden + hidden + channels


def _se_macs(channels: int, reduction: int) -> int:
    return 2 * channels * hidden_width(channels, reduction)


def _grid_parameters(at: AttentionContext) -> int:
    """theta without bias, phi and psi with, and two of 1x1 convolution with bias and normalisation."""
    c = at.channels
    return prod(at.stride) * c * c + (at.c_coarse + 1) * c + (c + 1) + 2 * (c + 3) * c


def _grid_macs(at: AttentionContext, size: Size, coarse: Size) -> int:
    c = at.channels
    return prod(coarse) * c * (prod(at.stride) * c + at.c_coarse + 1) + 2 * prod(size) * c * c


def _grid_saved(at: AttentionContext, size: Size, coarse: Size) -> int:
    """The compared maps, their gate before and after upsampling, and both convolutions' inputs and outputs; the map
    made whole, where a cell is cut off."""
    cells = tuple(n * s for n, s in zip(coarse, at.stride, strict=True))
    padded = prod(cells) if any(n > m for n, m in zip(cells, size, strict=True)) else 0
    return prod(coarse) * (at.channels + 1) + prod(size) * (4 * at.channels + 1) + padded * at.channels


def _coordinate_saved(at: AttentionContext, size: Size, coarse: Size) -> int:
    """Every line's averages, three hidden maps and gate; the map after each axis but the last."""
    lines = sum(size) * (2 * at.channels + 3 * token_width(at.channels))
    return lines + (at.dims - 1) * at.channels * prod(size)


# By default gates of channels, of channels and voxels, and of voxels by the decoder. The others are relatives of these;
# a search learns more from few choices that differ.
ATTENTIONS: Mapping[str, AttentionSpec] = by_name(
    AttentionSpec(
        name="none",
        module="torch.nn:Identity",
        by_default=True,
        title="No attention",
        note="The map as it is.",
        equation="$y = x$",
        saves_input=False,
        placements=(),
    ),
    AttentionSpec(
        name="se",
        module="unetx_space.operators.attention:SqueezeExcite",
        by_default=True,
        title="Squeeze and excitation",
        note="One gate per channel from the global average through two dense layers; nearly free.",
        equation=r"$y = x \cdot \sigma(W_2 \mathrm{relu}(W_1 \bar x))$",
        paper="Hu et al. 2018, arXiv:1709.01507",
        n_parameters=lambda at: _se_parameters(at.channels, SE_REDUCTION),
        conv_macs=lambda at, size, coarse: _se_macs(at.channels, SE_REDUCTION),
        other_macs=lambda at, size, coarse: 2 * at.channels * prod(size),
    ),
    AttentionSpec(
        name="cbam",
        module="unetx_space.operators.attention:CBAM",
        by_default=True,
        title="Convolutional block attention module",
        note="Channel gate from average and maximum, then a spatial gate from a 7^d convolution.",
        equation=(
            r"$x' = x \cdot \sigma(M(\bar x) + M(\max x))$ with $M(v) = W_2 \mathrm{relu}(W_1 v)$, then "
            r"$y = x' \cdot \sigma(k * [\max_c x' ; \mathrm{mean}_c x'])$ with a kernel $k$ of $7^d$ voxels"
        ),
        paper="Woo et al. 2018, arXiv:1807.06521",
        n_parameters=lambda at: _se_parameters(at.channels, SE_REDUCTION) + 2 * taps(CBAM_KERNEL, at.dims) + 1,
        conv_macs=lambda at, size, coarse: (
            2 * _se_macs(at.channels, SE_REDUCTION) + 2 * taps(CBAM_KERNEL, at.dims) * prod(size)
        ),
        other_macs=lambda at, size, coarse: 6 * at.channels * prod(size),
        saved_values=lambda at, size, coarse: (at.channels + 4) * prod(size),
    ),
    AttentionSpec(
        name="eca",
        module="unetx_space.operators.attention:ECA",
        by_default=True,
        title="Efficient channel attention",
        note="One gate per channel from a short 1-D convolution along the channels; three to five weights.",
        equation=r"$y = x \cdot 2 \sigma(k * \bar x)$ with a kernel $k$ along the channels",
        paper="Wang et al. 2020, arXiv:1910.03151",
        orders_channels=True,
        n_parameters=lambda at: eca_kernel(at.channels),
        conv_macs=lambda at, size, coarse: eca_kernel(at.channels) * at.channels,
        other_macs=lambda at, size, coarse: 2 * at.channels * prod(size),
    ),
    AttentionSpec(
        name="scse",
        module="unetx_space.operators.attention:SCSE",
        by_default=True,
        title="Concurrent spatial and channel squeeze and excitation",
        note="The larger of a channel-gated and a voxel-gated copy of the map.",
        equation=r"$y = \max(x \cdot \sigma(W_2 \mathrm{relu}(W_1 \bar x)), x \cdot \sigma(w x + b))$",
        paper="Roy et al. 2018, arXiv:1803.02579",
        n_parameters=lambda at: _se_parameters(at.channels, SCSE_REDUCTION) + at.channels + 1,
        conv_macs=lambda at, size, coarse: _se_macs(at.channels, SCSE_REDUCTION) + at.channels * prod(size),
        other_macs=lambda at, size, coarse: 4 * at.channels * prod(size),
        saved_values=lambda at, size, coarse: (2 * at.channels + 1) * prod(size),
    ),
    AttentionSpec(
        name="scse-add",
        module="unetx_space.operators.attention:SCSEAdd",
        title="Concurrent spatial and channel squeeze and excitation, added",
        note="The sum of a channel-gated and a voxel-gated copy of the map; lighter dense layers than scse.",
        equation=r"$y = x \cdot \sigma(W_2 \mathrm{relu}(W_1 \bar x)) + x \cdot \sigma(w x + b)$",
        paper="Roy et al. 2018, arXiv:1803.02579; the sum of segmentation_models.pytorch",
        n_parameters=lambda at: _se_parameters(at.channels, SE_REDUCTION) + at.channels + 1,
        conv_macs=lambda at, size, coarse: _se_macs(at.channels, SE_REDUCTION) + at.channels * prod(size),
        other_macs=lambda at, size, coarse: 4 * at.channels * prod(size),
        saved_values=lambda at, size, coarse: prod(size),
    ),
    AttentionSpec(
        name="attention-gate",
        module="unetx_space.operators.gated_attention:AttentionGate",
        by_default=True,
        title="Attention gate on the node's grid",
        note="The upsampled map decides, voxel by voxel, what a source may add.",
        equation=r"$y = x \cdot \sigma(N(\psi \mathrm{relu}(N(W_g g) + N(W_x x))))$",
        paper="Oktay et al. 2018, Attention U-Net, arXiv:1804.03999",
        gate="upsampled",
        placements=("source",),
        # three 1x1 convolutions with bias, each with a normalisation
        n_parameters=lambda at: gate_width(at.channels) * (at.c_upsampled + at.channels + 7) + 3,
        conv_macs=lambda at, size, coarse: prod(size) * gate_width(at.channels) * (at.c_upsampled + at.channels + 1),
        other_macs=lambda at, size, coarse: (gate_width(at.channels) + at.channels) * prod(size),
        saved_values=lambda at, size, coarse: (3 * gate_width(at.channels) + 2) * prod(size),
        saves_gate=True,
    ),
    AttentionSpec(
        name="attention-gate-grid",
        module="unetx_space.operators.gated_attention:GridAttentionGate",
        decision=("psi", inf),  # open, and the convolutions behind it carry flow
        only_reweights=False,
        title="Attention gate on the coarse grid",
        note="The coarser input decides before upsampling, so the gate is smooth; two more 1x1 convolutions follow it.",
        equation=(
            r"$\alpha = \sigma(\psi \mathrm{relu}(\theta x + \phi g))$ on the coarse grid, then "
            r"$y = \mathrm{relu}(N(V N(W (x \cdot U \alpha))))$"
        ),
        paper="Oktay et al. 2018, Attention U-Net, arXiv:1804.03999",
        gate="coarse",
        placements=("source",),
        n_parameters=_grid_parameters,
        conv_macs=_grid_macs,
        other_macs=lambda at, size, coarse: prod(coarse) * at.channels + prod(size) * (at.channels + (1 << at.dims)),
        saved_values=_grid_saved,
        saves_output=True,
        saves_gate=True,
    ),
    AttentionSpec(
        name="coordinate",
        module="unetx_space.operators.attention:CoordinateAttention",
        title="Coordinate attention",
        note="One gate per channel and position along each axis, from averages over the other axes.",
        equation=r"$y = x \cdot \prod_a \sigma(F_a h(N(F \bar x_a)))$ with $\bar x_a$ averaged over all axes but $a$",
        paper="Hou et al. 2021, arXiv:2103.02907",
        # one 1x1 convolution with bias and a normalisation, then one with bias per axis
        n_parameters=lambda at: (
            (at.channels + 3) * token_width(at.channels) + at.dims * (token_width(at.channels) + 1) * at.channels
        ),
        conv_macs=lambda at, size, coarse: 2 * at.channels * token_width(at.channels) * sum(size),
        other_macs=lambda at, size, coarse: 2 * at.dims * at.channels * prod(size),
        saved_values=_coordinate_saved,
    ),
    AttentionSpec(
        name="simam",
        module="unetx_space.operators.attention:SimAM",
        title="SimAM, parameter-free attention",
        note="Gates each voxel by how far it lies from its channel's mean; nothing to learn, and it never closes.",
        equation=r"$y = x \cdot \sigma((x - \bar x)^2 / (4 (s^2 + \lambda)) + 1/2)$ with variance $s^2$ per channel",
        paper="Yang et al. 2021, PMLR 139:11863",
        other_macs=lambda at, size, coarse: 4 * at.channels * prod(size),
        saved_values=lambda at, size, coarse: 3 * at.channels * prod(size),
    ),
    AttentionSpec(
        name="cca",
        module="unetx_space.operators.gated_attention:ChannelCrossAttention",
        title="Channel-wise cross attention",
        note="One gate per channel from the averages of the source and of the upsampled map; full-width dense layers.",
        equation=r"$y = \mathrm{relu}(x \cdot \sigma((A \bar x + B \bar g) / 2))$",
        paper="Wang et al. 2022, UCTransNet, arXiv:2109.04335",
        gate="upsampled",
        placements=("source",),
        n_parameters=lambda at: (at.channels + at.c_upsampled + 2) * at.channels,
        conv_macs=lambda at, size, coarse: (at.channels + at.c_upsampled) * at.channels,
        other_macs=lambda at, size, coarse: (2 * at.channels + at.c_upsampled) * prod(size),
        saves_output=True,
    ),
)
