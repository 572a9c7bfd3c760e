"""A moving average of the weights, which is scored in place of them if the recipe asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's parameters and running statistics.

    It is corrected for its start (Adam, arXiv:1412.6980, section 3): after step t, step s has the weight
    d^(t-s) (1-d) / (1-d^t) for the decay d, so that the initial values have no part in it.
    """

    def __init__(self, network: nn.Module, n_steps: float) -> None:
        """Average over about ``n_steps`` steps, the time constant 1 / (1 - d); 0 turns averaging off."""
        named = chain(network.named_parameters(), network.named_buffers())
        live = {name: tensor for name, tensor in named if tensor.is_floating_point()} if n_steps > 0 else {}
        self._decay = 1 - 1 / max(1.0, n_steps)
        self._live = live
        self._average = {name: torch.zeros_like(tensor) for name, tensor in live.items()}

    def weight(self, step: int) -> float:
        """The weight in the average of the network's weights after ``step``, counted from 1."""
        return (1 - self._decay) / (1 - self._decay**step)

    @torch.no_grad()
    def update(self, weight: Tensor) -> None:
        """Add the network's weights after a step, whose ``weight`` lies on their device, without synchronising."""
        for name, newest in self._live.items():
            self._average[name].lerp_(newest, weight)

    @property
    def tensors(self) -> Iterable[Tensor]:
        """The tensors that ``update`` changes."""
        return self._average.values()

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the network has the averaged weights, afterwards its own again."""
        own = [tensor.detach().clone() for tensor in self._live.values()]
        self.copy_to_network()
        try:
            yield
        finally:
            _copy(own, [*self._live.values()])

    def copy_to_network(self) -> None:
        """Copy the averaged weights into the network."""
        _copy([*self._average.values()], [*self._live.values()])

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        _copy([state[name] for name in self._average], [*self._average.values()])


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
