"""Sliding-window inference over images of any size, for validation; ``predicting.sweep`` does it in bounded memory.

The windows have the size of the training patch even where a fully convolutional network could take the whole image:
channel attention averages over its input, so it would see other statistics than it was trained on. Overlapping logits
are averaged with a Gaussian weight, largest in the middle of a window, as in nnU-Net (Nature Methods 18, 203-211).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unetx_evaluators.device import DeviceProfile, in_memory_format
from unetx_evaluators.training.cases import crop, pad_to, with_stack_axis

Corner = tuple[int, ...]

CPU = torch.device("cpu")
SIGMA_SHARE = 0.125
"""Standard deviation of the weight, as a share of the window's edge."""


BATCH_VOXELS = {"cpu": 200_000, "cuda": 2_000_000}
"""Voxels of the windows of one batch: on a CPU as many as its caches hold, on a GPU as many as keep it busy."""


@torch.no_grad()
def predict_logits(
    network: nn.Module,
    images: Iterable[Tensor],
    patch: tuple[int, ...],
    device: DeviceProfile,
    *,
    overlap: float = 0.5,
    batch_size: int | None = None,
) -> Iterator[Tensor]:
    """Yield the logits ``[k, *spatial]`` of each image ``[c, *spatial]``, in float32 and in the order of the images.

    They lie on the network's device where there is room for them, else on the image's. A stack of slices
    ``[c, n, *spatial]`` gives ``[k, n, *spatial]``, slice by slice. ``batch_size`` windows (None: BATCH_VOXELS of
    them), of several images if need be, go through the network together, which changes logits by no more than float
    rounding. The network's mode (train or eval) is left as it is.
    """
    size = batch_size or max(1, BATCH_VOXELS[device.device.type] // math.prod(patch))
    unfinished: deque[_LogitSum] = deque()

    def all_windows() -> Iterator[tuple[_LogitSum, Corner]]:
        for image in images:
            unfinished.append(total := _LogitSum(image, patch, overlap, device))
            yield from ((total, corner) for corner in total.corners)

    remaining = all_windows()
    while windows := list(itertools.islice(remaining, size)):
        batch = torch.stack([total.window(corner).reshape(-1, *patch) for total, corner in windows])
        with device.autocast():
            logits = network(in_memory_format(batch.to(device.device))).float()
        for (total, corner), window_logits in zip(windows, logits, strict=True):
            total.add(corner, window_logits)
        while unfinished and unfinished[0].n_missing == 0:
            yield unfinished.popleft().logits()


def run_hooks(
    hooks: Iterable[RemovableHandle],
    network: nn.Module,
    images: Iterable[Tensor],
    patch: tuple[int, ...],
    device: DeviceProfile,
) -> None:
    """Run the network with its ``hooks`` over the windows of ``images``, in evaluation mode, and remove the hooks."""
    network.eval()
    try:
        for _ in predict_logits(network, images, patch, device, overlap=0.0):
            pass
    finally:
        for hook in hooks:
            hook.remove()


class _LogitSum:
    """The weighted sum of the logits of the windows of one image."""

    def __init__(self, image: Tensor, patch: tuple[int, ...], overlap: float, device: DeviceProfile) -> None:
        self._size = tuple(image.shape[1:])
        self._window = with_stack_axis(patch, len(self._size))
        self._padded = pad_to(image, self._window)
        self._overlap = overlap
        self._device = device
        self._total = torch.zeros(())  # takes its shape from the first logits, which alone know the number of classes
        self.corners = [*window_corners(tuple(self._padded.shape[1:]), self._window, overlap)]
        self.n_missing = len(self.corners)

    def window(self, corner: Corner) -> Tensor:
        return crop(self._padded, corner, self._window)

    def add(self, corner: Corner, logits: Tensor) -> None:
        """Add the logits ``[k, *patch]`` of a window."""
        if self._total.ndim == 0:
            shape = (len(logits), *self._padded.shape[1:])
            n_bytes = math.prod(shape) * logits.element_size()
            stays = self._padded.device == logits.device or self._device.has_room_for(n_bytes)
            self._total = torch.zeros(shape, device=logits.device if stays else self._padded.device)
        logits = logits.to(self._total.device).view(-1, *self._window)
        crop(self._total, corner, self._window).addcmul_(logits, gaussian_weight(self._window, logits.device))
        self.n_missing -= 1

    def logits(self) -> Tensor:
        size = tuple(self._padded.shape[1:])
        self._total /= _weight_sum(size, self._window, self._overlap, self._total.device)
        margin = [(m - n) // 2 for m, n in zip(size, self._size, strict=True)]  # pad_to puts the odd voxel behind
        return crop(self._total, margin, self._size)


def window_corners(spatial: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> Iterator[Corner]:
    """Lowest corners of evenly spread windows that cover an image of size ``spatial``, along no axis smaller than the
    patch.

    Neighbours share at least ``overlap`` of a window's edge.
    """
    return itertools.product(*window_starts(spatial, patch, overlap))


def window_starts(spatial: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> list[list[int]]:
    """The first voxels of the windows of ``window_corners`` along each axis."""
    starts = []
    for n, p in zip(spatial, patch, strict=True):
        n_steps = math.ceil((n - p) / max(1, math.floor(p * (1 - overlap))))
        starts.append([round((n - p) * step / n_steps) for step in range(n_steps + 1)] if n_steps else [0])
    return starts


@lru_cache(maxsize=4)
def gaussian_weight(patch: tuple[int, ...], device: torch.device = CPU) -> Tensor:
    """The weight ``[*patch]`` of a window's voxels, 1 in the middle and above zero everywhere; cached on the device."""
    weight = torch.ones(())
    for size in patch:
        distance = (torch.arange(size) - (size - 1) / 2) / max(size * SIGMA_SHARE, 1e-6)
        weight = weight.unsqueeze(-1) * torch.exp(-0.5 * distance**2)
    # A corner's weight in 3D is about 1e-11: kept above the rounding of the sums, as in nnU-Net.
    return (weight / weight.max()).clamp_min(1e-3).to(device)


@lru_cache(maxsize=4)
def _weight_sum(spatial: tuple[int, ...], window: tuple[int, ...], overlap: float, device: torch.device) -> Tensor:
    """The sum ``[*spatial]`` of the weights of all windows that cover a voxel."""
    total = torch.zeros(spatial, device=device)
    for corner in window_corners(spatial, window, overlap):
        crop(total, corner, window).add_(gaussian_weight(window, device))
    return total
