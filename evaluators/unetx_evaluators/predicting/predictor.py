"""Prediction of an image by a trained model: the image is prepared, and the logits of its networks are averaged and
resampled to its original voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.label_maps import label_map
from unetx_evaluators.predicting.model_plan import ModelPlan
from unetx_evaluators.predicting.slabs import SLAB_VOXELS, prepare_in_slabs
from unetx_evaluators.predicting.sweep import Rows, resampled_rows, sweep_logits
from unetx_evaluators.proxy import accelerated
from unetx_evaluators.tasks.fingerprint import CaseFacts, survey_image
from unetx_evaluators.tasks.preprocessing import original_shape
from unetx_evaluators.tasks.task import Image, Label

Keep = Callable[[tuple[slice, ...], Image], None]
"""A function that stores probabilities ``[k, *spatial]`` of a part of the image, with axes in the image's order."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The segmentation of an image by a model."""

    label: Label
    """Class indices ``[*spatial]`` on the voxels of the image."""
    prepared: Label
    """Class indices on the plan's voxels, as prepared label maps are, within the image's box that is not zero."""
    facts: CaseFacts


@dataclass(frozen=True)
class Predictor:
    """Networks of one plan, whose logits are averaged; to be used inside ``ready``."""

    networks: Sequence[nn.Module]
    plan: ModelPlan
    device: DeviceProfile
    mirrors: bool = True
    """Whether predictions are averaged over images mirrored along the axes on which the training mirrored."""
    overlap: float = 0.5
    """Overlap of neighbouring windows, as a share of their edges."""
    slab_voxels: int = SLAB_VOXELS
    """Number of voxels of a channel that are prepared together."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, the networks are on their device, in evaluation mode, and accelerated."""
        with ExitStack() as stack:
            for network in self.networks:
                network.to(self.device.device).eval()
                stack.enter_context(accelerated(network, self.device))
            yield

    def predict(self, image: Image, spacing: Sequence[float], name: str, keep: Keep | None = None) -> Segmentation:
        """Segment an image ``[c, *spatial]``; ``keep`` gets the probabilities of the box that is not zero, in parts.

        Raises DataError where logits are not finite.
        """
        plan = self.plan
        facts = survey_image(image, spacing, name)
        inputs = prepare_in_slabs(image, facts, plan.preparation, slab_voxels=self.slab_voxels)
        spatial, shape = inputs.shape[1:], original_shape(facts, plan.preparation)
        axis = int(np.argmax(spatial))
        on_plan, on_box = np.zeros(spatial, np.uint8), np.zeros(shape, np.uint8)
        first_axis = plan.preparation.slice_axis or 0
        rows = sweep_logits(self._logits, torch.from_numpy(inputs), plan.patch, axis, self.device, overlap=self.overlap)
        for block in resampled_rows(shape, _with_labels(rows, on_plan, axis, name), spatial, axis):
            part = _part(block, axis)
            on_box[part] = label_map(block.logits).cpu().numpy()
            if keep is not None:
                whole = (*part, *[slice(None)] * (len(shape) - len(part)))
                places = [whole[a] for a in _order(len(shape), first_axis)]
                inside = tuple(
                    slice(low + (place.start or 0), low + (n if place.stop is None else place.stop))
                    for low, n, place in zip(facts.box[0], facts.cropped_shape, places, strict=True)
                )
                keep(inside, np.moveaxis(block.logits.softmax(0).cpu().numpy(), 1, first_axis + 1))
        label = np.zeros(facts.shape, np.uint8)
        label[facts.crop] = np.moveaxis(on_box, 0, first_axis)
        return Segmentation(label, on_plan, facts)

    def _logits(self, batch: Tensor) -> Tensor:
        """The mean of the logits over networks, and over mirrored batches."""
        axes = [axis + 2 for axis in self.plan.mirror] if self.mirrors else []
        flips = [*chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1))]
        total: Tensor | None = None
        for network in self.networks:
            for flip in flips:
                with self.device.autocast():
                    logits = network(batch.flip(flip) if flip else batch).float()
                logits = logits.flip(flip) if flip else logits
                total = logits if total is None else total + logits
        assert total is not None
        return total / (len(flips) * len(self.networks))


def _with_labels(rows: Iterator[Rows], on_plan: Label, axis: int, name: str) -> Iterator[Rows]:
    """Yield ``rows`` once their labels are stored in ``on_plan``."""
    for block in rows:
        if not torch.isfinite(block.logits).all():
            raise DataError(f"{name}: the networks answer with values that are no numbers; train them anew")
        on_plan[_part(block, axis)] = label_map(block.logits).cpu().numpy()
        yield block


def _part(block: Rows, axis: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(block.first, block.first + block.logits.shape[axis + 1]))


def _order(n_axes: int, first_axis: int) -> list[int]:
    """The axis of the prepared arrays for each axis of the image."""
    rest = [axis for axis in range(n_axes) if axis != first_axis]
    prepared_axes = [first_axis, *rest]
    return [prepared_axes.index(axis) for axis in range(n_axes)]
