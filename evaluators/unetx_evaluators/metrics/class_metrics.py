"""What is known of one class on one case. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A connected part of a class in a case's truth."""

    n_voxels: int
    hit: bool
    """Whether at least one of its voxels is predicted as its class."""


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Every score of one class on one case.

    All scores are None where the class is absent from truth and prediction alike, and only there. Where just one of the
    two shows it, the shares are 0 and the distances the diagonal of the image, which no other pair of masks reaches.
    """

    class_name: str
    in_truth: bool
    in_prediction: bool
    dice: float | None
    hd95_mm: float | None
    """95th percentile of surface distances, the worse direction."""
    assd_mm: float | None
    """Average symmetric surface distance."""
    nsd: float | None
    """Normalised surface Dice: the share of both surfaces within a tolerance of the other."""
    boundary_iou: float | None
    targets: tuple[Target, ...]

    @property
    def missed(self) -> bool:
        """In the truth, and nowhere predicted."""
        return self.in_truth and not self.in_prediction

    @property
    def false_alarm(self) -> bool:
        """Predicted, and nowhere in the truth."""
        return self.in_prediction and not self.in_truth
