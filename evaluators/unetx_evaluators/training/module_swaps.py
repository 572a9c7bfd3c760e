"""Modules of a network temporarily replaced by faster ones that compute the same function.

Results change within float rounding. Parameters, their names and the network itself stay; hooks must be registered
outside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn

InstanceNorm = nn.InstanceNorm2d | nn.InstanceNorm3d


@contextmanager
def swapped_modules(
    network: nn.Module, replacements: Callable[[nn.Module], Iterable[tuple[str, nn.Module]]]
) -> Iterator[None]:
    """Inside, direct children of every module are replaced by those that ``replacements(module)`` gives, by name."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for owner in list(network.modules()):
            for name, replacement in replacements(owner):
                replaced.append((owner, name, owner._modules[name]))  # type: ignore[arg-type]  # no child is None
                owner._modules[name] = replacement
        yield
    finally:
        for owner, name, module in replaced:
            owner._modules[name] = module


@dataclass(frozen=True, slots=True)
class NormWithActivation:
    """A fused implementation of LeakyReLU(instance_norm(x) * weight + bias)."""

    compute: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
    """A function of ``x`` ``[b, c, *size]``, weight, bias, eps, and slope; a slope of 1 is no activation."""
    dtypes: Collection[torch.dtype]
    """Types of ``x`` that it supports."""

    def replacements(self, owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """Yield replacements of the norms among a module's children, and of the activation behind each in a
        sequence."""
        for (name, module), (next_name, follower) in pairwise([*owner.named_children(), ("", nn.Identity())]):
            if can_be_fused(module):
                is_activated = isinstance(owner, nn.Sequential) and isinstance(follower, nn.LeakyReLU | nn.ReLU)
                yield name, FusedNorm(module, follower if is_activated else None, self)
                if is_activated:
                    yield next_name, nn.Identity()


def can_be_fused(module: nn.Module) -> TypeGuard[InstanceNorm]:
    """Whether a module is an instance normalisation with scale and shift, and without running statistics."""
    return isinstance(module, InstanceNorm) and module.affine and not module.track_running_stats


class FusedNorm(nn.Module):
    """A fused norm and activation, ``[b, c, *size] -> [b, c, *size]``, with the parameters of the norm it replaces.

    Maps of a single voxel, or of a type that is not supported, go through the replaced modules.
    """

    def __init__(self, norm: InstanceNorm, activation: nn.Module | None, implementation: NormWithActivation) -> None:
        """Replace ``norm``, and the LeakyReLU or ReLU ``activation`` behind it, by ``implementation``."""
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._slope = 1.0 if activation is None else float(getattr(activation, "negative_slope", 0.0))
        self._plain = [norm] if activation is None else [norm, activation]  # a list: registered nowhere else
        self._eps, self._implementation = norm.eps, implementation

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in self._implementation.dtypes or x[0, 0].numel() == 1:
            for module in self._plain:
                x = module(x)
            return x
        return self._implementation.compute(x, self.weight, self.bias, self._eps, self._slope)
