"""Attention operators with the maps that surround them in a decoder node, for the tests of both their files."""

from __future__ import annotations

from typing import NamedTuple

import torch
from operator_samples import image
from torch import Tensor, nn

from unetx_space.backbone import Norm
from unetx_space.initial_values import initialise
from unetx_space.network import module_of
from unetx_space.operators.catalogue import ATTENTIONS, AttentionContext

SIZES = {2: (5, 7), 3: (3, 4, 5)}
STRIDES = {2: (2, 3), 3: (1, 2, 2)}
COARSE = {2: (3, 3), 3: (3, 2, 3)}
"""SIZES / STRIDES, rounded up as by strided convolutions."""


class Maps(NamedTuple):
    """A source and both maps that can be its gate."""

    x: Tensor
    upsampled: Tensor
    coarse: Tensor


def context(channels: int, dims: int, norm: Norm = "instance") -> AttentionContext:
    """With another width for each of the three maps, so that no two can be mistaken for one another."""
    return AttentionContext(channels, STRIDES[dims], c_upsampled=channels + 1, c_coarse=2 * channels + 3, norm=norm)


def built(name: str, channels: int, dims: int, norm: Norm = "instance") -> nn.Module:
    """As it stands in a network at the start."""
    module = module_of(ATTENTIONS[name])(context(channels, dims, norm))
    initialise(module, seed=1)
    return module


def maps(channels: int, dims: int, batch: int = 2, dtype: torch.dtype = torch.float32) -> Maps:
    at = context(channels, dims)
    return Maps(
        image(channels, SIZES[dims], batch, dtype),
        image(at.c_upsampled, SIZES[dims], batch, dtype),
        image(at.c_coarse, COARSE[dims], batch, dtype),
    )


def inputs(name: str, given: Maps) -> tuple[Tensor, ...]:
    """What the operator is called with: the source, and the gate that its spec names."""
    gate = ATTENTIONS[name].gate
    return (given.x,) if gate is None else (given.x, getattr(given, gate))
