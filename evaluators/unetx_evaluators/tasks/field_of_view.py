"""How coarse voxels become so that a network sees enough of an image at once.

A patch that time and memory keep small shows a large object in parts only, and a network that never sees one whole
learns it badly; with coarser voxels the same patch shows more. nnU-Net has its low-resolution configuration for that,
beside the full one (Isensee et al., Nature Methods 18, 203-211, 2021; version 2). A search has one, so this decides:

- the patch shows at least ``FIELD_OF_VIEW`` of the median image's voxels, or else voxels become coarser;
- the finest axes become coarser first, until they meet the next finest, and then together (in nnU-Net the finer ones
  first until they are within a factor of two of the coarsest, then all);
- no further than the classes' thickness allows: thin structures keep their voxels.

Where that allows too few, training has to decide between both spacings: they are the preparation's ``alternatives``.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import Fingerprint
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.planning import MIN_SIZE, median_prepared_shape, plan
from unetx_evaluators.tasks.preprocessing import AS_IT_IS, Preparation, in_mm

FIELD_OF_VIEW = 0.25
"""Share of the median image's voxels below which a patch shows too little; nnU-Net's."""
FINEST_VOXELS = 2.0
"""Across the finest structures: with fewer they break into pieces."""
TYPICAL_VOXELS = 5.0
"""Across the typical structures of every class. A label map resampled to where structures are n voxels thick, and back,
keeps a Dice of about 1 - 1/(4n), of slabs, discs and balls at random places alike (a test measures it): 0.95 with five.
Nothing better comes of a network whose labels are brought back; probabilities, interpolated, lose less."""
STEP = 1.03
"""By which voxels are coarsened at a time; nnU-Net's."""
WORTH_TRYING = 1.25
"""Times coarser that voxels must become to be taken where the share stays below ``FIELD_OF_VIEW`` all the same."""


def with_field_of_view(
    fingerprint: Fingerprint, preparation: Preparation, n_channels: int, classes: Sequence[str], options: TaskOptions
) -> Preparation:
    """The preparation, its voxels coarsened where the patch would show too little.

    As it is where the user has set spacing or patch, and where no network fits, which ``plan`` refuses with its reason.
    """
    if options.spacing is not None or options.patch is not None:
        return preparation
    view = _View(fingerprint, preparation, n_channels, len(classes), options)
    before = view.share(view.finest)
    if before is None or before >= FIELD_OF_VIEW:
        return preparation
    limit, harm = coarsest_voxel(fingerprint, classes)
    tried = view.voxels_up_to(limit)
    needed = bisect_left(tried, True, key=view.is_enough)
    if needed < len(tried):
        now = view.share(tried[needed])
        if now is not None:
            return _coarsened(preparation, view.spacing(tried[needed]), before, now)
        harm = "leave fewer voxels than the network's levels need"
    coarsest = tried[needed - 1] if needed else view.finest
    if coarsest < WORTH_TRYING * view.finest:
        return _kept(preparation, before, harm)
    return _doubtful(preparation, view.spacing(coarsest), before, view.share(coarsest) or before, harm)


def coarsest_voxel(fingerprint: Fingerprint, classes: Sequence[str]) -> tuple[float, str]:
    """In mm, what the thickness of the classes allows, and in words what coarser voxels would do."""
    limits = [(math.inf, "")]
    for name, thickness in zip(classes, fingerprint.thickness, strict=True):
        if thickness is not None:
            limits += [
                (mm / n, f"leave fewer than {n:g} across class {name!r} where it is {which}, {mm:.3g} mm")
                for which, mm, n in (
                    ("finest", thickness.finest, FINEST_VOXELS),
                    ("typical", thickness.typical, TYPICAL_VOXELS),
                )
            ]
    return min(limits)


@dataclass(frozen=True, slots=True)
class _View:
    """What the largest patch shows, by the edge in mm that no voxel is shorter than."""

    fingerprint: Fingerprint
    preparation: Preparation
    n_channels: int
    n_classes: int
    options: TaskOptions

    @property
    def finest(self) -> float:
        """mm, before anything is coarsened."""
        return min(self.preparation.network_spacing)

    def spacing(self, mm: float) -> tuple[float, ...]:
        """Along the source's axes; what is coarser already stays, and slices do."""
        return tuple(
            own if axis == self.preparation.slice_axis else max(own, mm)
            for axis, own in enumerate(self.preparation.spacing)
        )

    def share(self, mm: float) -> float | None:
        """Of the median image; None where no network fits."""
        coarser = replace(self.preparation, spacing=self.spacing(mm))
        try:
            return plan(self.fingerprint, coarser, self.n_channels, self.n_classes, self.options).share
        except DataError:
            return None

    def is_enough(self, mm: float) -> bool:
        """Coarser voxels are not needed, or cannot be had."""
        share = self.share(mm)
        return share is None or share >= FIELD_OF_VIEW

    def voxels_up_to(self, limit: float) -> list[float]:
        """What is worth trying: steps up to the limit, and the limit; none beyond what a network can halve."""
        shape = median_prepared_shape(self.fingerprint, self.preparation)
        longest = max(n * mm for n, mm in zip(shape, self.preparation.network_spacing, strict=True))
        limit = min(limit, longest / MIN_SIZE)
        if limit <= self.finest:
            return []
        n_steps = math.ceil(math.log(limit / self.finest, STEP)) - 1
        return [*(self.finest * STEP**step for step in range(1, n_steps + 1)), limit]


def _coarsened(preparation: Preparation, spacing: tuple[float, ...], before: float, now: float) -> Preparation:
    why = preparation.reasons["spacing"].partition(": ")[2].replace(AS_IT_IS, "")
    told = (
        f"{in_mm(spacing)}: coarser than {in_mm(preparation.spacing)} ({why}), where a patch within the targets shows "
        f"{_percent(before)} of the median image; with these voxels it shows {_percent(now)}"
    )
    return replace(preparation, spacing=spacing, reasons={**preparation.reasons, "spacing": told})


def _kept(preparation: Preparation, share: float, harm: str) -> Preparation:
    told = (
        f"{preparation.reasons['spacing']}; the patch shows {_percent(share)} of the median image, less than the "
        f"{_percent(FIELD_OF_VIEW)} wanted, but clearly coarser voxels would {harm}"
    )
    return replace(preparation, reasons={**preparation.reasons, "spacing": told})


def _doubtful(
    preparation: Preparation, spacing: tuple[float, ...], before: float, now: float, harm: str
) -> Preparation:
    coarser = _coarsened(preparation, spacing, before, now)
    told = (
        f"{coarser.reasons['spacing']}, less than the {_percent(FIELD_OF_VIEW)} wanted, but still coarser ones would "
        f"{harm}"
    )
    choice = (
        f"{in_mm(preparation.spacing)} or {in_mm(spacing)}: the first shows structures finer, the second more of an "
        "image at once; which is better, only training with both tells"
    )
    reasons = {**coarser.reasons, "spacing": told, "alternatives": choice}
    return replace(coarser, alternatives=(preparation.spacing, spacing), reasons=reasons)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
