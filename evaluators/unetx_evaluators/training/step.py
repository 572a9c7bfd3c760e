"""One training step: forward, loss, backward, clip, update."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile, memory_format
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.loss import dice_ce_loss
from unetx_evaluators.training.recipe import Recipe


class TrainingStep:
    """Trains a network in place, one batch a call. Owns the optimiser and the loss scale."""

    def __init__(self, network: nn.Module, recipe: Recipe, device: DeviceProfile, *, ignores: bool = False) -> None:
        self._network = network
        self._recipe = recipe
        self._device = device
        self._ignores = ignores
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=recipe.weight_decay, fused=True)
        self._scaler = torch.amp.GradScaler(device.device.type, enabled=device.needs_loss_scaling)

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """The batch's loss before the update, as a scalar on the device: reading it waits for the device."""
        images = batch.images.contiguous(memory_format=memory_format(batch.images.ndim - 2))
        with self._device.autocast():
            logits = self._network(images)
        loss = dice_ce_loss(logits, batch.labels, self._recipe.background_weight, ignores=self._ignores)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._parameters, self._recipe.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()
