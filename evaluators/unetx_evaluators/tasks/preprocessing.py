"""Preprocessing of cases into the arrays that training reads, and its inverse for label maps.

It follows nnU-Net (Isensee et al., Nature Methods 18, 203-211, 2021; version 2), in its order: crop to the non-zero
region, normalise, resample to the target spacing. Spacing and normalisation follow from the training cases and are kept
in a ``Preparation``, so that later cases are treated alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import CaseFacts, Fingerprint, Intensities, coarsest_axis
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.resampling import (
    ANISOTROPY,
    coarse_axis,
    resampled_image,
    resampled_label,
    resampled_shape,
)
from unetx_evaluators.tasks.sources.base import RawCase
from unetx_evaluators.tasks.task import Image, Label, as_tuples

COARSE_PERCENTILE = 10.0
"""Percentile of the spacings along a coarse axis that is the target: the median would lose slices that cases have."""

MASKED_BELOW = 0.75
"""Median share of voxels left by cropping below which statistics are those of the non-zero region alone."""

NOT_RESAMPLED = ", so that nothing is resampled"
"""Part of the reason for the median spacing where all cases have it."""

MIN_SPACING, MAX_SPACING = 1e-6, 1e6
"""Range of spacings in mm that are no mistake."""

Scheme = Literal["ct", "case", "range", "rgb", "none"]

_SCHEME_OF_NAME: Mapping[str, Scheme] = {
    "ct": "ct",
    "zscore": "case",
    "rescale_to_0_1": "range",
    "rgb_to_0_1": "rgb",
    "nonorm": "none",
}
"""Scheme by the channel's name in lower case, as in nnU-Net; ``case`` for any other name."""


@dataclass(frozen=True, slots=True)
class ChannelNormalisation:
    """The normalisation of the intensities of a channel."""

    scheme: Scheme
    """``ct``: clipped to [low, high], then (x - mean) / std, all from the training cases' foreground. ``case``: z-score
    of every case by itself. ``range``: every case to [0, 1]. ``rgb``: divided by 255. ``none``: unchanged."""
    mean: float = 0.0
    std: float = 1.0
    low: float | None = None
    high: float | None = None
    masked: bool = False
    """Whether ``case`` uses mean and standard deviation of the non-zero region, outside of which zeros stay."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """All parameters by which cases are turned into arrays."""

    dims: Literal[2, 3]
    """Dimensions of the network."""
    spacing: tuple[float, ...]
    """Target spacing in mm per voxel and axis of the source; along ``slice_axis`` the median, which is not a target."""
    slice_axis: int | None
    """The axis that counts the slices of volumes that are used slice by slice; it comes first in the arrays."""
    channels: tuple[ChannelNormalisation, ...]
    alternatives: tuple[tuple[float, ...], ...] = ()
    """Target spacings between which only training can decide; none where the rules do."""
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)
    """A sentence for every choice, by its name."""

    @property
    def network_spacing(self) -> tuple[float, ...]:
        """The mm per voxel and axis of the network's input."""
        return tuple(mm for axis, mm in enumerate(self.spacing) if axis != self.slice_axis)

    @property
    def is_masked(self) -> bool:
        """Whether any channel is normalised within its non-zero region."""
        return any(channel.masked for channel in self.channels)

    @property
    def slice_spacing(self) -> float | None:
        """The mm between slices; None where the network sees whole images."""
        return None if self.slice_axis is None else self.spacing[self.slice_axis]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The preparation of which ``data`` is the ``dataclasses.asdict``, read from JSON."""
        channels = tuple(ChannelNormalisation(**channel) for channel in data["channels"])
        spacings = {name: as_tuples(data[name]) for name in ("spacing", "alternatives")}
        return cls(**data | spacings | {"channels": channels})


def choose_preparation(
    fingerprint: Fingerprint, dims: Literal[2, 3], channels: Sequence[str], options: TaskOptions
) -> Preparation:
    """The preparation for a source with ``dims`` dimensions and channels of these names.

    Raises DataError where options do not fit the source.
    """
    if options.dims == 3 and dims == 2:
        raise DataError("dims: 3 needs volumes, the data are 2D images; leave the option away, or set it to 2")
    network_dims = options.dims or dims
    slice_axis = coarsest_axis(fingerprint.median_spacing) if network_dims < dims else None
    spacing, why_spacing = _choose_spacing(fingerprint, slice_axis, options)
    chosen = [
        _choose_normalisation(*pair, fingerprint, options)
        for pair in zip(channels, fingerprint.intensities, strict=True)
    ]
    reasons = {
        "dims": _why_dims(network_dims, slice_axis, fingerprint, options),
        "spacing": why_spacing,
        "normalisation": "; ".join(f"{name}: {why}" for name, (_, why) in zip(channels, chosen, strict=True)),
    }
    return Preparation(network_dims, spacing, slice_axis, tuple(channel for channel, _ in chosen), reasons=reasons)


def prepared_shape(facts: CaseFacts, preparation: Preparation) -> tuple[int, ...]:
    """Shape of a case's prepared label map, and of every channel of its image: ``[*spatial]`` or ``[n, h, w]``."""
    shape = _resampled_shape(facts, preparation)
    return tuple(shape[axis] for axis in _slices_first(len(shape), preparation))


def prepare_case(case: RawCase, facts: CaseFacts, preparation: Preparation) -> tuple[Image, Label]:
    """The prepared image ``[c, *spatial]`` in float32 and label map ``[*spatial]`` in uint8 of a case; those of volumes
    used slice by slice are ``[c, n, h, w]`` and ``[n, h, w]``."""
    image = prepared_image(case.image, facts, preparation, also_inside=case.label[facts.crop] != 0)
    return image, prepared_label(case.label, facts, preparation)


def prepared_label(label: Label, facts: CaseFacts, preparation: Preparation) -> Label:
    """The prepared label map of a case."""
    shape, separate = resampling_of(facts, preparation)
    resampled = resampled_label(label[facts.crop], shape, separate)
    return np.ascontiguousarray(np.moveaxis(resampled, preparation.slice_axis or 0, 0))


def prepared_image(
    image: Image, facts: CaseFacts, preparation: Preparation, *, also_inside: npt.NDArray[np.bool_] | None = None
) -> Image:
    """The prepared image of a case; ``also_inside`` are voxels of the box that count as non-zero, as labelled ones do
    in training."""
    image = image[:, *facts.crop]
    shape, separate = resampling_of(facts, preparation)
    inside = None
    if preparation.is_masked:  # any channel is not zero, or a hole in that
        inside = ndimage.binary_fill_holes((image != 0).any(axis=0))
        inside = inside if also_inside is None else inside | also_inside
    resampled = [
        resampled_image(normalised(channel, how, inside), shape, separate)
        for channel, how in zip(image, preparation.channels, strict=True)
    ]
    return np.ascontiguousarray(np.moveaxis(np.stack(resampled), (preparation.slice_axis or 0) + 1, 1))


def resampling_of(facts: CaseFacts, preparation: Preparation) -> tuple[tuple[int, ...], int | None]:
    """The shape that a case is resampled to, in the order of the source's axes, and the axis that is resampled
    separately, if any."""
    separate = _separate_axis(facts.spacing, _target(facts, preparation), preparation)
    return _resampled_shape(facts, preparation), separate


def changes_grid(facts: CaseFacts, preparation: Preparation) -> bool:
    """Whether preparation resamples a case."""
    return _resampled_shape(facts, preparation) != facts.cropped_shape


def original_shape(facts: CaseFacts, preparation: Preparation) -> tuple[int, ...]:
    """The shape of ``original_label``."""
    return tuple(facts.cropped_shape[axis] for axis in _slices_first(len(facts.shape), preparation))


def original_spacing(facts: CaseFacts, preparation: Preparation) -> tuple[float, ...]:
    """The mm per voxel and axis of ``original_label``."""
    return tuple(facts.spacing[axis] for axis in _slices_first(len(facts.shape), preparation))


def original_label(case: RawCase, facts: CaseFacts, preparation: Preparation) -> Label:
    """The label map on its own grid, cropped as ``prepare_case`` crops it, with axes in the order of the prepared
    one."""
    return np.ascontiguousarray(np.moveaxis(case.label[facts.crop], preparation.slice_axis or 0, 0))


def restored_label(label: Label, facts: CaseFacts, preparation: Preparation) -> Label:
    """A prepared or predicted label map, resampled to its source's grid, and background where the case was cropped."""
    on_axes = np.moveaxis(label, 0, preparation.slice_axis or 0)
    separate = _separate_axis(_target(facts, preparation), facts.spacing, preparation)
    whole = np.zeros(facts.shape, dtype=np.uint8)
    whole[facts.crop] = resampled_label(on_axes, facts.cropped_shape, separate)
    return whole


def normalised(channel: Image, how: ChannelNormalisation, inside: npt.NDArray[np.bool_] | None = None) -> Image:
    """The normalised channel, a new array ``[*spatial]``; ``inside`` is the non-zero region, used if ``how.masked``."""
    values = channel.astype(np.float64)
    if how.scheme == "ct":
        np.clip(values, how.low, how.high, out=values)
    region = values[inside] if how.masked and inside is not None else values
    return shifted(values, how, *shift_and_scale(region, how), inside)


def shifted(
    values: npt.NDArray[np.float64],
    how: ChannelNormalisation,
    shift: float,
    scale: float,
    inside: npt.NDArray[np.bool_] | None,
) -> Image:
    """The values, less ``shift`` and divided by ``scale``: the last step of ``normalised``, which changes
    ``values``."""
    values -= shift
    values /= scale
    if how.masked and inside is not None:
        values[~inside] = 0.0
    return values.astype(np.float32)


def shift_and_scale(region: npt.NDArray[np.float64], how: ChannelNormalisation) -> tuple[float, float]:
    """The shift and the scale of a channel's normalisation; the scale is 1 where all values are equal."""
    low, high = (float(region.min()), float(region.max())) if region.size else (0.0, 0.0)
    match how.scheme:
        case "ct":
            return how.mean, how.std or 1.0
        case "case":
            return (float(region.mean()), float(region.std())) if low < high else (low, 1.0)
        case "range":
            return low, high - low or 1.0
        case "rgb":
            return 0.0, 255.0
        case "none":
            return 0.0, 1.0


def _target(facts: CaseFacts, preparation: Preparation) -> tuple[float, ...]:
    """The spacing that a case is resampled to, which between slices is its own."""
    return tuple(
        own if axis == preparation.slice_axis else target
        for axis, (own, target) in enumerate(zip(facts.spacing, preparation.spacing, strict=True))
    )


def _resampled_shape(facts: CaseFacts, preparation: Preparation) -> tuple[int, ...]:
    return resampled_shape(facts.cropped_shape, facts.spacing, _target(facts, preparation))


def _separate_axis(spacing: tuple[float, ...], target: tuple[float, ...], preparation: Preparation) -> int | None:
    """The axis that is resampled separately: that of slices, else the coarse axis by spacing, if any."""
    return coarse_axis(spacing, target) if preparation.slice_axis is None else preparation.slice_axis


def _slices_first(n_axes: int, preparation: Preparation) -> list[int]:
    """The source's axes in the order of the arrays."""
    first = preparation.slice_axis or 0
    return [first, *(axis for axis in range(n_axes) if axis != first)]


def _choose_spacing(
    fingerprint: Fingerprint, slice_axis: int | None, options: TaskOptions
) -> tuple[tuple[float, ...], str]:
    """The target spacing along every axis of the source, and its reason."""
    median = fingerprint.median_spacing
    if options.spacing is not None:
        spacing = _checked_spacing(options.spacing, len(median))
        if slice_axis is not None:
            spacing = tuple(median[a] if a == slice_axis else mm for a, mm in enumerate(spacing))
        return spacing, f"{in_mm(spacing)}: set by the user{_across(slice_axis, median)}"
    axis = coarsest_axis(median)
    if slice_axis is not None or not _is_coarse(axis, median, fingerprint.median_shape):
        are_alike = all(np.allclose(own, median, rtol=1e-3) for own in fingerprint.spacings)
        alike = f", which all have{NOT_RESAMPLED}" if are_alike else ""
        why = f"median of {fingerprint.n_cases} training cases{alike}{_across(slice_axis, median)}"
        return median, f"{in_mm(median)}: {why}"
    along = [spacing[axis] for spacing in fingerprint.spacings]
    others = max(mm for a, mm in enumerate(median) if a != axis)
    finer = max(float(np.percentile(along, COARSE_PERCENTILE)), others)
    spacing = tuple(finer if a == axis else mm for a, mm in enumerate(median))
    return spacing, (
        f"{in_mm(spacing)}: median of {fingerprint.n_cases} training cases, but their 10th percentile along axis {axis}"
        f", whose median, {median[axis]:.4g} mm, is more than {ANISOTROPY:g} times the {others:.4g} mm of the others"
    )


def _is_coarse(axis: int, spacing: Sequence[float], shape: Sequence[float]) -> bool:
    """Whether voxels are longer along the axis, and fewer, than along any other, both by a factor above three."""
    others = [other for other in range(len(spacing)) if other != axis]
    return spacing[axis] > ANISOTROPY * max(spacing[other] for other in others) and ANISOTROPY * shape[axis] < min(
        shape[other] for other in others
    )


def _checked_spacing(spacing: tuple[float, ...], n_axes: int) -> tuple[float, ...]:
    if len(spacing) != n_axes or not all(MIN_SPACING <= mm <= MAX_SPACING for mm in spacing):
        raise DataError(
            f"spacing: needs {n_axes} lengths above 0 in mm, one per axis of the data; got "
            f"{', '.join(map(str, spacing))}; for example {', '.join(['1.0'] * n_axes)}"
        )
    return tuple(float(mm) for mm in spacing)


def _across(slice_axis: int | None, median: Sequence[float]) -> str:
    return "" if slice_axis is None else f"; slices, {median[slice_axis]:.4g} mm apart, stay as they are"


def in_mm(spacing: Sequence[float]) -> str:
    """A spacing as a text like ``1x1x2.5 mm``."""
    return "x".join(f"{mm:.4g}" for mm in spacing) + " mm"


def _choose_normalisation(
    name: str, intensities: Intensities, fingerprint: Fingerprint, options: TaskOptions
) -> tuple[ChannelNormalisation, str]:
    """The normalisation of a channel, and its reason."""
    if options.normalisation == "auto":
        scheme, chosen = _SCHEME_OF_NAME.get(name.strip().casefold(), "case"), "chosen by the channel's name"
    else:
        scheme, chosen = options.normalisation, "set by the user"
    match scheme:
        case "ct":
            how = ChannelNormalisation("ct", intensities.mean, intensities.std, intensities.low, intensities.high)
            what = (
                f"clipped to {how.low:.6g}..{how.high:.6g}, less {how.mean:.6g}, over {how.std:.6g}: percentiles 0.5 "
                f"and 99.5, mean and standard deviation of the foreground of {fingerprint.n_cases} training cases"
            )
        case "case":
            how = ChannelNormalisation("case", masked=fingerprint.kept_share < MASKED_BELOW)
            where = "of its non-zero region" if how.masked else "of the whole"
            what = f"z-score {where}, case by case; cropping to what is not zero keeps {fingerprint.kept_share:.0%}"
        case "range":
            how, what = ChannelNormalisation("range"), "every case brought to 0..1"
        case "rgb":
            how, what = ChannelNormalisation("rgb"), "divided by 255"
        case "none":
            how, what = ChannelNormalisation("none"), "intensities stay as they are"
    return how, f"{what} ({chosen})"


def _why_dims(dims: int, slice_axis: int | None, fingerprint: Fingerprint, options: TaskOptions) -> str:
    if slice_axis is not None:
        return (
            f"2: set by the user; slices across axis {slice_axis}, which has the longest voxels "
            f"({in_mm(fingerprint.median_spacing)}, the last axis where several have them)"
        )
    return f"{dims}: {'as the data' if options.dims is None else 'set by the user'}"
