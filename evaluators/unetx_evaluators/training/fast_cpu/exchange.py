"""Networks that train and predict faster on a CPU: what torch is slow at is computed in other ways for a while.

Only how the numbers come about changes, and that within float rounding. Parameters, their names and the network itself
stay; what hooks into its modules must do so outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from torch import nn

from unetx_evaluators.training.fast_cpu.fused_norm import FusedNorm, can_be_fused
from unetx_evaluators.training.fast_cpu.pointwise import faster_pointwise


@contextmanager
def fast_on_cpu(network: nn.Module) -> Iterator[None]:
    """Inside, instance normalisations, with a LeakyReLU that follows in a sequence, and 1x1 convolutions are fast.

    Maps that are too small, or of another precision, go through torch.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for owner in list(network.modules()):
            for name, faster in _faster_children(owner):
                replaced.append((owner, name, owner._modules[name]))  # type: ignore[arg-type]  # no child is None
                owner._modules[name] = faster
        yield
    finally:
        for owner, name, module in replaced:
            owner._modules[name] = module


def _faster_children(owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What takes the place of a direct child, by its name."""
    for (name, module), (next_name, follower) in pairwise([*owner.named_children(), ("", nn.Identity())]):
        if can_be_fused(module):
            activation = follower if isinstance(owner, nn.Sequential) and isinstance(follower, nn.LeakyReLU) else None
            yield name, FusedNorm(module, activation)
            if activation is not None:
                yield next_name, nn.Identity()
        elif pointwise := faster_pointwise(module):
            yield name, pointwise
