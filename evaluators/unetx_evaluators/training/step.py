"""One training step: forward, loss, backward, clip, update; eager, or on CUDA captured once as a graph and replayed.

A short proxy on a fast GPU is bound by the launching of its kernels, some thousand a step; a replay launches them all
at once (PyTorch documentation, "CUDA semantics: CUDA Graphs").
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile, first_line, memory_format, release_memory
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.data_parallel import sum_gradients, summed
from unetx_evaluators.training.loss import heads_loss
from unetx_evaluators.training.rank import ALONE, Rank
from unetx_evaluators.training.recipe import Recipe

WARM_UPS = 3
"""Steps before a capture, in which libraries choose algorithms and set themselves up, as the documentation asks."""

logger = logging.getLogger(__name__)


class Step(Protocol):
    """Trains a network in place, one batch a call."""

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """The batch's loss before the update, as a scalar on the device: reading it waits for the device.

        Until the next call the parameters' ``grad`` is what the update was made from: clipped.
        """


class CaptureFailed(RuntimeError):
    """A capture broke off midway: the memory that it had taken stays taken until the process ends (pytorch#190348)."""


@dataclass(frozen=True, slots=True)
class ChosenStep:
    """The step that a training runs, and how that is to be told."""

    step: Step
    run_as: str = ""
    """"graph", or "eager: " and why it could not be captured; empty on a CPU, which has no choice."""
    spends_process: bool = False
    """A capture has left memory taken."""


class EagerStep:
    """Launches every operation by itself. Owns the optimiser and the loss scale."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        device: DeviceProfile,
        *,
        ignores: bool = False,
        rank: Rank = ALONE,
    ) -> None:
        """Batches are ``rank``'s parts of those that several processes share."""
        self.device = device
        self.is_shared = rank.n > 1
        self._network = network
        self._recipe = recipe
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

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        self.set_learning_rate(learning_rate)
        layout = memory_format(batch.images.ndim - 2, batch.images.device)
        return self.run(batch.images.contiguous(memory_format=layout), batch.labels)

    def set_learning_rate(self, value: float) -> None:
        self._learning_rate.fill_(value)

    def run(self, images: Tensor, labels: Tensor) -> Tensor:
        """The step at the learning rate that was set; ``images`` lie as the network does. Waits for no device."""
        with self.device.autocast():
            if self._recipe.deep_supervision:
                heads: list[Tensor] = self._network.forward_all(images)  # type: ignore[operator]
            else:
                heads = [self._network(images)]
        total = summed if self.is_shared else None
        loss = heads_loss(heads, labels, self._recipe.background_weight, ignores=self._ignores, total=total)
        self.forget_gradients()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.is_shared:
            sum_gradients(self._parameters)
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._parameters, self._recipe.max_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()

    def forget_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def recover(self) -> None:
        """After a step that broke off: no gradients, and a loss scaling that waits for no rest of that step."""
        self.forget_gradients()
        state, self._scaler = self._scaler.state_dict(), self._new_scaler()
        self._scaler.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Of the optimiser and the loss scale; the network is its owner's."""
        return {"moments": self._optimizer.state_dict()["state"], "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["moments"], "param_groups": groups})
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate  # loading leaves a copy there
        self._scaler.load_state_dict(state["scaler"])

    @torch.no_grad()
    def undoable(self) -> Callable[[], None]:
        """Remember everything that steps change; the function returned puts it back in place."""
        before, scale = {tensor: tensor.clone() for tensor in self._tensors()}, self._scaler.state_dict()

        @torch.no_grad()
        def undo() -> None:
            for tensor in self._tensors():
                if tensor in before:
                    tensor.copy_(before[tensor])
                else:
                    tensor.zero_()  # made by the first step; Adam's moments and count start at zero
            self._scaler.load_state_dict(scale)  # fills the scale and its growth tracker in place, for a graph has them
            self.forget_gradients()

        return undo

    def _tensors(self) -> list[Tensor]:
        moments = [value for state in self._optimizer.state.values() for value in state.values()]
        return [*chain(self._network.parameters(), self._network.buffers()), *moments]


class GraphedStep:
    """Replays a CUDA graph of the whole step. The same numbers as the eager step, which it captures.

    The graph reads its batch and its learning rate from fixed places, so every batch has the first one's shape. Raises
    RuntimeError when the step cannot be captured (an operator that waits for the device, say, or too little memory),
    CaptureFailed when that is found midway; network and optimiser are then as they were.

    In float16, too: the fused AdamW is told on the device whether gradients overflowed, and updates nothing then
    (torch.optim.adam of torch 2.13), and the scale is updated there as well.
    """

    def __init__(self, eager: EagerStep, batch: Batch) -> None:
        device = batch.images.device
        self._eager = eager
        self._images = batch.images.clone(memory_format=memory_format(batch.images.ndim - 2, device))
        self._labels = batch.labels.clone()
        self._graph = torch.cuda.CUDAGraph()
        here, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        undo = eager.undoable()
        aside.wait_stream(here)
        try:
            # Aside, because what autograd remembers of the default stream cannot be captured.
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    eager.run(self._images, self._labels)
                with _waiting_forbidden():
                    eager.run(self._images, self._labels)
        finally:
            here.wait_stream(aside)
            undo()
        try:
            with torch.cuda.graph(self._graph, stream=aside):  # records and computes nothing; finds no gradients, and
                self._loss = eager.run(self._images, self._labels)  # so makes them in the graph's own memory
        except RuntimeError as error:  # that of the end of the capture, which follows from the first
            raise CaptureFailed(first_line(error.__context__ or error)) from error
        finally:
            torch.cuda.set_stream(here)  # torch stays on the stream of a capture that failed

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        self._images.copy_(batch.images)
        self._labels.copy_(batch.labels)
        self._eager.set_learning_rate(learning_rate)
        self._graph.replay()
        return self._loss.clone()


@contextmanager
def _waiting_forbidden() -> Iterator[None]:
    """Inside, what waits for the device raises RuntimeError, as it would in a capture. There it would be worse: in some
    versions of torch a capture that failed leaves the allocator unfit for the next one."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def captured_where_possible(
    eager: EagerStep, example: Callable[[], Batch], *, capture: Callable[[EagerStep, Batch], Step] = GraphedStep
) -> ChosenStep:
    """A graph of the eager step, made with an example batch; the step itself on CPUs and where that fails."""
    if eager.device.device.type != "cuda":
        return ChosenStep(eager)
    if eager.is_shared:
        return ChosenStep(eager, "eager: several processes share each batch")
    try:
        return ChosenStep(capture(eager, example()), "graph")
    except RuntimeError as error:
        chosen = ChosenStep(eager, f"eager: {first_line(error)}", isinstance(error, CaptureFailed))
    logger.info("training without a CUDA graph; %s", chosen.run_as)
    eager.recover()  # gradients may lie in the memory of the graph that failed
    with suppress(RuntimeError):  # an allocator that a failed capture left unfit; it still allocates
        release_memory(eager.device.device)
    return chosen
