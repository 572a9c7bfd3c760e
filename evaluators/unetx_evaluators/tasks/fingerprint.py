"""The dataset's fingerprint: sizes, spacings, intensities and class sizes of the training cases.

It follows nnU-Net (Isensee et al., Nature Methods 18, 203-211, 2021; version 2): every case is cropped to its non-zero
region, and intensities are those of the foreground. ``survey`` collects the facts of one case while it is in memory;
``fingerprint`` summarises the training cases. Choices that follow from it are made in ``preprocessing``, ``planning``
and ``field_of_view``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import RawCase
from unetx_evaluators.tasks.task import IGNORED, Image, as_tuples
from unetx_evaluators.tasks.thickness import Thickness, class_thickness, over_cases

N_QUANTILES = 1000
"""Number of quantiles of the foreground's intensities that are kept per case and channel."""
MAX_VOXELS = 100_000
"""Largest number of foreground voxels of a case from which they are computed; of a larger foreground some are drawn."""

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Lower corner (inclusive) and upper corner (exclusive)."""


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """The facts of a case that are kept without its arrays."""

    name: str
    shape: tuple[int, ...]
    """Voxels per axis as stored."""
    spacing: tuple[float, ...]
    """Size of a voxel in mm per axis."""
    box: Box
    """Box of the voxels that are not zero in some channel, and of the foreground; the whole case if there are none."""
    class_voxels: tuple[int, ...]
    """Number of voxels by class, background first."""
    thickness: tuple[Thickness | None, ...]
    """Thickness by class; None for the background and for classes that the case does not show."""
    intensities: tuple[tuple[float, ...], ...]
    """``N_QUANTILES`` evenly spaced quantiles of the foreground per channel, in an order in which the first n are a
    fair sample; none without foreground."""
    ranges: tuple[tuple[float, float], ...]
    """Lowest and highest value of the whole case per channel."""

    @property
    def cropped_shape(self) -> tuple[int, ...]:
        """The size of the box in voxels."""
        lower, upper = self.box
        return tuple(high - low for low, high in zip(lower, upper, strict=True))

    @property
    def crop(self) -> tuple[slice, ...]:
        """The index of the box in an array ``[*spatial]``."""
        return tuple(slice(low, high) for low, high in zip(*self.box, strict=True))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        values = {name: as_tuples(value) for name, value in data.items()}
        return cls(**values | {"thickness": _thickness(data["thickness"])})


@dataclass(frozen=True, slots=True)
class Intensities:
    """Statistics of the training cases' foreground in one channel, in which every case has the same weight."""

    mean: float
    std: float
    median: float
    low: float
    """Percentile 0.5."""
    high: float
    """Percentile 99.5."""

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Self:
        """The statistics of ``values``."""
        low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
        return cls(float(values.mean()), float(values.std()), float(median), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of a dataset, from its training cases."""

    shapes: tuple[tuple[int, ...], ...]
    """Shape in voxels of every training case after cropping."""
    spacings: tuple[tuple[float, ...], ...]
    """Spacing in mm per voxel and axis of every training case."""
    kept_share: float
    """Median share of a case's voxels that cropping leaves."""
    intensities: tuple[Intensities, ...]
    """Statistics of the foreground by channel."""
    class_voxels: tuple[int, ...]
    """Number of voxels in all training cases by class."""
    class_cases: tuple[int, ...]
    """Number of training cases that show each class."""
    thickness: tuple[Thickness | None, ...]
    """Thickness by class over the training cases that show it; None for the background and where there are none."""

    @property
    def n_cases(self) -> int:
        """The number of training cases."""
        return len(self.shapes)

    @property
    def median_shape(self) -> tuple[float, ...]:
        """Median of the voxels per axis after cropping, at the cases' own spacings."""
        return tuple(float(n) for n in np.median(np.asarray(self.shapes), axis=0))

    @property
    def median_spacing(self) -> tuple[float, ...]:
        """Median of the mm per voxel and axis."""
        return tuple(float(mm) for mm in np.median(np.asarray(self.spacings), axis=0))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        values = {name: as_tuples(value) for name, value in data.items()}
        intensities = tuple(Intensities(**channel) for channel in data["intensities"])
        return cls(**values | {"intensities": intensities, "thickness": _thickness(data["thickness"])})


def survey(case: RawCase, name: str, n_classes: int, *, in_slices: bool = False) -> CaseFacts:
    """The facts of one case, which depend on the case alone. Raises DataError on a label that no class has.

    With ``in_slices`` the thickness is that of structures in the slices of a volume, across its coarsest axis.
    """
    label = case.label
    # Plane by plane, because bincount works on a copy of eight bytes a voxel.
    counts = np.sum([np.bincount(plane.ravel(), minlength=IGNORED + 1) for plane in label], axis=0)
    strange = [int(value) for value in np.flatnonzero(counts[:IGNORED]) if value >= n_classes]
    if strange:
        raise DataError(
            f"case {name}: label values are 0 to {n_classes - 1}, or {IGNORED} for ignored voxels; got {strange[:5]}; "
            "mend the label map or name the missing classes"
        )
    foreground = np.flatnonzero((label > 0) & (label != IGNORED))
    occupied = label > 0
    for channel in case.image:
        occupied |= channel != 0
    return CaseFacts(
        name=name,
        shape=label.shape,
        spacing=tuple(float(mm) for mm in case.spacing),
        box=_box(occupied),
        class_voxels=tuple(int(n) for n in counts[:n_classes]),
        thickness=class_thickness(label, case.spacing, n_classes, coarsest_axis(case.spacing) if in_slices else None),
        intensities=_quantiles(case.image, foreground),
        ranges=tuple((float(channel.min()), float(channel.max())) for channel in case.image),
    )


def survey_image(image: Image, spacing: Sequence[float], name: str) -> CaseFacts:
    """The facts of an image without a label map, which are enough to prepare it."""
    occupied = image[0] != 0
    for channel in image[1:]:
        occupied |= channel != 0
    return CaseFacts(name, image.shape[1:], tuple(float(mm) for mm in spacing), _box(occupied), (), (), (), ())


def fingerprint(training: Sequence[CaseFacts]) -> Fingerprint:
    """The fingerprint of the training cases. Raises DataError where none of them shows any foreground."""
    samples = [[channel for channel in facts.intensities if channel] for facts in training]
    with_foreground = [channels for channels in samples if channels]
    if not with_foreground:
        raise DataError(
            f"a fingerprint needs foreground; none of the {len(training)} training cases has a labelled voxel; check "
            "the labels, or choose another split"
        )
    class_voxels = np.array([facts.class_voxels for facts in training])
    kept = [math.prod(facts.cropped_shape) / math.prod(facts.shape) for facts in training]
    return Fingerprint(
        shapes=tuple(facts.cropped_shape for facts in training),
        spacings=tuple(facts.spacing for facts in training),
        kept_share=float(np.median(kept)),
        intensities=tuple(Intensities.of(np.concatenate(pool)) for pool in zip(*with_foreground, strict=True)),
        class_voxels=tuple(int(n) for n in class_voxels.sum(axis=0)),
        class_cases=tuple(int(n) for n in (class_voxels > 0).sum(axis=0)),
        thickness=tuple(
            over_cases([case for case in of_class if case is not None])
            for of_class in zip(*(facts.thickness for facts in training), strict=True)
        ),
    )


def coarsest_axis(spacing: Sequence[float]) -> int:
    """The axis with the longest voxels; the last of equals, which is mostly that of a scanner's slices."""
    longest = max(spacing)
    return max(axis for axis, mm in enumerate(spacing) if math.isclose(mm, longest, rel_tol=1e-3))


def _thickness(data: Sequence[dict[str, float] | None]) -> tuple[Thickness | None, ...]:
    return tuple(None if of_class is None else Thickness(**of_class) for of_class in data)


def _box(mask: npt.NDArray[np.bool_]) -> Box:
    """The box of the true voxels; the whole mask if there are none."""
    lower, upper = [], []
    for axis, n in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        lower.append(int(occupied[0]) if occupied.size else 0)
        upper.append(int(occupied[-1]) + 1 if occupied.size else n)
    return tuple(lower), tuple(upper)


def _quantiles(image: npt.NDArray[np.float32], voxels: npt.NDArray[np.intp]) -> tuple[tuple[float, ...], ...]:
    """Quantiles of the values at the voxels, per channel."""
    if not voxels.size:
        return ((),) * len(image)
    if voxels.size > MAX_VOXELS:
        voxels = voxels[np.random.default_rng(0).integers(voxels.size, size=MAX_VOXELS)]
    # Steps of about the golden ratio of all, so that any beginning spreads evenly.
    levels = (np.arange(N_QUANTILES) * 617 % N_QUANTILES + 0.5) / N_QUANTILES
    values = (np.quantile(channel.ravel()[voxels], levels, method="inverted_cdf") for channel in image)
    return tuple(tuple(of_channel.tolist()) for of_channel in values)
