"""One training step of several processes: what is summed over a batch is summed over all of their parts.

The loss is a function of sums over the whole batch, so each process has the loss of the whole batch, and its own part
of the gradient; the parts are added up before clipping. So all take the same step, that of one process, within
rounding. The sums go through torch.distributed: gloo between CPUs, NCCL between GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unetx_evaluators.training.rank import Rank

PATIENCE = timedelta(days=7)
"""For the other processes, while the first scores. Whoever started them notices sooner when one has ended."""


class RankLost(RuntimeError):
    """Another process of the training has ended, or cannot be reached."""


@contextmanager
def joined(rank: Rank, device: torch.device) -> Iterator[None]:
    """Inside, the processes of a training add up. Waits until all have come; nothing to wait for where one is alone."""
    if rank.n == 1:
        yield
        return
    kind = "nccl" if device.type == "cuda" else "gloo"
    store = dist.FileStore(str(rank.meeting), rank.n)  # type: ignore[attr-defined]  # not in torch's stubs
    dist.init_process_group(kind, store=store, rank=rank.number, world_size=rank.n, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, of which the gradient of this process's own part is known."""
    total = values.detach().clone()
    _add_up(total)
    return total + (values - values.detach())


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give each parameter the sum of its gradients in all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.reshape(-1) for gradient in gradients])
    _add_up(together)
    totals = torch.split(together, [gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, totals, strict=True):
        gradient.copy_(total.view(gradient.shape))


def _add_up(values: Tensor) -> None:
    try:
        dist.all_reduce(values)
    except RuntimeError as error:
        raise RankLost(f"another process of this training has ended or cannot be reached: {error}") from error
