"""What the training cases have in common: sizes, spacings, intensities, class sizes.

After nnU-Net's dataset fingerprint (Isensee et al., Nature Methods 18, 203-211, 2021; version 2): every case is cropped
to its non-zero region, and intensities are those of the foreground. ``survey`` looks at one case while it is in memory;
``fingerprint`` puts the training cases together. What follows is chosen in ``preprocessing``, ``planning`` and
``field_of_view``.
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
"""Of the foreground's intensities remembered per case and channel."""
MAX_VOXELS = 100_000
"""Foreground voxels of a case that they are taken from; of a larger foreground so many are drawn."""

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Lower corner (inside) and upper corner (outside)."""


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What is remembered of a case once its arrays are out of memory."""

    name: str
    shape: tuple[int, ...]
    """Voxels per axis as stored."""
    spacing: tuple[float, ...]
    """mm per voxel and axis."""
    box: Box
    """Of the voxels that are not zero in every channel, and of the foreground; the whole case when there are none."""
    class_voxels: tuple[int, ...]
    """By class, background first."""
    thickness: tuple[Thickness | None, ...]
    """By class; None for the background and for classes that the case does not show."""
    intensities: tuple[tuple[float, ...], ...]
    """Per channel ``N_QUANTILES`` evenly spaced quantiles of the foreground, in an order of which any beginning is a
    fair sample; none without foreground."""
    ranges: tuple[tuple[float, float], ...]
    """Per channel the lowest and the highest value of the whole case."""

    @property
    def cropped_shape(self) -> tuple[int, ...]:
        """Size of the box."""
        lower, upper = self.box
        return tuple(high - low for low, high in zip(lower, upper, strict=True))

    @property
    def crop(self) -> tuple[slice, ...]:
        """What cuts the box out of an array ``[*spatial]``."""
        return tuple(slice(low, high) for low, high in zip(*self.box, strict=True))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        values = {name: as_tuples(value) for name, value in data.items()}
        return cls(**values | {"thickness": _thickness(data["thickness"])})


@dataclass(frozen=True, slots=True)
class Intensities:
    """Of the training cases' foreground in one channel; every case counts alike."""

    mean: float
    std: float
    median: float
    low: float
    """Percentile 0.5."""
    high: float
    """Percentile 99.5."""

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Self:
        low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
        return cls(float(values.mean()), float(values.std()), float(median), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What the training cases have in common."""

    shapes: tuple[tuple[int, ...], ...]
    """Of every training case after cropping, in voxels."""
    spacings: tuple[tuple[float, ...], ...]
    """Of every training case, mm per voxel and axis."""
    kept_share: float
    """Median share of a case's voxels that cropping leaves."""
    intensities: tuple[Intensities, ...]
    """By channel."""
    class_voxels: tuple[int, ...]
    """By class: voxels in all training cases together."""
    class_cases: tuple[int, ...]
    """By class: training cases that show it."""
    thickness: tuple[Thickness | None, ...]
    """By class, over the training cases that show it; None for the background and where there are none."""

    @property
    def n_cases(self) -> int:
        return len(self.shapes)

    @property
    def median_shape(self) -> tuple[float, ...]:
        """Voxels per axis after cropping, at the cases' own spacings."""
        return tuple(float(n) for n in np.median(np.asarray(self.shapes), axis=0))

    @property
    def median_spacing(self) -> tuple[float, ...]:
        """mm per voxel and axis."""
        return tuple(float(mm) for mm in np.median(np.asarray(self.spacings), axis=0))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        values = {name: as_tuples(value) for name, value in data.items()}
        intensities = tuple(Intensities(**channel) for channel in data["intensities"])
        return cls(**values | {"intensities": intensities, "thickness": _thickness(data["thickness"])})


def survey(case: RawCase, name: str, n_classes: int, *, in_slices: bool = False) -> CaseFacts:
    """The facts of one case; the same case gives the same facts. Raises DataError on a label that no class has.

    ``in_slices`` asks for the thickness that structures have in the slices of a volume, across its coarsest axis.
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


def seen_unlabelled(image: Image, spacing: Sequence[float], name: str) -> CaseFacts:
    """What is known of a case without a label map, which is enough to prepare its image."""
    occupied = image[0] != 0
    for channel in image[1:]:
        occupied |= channel != 0
    return CaseFacts(name, image.shape[1:], tuple(float(mm) for mm in spacing), _box(occupied), (), (), (), ())


def fingerprint(training: Sequence[CaseFacts]) -> Fingerprint:
    """Of the training cases. Raises DataError when none of them shows any foreground."""
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
    """The axis with the longest voxels; the last of several, which is where scanners put their slices."""
    longest = max(spacing)
    return max(axis for axis, mm in enumerate(spacing) if math.isclose(mm, longest, rel_tol=1e-3))


def _thickness(data: Sequence[dict[str, float] | None]) -> tuple[Thickness | None, ...]:
    return tuple(None if of_class is None else Thickness(**of_class) for of_class in data)


def _box(mask: npt.NDArray[np.bool_]) -> Box:
    """Of the true voxels; of all when there are none."""
    lower, upper = [], []
    for axis, n in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        lower.append(int(occupied[0]) if occupied.size else 0)
        upper.append(int(occupied[-1]) + 1 if occupied.size else n)
    return tuple(lower), tuple(upper)


def _quantiles(image: npt.NDArray[np.float32], voxels: npt.NDArray[np.intp]) -> tuple[tuple[float, ...], ...]:
    """Per channel those of the values at the voxels."""
    if not voxels.size:
        return ((),) * len(image)
    if voxels.size > MAX_VOXELS:
        voxels = voxels[np.random.default_rng(0).integers(voxels.size, size=MAX_VOXELS)]
    # Steps of about the golden ratio of all, so that any beginning spreads evenly.
    levels = (np.arange(N_QUANTILES) * 617 % N_QUANTILES + 0.5) / N_QUANTILES
    values = (np.quantile(channel.ravel()[voxels], levels, method="inverted_cdf") for channel in image)
    return tuple(tuple(of_channel.tolist()) for of_channel in values)
