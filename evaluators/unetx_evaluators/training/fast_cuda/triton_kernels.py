"""Instance normalisation with LeakyReLU behind it, by Triton kernels; imports triton.

torch's own needs channels first, and reads each map once more for the activation. These read a map where it lies, plain
or channels last, twice forward and twice backward. Equations: Ulyanov et al. 2016, arXiv:1607.08022.

Letters: ``b`` images, ``n`` voxels, ``c`` channels. A map is divided into ``parts`` of ``part`` voxels, since a batch
of volumes has too few channels and images to keep a GPU busy: a first kernel leaves a result for each part, and a
second merges those, in a fixed order, and walks through its own part. The grid is [parts, groups of CHANNELS, b]; a
program works on tiles of CHANNELS x VOXELS, whose neighbours lie ``c_stride`` and ``n_stride`` values apart. Statistics
and arithmetic are float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton looks annotations up, and knows none but constexpr.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def compiled(kernel: Callable[..., Any]) -> Any:
    """What compiles itself for each kind of arguments when it is first called with it."""
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
    """The mean of each part of each channel, and the sum of squared distances from it.

    Each place of a tile has a mean of its own (Welford 1962, Technometrics 4), and all are merged at the end (Chan et
    al. 1979, STAN-CS-79-773): no large numbers cancel.
    """
    channel, begin, end, offset = _place(c_stride, n_stride, c, n, part, CHANNELS, VOXELS)
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
    at = (tl.program_id(2) * parts + tl.program_id(0)) * c + channel
    tl.store(means + at, merged, mask=channel < c)
    tl.store(squares + at, tl.sum(square + count * distance * distance, 1), mask=channel < c)


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
    """``y``, and of each channel the mean and 1 / sqrt(variance + eps); PARTS is at least ``parts``."""
    channel, begin, end, offset = _place(c_stride, n_stride, c, n, part, CHANNELS, VOXELS)
    number = tl.arange(0, PARTS)
    at = (tl.program_id(2) * parts + number)[None, :] * c + channel[:, None]
    known = (channel < c)[:, None] & (number < parts)[None, :]
    count = tl.minimum(tl.maximum(n - number * part, 0), part)[None, :]
    of_parts = tl.load(means + at, mask=known, other=0.0)
    mean = tl.sum(of_parts * count, 1) / n
    distance = of_parts - mean[:, None]
    square = tl.sum(tl.load(squares + at, mask=known, other=0.0) + count * distance * distance, 1)
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
    """Of each part of each channel the sums of g, ``dy`` behind the activation, and of g z, z = (x - mean) * rstd."""
    channel, begin, end, offset = _place(c_stride, n_stride, c, n, part, CHANNELS, VOXELS)
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
    at = (tl.program_id(2) * parts + tl.program_id(0)) * c + channel
    tl.store(g_sums + at, tl.sum(g_sum, 1), mask=channel < c)
    tl.store(gz_sums + at, tl.sum(gz_sum, 1), mask=channel < c)


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
    """dx = weight * rstd * (g - sum(g)/n - z sum(g z)/n), each image by itself."""
    channel, begin, end, offset = _place(c_stride, n_stride, c, n, part, CHANNELS, VOXELS)
    scale, shift, centre, spread = _of_channels(weight, bias, mean, rstd, channel, c)
    number = tl.arange(0, PARTS)
    at = (tl.program_id(2) * parts + number)[None, :] * c + channel[:, None]
    known = (channel < c)[:, None] & (number < parts)[None, :]
    mean_g = (tl.sum(tl.load(g_sums + at, mask=known, other=0.0), 1) / n)[:, None]
    mean_gz = (tl.sum(tl.load(gz_sums + at, mask=known, other=0.0), 1) / n)[:, None]
    for start in range(begin, end, VOXELS):
        inside = (channel < c)[:, None] & (start + tl.arange(0, VOXELS) < end)[None, :]
        here = offset + start * n_stride
        z = (tl.load(x + here, mask=inside, other=0.0).to(tl.float32) - centre) * spread
        g = tl.load(dy + here, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(z * scale + shift > 0, g, g * slope)
        tl.store(dx + here, scale * spread * (g - mean_g - z * mean_gz), mask=inside)


@compiled
def _place(c_stride, n_stride, c, n, part, CHANNELS: tl.constexpr, VOXELS: tl.constexpr):
    """A program's channels, the voxels where its part begins and ends, and how far behind the start of the map the
    values of a tile lie that begins at voxel 0. Maps may have more values than 32 bits can count."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    begin = tl.program_id(0).to(tl.int64) * part
    along = channel.to(tl.int64)[:, None] * c_stride + tl.arange(0, VOXELS)[None, :] * n_stride
    return channel, begin, tl.minimum(begin + part, n), tl.program_id(2).to(tl.int64) * c * n + along


@compiled
def _of_channels(weight, bias, mean, rstd, channel, c):
    """Columns of scale, shift, mean and 1 / standard deviation, in float32."""
    at = tl.program_id(2) * c + channel
    scale = tl.load(weight + channel, mask=channel < c, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=channel < c, other=0.0).to(tl.float32)
    centre, spread = tl.load(mean + at, mask=channel < c, other=0.0), tl.load(rstd + at, mask=channel < c, other=0.0)
    return scale[:, None], shift[:, None], centre[:, None], spread[:, None]
