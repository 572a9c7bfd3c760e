"""The slices of a case that reports show, and predictions reduced to them; no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from unetx_evaluators.tasks.fingerprint import coarsest_axis
from unetx_evaluators.tasks.task import IGNORED, Label, Task

MAX_SIDE = 384
"""Largest edge in pixels; larger pictures are reduced, or a sheet of microscope slides could not be opened."""
MOST_SLICES = 12
"""Largest number of slices that are shown of a volume."""
MOST_CASES = 200
"""Largest number of cases whose predictions an evaluation returns."""
MARGIN = 1 / 8
"""Slices shown on either side of those with foreground, as a share of these, for predictions beside it."""

Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True)
class View:
    """The slices of a case that are shown."""

    axis: int | None
    """Axis of the label map along which it is sliced; None for a picture."""
    slices: tuple[int, ...]
    """Indices of the slices along that axis, ascending; ``(0,)`` for a picture."""

    def of(self, array: npt.NDArray[Kind]) -> npt.NDArray[Kind]:
        """The slices ``[n, h, w]`` of an array ``[*spatial]``, as radiologists hang volumes: the patient's right on the
        left, front or head at the top (arrays are RAS+, see ``tasks.sources.orientation``)."""
        if self.axis is None:
            return array[None]
        taken = np.moveaxis(np.take(array, self.slices, self.axis), self.axis, 0)
        return np.swapaxes(taken, 1, 2)[:, ::-1, ::-1]


def slice_axis(task: Task) -> int | None:
    """The axis along which a task's cases are sliced to be shown; None for pictures."""
    if task.stacked:
        return 0
    return coarsest_axis(task.spacing) if task.dims == 3 else None


def view_of(truth: Label, axis: int | None) -> View:
    """A view of at most MOST_SLICES slices, spread over those with foreground and a margin, or over all without any."""
    if axis is None:
        return View(None, (0,))
    rest = tuple(other for other in range(truth.ndim) if other != axis)
    shown = np.flatnonzero(((truth > 0) & (truth != IGNORED)).any(axis=rest))
    first, last = (int(shown[0]), int(shown[-1])) if len(shown) else (0, truth.shape[axis] - 1)
    margin = round(MARGIN * (last - first)) + 1
    first, last = max(0, first - margin), min(truth.shape[axis] - 1, last + margin)
    places = np.linspace(first, last, min(MOST_SLICES, last - first + 1)).round()
    return View(axis, tuple(int(place) for place in np.unique(places)))


def reduced_size(size: Sequence[int]) -> tuple[int, int]:
    """The height and width of a picture once it has at most MAX_SIDE pixels a side."""
    height, width = (max(1, round(n * min(1.0, MAX_SIDE / max(size)))) for n in size)
    return height, width


def reduced(labels: Label) -> Label:
    """Label maps ``[..., h, w]`` subsampled to at most MAX_SIDE pixels a side."""
    chosen = (
        ((np.arange(n) + 0.5) * old / n).astype(int)
        for n, old in zip(reduced_size(labels.shape[-2:]), labels.shape[-2:], strict=True)
    )
    rows, columns = np.ix_(*chosen)
    return labels[..., rows, columns]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted label map of a case on the slices that are shown."""

    case: str
    view: View
    png: bytes
    """A PNG of the reduced slices below one another, whose grey levels are class indices."""

    @classmethod
    def of(cls, case: str, view: View, labels: Label) -> Prediction:
        """Reduce the predicted label map ``labels[*spatial]`` of a whole case to the slices of ``view``."""
        from PIL import Image as pillow  # noqa: N813 - a module named like its class

        slices = reduced(view.of(labels))
        stream = io.BytesIO()
        pillow.fromarray(np.ascontiguousarray(slices.reshape(-1, slices.shape[-1]))).save(stream, "PNG")
        return cls(case, view, stream.getvalue())

    def labels(self) -> Label:
        """The reduced label maps ``[n, h, w]``. Raises OSError or ValueError where the PNG is damaged."""
        from PIL import Image as pillow  # noqa: N813

        with pillow.open(io.BytesIO(self.png)) as picture:
            rows = np.asarray(picture, dtype=np.uint8)
        return rows.reshape(len(self.view.slices), -1, rows.shape[-1])
