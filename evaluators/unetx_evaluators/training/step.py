"""One training step: forward, loss, backward, clip, update; ``iteration.py`` repeats it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile, in_memory_format
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.data_parallel import sum_gradients, summed_over_ranks
from unetx_evaluators.training.loss import heads_loss
from unetx_evaluators.training.rank import SINGLE_PROCESS, Rank
from unetx_evaluators.training.recipe import Recipe


class EagerStep:
    """A training step in eager mode, with its optimiser and loss scaler."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        device: DeviceProfile,
        *,
        ignores: bool = False,
        rank: Rank = SINGLE_PROCESS,
    ) -> None:
        """Train ``network``, which lies on ``device``, on batches that are ``rank``'s parts where processes share
        them."""
        self.device = device
        self.is_shared = rank.world_size > 1
        self._network = network
        self.recipe = recipe
        self._ignores = ignores
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._learning_rate = torch.zeros((), device=device.device)  # a tensor, for a graph reads it at every replay
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=self._learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=device.device.type == "cuda",
        )
        self._scaler = self._new_scaler()

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.device.type, enabled=self.device.needs_loss_scaling)

    def __call__(self, batch: Batch, learning_rate: float | Tensor) -> Tensor:
        """Do a step, and return the batch's loss before the update, as a scalar on the device.

        Until the next call the parameters' ``grad`` holds the clipped gradients of the update.
        """
        self._learning_rate.fill_(learning_rate)
        return self.run(in_memory_format(batch.images), batch.labels)

    def run(self, images: Tensor, labels: Tensor) -> Tensor:
        """Do a step at the current learning rate without synchronising; ``images`` have the network's memory format."""
        with self.device.autocast():
            if self.recipe.deep_supervision:
                heads: list[Tensor] = self._network.forward_all(images)  # type: ignore[operator]
            else:
                heads = [self._network(images)]
        total = summed_over_ranks if self.is_shared else None
        loss = heads_loss(heads, labels, self.recipe.background_weight, ignores=self._ignores, total=total)
        self.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.is_shared:
            sum_gradients(self._parameters)
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._parameters, self.recipe.max_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()

    def zero_grad(self) -> None:
        """Set the gradients to None."""
        self._optimizer.zero_grad(set_to_none=True)

    def recover(self) -> None:
        """Drop the gradients of a step that failed, and let the loss scaler begin with a new step."""
        self.zero_grad()
        state, self._scaler = self._scaler.state_dict(), self._new_scaler()
        self._scaler.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimiser and of the loss scaler, without the network's weights."""
        return {"moments": self._optimizer.state_dict()["state"], "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["moments"], "param_groups": groups})
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate  # loading leaves a copy there
        self._scaler.load_state_dict(state["scaler"])

    @torch.no_grad()
    def snapshot(self, *others: Tensor) -> Callable[[], None]:
        """Copy everything that steps change, and ``others``; the returned function restores it in place."""
        before = {tensor: tensor.clone() for tensor in (*self._tensors(), *others)}
        scale = self._scaler.state_dict()

        @torch.no_grad()
        def undo() -> None:
            for tensor in (*self._tensors(), *others):
                if tensor in before:
                    tensor.copy_(before[tensor])
                else:
                    tensor.zero_()  # made by the first step; Adam's moments and count start at zero
            self._scaler.load_state_dict(scale)  # fills the scale and its growth tracker in place, for a graph has them
            self.zero_grad()

        return undo

    def _tensors(self) -> list[Tensor]:
        moments = [value for state in self._optimizer.state.values() for value in state.values()]
        return [*chain(self._network.parameters(), self._network.buffers()), *moments]
