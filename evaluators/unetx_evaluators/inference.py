"""Sliding-window inference over images of any size, shared by validation and predict.

The windows have the training patch's size even where a fully convolutional network could take the whole image: channel
attention averages over its input, so it would see other statistics than it was trained on. Overlapping logits are
averaged with a Gaussian weight that trusts the middle of a window most, as in nnU-Net (Nature Methods 18, 203-211).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile, memory_format
from unetx_evaluators.training.cases import crop, pad_to, with_stack_axis

SIGMA_SHARE = 0.125
"""Standard deviation of the weight, as a share of the window."""


@torch.no_grad()
def predict_logits(
    network: nn.Module,
    image: Tensor,
    patch: tuple[int, ...],
    device: DeviceProfile,
    *,
    overlap: float = 0.5,
    batch_size: int = 8,
) -> Tensor:
    """Logits ``[k, *spatial]`` in float32 for one image ``[c, *spatial]``, on the image's device.

    A stack of slices ``[c, n, *spatial]`` gives ``[k, n, *spatial]``, slice by slice. ``batch_size`` windows go
    through the network together. The network's mode (train or eval) is left as it is.
    """
    window = with_stack_axis(patch, image.ndim - 1)
    padded = pad_to(image, window)
    trust = gaussian_weight(window).to(padded.device)
    weights = torch.zeros_like(padded[0])
    total = torch.zeros(())  # takes its shape from the first logits, which alone know the number of classes
    for corners in _batched(window_corners(padded.shape[1:], window, overlap), batch_size):
        windows = torch.stack([crop(padded, corner, window).reshape(-1, *patch) for corner in corners])
        logits = _forward(network, windows, device).to(padded.device)
        if total.ndim == 0:
            total = padded.new_zeros((logits.shape[1], *padded.shape[1:]))
        for corner, window_logits in zip(corners, logits, strict=True):
            crop(total, corner, window).add_(window_logits.reshape(-1, *window) * trust)
            crop(weights, corner, window).add_(trust)
    return crop(total.div_(weights), _margin(padded.shape[1:], image.shape[1:]), image.shape[1:])


def window_corners(spatial: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> Iterator[tuple[int, ...]]:
    """Lowest corners of windows that cover ``spatial`` (nowhere smaller than the patch), spread evenly.

    Neighbours share at least ``overlap`` of a window's edge.
    """
    return itertools.product(*(_starts(n, p, overlap) for n, p in zip(spatial, patch, strict=True)))


def gaussian_weight(patch: tuple[int, ...]) -> Tensor:
    """``[*patch]``, 1 in the middle and above zero everywhere."""
    return _gaussian_weight(tuple(patch))


@lru_cache(maxsize=4)
def _gaussian_weight(patch: tuple[int, ...]) -> Tensor:
    weight = torch.ones(())
    for size in patch:
        distance = (torch.arange(size) - (size - 1) / 2) / max(size * SIGMA_SHARE, 1e-6)
        weight = weight.unsqueeze(-1) * torch.exp(-0.5 * distance**2)
    # A corner's weight in 3D is about 1e-11: kept above the rounding of the sums, as in nnU-Net.
    return (weight / weight.max()).clamp_min(1e-3)


def _forward(network: nn.Module, windows: Tensor, device: DeviceProfile) -> Tensor:
    windows = windows.to(device.device).contiguous(memory_format=memory_format(windows.ndim - 2))
    with device.autocast():
        logits: Tensor = network(windows)
    return logits.float()


def _starts(size: int, window: int, overlap: float) -> list[int]:
    free = size - window
    n_steps = math.ceil(free / max(1, math.floor(window * (1 - overlap))))
    return [round(free * step / n_steps) for step in range(n_steps + 1)] if n_steps else [0]


def _batched(corners: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(itertools.islice(corners, size)):
        yield batch


def _margin(padded: tuple[int, ...], spatial: tuple[int, ...]) -> list[int]:
    """Voxels before the image in its padded form; ``pad_to`` puts the odd one behind."""
    return [(m - n) // 2 for m, n in zip(padded, spatial, strict=True)]
