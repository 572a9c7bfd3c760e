"""Data-parallel training steps: sums over a batch are all-reduced over the processes that share it.

The loss is a function of sums over the whole batch, so each process has the loss of the whole batch, and its own part
of the gradient; the parts are summed before clipping. So all processes take the same step, that of a single process
within rounding. torch.distributed sums by gloo between CPUs, and by NCCL between GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unetx_evaluators.training.rank import Rank

TIMEOUT = timedelta(days=7)
"""How long processes wait for the first, which scores. The parent notices much sooner when one has ended."""


class RankLost(RuntimeError):
    """Raised when another process of the training has ended, or cannot be reached."""


@contextmanager
def process_group(rank: Rank, device: torch.device) -> Iterator[None]:
    """Inside, the processes of a training form a process group. Waits for all of them; a single one needs no group."""
    if rank.world_size == 1:
        yield
        return
    kind = "nccl" if device.type == "cuda" else "gloo"
    store = dist.FileStore(str(rank.rendezvous), rank.world_size)  # type: ignore[attr-defined]  # not in torch's stubs
    dist.init_process_group(kind, store=store, rank=rank.number, world_size=rank.world_size, timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def summed_over_ranks(values: Tensor) -> Tensor:
    """The sum over all processes; its gradient is that of this process's own part."""
    total = values.detach().clone()
    _all_reduce(total)
    return total + (values - values.detach())


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each parameter's gradient by its sum over all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    _all_reduce(flat)
    totals = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, totals, strict=True):
        gradient.copy_(total.view(gradient.shape))


def _all_reduce(values: Tensor) -> None:
    try:
        dist.all_reduce(values)
    except RuntimeError as error:
        raise RankLost(f"another process of this training has ended or cannot be reached: {error}") from error
