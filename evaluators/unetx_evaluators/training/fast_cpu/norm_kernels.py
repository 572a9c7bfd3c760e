"""Instance normalisation with LeakyReLU behind it, compiled for CPUs; numpy arrays in, numpy arrays out.

torch's own needs channels first. Between convolutions that want channels last it moves every map four times a step, and
then reads it once more for the activation: together half of a training step at the widths that proxies have. These
loops read a map where it lies, twice forward and twice backward. Equations: Ulyanov et al. 2016, arXiv:1607.08022.

Letters: ``b`` images, ``n`` voxels, ``c`` channels. Maps are ``[b, n, c]`` without gaps, float32, or uint16 that holds
the bits of bfloat16; statistics, scales and all arithmetic are float32, totals float64. An image is walked through in
strips of whole voxels, whose length in values does not depend on ``c``, so that the inner loops are vector code.

Compiled when first called with a kind of array, which takes seconds; the machine code is kept on disk (numba's cache).
One thread, and the order of sums is fixed: the same bits whenever the CPU is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

Map = npt.NDArray[np.float32] | npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]
F = TypeVar("F", bound=Callable[..., Any])

STRIP = 512
"""Number of values in a strip, which stay in the nearest cache with their statistics."""
STRIPS_A_SUM = 32
"""Number of strips that are summed in float32 before they are added to the float64 totals."""

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
"""LLVM's fast-math flags: sums may be reordered and products fused; NaN and infinity stay, for divergence must show."""


def _compiled(function: F) -> F:
    """The function, compiled at its first call; machine code is cached on disk where a folder for it can be written."""
    try:
        return cast("F", numba.njit(cache=True, fastmath=FASTMATH)(function))
    except RuntimeError:  # neither this folder nor the user's own cache
        return cast("F", numba.njit(fastmath=FASTMATH)(function))


def widened(value: Any) -> Any:
    """Convert a stored value to float32; in compiled code only."""
    raise NotImplementedError


def store(array: Any, index: int, value: Any) -> None:
    """Store a float32 in an array, rounded to nearest even where that holds bfloat16; in compiled code only."""
    raise NotImplementedError


@overload(widened, strict=False)
def _widened(value: Any) -> Any:
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


@overload(store, strict=False)
def _store(array: Any, index: Any, value: Any) -> Any:
    if isinstance(array.dtype, types.Float):

        def plain(array: Any, index: Any, value: Any) -> None:
            array[index] = value

        return plain

    def rounded(array: Any, index: Any, value: Any) -> None:
        bits = np.float32(value).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        array[index] = np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return rounded


@_compiled
def forward(x: Map, weight: Floats, bias: Floats, eps: float, slope: float, y: Map, mean: Floats, rstd: Floats) -> None:
    """Fill ``y`` with LeakyReLU((x - mean) * rstd * weight + bias), and ``mean`` and ``rstd`` ``[b, c]``.

    ``rstd`` is 1 / sqrt(variance + eps), the variance being that of all voxels (divided by n). A slope of 1 leaves the
    activation out; it is at most 1.
    """
    b, n, c = x.shape
    n_rows = max(1, STRIP // c)
    length = n_rows * c
    shift, sums, squares = np.empty(length, np.float32), np.empty(length, np.float32), np.empty(length, np.float32)
    centre, scale, offset = np.empty(length, np.float32), np.empty(length, np.float32), np.empty(length, np.float32)
    total, total_squares = np.empty(c, np.float64), np.empty(c, np.float64)
    slope32 = np.float32(slope)
    for image in range(b):
        values, results = x[image].reshape(-1), y[image].reshape(-1)
        for t in range(length):
            shift[t] = widened(values[t % c])  # near the mean, so that squares do not cancel
        total[:], total_squares[:] = 0, 0
        begin = 0
        while begin < n * c:
            end = min(begin + STRIPS_A_SUM * length, n * c)
            sums[:], squares[:] = 0, 0
            while begin < end:
                strip = values[begin : min(begin + length, end)]
                for t in range(len(strip)):
                    value = widened(strip[t]) - shift[t]
                    sums[t] += value
                    squares[t] += value * value
                begin += len(strip)
            for t in range(length):
                total[t % c] += sums[t]
                total_squares[t % c] += squares[t]
        for channel in range(c):
            shifted_mean = total[channel] / n
            variance = total_squares[channel] / n - shifted_mean * shifted_mean
            mean[image, channel] = shifted_mean + shift[channel]
            rstd[image, channel] = 1 / np.sqrt(max(variance, 0.0) + eps) if variance == variance else variance
        for t in range(length):
            centre[t], scale[t], offset[t] = mean[image, t % c], rstd[image, t % c] * weight[t % c], bias[t % c]
        for begin in range(0, n * c, length):
            strip, result = values[begin : begin + length], results[begin : begin + length]
            for t in range(len(strip)):
                value = (widened(strip[t]) - centre[t]) * scale[t] + offset[t]
                store(result, t, max(value, value * slope32))


@_compiled
def backward(
    x: Map,
    dy: Map,
    weight: Floats,
    bias: Floats,
    mean: Floats,
    rstd: Floats,
    slope: float,
    dx: Map,
    dweight: Floats,
    dbias: Floats,
) -> None:
    """Fill ``dx``, and add to ``dweight`` and ``dbias``, given the gradient ``dy`` of the output of ``forward`` for
    ``x``.

    With g = dy behind the activation and z = (x - mean) * rstd: dbias = sum(g), dweight = sum(g z), and
    dx = weight * rstd * (g - sum(g)/n - z sum(g z)/n), each image by itself.
    """
    b, n, c = x.shape
    n_rows = max(1, STRIP // c)
    length = n_rows * c
    centre, spread = np.empty(length, np.float32), np.empty(length, np.float32)
    scale, offset = np.empty(length, np.float32), np.empty(length, np.float32)
    sums, products = np.empty(length, np.float32), np.empty(length, np.float32)
    mean_g, mean_gz = np.empty(length, np.float32), np.empty(length, np.float32)
    total, total_products = np.empty(c, np.float64), np.empty(c, np.float64)
    one, slope32 = np.float32(1), np.float32(slope)
    for image in range(b):
        values, gradients, results = x[image].reshape(-1), dy[image].reshape(-1), dx[image].reshape(-1)
        for t in range(length):
            centre[t], spread[t] = mean[image, t % c], rstd[image, t % c]
            scale[t], offset[t] = weight[t % c], bias[t % c]
        total[:], total_products[:] = 0, 0
        begin = 0
        while begin < n * c:
            end = min(begin + STRIPS_A_SUM * length, n * c)
            sums[:], products[:] = 0, 0
            while begin < end:
                strip, gradient = values[begin : min(begin + length, end)], gradients[begin : min(begin + length, end)]
                for t in range(len(strip)):
                    z = (widened(strip[t]) - centre[t]) * spread[t]
                    g = widened(gradient[t]) * (one if z * scale[t] + offset[t] > 0 else slope32)
                    sums[t] += g
                    products[t] += g * z
                begin += len(strip)
            for t in range(length):
                total[t % c] += sums[t]
                total_products[t % c] += products[t]
        for channel in range(c):
            dbias[channel] += total[channel]
            dweight[channel] += total_products[channel]
        for t in range(length):
            mean_g[t], mean_gz[t] = total[t % c] / n, total_products[t % c] / n
        for begin in range(0, n * c, length):
            strip, gradient = values[begin : begin + length], gradients[begin : begin + length]
            result = results[begin : begin + length]
            for t in range(len(strip)):
                z = (widened(strip[t]) - centre[t]) * spread[t]
                g = widened(gradient[t]) * (one if z * scale[t] + offset[t] > 0 else slope32)
                store(result, t, scale[t] * spread[t] * (g - mean_g[t] - z * mean_gz[t]))
