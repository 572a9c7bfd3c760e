"""Upsamplers as data."""

from __future__ import annotations

from collections.abc import Mapping

from unetx_space.operators.catalogue.spec import UpsamplerSpec, taps

EDGE = 3
"""Kernel edge of the pixel-shuffle and deformable upsamplers."""


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
