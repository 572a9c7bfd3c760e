"""How far the attention gates of a trained network are open: the factors by which they multiply their input.

Factors are the ratio of a gate's output to its input, so that one rule serves channel gates, voxel gates and both in a
row. Where attention does more than reweight, as the gate on the coarse grid, its logits are read instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.inference import run_hooks
from unetx_evaluators.insight import GateStatistics
from unetx_space.genome import NO_ATTENTION
from unetx_space.network import SkipUNet, module_name
from unetx_space.operators.catalogue import ATTENTIONS

CLOSED, OPEN = 0.1, 0.9
"""A factor below the first counts as closed, one above the second as open."""
SMALLEST = 1e-3
"""Share of the largest input from which on factors are computed: they are unreliable where it is nearly zero."""


@dataclass
class _Gate:
    """Sums over the factors of one attention gate."""

    node: str
    at: str
    type: str
    module: nn.Module
    n: int = 0
    total: float = 0.0
    n_closed: int = 0
    n_open: int = 0

    def register_hook(self) -> RemovableHandle:
        """Add every factor of later forward passes to the sums, until the handle is removed."""
        decision = ATTENTIONS[self.type].decision
        if decision is not None:
            return self.module.get_submodule(decision[0]).register_forward_hook(
                lambda module, args, logits: self._add(logits.float().sigmoid())
            )
        return self.module.register_forward_hook(lambda module, args, output: self._add(_factors(args[0], output)))

    def _add(self, factors: Tensor) -> None:
        self.n += factors.numel()
        self.total += float(factors.double().sum())
        self.n_closed += int((factors < CLOSED).sum())
        self.n_open += int((factors > OPEN).sum())

    def statistics(self) -> GateStatistics:
        known = self.n > 0
        return GateStatistics(
            self.node,
            self.at,
            self.type,
            mean=self.total / self.n if known else None,
            share_closed=self.n_closed / self.n if known else None,
            share_open=self.n_open / self.n if known else None,
        )


@torch.no_grad()
def gate_statistics(
    network: SkipUNet, images: Iterable[Tensor], patch: tuple[int, ...], device: DeviceProfile
) -> tuple[GateStatistics, ...]:
    """Statistics of every attention gate, in the order of the nodes, over the windows of ``images[c, *spatial]``."""
    gates = list(_gates(network))
    if gates:
        run_hooks([gate.register_hook() for gate in gates], network, images, patch, device)
    return tuple(gate.statistics() for gate in gates)


def _gates(network: SkipUNet) -> Iterator[_Gate]:
    for node in network.plan.nodes:
        name = str(node.ref)
        within = network.get_submodule(f"decoder.{module_name(node.ref)}")
        places = [(str(s.ref), s.attention, f"sources.{module_name(s.ref)}.attention") for s in node.sources]
        places += [("fused", node.fused_attention, "fused_attention")]
        places += [("block", node.block_attention, "block_attention")]
        for at, attention, path in places:
            if attention != NO_ATTENTION.type:
                yield _Gate(name, at, attention, within.get_submodule(path))


def _factors(x: Tensor, y: Tensor) -> Tensor:
    """y / x where x is clearly above zero: a rectifier behind the gate may have cut negative values off."""
    x, y = x.float(), y.float()
    is_clear = x > SMALLEST * x.abs().amax()
    return y[is_clear] / x[is_clear]
