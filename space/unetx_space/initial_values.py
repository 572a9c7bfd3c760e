"""Initial values that depend on (seed, parameter name) and on nothing else.

Two designs that share a part share its names and start it alike, whatever else they contain: differences between
designs then stand out of the noise, and weights can be inherited by name. The global random state is not touched.

Weights are Kaiming *uniform* (He et al. 2015, arXiv:1502.01852, equation 14, for LeakyReLU): the paper fixes the
variance, not the shape, and torch draws uniform values six times faster than normal ones and without the vectorised
transcendental functions that differ between processors.
"""

from __future__ import annotations

from hashlib import blake2b
from math import sqrt
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from unetx_space.operators.blocks import SLOPE

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_UPSAMPLING = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)


@runtime_checkable
class InitialisesItself(Protocol):
    """An operator with initial values of its own."""

    def init_weights(self) -> None:
        """Set its own initial values, in place and without randomness.

        It is called after all parameters have their generic values, and under ``torch.no_grad``.
        """


def initialise(network: nn.Module, seed: int) -> None:
    """Give every parameter and statistic of ``network`` its initial value."""
    modules = list(network.named_modules())
    with torch.no_grad():
        for path, module in modules:
            _fill(module, path, seed)
        for _, module in modules:
            if isinstance(module, InitialisesItself):
                module.init_weights()


def _fill(module: nn.Module, path: str, seed: int) -> None:
    if isinstance(module, _NORMS):
        module.reset_parameters()  # scale 1, shift 0, fresh statistics
    elif isinstance(module, _WEIGHTED + _UPSAMPLING):
        # A transposed convolution with kernel = stride reads one coarse voxel for each fine one.
        fan_in = len(module.weight) if isinstance(module, _UPSAMPLING) else module.weight[0].numel()
        _kaiming_uniform(module.weight, fan_in, _generator(seed, f"{path}.weight"))
        if module.bias is not None:
            module.bias.zero_()


def _kaiming_uniform(weight: Tensor, fan_in: int, generator: torch.Generator) -> None:
    bound = sqrt(3 * 2 / ((1 + SLOPE**2) * fan_in))  # a uniform value in (-b, b) has variance b^2 / 3
    weight.uniform_(-bound, bound, generator=generator)


def _generator(seed: int, name: str) -> torch.Generator:
    """A generator of its own for each parameter; blake2b, because Python's ``hash`` differs between processes."""
    digest = blake2b(f"{seed}|{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
