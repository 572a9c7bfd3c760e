"""The cases of a task, opened once per process: on the device if they fit, else memory-mapped."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.metrics.comparison import COUNTED_TOGETHER
from unetx_evaluators.tasks.task import IGNORED, Image, Label, Task

MAX_VOXELS_PER_CLASS = 10_000
"""Largest number of foreground voxels kept per case and class for sampling, as in nnU-Net."""
EARLY_SHARE = 3
"""One validation case in so many is scored at early rungs."""
FEWEST_EARLY = 4
"""Smallest number of validation cases that are scored at early rungs, where there are so many."""


@dataclass
class Case:
    """One image with its labels. Its tensors are read-only: they may be views of a file."""

    name: str
    image: Tensor
    """Intensities ``[c, *spatial]`` in float32; ``[c, n, *spatial]`` for a stack of ``n`` slices."""
    label: Tensor
    """Class indices ``[*spatial]`` or ``[n, *spatial]`` in uint8."""
    n_classes: int
    original: Label | None = None
    """The label map before resampling, for cases that are scored; None where that is ``label``."""
    _foreground: list[np.ndarray[tuple[int, int], np.dtype[np.int32]]] | None = field(default=None, repr=False)

    @property
    def foreground(self) -> list[np.ndarray[tuple[int, int], np.dtype[np.int32]]]:
        """Coordinates ``[n, axes]`` of evenly drawn voxels of each foreground class that the case shows.

        They are computed at the first call. Raises DataError on a label value that no class has.
        """
        if self._foreground is None:
            label = self.label.cpu().numpy()
            highest = int(np.where(label == IGNORED, 0, label).max(initial=0))
            if highest >= self.n_classes:
                raise DataError(
                    f"case {self.name}: label value {highest} where the task has {self.n_classes} classes "
                    f"(0..{self.n_classes - 1}); prepare the task again"
                )
            by_class = (_some_voxels(label, c) for c in range(1, self.n_classes))
            self._foreground = [voxels for voxels in by_class if len(voxels)]
        return self._foreground

    def foreground_classes(self) -> frozenset[int]:
        """The foreground classes that the case shows."""
        label = self.label.cpu().numpy().reshape(-1)
        n_voxels = np.zeros(IGNORED + 1, dtype=np.int64)
        for first in range(0, label.size, COUNTED_TOGETHER):
            n_voxels += np.bincount(label[first : first + COUNTED_TOGETHER], minlength=IGNORED + 1)
        return frozenset(np.flatnonzero(n_voxels).tolist()) - {0, IGNORED}


class ResidentCases:
    """Cases in flat tensors on a device, so that a batch is cut from them in a few kernels."""

    def __init__(self, cases: Sequence[Case], device: torch.device) -> None:
        """Copy the cases to the device; their tensors become views of the flat ones."""
        self._channels = len(cases[0].image)
        self._shapes = np.array([case.label.shape for case in cases], np.int64)  # [n, axes]
        sizes = self._shapes.prod(axis=1)
        self._starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))  # of every case, in voxels
        self._images = torch.empty(int(sizes.sum()) * self._channels, device=device)
        self._labels = torch.empty(int(sizes.sum()), dtype=torch.uint8, device=device)
        for case, start, size in zip(cases, self._starts, sizes, strict=True):
            image = self._images[start * self._channels : (start + size) * self._channels].view(case.image.shape)
            label = self._labels[start : start + size].view(case.label.shape)
            case.image, case.label = image.copy_(case.image), label.copy_(case.label)

    def addresses(self, numbers: Sequence[int], corners: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
        """Addresses ``[b, 3 * axes + 2]`` of windows at ``corners`` of cases by number: first voxel, shape and stride
        along every axis, then start and number of voxels of the case."""
        shapes, starts = self._shapes[list(numbers)], self._starts[list(numbers)]
        firsts = np.array(corners)
        strides = np.cumprod(np.concatenate([np.ones_like(shapes[:, :1]), shapes[:, :0:-1]], axis=1), axis=1)[:, ::-1]
        table = np.stack([firsts, shapes, strides], axis=1)  # [b, 3, axes]
        return np.concatenate([table.reshape(len(table), -1), starts[:, None], shapes.prod(axis=1)[:, None]], axis=1)

    def gather(self, addresses: Tensor, window: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Images ``[b, c, *window]`` and labels ``[b, *window]`` at ``addresses``, which lie on the device.

        They are what ``padded_crop`` of the cases gives. Nothing is copied to the device or from it.
        """
        n, axes = len(addresses), len(window)
        voxel: Tensor = addresses.new_zeros(())
        inside: Tensor = addresses.new_ones((), dtype=torch.bool)
        for axis, length in enumerate(window):
            first, size, stride = (addresses[:, row * axes + axis, None] for row in range(3))
            index = first + torch.arange(length, device=addresses.device)  # [b, length]
            along = (n, *(length if other == axis else 1 for other in range(axes)))
            voxel = voxel + (index * stride).view(along)
            inside = inside & ((index >= 0) & (index < size)).view(along)
        start, size = (addresses[:, column].view(n, *[1] * axes) for column in (-2, -1))
        voxel = voxel.where(inside, 0)
        channels = torch.arange(self._channels, device=addresses.device).view(-1, *[1] * axes)
        of_image = (start * self._channels + voxel)[:, None] + channels * size[:, None]  # [b, c, *window]
        images = self._images[of_image].where(inside[:, None], 0)
        return images, self._labels[start + voxel].where(inside, 0)


@dataclass(frozen=True)
class Cases:
    """The cases that an evaluation reads: training and validation cases, no test cases."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    early: tuple[Case, ...]
    """The validation cases that are scored at rungs before the last."""
    resident: ResidentCases | None = None
    """The training cases in flat tensors on the device, where they fit and it is no CPU."""


@lru_cache(maxsize=1)  # a worker evaluates one task; another one takes its place
def open_cases(task: Task, device: DeviceProfile, n_validation: int) -> Cases:
    """Open the training cases and the first ``n_validation`` validation cases.

    They stay open for the next call with the same arguments. Raises DataError where an array is missing or damaged.
    """
    train = [_open(task, name) for name in task.splits.train]
    validation = [_open(task, name) for name in task.splits.validation[:n_validation]]
    if not train or not validation:
        raise DataError(
            f"task {task.name}: training and validation need a case each, got {len(train)} and {len(validation)}"
        )
    cases, early = [*train, *validation], early_cases(validation)
    if device.device.type == "cpu" or not device.has_room_for(
        sum(case.image.nbytes + case.label.nbytes for case in cases)
    ):
        return Cases(tuple(train), tuple(validation), early)
    for case in validation:
        case.image, case.label = case.image.to(device.device), case.label.to(device.device)
    return Cases(tuple(train), tuple(validation), early, ResidentCases(train, device.device))


def early_cases(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases that are scored at rungs before the last, in their order: about one in EARLY_SHARE, evenly spread, and
    for a class that none of these shows the first case that does; of few cases more of them, or all.

    They are the same for all evaluations of a study, so that pruning compares like with like.
    """
    every = min(EARLY_SHARE, max(1, len(cases) // FEWEST_EARLY))
    chosen = set(range(0, len(cases), every))
    if every > 1:
        by_case = [case.foreground_classes() for case in cases]
        shown = frozenset().union(*(by_case[number] for number in chosen))
        for number, classes in enumerate(by_case):
            if classes - shown:
                chosen.add(number)
                shown |= classes
    return tuple(cases[number] for number in sorted(chosen))


def _open(task: Task, name: str) -> Case:
    try:
        image, label, original = task.image(name), task.label(name), task.original_label(name)
    except (OSError, ValueError, EOFError) as error:  # ValueError: no array, or shorter than its header says
        raise DataError(
            f"case {name} of {task.folder} cannot be read ({type(error).__name__}: {error}); prepare the task again"
        ) from error
    expected, axes = (len(task.channels), *label.shape), task.dims + task.stacked
    if image.shape != expected or label.ndim != axes or image.dtype != np.float32 or label.dtype != np.uint8:
        raise DataError(
            f"case {name} of {task.folder}: an image of {len(task.channels)} channels in float32 and a label map of "
            f"{axes} axes and the same size in uint8 belong together, got {image.dtype}{list(image.shape)} and "
            f"{label.dtype}{list(label.shape)}; prepare the task again"
        )
    return Case(name, _tensor(image), _tensor(label), len(task.classes), original)


def _tensor(array: Image | Label) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing here writes to it
        return torch.from_numpy(array)


def _some_voxels(label: Label, class_index: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """Coordinates ``[n, axes]`` of at most ``MAX_VOXELS_PER_CLASS`` voxels of a class, in array order."""
    flat = np.flatnonzero(label == class_index)
    flat = flat[:: max(1, math.ceil(len(flat) / MAX_VOXELS_PER_CLASS))]
    return np.stack(np.unravel_index(flat, label.shape), axis=1).astype(np.int32)


def with_stack_axis(patch: tuple[int, ...], n_axes: int, thickness: int = 1) -> tuple[int, ...]:
    """The size of a patch as a window of a case with ``n_axes`` axes, in a stack ``thickness`` slices thick."""
    return (thickness,) * (n_axes - len(patch)) + patch


def crop(tensor: Tensor, corner: Iterable[int], size: Iterable[int]) -> Tensor:
    """A view of the last axes from ``corner`` on, of ``size`` voxels, or fewer where the tensor ends."""
    window = list(zip(corner, size, strict=True))
    for axis, (start, n) in enumerate(window, start=tensor.ndim - len(window)):
        tensor = tensor.narrow(axis, start, min(n, tensor.shape[axis] - start))
    return tensor


def padded_crop(tensor: Tensor, first: Iterable[int], size: Iterable[int]) -> Tensor:
    """``size`` voxels of the last axes from ``first`` on, which may be negative; zeros outside of the tensor."""
    padding: list[int] = []
    window = list(zip(first, size, strict=True))
    for axis, (start, n) in enumerate(window, start=tensor.ndim - len(window)):
        before = min(n, max(0, -start))
        length = max(0, min(start + n, tensor.shape[axis]) - max(0, start))
        tensor = tensor.narrow(axis, min(max(0, start), tensor.shape[axis]), length)
        padding = [before, n - before - length, *padding]
    return torch.nn.functional.pad(tensor, padding) if any(padding) else tensor


def pad_to(tensor: Tensor, size: Iterable[int]) -> Tensor:
    """The tensor, its last axes padded by zeros on both sides to at least ``size``; itself where they are long enough.

    Zero is the mean of a normalised image and the background of a label map.
    """
    size = tuple(size)
    missing = [max(0, wanted - n) for wanted, n in zip(size, tensor.shape[-len(size) :], strict=True)]
    if not any(missing):
        return tensor
    padding = [side for n in reversed(missing) for side in (n // 2, n - n // 2)]
    return torch.nn.functional.pad(tensor, padding)
