"""What a user may say about how a folder of images and masks is to be read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unetx_evaluators.tasks.sources.formats import stem_of

UNION, CLASSES = "union", "classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Where images and masks lie, how they are called and what their pixels mean; None: as the data themselves tell."""

    threshold: float | None = None
    """Pixels of a mask above it are foreground, the others background."""
    images: str | None = None
    """Folder of the images, as seen from the dataset's."""
    masks: str | None = None
    """Folder of the masks, as seen from the dataset's; the images' may be meant."""
    image_suffix: str | None = None
    """What an image's name ends in, before its format: ``_training`` of ``21_training.tif``."""
    mask_suffix: str | None = None
    """What a mask's name ends in, before its format: ``_segmentation`` of ``a_segmentation.png``."""
    several_masks: str | None = None
    """Several masks of one image: ``union``, ``classes`` (a class each), or the classes' names in the order in which
    they are drawn over each other, ``disc,cup``."""
    follow_links: bool = False
    """Whether symbolic links may lead out of the dataset's folder."""

    @property
    def stated(self) -> dict[str, Any]:
        """What was said, for the identity of the source: the same files read in another way are other data."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "follow_links"}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def names_folders(self) -> bool:
        """Whether the user says where images or masks lie."""
        return self.images is not None or self.masks is not None

    @property
    def tells_kinds(self) -> bool:
        """Whether images and masks that share a folder are told apart by what was said."""
        return self.image_suffix is not None or self.mask_suffix is not None or self.several_masks is not None

    @property
    def image_ending(self) -> str | None:
        """``image_suffix`` without a format."""
        return None if self.image_suffix is None else stem_of(Path(self.image_suffix))

    @property
    def mask_ending(self) -> str | None:
        """``mask_suffix`` without a format."""
        return None if self.mask_suffix is None else stem_of(Path(self.mask_suffix))

    @property
    def drawn(self) -> tuple[str, ...] | None:
        """The classes of ``several_masks`` where it names them: later ones are drawn over earlier ones."""
        if self.several_masks in (None, UNION, CLASSES):
            return None
        return tuple(name.strip() for name in str(self.several_masks).split(","))


AS_IT_IS = Reading()
"""Nothing was said."""
