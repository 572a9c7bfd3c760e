"""What is exported: an architecture with its network, whose weights may have been trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from unetx_space import Architecture, RequestError, build, faults, key
from unetx_space.network import SkipUNet
from unetx_studies.weights import check_stamp, load_weights, stamp_of

DOCUMENT = "architecture.json"
"""The document's name in every folder that is exported; no other folder is ever replaced."""
LEAST = 2
"""Fewest voxels of the deepest map along an axis whose size is left open: torch takes a one for a constant."""


@dataclass
class Model:
    """An architecture to export, with what formats need of it, each made when a format first reads it."""

    architecture: Architecture
    seed: int
    """The seed of the initial values, where there are no weights."""
    weights: Path | None
    """A safetensors file; None for initial values."""
    wanted_patch: tuple[int, ...] | None
    """The patch that the user gave, if any."""
    tell: Callable[[str], None]
    """Called with words on what is being done."""

    @cached_property
    def network(self) -> SkipUNet:
        """The network in evaluation mode. Raises RequestError for weights that do not fit."""
        self.tell("building the network")
        network = build(self.architecture, seed=self.seed)
        if self.weights is not None:
            load_weights(network, self.weights)
            if stamp := stamp_of(self.weights):
                check_stamp(self.weights, stamp, network.state_dict(), {"architecture": key(self.architecture)})
        network.eval()
        return network

    @cached_property
    def patch(self) -> tuple[int, ...]:
        """Spatial size of an input: the user's, or that of the search. Raises RequestError without either."""
        patch = self.wanted_patch or self.architecture.searched_patch
        if patch is None:
            raise RequestError(
                "the architecture does not say which patch it was searched with; give its size by --patch"
            )
        if min(patch) < 1:
            raise RequestError(f"a patch has at least one voxel along every axis, got {list(patch)}")
        for fault in faults(self.architecture, patch):
            raise RequestError(str(fault))
        return patch

    @cached_property
    def multiples(self) -> tuple[int | None, ...]:
        """What the size of an image may be a multiple of, along every axis; None where it must be the patch's.

        An axis is open where the patch is such a multiple: there nothing is padded or cropped on the way up, which a
        graph could do for one size only.
        """
        backbone = self.architecture.backbone
        factors = backbone.factor(0, backbone.n_levels - 1)
        return tuple(
            factor if size % factor == 0 and size >= LEAST * factor else None
            for size, factor in zip(self.patch, factors, strict=True)
        )

    @property
    def open_axes(self) -> dict[int, Dim]:
        """The axes of ``image[b, c, *size]`` that are left open, for torch's exporters: the batch and some of size."""
        names = ("depth", "height", "width")[-len(self.patch) :]
        axes = {0: Dim("batch")}
        for axis, (name, factor) in enumerate(zip(names, self.multiples, strict=True), 2):
            if factor is not None:
                axes[axis] = Dim(name, min=LEAST) if factor == 1 else factor * Dim(name, min=LEAST)
        return axes

    @cached_property
    def program(self) -> ExportedProgram:
        """The network as a program that torch has traced for the patch."""
        network = self.network
        self.tell("tracing it, operation by operation")
        with torch.no_grad():  # a batch of two, as torch takes a one for a constant
            return torch.export.export(
                network,
                (self.image(batch=2),),
                dynamic_shapes=(self.open_axes,),
                prefer_deferred_runtime_asserts_over_guards=True,  # what a size must fulfil is checked when it comes
            )

    def image(self, batch: int = 1) -> Tensor:
        """A random image of the patch, the same every time; a small one where nobody gave a patch."""
        backbone = self.architecture.backbone
        size = tuple(LEAST * n + n // 2 for n in backbone.factor(0, backbone.n_levels - 1))
        if self.wanted_patch or self.architecture.searched_patch:
            size = self.patch
        return torch.randn(batch, backbone.in_channels, *size, generator=torch.Generator().manual_seed(0))
