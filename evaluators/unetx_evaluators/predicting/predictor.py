"""A trained model at work on an image: prepared, swept by every network, back on the voxels it came with."""

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
from unetx_evaluators.predicting.slabs import AT_ONCE, prepared
from unetx_evaluators.predicting.sweep import Rows, brought_to, swept
from unetx_evaluators.proxy import computed_fast
from unetx_evaluators.tasks.fingerprint import CaseFacts, seen_unlabelled
from unetx_evaluators.tasks.preprocessing import original_shape
from unetx_evaluators.tasks.task import Image, Label

Keep = Callable[[tuple[slice, ...], Image], None]
"""Takes probabilities ``[k, *spatial]`` of a part of the image, the axes in the image's order."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model finds in an image."""

    label: Label
    """On the voxels of the image, ``[*spatial]``, class indices."""
    prepared: Label
    """On the plan's voxels, as prepared label maps are, within the box that is not zero."""
    facts: CaseFacts
    """Of the image."""


@dataclass(frozen=True)
class Predictor:
    """Networks of one plan, whose logits are averaged; use it inside ``ready``."""

    networks: Sequence[nn.Module]
    plan: ModelPlan
    device: DeviceProfile
    mirrors: bool = True
    """Whether images are also shown mirrored, along the axes on which the training mirrored."""
    overlap: float = 0.5
    """Of neighbouring windows."""
    at_once: int = AT_ONCE
    """Voxels of a channel that are prepared together."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, the networks are on their device, in evaluation mode, and computed fast."""
        with ExitStack() as stack:
            for network in self.networks:
                network.to(self.device.device).eval()
                stack.enter_context(computed_fast(network, self.device))
            yield

    def predict(self, image: Image, spacing: Sequence[float], name: str, keep: Keep | None = None) -> Prediction:
        """Of an image ``[c, *spatial]``; ``keep`` is given the probabilities of the box that is not zero, part by part.

        Raises DataError where a network's answer is no number.
        """
        plan = self.plan
        facts = seen_unlabelled(image, spacing, name)
        inputs = prepared(image, facts, plan.preparation, at_once=self.at_once)
        spatial, shape = inputs.shape[1:], original_shape(facts, plan.preparation)
        axis = int(np.argmax(spatial))
        on_plan, on_box = np.zeros(spatial, np.uint8), np.zeros(shape, np.uint8)
        first_axis = plan.preparation.slice_axis or 0
        rows = swept(self._logits, torch.from_numpy(inputs), plan.patch, axis, self.device, overlap=self.overlap)
        for block in brought_to(shape, _noted(rows, on_plan, axis, name), spatial, axis):
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
        return Prediction(label, on_plan, facts)

    def _logits(self, batch: Tensor) -> Tensor:
        """The mean over networks, and over mirrored batches mirrored back."""
        axes = [axis + 2 for axis in self.plan.mirror] if self.mirrors else []
        flips = [*chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1))]
        total: Tensor | None = None
        for network in self.networks:
            for flip in flips:
                with self.device.autocast():
                    found = network(batch.flip(flip) if flip else batch).float()
                found = found.flip(flip) if flip else found
                total = found if total is None else total + found
        assert total is not None
        return total / (len(flips) * len(self.networks))


def _noted(rows: Iterator[Rows], on_plan: Label, axis: int, name: str) -> Iterator[Rows]:
    """The same rows, their labels noted on the way."""
    for block in rows:
        if not torch.isfinite(block.logits).all():
            raise DataError(f"{name}: the networks answer with values that are no numbers; train them anew")
        on_plan[_part(block, axis)] = label_map(block.logits).cpu().numpy()
        yield block


def _part(block: Rows, axis: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(block.first, block.first + block.logits.shape[axis + 1]))


def _order(n_axes: int, first_axis: int) -> list[int]:
    """For each axis of the image the axis of its prepared arrays."""
    rest = [axis for axis in range(n_axes) if axis != first_axis]
    prepared_axes = [first_axis, *rest]
    return [prepared_axes.index(axis) for axis in range(n_axes)]
