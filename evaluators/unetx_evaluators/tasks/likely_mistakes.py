"""Warnings on properties of a dataset that are allowed, but mostly mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from unetx_evaluators.tasks.fingerprint import CaseFacts
from unetx_evaluators.tasks.preprocessing import in_mm
from unetx_evaluators.tasks.sources.base import listed

FAR = 5.0
"""Factor to the median spacing along an axis, either way, from which on a spacing is suspicious."""
MOST = 0.8
"""Share of foreground voxels above which masks may be inverted."""

_NOT_MEANT = frozenset(("ignore", "ignored", "void", "dontcare", "unlabeled", "unlabelled", "unannotated", "unknown"))
"""Names, without spaces and punctuation, which mostly do not mean a class."""


def suspicions(classes: Sequence[str], channels: Sequence[str], facts: Mapping[str, CaseFacts]) -> list[str]:
    """Warnings on classes and cases, each with a remedy."""
    return [
        *_odd_classes(classes),
        *_far_spacings(facts),
        *_mostly_foreground(facts),
        *_constant_images(channels, facts),
    ]


def is_constant(case: CaseFacts) -> bool:
    """Whether every channel has one value everywhere."""
    return all(low == high for low, high in case.ranges)


def _odd_classes(classes: Sequence[str]) -> Iterator[str]:
    for name in classes[1:]:
        if "".join(filter(str.isalnum, name)).casefold() in _NOT_MEANT:
            yield (
                f"class {name!r} is learnt and scored like any other; if its voxels are to be left out, call it "
                "'ignore', in small letters, where the labels are named"
            )


def _far_spacings(facts: Mapping[str, CaseFacts]) -> Iterator[str]:
    if not facts:
        return
    usual = [median(axis) for axis in zip(*(case.spacing for case in facts.values()), strict=True)]
    factors = {  # along the axis that differs most
        name: max((own / mm for own, mm in zip(case.spacing, usual, strict=True)), key=_apart)
        for name, case in facts.items()
    }
    far = sorted((name for name, factor in factors.items() if _apart(factor) >= FAR), key=lambda n: -_apart(factors[n]))
    if far:
        first, factor = far[0], factors[far[0]]
        words = f"{factor:.4g} times" if factor > 1 else f"1/{1 / factor:.4g} of"
        others = "" if len(far) == 1 else f"; likewise {listed(far[1:], 'case')}"
        yield (
            f"case {first}: its header gives voxels of {in_mm(facts[first].spacing)}, along an axis {words} the median "
            f"({in_mm(usual)}){others}; if that is wrong, correct the headers of image and mask, or remove the case: "
            "it is resampled to the others' spacing"
        )


def _apart(factor: float) -> float:
    return max(factor, 1 / factor)


def _mostly_foreground(facts: Mapping[str, CaseFacts]) -> Iterator[str]:
    n_foreground = sum(sum(case.class_voxels[1:]) for case in facts.values())
    n_voxels = sum(sum(case.class_voxels) for case in facts.values())
    if n_voxels and n_foreground > MOST * n_voxels:
        yield (
            f"{n_foreground / n_voxels:.1%} of all voxels are foreground; are the masks inverted? Then invert them, or "
            "name their values the other way round (for images with masks: --labels background=255,NAME=0, say)"
        )


def _constant_images(channels: Sequence[str], facts: Mapping[str, CaseFacts]) -> Iterator[str]:
    for index, channel in enumerate(channels):
        flat = [name for name, case in facts.items() if case.ranges[index][0] == case.ranges[index][1]]
        if flat:
            yield (
                f"channel {channel!r} has one value everywhere in {listed(flat, 'case')}; there is nothing to learn "
                "from it: export the images anew, or remove the cases"
            )
