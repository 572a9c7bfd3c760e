"""Modules of a network swapped for faster ones on a CPU: instance normalisations and 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from torch import nn

from unetx_evaluators.training.fast_cpu.norm_act import DTYPES, norm_act
from unetx_evaluators.training.fast_cpu.pointwise import faster_pointwise
from unetx_evaluators.training.module_swaps import NormWithActivation, swapped_modules

NORMS = NormWithActivation(norm_act, DTYPES)


def fast_on_cpu(network: nn.Module) -> AbstractContextManager[None]:
    """Inside, instance normalisations, fused with the activation behind them, and 1x1 convolutions are faster.

    Maps that are too small, or of another precision, go through torch.
    """
    return swapped_modules(network, _faster_children)


def _faster_children(owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from NORMS.replacements(owner)
    for name, module in owner.named_children():
        if pointwise := faster_pointwise(module):
            yield name, pointwise
