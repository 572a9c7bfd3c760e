"""The iterations of a training: each makes its batch, does a step, averages the weights and records the loss; eager, or
on CUDA captured once as a graph and replayed.

A short proxy on a fast GPU is bound by the launching of its kernels, some thousand an iteration; a replay launches them
all at once (PyTorch documentation, "CUDA semantics: CUDA Graphs"). A counter on the device is the index of each
iteration's row in tables there: so the host passes no arguments, and several iterations can be queued.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unetx_evaluators.device import first_line, release_memory
from unetx_evaluators.evaluation import EvaluationEnded, Outcome
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.batches import Batch, BatchStream
from unetx_evaluators.training.recipe import learning_rate
from unetx_evaluators.training.step import EagerStep

WARM_UPS = 3
"""Number of iterations before a capture, in which libraries initialise and choose algorithms, as PyTorch requires."""

logger = logging.getLogger(__name__)


class Feed(Protocol):
    """Provides the batches of iterations."""

    @property
    def noise(self) -> torch.Generator | None:
        """The generator from which a batch is drawn on the device, which a graph has to register."""

    def prepare(self, step: int) -> None:
        """Do the host's part of the batch of a step, counted from 1."""

    def batch(self, counter: Tensor) -> Batch:
        """The batch of the step after ``counter[0]`` steps; one made by the host always lies at the same address."""


class HostBatches:
    """Batches that the host makes one by one."""

    noise = None

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make
        self._batch: Batch | None = None

    def prepare(self, step: int) -> None:
        made = self._make(step)
        if self._batch is None or made.images.device.type == "cpu":
            self._batch = made
        else:  # a graph reads from the address of the first one
            self._batch.images.copy_(made.images)
            self._batch.labels.copy_(made.labels)

    def batch(self, counter: Tensor) -> Batch:
        assert self._batch is not None
        return self._batch


class DeviceBatches:
    """Batches that the device makes from tables of random numbers, drawn for all steps beforehand."""

    def __init__(self, batches: BatchStream, n_steps: int, device: torch.device) -> None:
        self._batches = batches
        self._tables, self._seeds = batches.tables(n_steps)
        self.noise = torch.Generator(device)

    def prepare(self, step: int) -> None:
        self.noise.manual_seed(self._seeds[step - 1])  # for a graph, too: it reads the seed at every replay

    def batch(self, counter: Tensor) -> Batch:
        row = {name: table.index_select(0, counter)[0] for name, table in self._tables.items()}
        return self._batches.assemble(row, self.noise)


class LossLog:
    """The loss of every step, kept on the device."""

    def __init__(self, n_steps: int, device: torch.device) -> None:
        self.values = torch.zeros(n_steps, device=device)
        self._n_taken = 0

    def check(self, step: int) -> list[float]:
        """The losses since the last ``take``, up to a step; on CUDA this waits for the device.

        Raises EvaluationEnded (diverged) where one is not finite.
        """
        losses: list[float] = self.values[self._n_taken : step].tolist()
        for loss in losses:
            if not math.isfinite(loss):
                raise EvaluationEnded(Outcome.DIVERGED, f"the training loss was {loss} by step {step}")
        return losses

    def take(self, step: int) -> list[float]:
        """The losses since the last ``take``, up to a step, as ``check`` returns them."""
        losses = self.check(step)
        self._n_taken = step
        return losses

    def restore(self, step: int, losses: Sequence[float]) -> None:
        """Restore the log of a training that is at ``step``, with ``losses`` since the last ``take``."""
        self._n_taken = step - len(losses)
        self.values[self._n_taken : step] = torch.tensor(losses)


class Iteration:
    """One iteration of a training: batch, step, average and loss log. It does not synchronise with the device."""

    def __init__(
        self,
        eager: EagerStep,
        batches: BatchStream,
        average: WeightAverage,
        losses: LossLog,
        done: int = 0,
        part: slice = slice(None),
    ) -> None:
        """Continue a training of which ``done`` steps are done; ``losses`` have room for all of them.

        ``part`` is this process's part of batches that several processes share.
        """
        device, n_steps = eager.device.device, len(losses.values)
        self.eager = eager
        self.feed: Feed
        if batches.can_assemble_on_device and not eager.is_shared:
            self.feed = DeviceBatches(batches, n_steps, device)
        else:
            self.feed = HostBatches(lambda step: batches.batch(step).part(part))
        steps = range(1, n_steps + 1)
        self._rates = torch.tensor([learning_rate(step, n_steps, eager.recipe) for step in steps], device=device)
        self._weights = torch.tensor([average.weight(step) for step in steps], device=device)
        self._average = average
        self._losses = losses
        self.counter = torch.full((1,), done, device=device)
        """The number of steps done, of shape ``[1]`` on the device."""

    def __call__(self, step: int) -> None:
        """Do the iteration of a step, which is the next after those in ``counter``."""
        self.feed.prepare(step)
        self.run()

    def run(self) -> None:
        """Do the device's part of an iteration."""
        index = self.counter
        loss = self.eager(self.feed.batch(index), self._rates.index_select(0, index)[0])
        self._average.update(self._weights.index_select(0, index)[0])
        self._losses.values.index_copy_(0, index, loss.view(1))
        index.add_(1)

    def snapshot(self) -> Callable[[], None]:
        """Copy everything that iterations change; the returned function restores it in place."""
        return self.eager.snapshot(self.counter, self._losses.values, *self._average.tensors)


class CaptureFailed(RuntimeError):
    """Raised when a capture fails midway, which leaks its memory until the process ends (pytorch#190348)."""


class GraphedIteration:
    """Replays a CUDA graph of a whole iteration, with the same numbers as the eager one that it captures.

    Every batch has the first one's shape. Raises RuntimeError where the iteration cannot be captured (because of an
    operator that waits for the device, say, or too little memory), and CaptureFailed where that shows midway; the state
    of the training is then restored.

    In float16, too: the fused AdamW reads on the device whether gradients overflowed, and then updates nothing
    (torch.optim.adam of torch 2.13), and the scale is updated there as well.
    """

    def __init__(self, eager: Iteration, step: int) -> None:
        """Capture ``eager``, to be replayed from ``step`` on."""
        device = eager.counter.device
        self._feed = eager.feed
        self._graph = torch.cuda.CUDAGraph()
        current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        restore = eager.snapshot()
        self._feed.prepare(step)
        side.wait_stream(current)
        try:
            # On a side stream, because what autograd records on the default one cannot be captured.
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    eager.run()
                with _synchronising_forbidden():
                    eager.run()
        finally:
            current.wait_stream(side)
            restore()
        if self._feed.noise is not None:
            self._graph.register_generator_state(self._feed.noise)
        try:
            with torch.cuda.graph(self._graph, stream=side):  # records and computes nothing; finds no gradients, and
                eager.run()  # so makes them in the graph's own memory
        except RuntimeError as error:  # that of the end of the capture, which follows from the first
            raise CaptureFailed(first_line(error.__context__ or error)) from error
        finally:
            torch.cuda.set_stream(current)  # torch stays on the stream of a capture that failed

    def __call__(self, step: int) -> None:
        self._feed.prepare(step)
        self._graph.replay()


@contextmanager
def _synchronising_forbidden() -> Iterator[None]:
    """Inside, operations that wait for the device raise RuntimeError, as they would in a capture. There it is worse: in
    some versions of torch a failed capture leaves the allocator unfit for the next one."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@dataclass(frozen=True, slots=True)
class ChosenIteration:
    """The iteration that a training repeats, eager or graphed."""

    run: Callable[[int], None]
    """Does the iteration of a step, counted from 1. Until the next one the parameters' ``grad`` holds the clipped
    gradients of the update."""
    mode: str = ""
    """How iterations are executed: "graph", or "eager: " and why; empty on a CPU, which has no choice."""
    needs_new_process: bool = False
    """Whether a failed capture has leaked memory."""


def capture_if_possible(
    eager: Iteration, step: int, *, capture: Callable[[Iteration, int], Callable[[int], None]] = GraphedIteration
) -> ChosenIteration:
    """The iteration captured as a graph from ``step`` on; the eager iteration on CPUs and where that fails."""
    device = eager.eager.device.device
    if device.type != "cuda":
        return ChosenIteration(eager)
    if eager.eager.is_shared:
        return ChosenIteration(eager, "eager: several processes share each batch")
    try:
        return ChosenIteration(capture(eager, step), "graph")
    except RuntimeError as error:
        chosen = ChosenIteration(eager, f"eager: {first_line(error)}", isinstance(error, CaptureFailed))
    logger.info("training without a CUDA graph; %s", chosen.mode)
    eager.eager.recover()  # gradients may lie in the memory of the graph that failed
    with suppress(RuntimeError):  # an allocator that a failed capture left unfit; it still allocates
        release_memory(device)
    return chosen
