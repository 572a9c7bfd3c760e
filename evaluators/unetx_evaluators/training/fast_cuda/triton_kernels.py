"""Triton kernels of instance normalisation followed by LeakyReLU; imports triton.

torch's own needs channels first, and reads each map once more for the activation. These read a map in place, plain or
channels last, twice forward and twice backward. Equations: Ulyanov et al. 2016, arXiv:1607.08022.

Letters: ``b`` images, ``n`` voxels, ``c`` channels. A map is divided into ``parts`` of ``part`` voxels, since a batch
of volumes has too few channels and images to keep a GPU busy: a first kernel writes a result for each part, and a
second merges those, in a fixed order, and processes its own part. The grid is [parts, groups of CHANNELS, b]; a
program works on tiles of CHANNELS x VOXELS, whose neighbours lie ``c_stride`` and ``n_stride`` values apart. Statistics
and arithmetic are float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton evaluates annotations, and supports constexpr alone.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def compiled(kernel: Callable[..., Any]) -> Any:
    """The kernel, compiled at its first call with each type of arguments."""
    return triton.jit(kernel)


@compiled
def statistics(
    x,
    means,
    squares,
    c_stride,
    n_stride,
    c,
    n,
    part,
    parts,
    CHANNELS: tl.constexpr,
    VOXELS: tl.constexpr,
):
    """Compute the mean of each part of each channel, and the sum of squared distances from it.

    Each element of a tile has a mean of its own (Welford 1962, Technometrics 4), and all are merged at the end (Chan et
    al. 1979, STAN-CS-79-773), so that no large numbers cancel.
    """
    channel, begin, end, offset = _position(c_stride, n_stride, c, n, part, CHANNELS, VOXELS)
    mean = tl.zeros((CHANNELS, VOXELS), tl.float32)
    square = tl.zeros((CHANNELS, VOXELS), tl.float32)
    taken = 0.0
    for start in range(begin, end, VOXELS):
        inside = (channel < c)[:, None] & (start + tl.arange(0, VOXELS) < end)[None, :]
        value = tl.load(x + offset + start * n_stride, mask=inside, other=0.0).to(tl.float32)
        taken += 1.0
        distance = tl.where(inside, value - mean, 0.0)
        mean += distance * (1 / taken)
        square += distance * (value - mean)
    count = (tl.maximum(end - begin - tl.arange(0, VOXELS) + VOXELS - 1, 0) // VOXELS)[None, :]
    merged = tl.sum(mean * count, 1) / (end - begin)
    distance = mean - merged[:, None]
    index = (tl.program_id(2) * parts + tl.program_id(0)) * c + channel
    tl.store(means + index, merged, mask=channel < c)
    tl.store(squares + index, tl.sum(square + count * distance * distance, 1), mask=channel < c)


@compiled
def normalised(
    x,
    weight,
    bias,
    means,
    squares,
    y,
    mean_out,
    rstd_out,
    eps,
    slope,
    c_stride,
    n_stride,
    c,
    n,
    part,
    parts,
    CHANNELS: tl.constexpr,
    VOXELS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Compute ``y``, and the mean and 1 / sqrt(variance + eps) of each channel; PARTS is at least ``parts``."""
    channel, begin, end, offset = _position(c_stride, n_stride, c, n, part, CHANNELS, VOXELS)
    part_means = _all_parts(means, channel, c, parts, PARTS)
    count = tl.minimum(tl.maximum(n - tl.arange(0, PARTS) * part, 0), part)[None, :]
    mean = tl.sum(part_means * count, 1) / n
    distance = part_means - mean[:, None]
    square = tl.sum(_all_parts(squares, channel, c, parts, PARTS) + count * distance * distance, 1)
    rstd = 1 / tl.sqrt(square / n + eps)
    if tl.program_id(0) == 0:
        tl.store(mean_out + tl.program_id(2) * c + channel, mean, mask=channel < c)
        tl.store(rstd_out + tl.program_id(2) * c + channel, rstd, mask=channel < c)
    scale = tl.load(weight + channel, mask=channel < c, other=0.0).to(tl.float32)[:, None]
    shift = tl.load(bias + channel, mask=channel < c, other=0.0).to(tl.float32)[:, None]
    for start in range(begin, end, VOXELS):
        inside = (channel < c)[:, None] & (start + tl.arange(0, VOXELS) < end)[None, :]
        here = offset + start * n_stride
        z = (tl.load(x + here, mask=inside, other=0.0).to(tl.float32) - mean[:, None]) * rstd[:, None]
        value = z * scale + shift
        tl.store(y + here, tl.where(value > 0, value, value * slope), mask=inside)


@compiled
def gradient_sums(
    x,
    dy,
    weight,
    bias,
    mean,
    rstd,
    g_sums,
    gz_sums,
    slope,
    c_stride,
    n_stride,
    c,
    n,
    part,
    parts,
    CHANNELS: tl.constexpr,
    VOXELS: tl.constexpr,
):
    """Compute the sums of g, the gradient before the activation, and of g z, with z = (x - mean) * rstd, over each part
    of each channel."""
    channel, begin, end, offset = _position(c_stride, n_stride, c, n, part, CHANNELS, VOXELS)
    scale, shift, centre, spread = _of_channels(weight, bias, mean, rstd, channel, c)
    g_sum = tl.zeros((CHANNELS, VOXELS), tl.float32)
    gz_sum = tl.zeros((CHANNELS, VOXELS), tl.float32)
    for start in range(begin, end, VOXELS):
        inside = (channel < c)[:, None] & (start + tl.arange(0, VOXELS) < end)[None, :]
        here = offset + start * n_stride
        z = (tl.load(x + here, mask=inside, other=0.0).to(tl.float32) - centre) * spread
        g = tl.load(dy + here, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(z * scale + shift > 0, g, g * slope)
        g_sum += g
        gz_sum += g * z
    index = (tl.program_id(2) * parts + tl.program_id(0)) * c + channel
    tl.store(g_sums + index, tl.sum(g_sum, 1), mask=channel < c)
    tl.store(gz_sums + index, tl.sum(gz_sum, 1), mask=channel < c)


@compiled
def gradient(
    x,
    dy,
    weight,
    bias,
    mean,
    rstd,
    g_sums,
    gz_sums,
    dx,
    slope,
    c_stride,
    n_stride,
    c,
    n,
    part,
    parts,
    CHANNELS: tl.constexpr,
    VOXELS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Compute dx = weight * rstd * (g - sum(g)/n - z sum(g z)/n), each image by itself."""
    channel, begin, end, offset = _position(c_stride, n_stride, c, n, part, CHANNELS, VOXELS)
    scale, shift, centre, spread = _of_channels(weight, bias, mean, rstd, channel, c)
    mean_g = (tl.sum(_all_parts(g_sums, channel, c, parts, PARTS), 1) / n)[:, None]
    mean_gz = (tl.sum(_all_parts(gz_sums, channel, c, parts, PARTS), 1) / n)[:, None]
    for start in range(begin, end, VOXELS):
        inside = (channel < c)[:, None] & (start + tl.arange(0, VOXELS) < end)[None, :]
        here = offset + start * n_stride
        z = (tl.load(x + here, mask=inside, other=0.0).to(tl.float32) - centre) * spread
        g = tl.load(dy + here, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(z * scale + shift > 0, g, g * slope)
        tl.store(dx + here, scale * spread * (g - mean_g - z * mean_gz), mask=inside)


@compiled
def _position(c_stride, n_stride, c, n, part, CHANNELS: tl.constexpr, VOXELS: tl.constexpr):
    """A program's channels, the voxels where its part begins and ends, and the offsets in the map of the values of a
    tile that begins at voxel 0. Maps may have more values than 32 bits can count."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    begin = tl.program_id(0).to(tl.int64) * part
    along = channel.to(tl.int64)[:, None] * c_stride + tl.arange(0, VOXELS)[None, :] * n_stride
    return channel, begin, tl.minimum(begin + part, n), tl.program_id(2).to(tl.int64) * c * n + along


@compiled
def _all_parts(results, channel, c, parts, PARTS: tl.constexpr):
    """The results [CHANNELS, PARTS] of all parts of a program's channels; zero beyond the last part and channel."""
    number = tl.arange(0, PARTS)
    index = (tl.program_id(2) * parts + number)[None, :] * c + channel[:, None]
    return tl.load(results + index, mask=(channel < c)[:, None] & (number < parts)[None, :], other=0.0)


@compiled
def _of_channels(weight, bias, mean, rstd, channel, c):
    """Columns of scale, shift, mean and 1 / standard deviation of a program's channels, in float32."""
    index = tl.program_id(2) * c + channel
    scale = tl.load(weight + channel, mask=channel < c, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=channel < c, other=0.0).to(tl.float32)
    centre = tl.load(mean + index, mask=channel < c, other=0.0)
    spread = tl.load(rstd + index, mask=channel < c, other=0.0)
    return scale[:, None], shift[:, None], centre[:, None], spread[:, None]
