"""The rounds of a training: each makes its batch, steps, averages the weights and notes the loss; eager, or on CUDA
captured once as a graph and replayed.

A short proxy on a fast GPU is bound by the launching of its kernels, some thousand a round; a replay launches them all
at once (PyTorch documentation, "CUDA semantics: CUDA Graphs"). A counter on the device tells each round which row of
the tables there is its own: so it needs no word from the host, and several can be queued.
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
"""Rounds before a capture, in which libraries choose algorithms and set themselves up, as the documentation asks."""

logger = logging.getLogger(__name__)


class Feed(Protocol):
    """Where a round has its batch from."""

    @property
    def noise(self) -> torch.Generator | None:
        """What a batch draws from on the device; a graph has to know of it."""

    def prepare(self, step: int) -> None:
        """What the host does before the round of a step, counted from 1."""

    def batch(self, counter: Tensor) -> Batch:
        """The batch of the step after ``counter[1]`` steps, always in the same place if it is not made here."""


class HostBatches:
    """Batches that the host puts together, one by one."""

    noise = None

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make
        self._batch: Batch | None = None

    def prepare(self, step: int) -> None:
        made = self._make(step)
        if self._batch is None or made.images.device.type == "cpu":
            self._batch = made
        else:  # a graph reads from where the first one lies
            self._batch.images.copy_(made.images)
            self._batch.labels.copy_(made.labels)

    def batch(self, counter: Tensor) -> Batch:
        assert self._batch is not None
        return self._batch


class DeviceBatches:
    """Batches that the device makes by itself, from tables drawn for all steps beforehand."""

    def __init__(self, batches: BatchStream, n_steps: int, device: torch.device) -> None:
        self._batches = batches
        self._tables, self._seeds = batches.tables(n_steps)
        self.noise = torch.Generator(device)

    def prepare(self, step: int) -> None:
        self.noise.manual_seed(self._seeds[step - 1])  # for a graph, too: it takes the seed over at every replay

    def batch(self, counter: Tensor) -> Batch:
        row = {name: table.index_select(0, counter)[0] for name, table in self._tables.items()}
        return self._batches.made(row, self.noise)


class LossLog:
    """The loss of every step, kept on the device."""

    def __init__(self, n_steps: int, device: torch.device) -> None:
        self.values = torch.zeros(n_steps, device=device)
        self._n_taken = 0

    def check(self, step: int) -> list[float]:
        """The losses since they were taken last, up to a step. Ends the evaluation as diverged when one is not finite.

        On CUDA this waits for the device.
        """
        losses: list[float] = self.values[self._n_taken : step].tolist()
        for loss in losses:
            if not math.isfinite(loss):
                raise EvaluationEnded(Outcome.DIVERGED, f"the training loss was {loss} by step {step}")
        return losses

    def taken(self, step: int) -> list[float]:
        """The same, and start anew."""
        losses = self.check(step)
        self._n_taken = step
        return losses

    def restore(self, step: int, losses: Sequence[float]) -> None:
        """As it was after a step, when ``losses`` were those not taken yet."""
        self._n_taken = step - len(losses)
        self.values[self._n_taken : step] = torch.tensor(losses)


class Round:
    """One step of a training with all that belongs to it. Waits for no device."""

    def __init__(
        self,
        eager: EagerStep,
        batches: BatchStream,
        average: WeightAverage,
        losses: LossLog,
        done: int = 0,
        part: slice = slice(None),
    ) -> None:
        """``losses`` have room for all steps of the training, of which some are done; ``part`` is this process's of
        batches that several share."""
        device, n_steps = eager.device.device, len(losses.values)
        made = batches.is_made_on_device and not eager.is_shared
        self.eager = eager
        hosted = HostBatches(lambda step: batches.batch(step).part(part))
        self.feed: Feed = DeviceBatches(batches, n_steps, device) if made else hosted
        steps = range(1, n_steps + 1)
        self._rates = torch.tensor([learning_rate(step, n_steps, eager.recipe) for step in steps], device=device)
        self._weights = torch.tensor([average.weight(step) for step in steps], device=device)
        self._average = average
        self._losses = losses
        self.counter = torch.full((1,), done, device=device)
        """Steps done."""

    def __call__(self, step: int) -> None:
        """The round of a step: the one after those that ``counter`` has."""
        self.feed.prepare(step)
        self.run()

    def run(self) -> None:
        """What the device does of a round."""
        at = self.counter
        loss = self.eager(self.feed.batch(at), self._rates.index_select(0, at)[0])
        self._average.update(self._weights.index_select(0, at)[0])
        self._losses.values.index_copy_(0, at, loss.view(1))
        at.add_(1)

    def undoable(self) -> Callable[[], None]:
        """Remember everything that rounds change; the function returned puts it back in place."""
        return self.eager.undoable(self.counter, self._losses.values, *self._average.tensors)


class CaptureFailed(RuntimeError):
    """A capture broke off midway: the memory that it had taken stays taken until the process ends (pytorch#190348)."""


class GraphedRound:
    """Replays a CUDA graph of a whole round. The same numbers as the eager one, which it captures.

    Every batch has the first one's shape. Raises RuntimeError when the round cannot be captured (an operator that waits
    for the device, say, or too little memory), CaptureFailed when that is found midway; all is then as it was.

    In float16, too: the fused AdamW is told on the device whether gradients overflowed, and updates nothing then
    (torch.optim.adam of torch 2.13), and the scale is updated there as well.
    """

    def __init__(self, eager: Round, step: int) -> None:
        """``step`` is the first that it will do."""
        device = eager.counter.device
        self._feed = eager.feed
        self._graph = torch.cuda.CUDAGraph()
        here, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        undo = eager.undoable()
        self._feed.prepare(step)
        aside.wait_stream(here)
        try:
            # Aside, because what autograd remembers of the default stream cannot be captured.
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    eager.run()
                with _waiting_forbidden():
                    eager.run()
        finally:
            here.wait_stream(aside)
            undo()
        if self._feed.noise is not None:
            self._graph.register_generator_state(self._feed.noise)
        try:
            with torch.cuda.graph(self._graph, stream=aside):  # records and computes nothing; finds no gradients, and
                eager.run()  # so makes them in the graph's own memory
        except RuntimeError as error:  # that of the end of the capture, which follows from the first
            raise CaptureFailed(first_line(error.__context__ or error)) from error
        finally:
            torch.cuda.set_stream(here)  # torch stays on the stream of a capture that failed

    def __call__(self, step: int) -> None:
        self._feed.prepare(step)
        self._graph.replay()


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


@dataclass(frozen=True, slots=True)
class ChosenRound:
    """What a training repeats, and how that is to be told."""

    do: Callable[[int], None]
    """The round of a step, counted from 1. Until the next one the parameters' ``grad`` is what the update was made
    from: clipped."""
    run_as: str = ""
    """"graph", or "eager: " and why it could not be captured; empty on a CPU, which has no choice."""
    spends_process: bool = False
    """A capture has left memory taken."""


def captured_where_possible(
    eager: Round, step: int, *, capture: Callable[[Round, int], Callable[[int], None]] = GraphedRound
) -> ChosenRound:
    """A graph of the round, which begins with a step; the eager round itself on CPUs and where that fails."""
    device = eager.eager.device.device
    if device.type != "cuda":
        return ChosenRound(eager)
    if eager.eager.is_shared:
        return ChosenRound(eager, "eager: several processes share each batch")
    try:
        return ChosenRound(capture(eager, step), "graph")
    except RuntimeError as error:
        chosen = ChosenRound(eager, f"eager: {first_line(error)}", isinstance(error, CaptureFailed))
    logger.info("training without a CUDA graph; %s", chosen.run_as)
    eager.eager.recover()  # gradients may lie in the memory of the graph that failed
    with suppress(RuntimeError):  # an allocator that a failed capture left unfit; it still allocates
        release_memory(device)
    return chosen
