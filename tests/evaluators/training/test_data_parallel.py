"""Several processes that share each batch train as one does."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_task import tiny_architecture, write_tiny_task
from torch import Tensor

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.tasks.task import IGNORED, Task
from unetx_evaluators.training import data_parallel
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import open_cases
from unetx_evaluators.training.data_parallel import RankLost, process_group, summed_over_ranks
from unetx_evaluators.training.loss import heads_loss
from unetx_evaluators.training.rank import SINGLE_PROCESS, Rank
from unetx_evaluators.training.recipe import STRONG
from unetx_evaluators.training.step import EagerStep
from unetx_space.network import build

FLOAT32 = DeviceProfile(torch.device("cpu"), autocast_dtype=None)
BATCH_SIZE, N_STEPS = 5, 4


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_parts_of_all_processes_are_the_batch(n: int) -> None:
    parts = [range(BATCH_SIZE)[Rank(number, n).part(BATCH_SIZE)] for number in range(n)]
    assert [patch for part in parts for patch in part] == list(range(BATCH_SIZE))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def in_turn(parts: list[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """The loss of each part, as if processes with the other parts added up at the same time: by two passes."""
    sums: list[list[Tensor]] = []

    def note(values: Tensor) -> None:
        sums[-1].append(values.clone())

    def add(values: Tensor) -> None:
        values.copy_(torch.stack([heard.pop(0) for heard in others]).sum(0))

    with pytest.MonkeyPatch.context() as patch:
        for part in parts:
            sums.append([])
            patch.setattr(data_parallel, "_all_reduce", note)
            loss(*part)
        patch.setattr(data_parallel, "_all_reduce", add)
        losses = []
        for part in parts:
            others = [list(values) for values in sums]
            losses.append(loss(*part))
    return losses


@pytest.mark.parametrize("ignores", [False, True])
def test_the_loss_is_that_of_the_whole_batch_and_the_gradients_add_up_to_its(ignores: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH_SIZE, 3, 8, 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (BATCH_SIZE, 8, 8), generator=generator).to(torch.uint8)
    if ignores:
        labels[:2, :, 3:] = IGNORED

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        heads = [logits, logits[:, :, ::2, ::2]]
        return heads_loss(heads, labels, 0.3, ignores=ignores, total=summed_over_ranks)

    whole = heads_loss([logits, logits[:, :, ::2, ::2]], labels, 0.3, ignores=ignores)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = [(logits[part], labels[part]) for part in (slice(0, 2), slice(2, 5))]
    losses = in_turn(parts, loss)
    assert [one.item() for one in losses] == pytest.approx([whole.item()] * 2, rel=1e-6)
    gradients = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in losses]
    torch.testing.assert_close(gradients[0] + gradients[1], expected)


def stepped(task: Task, rank: Rank) -> tuple[list[float], list[Tensor], Tensor]:
    """Losses, the first step's gradients, and what the network answers in the end."""
    torch.set_num_threads(1)
    network, cases = build(tiny_architecture(task, base_width=4), seed=1), open_cases(task, FLOAT32, 1)
    stream = BatchStream(cases.train, task.patch, BATCH_SIZE, 0, STRONG, FLOAT32.device)
    step = EagerStep(network, STRONG, FLOAT32, rank=rank)
    with process_group(rank, FLOAT32.device):
        losses, gradients = list[float](), list[Tensor]()
        for number in range(1, N_STEPS + 1):
            losses.append(step(stream.batch(number).part(rank.part(BATCH_SIZE)), 1e-3).item())
            gradients = gradients or [p.grad.clone() for p in network.parameters() if p.grad is not None]
        with torch.no_grad():
            return losses, gradients, network.eval()(stream.batch(99).images)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """The batch is divided into 2 and 3 patches; augmentation and deep supervision are on."""
    task = write_tiny_task(tmp_path / "task")
    losses, gradients, answer = stepped(task, SINGLE_PROCESS)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        other = pool.apply_async(stepped, (task, Rank(1, 2, tmp_path / "meeting")))
        here = stepped(task, Rank(0, 2, tmp_path / "meeting"))
        there = other.get()
    assert here[0] == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(here[1], gradients, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(here[2], answer, rtol=1e-3, atol=1e-4)
    assert torch.equal(here[2], there[2]), "all have the same weights, to the bit"


def test_the_end_of_another_process_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(values: Tensor) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("torch.distributed.all_reduce", closed)
    with pytest.raises(RankLost, match=r"another process of this training has ended .*: Connection closed by peer"):
        summed_over_ranks(torch.ones(1))
