"""Modules that stand in for those of a network for a while, computing the same in another way.

Only how the numbers come about changes, and that within float rounding. Parameters, their names and the network itself
stay; what hooks into its modules must do so outside.
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
def exchanged(network: nn.Module, stand_ins: Callable[[nn.Module], Iterable[tuple[str, nn.Module]]]) -> Iterator[None]:
    """Inside, ``stand_ins`` of each module, by their names, are in the place of its direct children."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for owner in list(network.modules()):
            for name, stand_in in stand_ins(owner):
                replaced.append((owner, name, owner._modules[name]))  # type: ignore[arg-type]  # no child is None
                owner._modules[name] = stand_in
        yield
    finally:
        for owner, name, module in replaced:
            owner._modules[name] = module


@dataclass(frozen=True, slots=True)
class NormWithActivation:
    """A way of computing LeakyReLU(instance_norm(x) * weight + bias) in one go."""

    compute: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
    """Of ``x`` ``[b, c, *size]``, weight, bias, eps, and slope: 1 leaves the activation out."""
    dtypes: Collection[torch.dtype]
    """Of maps that it takes."""

    def stand_ins(self, owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """For the norms among a module's children, and for the LeakyReLU behind each of them in a sequence."""
        for (name, module), (next_name, follower) in pairwise([*owner.named_children(), ("", nn.Identity())]):
            if can_be_fused(module):
                is_activated = isinstance(owner, nn.Sequential) and isinstance(follower, nn.LeakyReLU | nn.ReLU)
                yield name, FusedNorm(module, follower if is_activated else None, self)
                if is_activated:
                    yield next_name, nn.Identity()


def can_be_fused(module: nn.Module) -> TypeGuard[InstanceNorm]:
    """An instance normalisation with a scale and a shift of its own, and no running statistics."""
    return isinstance(module, InstanceNorm) and module.affine and not module.track_running_stats


class FusedNorm(nn.Module):
    """``[b, c, *size] -> [b, c, *size]``; shares its parameters with the module it stands in for.

    Maps of a single voxel, or of another precision, go through that.
    """

    def __init__(self, norm: InstanceNorm, activation: nn.Module | None, way: NormWithActivation) -> None:
        """``activation`` is a LeakyReLU or a ReLU."""
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._slope = 1.0 if activation is None else float(getattr(activation, "negative_slope", 0.0))
        self._plain = [norm] if activation is None else [norm, activation]  # a list: registered nowhere else
        self._eps, self._way = norm.eps, way

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in self._way.dtypes or x[0, 0].numel() == 1:
            for module in self._plain:
                x = module(x)
            return x
        return self._way.compute(x, self.weight, self.bias, self._eps, self._slope)
