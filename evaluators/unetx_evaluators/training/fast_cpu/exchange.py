"""Networks that train and predict faster on a CPU: what torch is slow at is computed in other ways for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from torch import nn

from unetx_evaluators.training.fast_cpu.norm_act import DTYPES, norm_act
from unetx_evaluators.training.fast_cpu.pointwise import faster_pointwise
from unetx_evaluators.training.stand_ins import NormWithActivation, exchanged

NORMS = NormWithActivation(norm_act, DTYPES)


def fast_on_cpu(network: nn.Module) -> AbstractContextManager[None]:
    """Inside, instance normalisations, with the activation that follows in a sequence, and 1x1 convolutions are fast.

    Maps that are too small, or of another precision, go through torch.
    """
    return exchanged(network, _faster_children)


def _faster_children(owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from NORMS.stand_ins(owner)
    for name, module in owner.named_children():
        if pointwise := faster_pointwise(module):
            yield name, pointwise
