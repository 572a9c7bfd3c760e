"""Ablation of the skips of a trained network: a skip's map is replaced at inference and the same cases scored again.

A skip is one source of a decoder node, as its map enters the fusion: aligned, projected, gated. Three replacements ask
three questions. Zeros are the plainest, but the network never saw such maps. The skip's mean over training cases keeps
what is the same for all images. Another case's map keeps everything but what belongs to this image.

The results hold for this network with these weights: one that is trained without the skip may do as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.diagnosis import skip_similarities
from unetx_evaluators.evaluation import NetworkScores
from unetx_evaluators.gates import gate_statistics
from unetx_evaluators.inference import run_hooks
from unetx_evaluators.insight import GateStatistics, Replacement, SkipSimilarity
from unetx_evaluators.scoring import Scorer
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Case, Cases
from unetx_evaluators.training.recipe import Recipe
from unetx_space.genome import StageRef
from unetx_space.network import SkipUNet, module_name

MEAN_CASES = 24
"""Largest number of training cases over which a skip is averaged; the split's order makes the first a fair sample."""
CKA_BATCHES = 8
"""Number of batches of validation patches over which similarity is computed."""
PLAIN = Recipe(intensity_scale=0.0, intensity_shift=0.0, noise=0.0)
"""A recipe without augmentation, half of whose patches lie around foreground."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A skip connection: a source of a decoder node."""

    node: StageRef
    source: StageRef

    def __str__(self) -> str:
        return f"{self.source} to {self.node}"

    def module(self, network: SkipUNet) -> nn.Module:
        """The module whose output is the skip's map as it enters the fusion."""
        return network.get_submodule(f"decoder.{module_name(self.node)}.sources.{module_name(self.source)}")


def skips_of(network: SkipUNet) -> tuple[Skip, ...]:
    """All skips of a network, in the order in which it reads them."""
    return tuple(Skip(node.ref, source.ref) for node in network.plan.nodes for source in node.sources)


@contextmanager
def replaced(network: SkipUNet, skip: Skip, replacement: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the network sees ``replacement(map)`` in place of the skip's map ``[b, c, *size]``."""
    handle = skip.module(network).register_forward_hook(lambda module, args, output: replacement(output))
    try:
        yield
    finally:
        handle.remove()


class FromDonors(nn.Module):
    """The network on pairs of images ``[b, 2 c, *size]``: one skip reads the second image, all else the first."""

    def __init__(self, network: SkipUNet, skip: Skip) -> None:
        super().__init__()
        self.network = network
        self.skip = skip

    def forward(self, pairs: Tensor) -> Tensor:
        n = len(pairs)
        with replaced(self.network, self.skip, lambda maps: torch.cat([maps[n:], maps[n:]])):
            logits: Tensor = self.network(torch.cat(pairs.chunk(2, dim=1)))
        return logits[:n]


def beside(image: Tensor, donor: Tensor) -> Tensor:
    """An image ``[c, *spatial]`` and a donor, cropped or padded to its size around the centre, as ``[2 c, *spatial]``.

    A smaller donor is padded by mirroring at its borders.
    """
    for axis in range(1, image.ndim):
        n, m = image.shape[axis], donor.shape[axis]
        place = (torch.arange(n, device=donor.device) + (m - n) // 2) % (2 * m)
        donor = donor.index_select(axis, torch.minimum(place, 2 * m - 1 - place))
    return torch.cat([image, donor.to(image.device)])


def choose_donors(names: Sequence[str], groups: Mapping[str, str], seed: int) -> list[int] | None:
    """The index of a random case of another group (patient, say) for every case; None where one has no such case."""
    rng, chosen = np.random.default_rng(seed), []
    for name in names:
        others = [number for number, other in enumerate(names) if groups.get(other, other) != groups.get(name, name)]
        if not others:
            return None
        chosen.append(int(rng.choice(others)))
    return chosen


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network on its device, with the cases it is examined on.

    ``groups`` names the group of a case where that is not the case itself. ``check_time`` is called between cases and
    may raise. Each method raises EvaluationEnded where logits are not finite.
    """

    network: SkipUNet
    task: Task
    cases: Cases
    device: DeviceProfile
    seed: int = 0
    groups: Mapping[str, str] | None = None
    check_time: Callable[[], None] = lambda: None

    def __hash__(self) -> int:
        return id(self)

    def intact(self) -> NetworkScores:
        """All scores on the validation cases, with no skip replaced."""
        return self._scorer.all_scores(self.network)

    def without(self, skip: Skip, replacement: Replacement) -> NetworkScores | None:
        """All scores with one skip replaced; None where there is no other case to take its map from."""
        if replacement is Replacement.SHUFFLED:
            return None if self._donors is None else self._with_donors.all_scores(FromDonors(self.network, skip))
        mean = self._means[skip] if replacement is Replacement.MEAN else torch.zeros(1, device=self.device.device)

        def substitute(maps: Tensor) -> Tensor:
            return mean.to(maps.dtype).view(1, -1, *[1] * (maps.ndim - 2)).expand_as(maps)

        with replaced(self.network, skip, substitute):
            return self._scorer.all_scores(self.network)

    def volumes(self) -> dict[str, dict[str, int]]:
        """Number of voxels of every foreground class in the truth of every validation case, by case and class."""
        names = self.task.classes
        counts = {
            case.name: torch.bincount(case.label.flatten(), minlength=len(names)) for case in self.cases.validation
        }
        return {
            case: dict(zip(names[1:], found[1 : len(names)].tolist(), strict=True)) for case, found in counts.items()
        }

    def similarities(self) -> tuple[SkipSimilarity, ...]:
        """Linear CKA of every skip with the upsampled map beside it, over patches of the validation cases."""
        stream = BatchStream(self.cases.validation, self.task.patch, 2, self.seed, PLAIN, self.device.device)
        batches = [stream.batch(step) for step in range(1, CKA_BATCHES + 1)]
        return skip_similarities(self.network, batches, self.device, seed=self.seed)

    def gates(self) -> tuple[GateStatistics, ...]:
        """Statistics of every attention gate on the validation cases."""
        images = [case.image for case in self.cases.validation]
        return gate_statistics(self.network, images, self.task.patch, self.device)

    @property
    def _scorer(self) -> Scorer:
        return Scorer(self.task, self.cases.validation, self.device, self.check_time)

    @cached_property
    def _donors(self) -> dict[str, Case] | None:
        """The case whose map replaces that of a validation case, by name of the latter."""
        cases = self.cases.validation
        chosen = choose_donors([case.name for case in cases], self.groups or {}, self.seed)
        return None if chosen is None else {case.name: cases[n] for case, n in zip(cases, chosen, strict=True)}

    @property
    def _with_donors(self) -> Scorer:
        donors = self._donors or {}
        return replace(self._scorer, image_of=lambda case: beside(case.image, donors[case.name].image))

    @cached_property
    def _means(self) -> Mapping[Skip, Tensor]:
        return channel_means(self.network, self.cases.train[:MEAN_CASES], self.task, self.device)


def channel_means(network: SkipUNet, cases: Sequence[Case], task: Task, device: DeviceProfile) -> Mapping[Skip, Tensor]:
    """The mean ``[c]`` of every skip's map over the windows into which inference cuts ``cases``."""
    skips = skips_of(network)
    totals: dict[Skip, Tensor] = {}
    counts = dict.fromkeys(skips, 0)

    def add(skip: Skip, maps: Tensor) -> Tensor:
        part = maps.double().mean(tuple(range(2, maps.ndim))).sum(0)  # [c]
        totals[skip] = totals[skip] + part if skip in totals else part
        counts[skip] += len(maps)
        return maps

    def hook(skip: Skip) -> Callable[[nn.Module, object, Tensor], Tensor]:
        return lambda module, args, output: add(skip, output)

    hooks = [skip.module(network).register_forward_hook(hook(skip)) for skip in skips]
    run_hooks(hooks, network, (case.image for case in cases), task.patch, device)
    return {skip: total / counts[skip] for skip, total in totals.items()}
