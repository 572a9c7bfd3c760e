"""The torch classes that differ between 2D and 3D, chosen by ``dims`` in this one place, and what operators share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Convolution = nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose2d | nn.ConvTranspose3d


class StridedPointwise2d(nn.Conv2d):
    """A strided 1x1 convolution: every stride-th voxel, then 1x1 at stride 1, which is the same.

    On CPUs without AVX-512, oneDNN's weight gradient of the strided form writes past its memory where maps are float32
    and channels last (torch 2.13): the process crashes, or worse, does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


_CONV: Mapping[int, Callable[..., Convolution]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: Mapping[int, Callable[..., Transposed]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_MAX_POOL: Mapping[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_POOL: Mapping[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_LINEAR: Mapping[int, str] = {2: "bilinear", 3: "trilinear"}


def conv(
    dims: int, c_in: int, c_out: int, kernel: int, *, stride: int | tuple[int, ...] = 1, bias: bool = True
) -> Convolution:
    """Convolution with an odd kernel edge, zero-padded so that stride 1 keeps the size and stride s rounds it up."""
    strided = stride != 1 and stride != (1,) * dims
    kind: Callable[..., Convolution] = StridedPointwise2d if dims == 2 and kernel == 1 and strided else _CONV[dims]
    return kind(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=bias)


def cell_conv(c_in: int, c_out: int, stride: tuple[int, ...], *, bias: bool = True) -> Convolution:
    """Convolution with kernel = stride: one value from each cell of ``stride`` voxels, no overlap, no padding."""
    return _CONV[len(stride)](c_in, c_out, stride, stride=stride, bias=bias)


def transposed_conv(
    c_in: int, c_out: int, stride: tuple[int, ...], *, kernel: tuple[int, ...] | None = None, bias: bool = True
) -> Transposed:
    """Transposed convolution to exactly ``stride`` times the size; with kernel = stride unless given: no overlap."""
    kernel = kernel or stride
    excess = [k - s for k, s in zip(kernel, stride, strict=True)]  # what has to be cut off along each axis
    padding = tuple((n + 1) // 2 for n in excess)
    output_padding = tuple(n % 2 for n in excess)
    return _TRANSPOSED[len(stride)](
        c_in, c_out, kernel, stride=stride, padding=padding, output_padding=output_padding, bias=bias
    )


def max_pool(stride: tuple[int, ...], *, ceil: bool = False) -> nn.Module:
    """Maximum over cells of ``stride`` voxels; with ``ceil`` a cell cut off by the border counts as well."""
    return _MAX_POOL[len(stride)](stride, stride=stride, ceil_mode=ceil)


def average_pool(stride: tuple[int, ...], *, ceil: bool = False) -> nn.Module:
    """Mean over cells of ``stride`` voxels; with ``ceil`` a cut-off cell is the mean of the voxels it has."""
    return _AVERAGE_POOL[len(stride)](stride, stride=stride, ceil_mode=ceil)


def interpolate(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x[b,c,*]`` brought to ``[b,c,*size]`` by linear interpolation between voxel centres."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode=_LINEAR[x.ndim - 2], align_corners=False)


def per_channel(gate: Tensor, dims: int) -> Tensor:
    """``gate[b,c]`` as ``[b,c,1,1(,1)]``, ready to multiply a map."""
    return gate.reshape(*gate.shape, *(1,) * dims)


def recomputed(function: Callable[..., Tensor], values: Tensor, *others: Any) -> Tensor:
    """``function(values, *others)``, computed again in the backward pass, for which only its arguments are kept."""
    if not torch.is_grad_enabled() or not values.requires_grad or torch.compiler.is_compiling():
        return function(values, *others)
    result = checkpoint(function, values, *others, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(result, Tensor)
    return result
