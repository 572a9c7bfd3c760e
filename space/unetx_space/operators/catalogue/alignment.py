"""Alignments of finer sources as data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from math import prod

from unetx_space.operators.catalogue.spec import AlignmentSpec, Stride, by_name, taps

STEP_EDGE = 3
"""Kernel edge of a strided convolution."""
_INDEX = 2
"""Values that the place of a maximum takes up: it is an int64."""


def stride_steps(factor: Stride) -> tuple[Stride, ...]:
    """``factor`` as strides of 2 and 3, the larger first, none of which a kernel of edge 3 could step over.

    (4, 1, 6) is taken in the steps (2, 1, 3) and (2, 1, 2).
    """
    primes: list[list[int]] = [[] for _ in factor]
    for found, n in zip(primes, factor, strict=True):
        divisor = 2
        while n > 1:
            if n % divisor:
                divisor += 1
            else:
                found.insert(0, divisor)
                n //= divisor
    return tuple(zip_longest(*primes, fillvalue=1))


def _steps_macs(channels: int, factor: Stride, sites: int, target: int) -> int:
    """The last step gives ``target`` voxels, and every step before it a whole number of cells for each of those."""
    total = 0
    for stride in reversed(stride_steps(factor)):
        total += target
        target *= prod(stride)
    return taps(STEP_EDGE, len(factor)) * channels * channels * total


def _steps_saved(channels: int, factor: Stride, sites: int, target: int) -> int:
    """Values before and after the activation of each step but the last, and of the map where it was completed."""
    total = 0
    whole = target * prod(factor)
    for stride in stride_steps(factor)[:-1]:
        whole //= prod(stride)
        total += 2 * whole
    return channels * (total + (target * prod(factor) if target * prod(factor) > sites else 0))


def folded_width(channels: int, factor: Stride) -> int:
    """Channels that ``space-to-depth`` folds: all while a cell has at most 2^d voxels, beyond that so many fewer that
    at most 2^d times the channels come out, as with a factor of 2 along every axis."""
    cell, limit = prod(factor), 1 << len(factor)
    return channels if cell <= limit else max(1, channels * limit // cell)


def _reduction(channels: int, factor: Stride) -> int:
    """Weights of the 1x1 convolution in front of the folding, 0 where none is needed."""
    width = folded_width(channels, factor)
    return channels * width if width < channels else 0


# By default those without parameters; the others' grow with the resolutions between.
ALIGNMENTS: Mapping[str, AlignmentSpec] = by_name(
    AlignmentSpec(
        name="max",
        module="unetx_space.operators.alignment:MaxAlignment",
        by_default=True,
        title="Max pooling",
        note="Keeps small bright structures.",
        equation=r"$y(p) = \max_q x(f p + q)$ over the voxels $q$ of a cell",
        paper="Huang et al. 2020, UNet 3+, arXiv:2004.08790",
        other_macs=lambda channels, factor, sites, target: channels * sites,
        saved_values=lambda channels, factor, sites, target: _INDEX * channels * target,
    ),
    AlignmentSpec(
        name="average",
        module="unetx_space.operators.alignment:AverageAlignment",
        by_default=True,
        title="Average pooling",
        note="Anti-aliases.",
        equation=r"$y(p) = \mathrm{mean}_q x(f p + q)$ over the voxels $q$ of a cell",
        other_macs=lambda channels, factor, sites, target: channels * sites,
    ),
    AlignmentSpec(
        name="strided-conv",
        module="unetx_space.operators.alignment:StridedConvAlignment",
        title="Strided 3^d convolutions, one for each factor of 2",
        note="Learns what to keep; 3^d weights per pair of channels and step.",
        equation=r"$y = k_m * h(\ldots h(k_1 * x))$ with $3^d$ kernels of strides 2 and 3 and LeakyReLU $h$",
        paper="Wang et al. 2020, HRNet, arXiv:1908.07919",
        n_parameters=lambda channels, factor: len(stride_steps(factor)) * taps(STEP_EDGE, len(factor)) * channels**2,
        conv_macs=_steps_macs,
        saved_values=_steps_saved,
    ),
    AlignmentSpec(
        name="space-to-depth",
        module="unetx_space.operators.alignment:SpaceToDepthAlignment",
        title="Space to depth",
        note="Every voxel of a cell becomes a channel, so that nothing is thrown away; at most 2^d times the channels.",
        equation="$y(p) = [R x(f p + q)]_q$ over the voxels $q$ of a cell; $R$ only where it would be too wide",
        paper="Sunkara and Luo 2022, SPD-Conv, arXiv:2208.03641",
        out_channels=lambda channels, factor: folded_width(channels, factor) * prod(factor),
        n_parameters=_reduction,
        conv_macs=lambda channels, factor, sites, target: _reduction(channels, factor) * sites,
    ),
)
