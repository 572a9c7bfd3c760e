"""Upsamplers as data.

Where a paper knows only a factor of 2 along every axis, the axes of other strides follow from one rule each: kernels
span whole cells of ``stride`` voxels, and an axis of stride 1 is not enlarged but still seen by 3^d kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from unetx_space.operators.catalogue.attention import ATTENTIONS
from unetx_space.operators.catalogue.spec import AttentionContext, Stride, UpsamplerSpec, by_name, taps

EDGE = 3
"""Kernel edge of the resize-convolutions and of the pixel-shuffle and deformable upsamplers."""
CARAFE_ENCODER_EDGE = 3
"""k_e of CARAFE: the convolution that predicts its kernels."""
_CARAFE_KERNEL_EDGE = {2: 5, 3: 3}
_CARAFE_WIDTH = {2: 64, 3: 16}
_DYSAMPLE_GROUPS = 4


def overlapping_kernel(stride: Stride) -> tuple[int, ...]:
    """Kernel edges of ``transposed-k4``: twice the stride along each enlarged axis, 1 along the others."""
    return tuple(2 * s if s > 1 else 1 for s in stride)


def carafe_kernel_edge(dims: int) -> int:
    """k_up: 5 as in the paper, in 3D 3, where 125 predicted weights per fine voxel would outweigh the network."""
    return _CARAFE_KERNEL_EDGE[dims]


def carafe_width(c_in: int, dims: int) -> int:
    """C_m: what the map is compressed to, 64 as in the paper and 16 in 3D, and never more than it has."""
    return min(c_in, _CARAFE_WIDTH[dims])


def dysample_groups(channels: int) -> int:
    """Groups of channels with their own offsets: the largest divisor of ``channels`` up to the paper's 4."""
    return next(groups for groups in range(min(channels, _DYSAMPLE_GROUPS), 0, -1) if channels % groups == 0)


def _taps(stride: Stride) -> int:
    return taps(EDGE, len(stride))


def _carafe_predicted(stride: Stride) -> int:
    """Weights that the encoder predicts at every coarse voxel: k_up^d for each fine voxel of its cell."""
    return prod(stride) * taps(carafe_kernel_edge(len(stride)), len(stride))


def _carafe_parameters(c_in: int, c_out: int, stride: Stride) -> int:
    """Projection, compressor and encoder, each with bias."""
    dims, width = len(stride), carafe_width(c_in, len(stride))
    encoder = (taps(CARAFE_ENCODER_EDGE, dims) * width + 1) * _carafe_predicted(stride)
    return (c_in + 1) * (c_out + width) + encoder


def _carafe_macs(c_in: int, c_out: int, stride: Stride, sites: int) -> int:
    """Projection, compressor, encoder, and the averages, which are matrix products."""
    dims, width = len(stride), carafe_width(c_in, len(stride))
    per_weight = taps(CARAFE_ENCODER_EDGE, dims) * width + c_out
    return sites * (c_in * (c_out + width) + per_weight * _carafe_predicted(stride))


def _dysample_offsets(c_out: int, stride: Stride) -> int:
    return len(stride) * dysample_groups(c_out) * prod(stride)


def _deformable_parameters(c_in: int, c_out: int, stride: Stride) -> int:
    k = _taps(stride)
    return k * c_in * c_out + c_out + (k * c_in + 1) * (len(stride) + 1) * k


def _deformable_sampling(c_in: int, c_out: int, stride: Stride, sites: int) -> int:
    k, corners = _taps(stride), 1 << len(stride)
    offsets = (len(stride) + 1) * k * corners
    return sites * prod(stride) * (offsets + k * c_out * (corners + 1))


def _gated(upsampler: UpsamplerSpec, attention: str, *, module: str, note: str) -> UpsamplerSpec:
    """``upsampler`` followed by channel attention on its output: the sum of both.

    A channel gate asks only how many voxels there are, so that the product of the fine sizes stands for them.
    """
    gate, at = ATTENTIONS[attention], AttentionContext.behind_upsampler
    return UpsamplerSpec(
        name=f"{upsampler.name}-{attention}",
        module=module,
        title=f"{upsampler.title}; then {gate.title[0].lower()}{gate.title[1:]}",
        note=note,
        equation=f"{upsampler.equation}; with that as $x$, {gate.equation}",
        paper=f"{upsampler.paper}; {gate.paper}",
        optional_bias=upsampler.optional_bias,
        n_parameters=lambda c_in, c_out, stride: (
            upsampler.n_parameters(c_in, c_out, stride) + gate.n_parameters(at(c_in, c_out, stride))
        ),
        conv_macs=lambda c_in, c_out, stride, sites: (
            upsampler.conv_macs(c_in, c_out, stride, sites)
            + gate.conv_macs(at(c_in, c_out, stride), (sites * prod(stride),), (sites,))
        ),
        other_macs=lambda c_in, c_out, stride, sites: (
            upsampler.other_macs(c_in, c_out, stride, sites)
            + gate.other_macs(at(c_in, c_out, stride), (sites * prod(stride),), (sites,))
        ),
        saved_values=lambda c_in, c_out, stride, sites: (
            upsampler.saved_values(c_in, c_out, stride, sites)
            + sites * prod(stride) * c_out  # what the gate reads
            + gate.saved_values(at(c_in, c_out, stride), (sites * prod(stride),), (sites,))
        ),
    )


_TRANSPOSED = UpsamplerSpec(
    name="transposed",
    module="unetx_space.operators.upsampling:TransposedUpsampling",
    by_default=True,
    title="Transposed convolution with kernel = stride",
    note="Learns each fine voxel of a cell by itself, without overlap; nnU-Net's choice.",
    equation="$y(s p + q) = W_q x(p)$ for every voxel $q$ of a cell",
    paper="Zeiler et al. 2010, Deconvolutional networks",
    n_parameters=lambda c_in, c_out, stride: (prod(stride) * c_in + 1) * c_out,
    conv_macs=lambda c_in, c_out, stride, sites: sites * prod(stride) * c_in * c_out,
    optional_bias=True,
)
_PIXEL_SHUFFLE = UpsamplerSpec(
    name="pixel-shuffle",
    module="unetx_space.operators.upsampling:PixelShuffleUpsampling",
    by_default=True,
    title="3^d convolution, then pixel (voxel) shuffle, with ICNR start",
    note="A transposed convolution that also sees its neighbours, at 3^d times its cost.",
    equation="$y(s p + q) = (k_q * x)(p)$ with a $3^d$ kernel $k_q$ for every voxel $q$ of a cell",
    paper="Shi et al. 2016, arXiv:1609.05158; Aitken et al. 2017, arXiv:1707.02937",
    n_parameters=lambda c_in, c_out, stride: prod(stride) * c_out * (_taps(stride) * c_in + 1),
    conv_macs=lambda c_in, c_out, stride, sites: sites * prod(stride) * c_out * _taps(stride) * c_in,
)

# By default one of each kind: fixed; fixed, then learned (UNet 3+); learned per voxel; learned with neighbours; with
# learned positions; with learned positions and kernels.
UPSAMPLERS: Mapping[str, UpsamplerSpec] = by_name(
    UpsamplerSpec(
        name="nearest",
        module="unetx_space.operators.upsampling:NearestUpsampling",
        title="1x1 convolution, then nearest interpolation",
        note="Every fine voxel of a cell alike: the cheapest, and blocky; the block behind it has to smooth.",
        equation="$y = U_0(W x)$ with nearest interpolation $U_0$",
        n_parameters=lambda c_in, c_out, stride: (c_in + 1) * c_out,
        conv_macs=lambda c_in, c_out, stride, sites: sites * c_in * c_out,
    ),
    UpsamplerSpec(
        name="linear",
        module="unetx_space.operators.upsampling:LinearUpsampling",
        by_default=True,
        title="1x1 convolution, then linear interpolation",
        note="Smooth and cheap; the convolution comes first because the two commute and the coarse map is smaller.",
        equation="$y = U(W x)$",
        n_parameters=lambda c_in, c_out, stride: (c_in + 1) * c_out,
        conv_macs=lambda c_in, c_out, stride, sites: sites * c_in * c_out,
        other_macs=lambda c_in, c_out, stride, sites: sites * prod(stride) * (c_out << len(stride)),
    ),
    UpsamplerSpec(
        name="nearest-conv",
        module="unetx_space.operators.upsampling:NearestConvUpsampling",
        title="Nearest interpolation, then 3^d convolution",
        note="Resize-convolution: no checkerboard; costs a 3^d convolution of the wide map on the fine grid.",
        equation="$y = k * U_0(x)$ with nearest interpolation $U_0$ and a $3^d$ kernel $k$",
        paper="Odena et al. 2016, Deconvolution and checkerboard artifacts, doi:10.23915/distill.00003",
        n_parameters=lambda c_in, c_out, stride: (_taps(stride) * c_in + 1) * c_out,
        conv_macs=lambda c_in, c_out, stride, sites: sites * prod(stride) * _taps(stride) * c_in * c_out,
        saved_values=lambda c_in, c_out, stride, sites: sites * prod(stride) * c_in,
        saves_input=False,
    ),
    UpsamplerSpec(
        name="linear-conv",
        module="unetx_space.operators.upsampling:LinearConvUpsampling",
        by_default=True,
        title="Linear interpolation, then 3^d convolution",
        note="Resize-convolution without blocks; costs a 3^d convolution of the wide map on the fine grid.",
        equation="$y = k * U(x)$ with a $3^d$ kernel $k$",
        paper="Odena et al. 2016, Deconvolution and checkerboard artifacts, doi:10.23915/distill.00003",
        n_parameters=lambda c_in, c_out, stride: (_taps(stride) * c_in + 1) * c_out,
        conv_macs=lambda c_in, c_out, stride, sites: sites * prod(stride) * _taps(stride) * c_in * c_out,
        other_macs=lambda c_in, c_out, stride, sites: sites * prod(stride) * (c_in << len(stride)),
        saved_values=lambda c_in, c_out, stride, sites: sites * prod(stride) * c_in,
        saves_input=False,
    ),
    _TRANSPOSED,
    UpsamplerSpec(
        name="transposed-k4",
        module="unetx_space.operators.upsampling:OverlappingTransposedUpsampling",
        title="Transposed convolution with kernel = twice the stride",
        note="Neighbouring cells overlap evenly, so the map is smoother than transposed's; 2^d times its cost.",
        equation=r"$y(u) = \sum_p W_{u - s p} x(p)$ over the coarse voxels $p$ whose kernel of $2 s$ voxels covers $u$",
        paper="Odena et al. 2016, Deconvolution and checkerboard artifacts, doi:10.23915/distill.00003",
        n_parameters=lambda c_in, c_out, stride: (prod(overlapping_kernel(stride)) * c_in + 1) * c_out,
        conv_macs=lambda c_in, c_out, stride, sites: sites * prod(overlapping_kernel(stride)) * c_in * c_out,
        optional_bias=True,
    ),
    _gated(
        _TRANSPOSED,
        "se",
        module="unetx_space.operators.upsampling:TransposedSE",
        note="Learnable upsampling followed by attention: what it brings up is gated before the sources join.",
    ),
    _PIXEL_SHUFFLE,
    _gated(
        _PIXEL_SHUFFLE,
        "eca",
        module="unetx_space.operators.upsampling:PixelShuffleECA",
        note="Learnable upsampling followed by attention; ECA adds only three to five weights.",
    ),
    UpsamplerSpec(
        name="carafe",
        module="unetx_space.operators.dynamic_upsampling:CARAFE",
        decision=("encoder", 0),
        title="Content-aware reassembly of features",
        note="Each fine voxel is an average of its coarse neighbours with predicted weights; sharp, not cheap in 3D.",
        equation=(
            r"$y(s p + q) = \sum_t a_{q t}(p) (W x)(p + t)$ over $k_{up}^d$ neighbours $t$, with "
            r"$a_q = \mathrm{softmax}_t(E C x)$"
        ),
        paper="Wang et al. 2019, CARAFE, arXiv:1905.02188",
        n_parameters=_carafe_parameters,
        conv_macs=_carafe_macs,
        # the compressed and the projected map, and the predicted weights: averages are computed again
        saved_values=lambda c_in, c_out, stride, sites: (
            sites * (carafe_width(c_in, len(stride)) + c_out + _carafe_predicted(stride))
        ),
    ),
    UpsamplerSpec(
        name="dysample",
        module="unetx_space.operators.dynamic_upsampling:DySample",
        by_default=True,
        decision=("offset", 0),
        title="Linear interpolation at learned places",
        note="Each fine voxel learns where on the coarse map it looks; nearly as cheap as linear.",
        equation="$y(u) = (W x)(u / s + (O x)(u) / 4)$, read by linear interpolation",
        paper="Liu et al. 2023, DySample, arXiv:2308.15085",
        n_parameters=lambda c_in, c_out, stride: (c_in + 1) * (c_out + _dysample_offsets(c_out, stride)),
        conv_macs=lambda c_in, c_out, stride, sites: sites * c_in * (c_out + _dysample_offsets(c_out, stride)),
        other_macs=lambda c_in, c_out, stride, sites: sites * prod(stride) * (c_out << len(stride)),
        # the projected map and a place for every fine voxel and group
        saved_values=lambda c_in, c_out, stride, sites: sites * (c_out + _dysample_offsets(c_out, stride)),
    ),
    UpsamplerSpec(
        name="deformable",
        module="unetx_space.operators.dynamic_upsampling:DeformableUpsampling",
        by_default=True,
        decision=("moves", 0),
        title="Modulated deformable convolution on the fine grid",
        note="Each fine voxel learns where on the coarse map its 3^d taps look; slow, mostly sampling.",
        equation=(
            r"$y(u) = b + \sum_t W_t x(u / s + t + o_t(u)) m_t(u)$ over $3^d$ taps $t$, read by linear "
            r"interpolation, with offsets $o$ and a modulation $m = 2 \sigma(\cdot)$ from a $3^d$ convolution of $x$"
        ),
        paper="Zhu et al. 2019, Deformable ConvNets v2, arXiv:1811.11168",
        n_parameters=_deformable_parameters,
        conv_macs=lambda c_in, c_out, stride, sites: (
            sites * _taps(stride) * c_in * (c_out + (len(stride) + 1) * _taps(stride))
        ),
        other_macs=_deformable_sampling,
        # for each tap a map, offsets and modulation on the coarse grid: what is on the fine one is computed again
        saved_values=lambda c_in, c_out, stride, sites: sites * _taps(stride) * (c_out + len(stride) + 1),
    ),
)
