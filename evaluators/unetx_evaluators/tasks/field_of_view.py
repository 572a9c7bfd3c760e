"""The choice of voxels so coarse that a patch covers enough of an image.

A patch that time and memory keep small shows large objects in parts only, and a network that never sees one whole
learns it badly; with coarser voxels the same patch covers more. nnU-Net has its low-resolution configuration for that,
beside the full one (Isensee et al., Nature Methods 18, 203-211, 2021). A search has one configuration, chosen so:

- where the patch covers less than ``LEAST_VIEW`` of the median image, voxels become coarser until it covers
  ``FIELD_OF_VIEW``, as far as the thickness of the classes' typical and finest structures allows;
- as in nnU-Net, the finest axes become coarser first, until they meet the next finest, and then together;
- where that thickness leaves the patch less than ``LEAST_VIEW``, voxels stay as they are.

Where coarser voxels are allowed at all, both sizes are the preparation's ``alternatives``, and a pilot can try them.
It can also try voxels with which the patch covers ``FIELD_OF_VIEW`` where the typical structures do not allow that, as
far as the finest ones do: the gain in context may exceed the loss of detail.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import Fingerprint
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.planning import median_prepared_shape, plan
from unetx_evaluators.tasks.preprocessing import NOT_RESAMPLED, Preparation, in_mm
from unetx_evaluators.tasks.sizing import MIN_SIZE

FIELD_OF_VIEW = 0.75
"""Share of the median image's voxels that a patch covers where voxels are coarsened. On two development sets Dice on
the original voxels rose up to about this share (benchmarks/results/proxies.txt)."""
LEAST_VIEW = 0.25
"""Share below which the rules coarsen voxels by themselves; nnU-Net's bound for its low-resolution configuration."""
FINEST_VOXELS = 2.0
"""Smallest number of voxels across the finest structures of a class; with fewer they break into pieces."""
TYPICAL_VOXELS = 5.0
"""Smallest number of voxels across the typical structures of a class. Resampling there and back costs a structure of n
voxels about 1 / (4 n) of its Dice (a test measures it on slabs and discs): 0.05 here."""
STEP = 1.03
"""Factor by which voxels are coarsened at a time, as in nnU-Net."""
WORTH_TRYING = 1.25
"""Smallest factor between voxel sizes that are worth comparing."""


def with_field_of_view(
    fingerprint: Fingerprint, preparation: Preparation, n_channels: int, classes: Sequence[str], options: TaskOptions
) -> Preparation:
    """The preparation, with coarser voxels where the patch would cover too little, and the alternatives to them.

    It is unchanged where the user has set spacing or patch, and where no network fits, which ``plan`` then reports.
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
    """A limit to the size of voxels."""

    mm: float
    harm: str
    """A text on what coarser voxels would do."""


def coarsest_voxel(
    fingerprint: Fingerprint, classes: Sequence[str], *, typical_voxels: float = TYPICAL_VOXELS
) -> Limit:
    """The size of voxels that the thickness of the classes allows."""
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
    """The share of the median image that the largest patch covers, by the shortest edge of a voxel in mm."""

    fingerprint: Fingerprint
    preparation: Preparation
    n_channels: int
    n_classes: int
    options: TaskOptions

    @property
    def finest(self) -> float:
        """The shortest edge of a voxel in mm, before any coarsening."""
        return min(self.preparation.network_spacing)

    def spacing(self, mm: float) -> tuple[float, ...]:
        """The spacing with edges of at least ``mm``, except between slices."""
        return tuple(
            own if axis == self.preparation.slice_axis else max(own, mm)
            for axis, own in enumerate(self.preparation.spacing)
        )

    def share(self, mm: float) -> float | None:
        """The share of the median image that the patch covers; None where no network fits."""
        coarser = replace(self.preparation, spacing=self.spacing(mm))
        try:
            return plan(self.fingerprint, coarser, self.n_channels, self.n_classes, self.options).share
        except DataError:
            return None

    def is_enough(self, mm: float) -> bool:
        """Whether coarser voxels are not needed, or no network fits."""
        share = self.share(mm)
        return share is None or share >= FIELD_OF_VIEW

    def coarsened(self, limit: float) -> float:
        """The edge with which the patch covers ``FIELD_OF_VIEW``, or as much as the limit and the levels allow."""
        candidates = self.candidates(limit)
        needed = bisect_left(candidates, True, key=self.is_enough)
        if needed < len(candidates) and self.share(candidates[needed]) is not None:
            return candidates[needed]
        return candidates[needed - 1] if needed else self.finest

    def candidates(self, limit: float) -> list[float]:
        """Edges to try, ascending in steps up to the limit, as far as a network can still halve an axis."""
        shape = median_prepared_shape(self.fingerprint, self.preparation)
        longest = max(n * mm for n, mm in zip(shape, self.preparation.network_spacing, strict=True))
        limit = min(limit, longest / MIN_SIZE)
        if limit <= self.finest:
            return []
        n_steps = math.ceil(math.log(limit / self.finest, STEP)) - 1
        return [*(self.finest * STEP**step for step in range(1, n_steps + 1)), limit]


def _why(before: Preparation, chosen: Preparation, share_before: float, share_now: float, harm: str) -> str:
    """The reason for the spacing that was chosen."""
    shows = f"a patch within the targets shows {_percent(share_before)} of the median image"
    if chosen.spacing != before.spacing:
        why = before.reasons["spacing"].partition(": ")[2].replace(NOT_RESAMPLED, "")
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
