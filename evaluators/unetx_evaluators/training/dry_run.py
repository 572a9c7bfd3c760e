"""A dry run before the training: one step without an update, which checks that gradients reach every stage.

Random voxels and labels replace the data, so that no gradient vanishes because a patch happens to be empty. Parameters,
running statistics and mode of the network are restored; the global random generators are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile, PeakMemory, in_memory_format
from unetx_evaluators.host_memory import MIB
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.loss import dice_ce_loss
from unetx_space.backbone import Backbone

BATCH_SIZE = 2
"""The smallest batch with which batch normalisation has statistics over images."""
LOSS_SCALE = 2.0**10
"""Factor of the loss in float16, where the small gradients of many voxels would become zero."""
NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class DryRun:
    """The result of a dry run."""

    faults: tuple[str, ...]
    """Messages on why training would be in vain; empty when the network can be trained."""
    step_bytes: int
    """Memory that a step on BATCH_SIZE patches took beyond what was in use before; 0 where the system does not report
    it. On a CPU it misses memory that the process had freed and not returned."""


def dry_run(network: nn.Module, backbone: Backbone, patch: tuple[int, ...], device: DeviceProfile) -> DryRun:
    """One forward and backward pass of ``network``, which lies on ``device``, in the precision of training.

    A network can be trained if its output is finite, if every parameter has a finite gradient, and if at the output of
    every stage and node some gradient is not zero. (A parameter's may be: a bias before a normalisation has none, and a
    gate may start at zero.) ``backbone`` is the network's own. Raises what the device raises when its memory is
    exhausted.

    On CUDA the step is done twice, and the second is measured: in the first, libraries try algorithms whose workspaces
    no later step needs. On a CPU the first is measured, for later ones reuse its memory.
    """
    with _left_as_it_was(network):
        batch = _batch(backbone, patch, device.device)
        for _ in range(2 if device.device.type == "cuda" else 1):
            network.zero_grad(set_to_none=True)
            memory = PeakMemory(device.device)
            before = memory.mib() or 0.0
            faults = tuple(_faults(network, batch, device))
        return DryRun(faults, round(((memory.mib() or 0.0) - before) * MIB))


def _faults(network: nn.Module, batch: Batch, device: DeviceProfile) -> Iterator[str]:
    stages = {  # encoder stages and decoder nodes by their names, ``E0`` or ``D0_1``
        name.partition(".")[2]: module
        for name, module in network.named_modules()
        if name.startswith(("encoder.", "decoder.")) and name.count(".") == 1
    }
    with _watched(stages) as learning, device.autocast():
        logits = network(batch.images)
    if not logits.isfinite().all():
        yield "the untrained network's output is not finite"
        return
    loss = dice_ce_loss(logits, batch.labels, background_weight=1.0)
    (loss * (LOSS_SCALE if device.needs_loss_scaling else 1.0)).backward()  # type: ignore[no-untyped-call]
    if still := _failing(stages, [learning.get(name) for name in stages]):
        yield f"no gradient reaches the output of {_listed(still)}"
    live = {name: p for name, p in network.named_parameters() if not name.startswith("side_heads.")}
    if idle := [name for name, parameter in live.items() if parameter.grad is None]:
        yield f"the output does not depend on {_listed(idle)}"
    gradients = {name: parameter.grad for name, parameter in live.items() if parameter.grad is not None}
    if broken := _failing(gradients, [gradient.isfinite().all() for gradient in gradients.values()]):
        yield f"the gradient is not finite of {_listed(broken)}"


@contextmanager
def _watched(stages: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Backward passes of forward passes inside record for each stage whether any gradient at its output is not zero.

    The gradients themselves are freed, as in training, so that the measured memory is that of training.
    """
    learning: dict[str, Tensor] = {}

    def forward_hook(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def record(gradient: Tensor) -> None:
            learning[name] = gradient.any()

        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            output.register_hook(record)  # type: ignore[no-untyped-call]

        return hook

    handles = [module.register_forward_hook(forward_hook(name)) for name, module in stages.items()]
    try:
        yield learning
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in training mode; afterwards it has no gradients, and statistics and mode as before."""
    was_training, buffers = network.training, [buffer.clone() for buffer in network.buffers()]
    network.train()
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        network.train(was_training)
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(before)


def _batch(backbone: Backbone, patch: tuple[int, ...], device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH_SIZE, backbone.in_channels, *patch, generator=generator).to(device)
    labels = torch.randint(backbone.out_channels, (BATCH_SIZE, *patch), generator=generator, dtype=torch.uint8)
    return Batch(in_memory_format(images), labels.to(device))


def _failing(names: Iterable[str], sound: Sequence[Tensor | None]) -> list[str]:
    """The names whose flag is false or missing; all flags are read from the device at once."""
    tensors = [flag for flag in sound if flag is not None]
    flags = iter(torch.stack(tensors).tolist() if tensors else ())
    return [name for name, flag in zip(names, sound, strict=True) if flag is None or not next(flags)]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
