"""How coarse voxels become so that a network sees enough of an image at once.

A patch that time and memory keep small shows a large object in parts only, and a network that never sees one whole
learns it badly; with coarser voxels the same patch shows more. nnU-Net has its low-resolution configuration for that,
beside the full one (Isensee et al., Nature Methods 18, 203-211, 2021). A search has one configuration, so this decides:

- where the patch shows less than ``LEAST_VIEW`` of the median image, voxels become coarser until it shows
  ``FIELD_OF_VIEW``, as far as the thickness of the classes' typical and finest structures allows;
- as in nnU-Net, the finest axes become coarser first, until they meet the next finest, and then together;
- where that thickness leaves the patch less than ``LEAST_VIEW``, both cannot be had, and voxels stay as they are.

Where coarser voxels are allowed at all, both sizes are the preparation's ``alternatives``, and a pilot can try them.
So can it the voxels that show ``FIELD_OF_VIEW`` where the typical structures stopped the rules short of it, as far as
the finest ones allow: what they cost in detail may be less than what they bring.
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

FIELD_OF_VIEW = 0.75
"""Share of the median image's voxels that a patch shows where voxels are coarsened. On two development sets Dice on the
original voxels rose up to about this share (benchmarks/results/proxies.txt)."""
LEAST_VIEW = 0.25
"""Share below which the rules coarsen voxels by themselves; nnU-Net's bound for its low-resolution configuration."""
FINEST_VOXELS = 2.0
"""Across the finest structures: with fewer they break into pieces."""
TYPICAL_VOXELS = 5.0
"""Across the typical structures of every class. A structure n voxels thick loses about 1 / (4 n) of its Dice by being
resampled and back (a test measures it on slabs and discs): 0.05 here."""
STEP = 1.03
"""By which voxels are coarsened at a time; nnU-Net's."""
WORTH_TRYING = 1.25
"""Times coarser that voxels must become to make a difference."""


def with_field_of_view(
    fingerprint: Fingerprint, preparation: Preparation, n_channels: int, classes: Sequence[str], options: TaskOptions
) -> Preparation:
    """The preparation, its voxels coarsened where the patch would show too little, with the alternatives to that.

    As it is where the user has set spacing or patch, and where no network fits, which ``plan`` refuses with its reason.
    """
    if options.spacing is not None or options.patch is not None:
        return preparation
    view = _View(fingerprint, preparation, n_channels, len(classes), options)
    before = view.share(view.finest)
    if before is None or before >= FIELD_OF_VIEW:
        return preparation
    limit = coarsest_voxel(fingerprint, classes)
    coarser = view.coarsened(limit.mm)
    now = view.share(coarser) or before
    is_worth_trying = coarser >= WORTH_TRYING * view.finest
    spacings = [preparation.spacing, view.spacing(coarser)]
    if is_worth_trying and before < LEAST_VIEW <= now:
        coarsest = view.coarsened(coarsest_voxel(fingerprint, classes, typical_voxels=FINEST_VOXELS).mm)
        if now < FIELD_OF_VIEW and coarsest >= WORTH_TRYING * coarser:
            spacings.insert(0, view.spacing(coarsest))
    else:
        spacings.reverse()
    chosen = replace(preparation, spacing=spacings[-1], alternatives=tuple(spacings) if is_worth_trying else ())
    harm = limit.harm if coarser >= limit.mm else "leave fewer voxels than the network's levels need"
    reasons = {**preparation.reasons, "spacing": _why(preparation, chosen, before, now, harm)}
    if is_worth_trying:
        reasons["alternatives"] = (
            f"{' or '.join(map(in_mm, sorted(spacings)))}: the finer show structures better, the coarser more of an "
            "image at once; a pilot can try them"
        )
    return replace(chosen, reasons=reasons)


@dataclass(frozen=True, order=True, slots=True)
class Limit:
    """How coarse voxels may become."""

    mm: float
    harm: str
    """What coarser ones would do, in words."""


def coarsest_voxel(
    fingerprint: Fingerprint, classes: Sequence[str], *, typical_voxels: float = TYPICAL_VOXELS
) -> Limit:
    """What the thickness of the classes allows."""
    limits = [Limit(math.inf, "")]
    for name, thickness in zip(classes, fingerprint.thickness, strict=True):
        if thickness is not None:
            limits += [
                Limit(mm / n, f"leave fewer than {n:g} across class {name!r} where it is {which}, {mm:.3g} mm")
                for which, mm, n in (
                    ("finest", thickness.finest, FINEST_VOXELS),
                    ("typical", thickness.typical, typical_voxels),
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

    def coarsened(self, limit: float) -> float:
        """mm with which the patch shows ``FIELD_OF_VIEW``, or as much as the limit and the network's levels allow."""
        tried = self.voxels_up_to(limit)
        needed = bisect_left(tried, True, key=self.is_enough)
        if needed < len(tried) and self.share(tried[needed]) is not None:
            return tried[needed]
        return tried[needed - 1] if needed else self.finest

    def voxels_up_to(self, limit: float) -> list[float]:
        """What is worth trying: steps up to the limit, and the limit; none beyond what a network can halve."""
        shape = median_prepared_shape(self.fingerprint, self.preparation)
        longest = max(n * mm for n, mm in zip(shape, self.preparation.network_spacing, strict=True))
        limit = min(limit, longest / MIN_SIZE)
        if limit <= self.finest:
            return []
        n_steps = math.ceil(math.log(limit / self.finest, STEP)) - 1
        return [*(self.finest * STEP**step for step in range(1, n_steps + 1)), limit]


def _why(before: Preparation, chosen: Preparation, share_before: float, share_now: float, harm: str) -> str:
    """The reason of the spacing that was chosen."""
    shows = f"a patch within the targets shows {_percent(share_before)} of the median image"
    if chosen.spacing != before.spacing:
        why = before.reasons["spacing"].partition(": ")[2].replace(AS_IT_IS, "")
        limit = f"; still coarser ones would {harm}" if share_now < FIELD_OF_VIEW else ""
        return (
            f"{in_mm(chosen.spacing)}: coarser than {in_mm(before.spacing)} ({why}), where {shows}; with these voxels "
            f"it shows {_percent(share_now)}{limit}"
        )
    if share_before >= LEAST_VIEW:
        return before.reasons["spacing"]
    return (
        f"{before.reasons['spacing']}; {shows}, less than the {_percent(LEAST_VIEW)} wanted, but voxels coarse enough "
        f"for that would {harm}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
