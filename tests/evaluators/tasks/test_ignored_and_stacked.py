"""Voxels that neither train nor count, and volumes whose slices a 2D network sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss
from tiny_task import TINY_BUDGET, tiny_architecture
from torch import Tensor, nn

from unetx_evaluators.device import profile
from unetx_evaluators.evaluation import NullObserver, Outcome
from unetx_evaluators.inference import predict_logits
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.scoring import Scorer
from unetx_evaluators.tasks.task import IGNORED, Splits, Task
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Case, open_cases
from unetx_evaluators.training.loss import dice_ce_loss
from unetx_evaluators.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = profile("cpu")
PLAIN = Recipe(flips=False, intensity_scale=0, intensity_shift=0, noise=0)


@pytest.fixture
def stacked(tmp_path: Path) -> Task:
    """Four volumes of five slices, one class a cylinder across slices, some voxels ignored."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for name in "abcd":
        label = np.zeros((5, 20, 17), np.uint8)
        label[1:4, 6:13, 5:12] = 1
        image = (label + rng.normal(0, 0.2, label.shape)).astype(np.float32)
        label[:, :2] = IGNORED
        np.save(tmp_path / "images" / f"{name}.npy", image[None])
        np.save(tmp_path / "labels" / f"{name}.npy", label)
    return Task(
        folder=tmp_path,
        name="stacked",
        source="written by a test",
        dims=2,
        channels=("ct",),
        classes=("background", "cylinder"),
        spacing=(1.0, 1.0),
        patch=(16, 16),
        strides=((1, 1), (2, 2)),
        widths=(32, 64),
        splits=Splits(("a", "b"), ("c",), ("d",)),
        digest="stacked",
        slice_spacing=3.0,
        ignores=True,
    )


def test_a_stacked_task_trains_on_slices_and_scores_volumes(stacked: Task) -> None:
    result = ProxyEvaluator().evaluate(tiny_architecture(stacked), stacked, TINY_BUDGET, 0, NullObserver())
    assert result.outcome is Outcome.COMPLETE, result.reason
    assert [(score.case, score.class_name) for score in result.case_scores] == [("c", "cylinder")]


def test_a_batch_of_a_stack_holds_slices_as_they_are(stacked: Task) -> None:
    (one,) = open_cases(replace(stacked, splits=Splits(("a",), ("c",), ())), CPU, 1).train
    batch = BatchStream([one], (16, 16), 6, 0, PLAIN, torch.device("cpu")).batch(1)
    assert batch.images.shape == (6, 1, 16, 16)
    slices = [one.image[:, n].unfold(1, 16, 1).unfold(2, 16, 1).reshape(-1, 16, 16) for n in range(5)]
    known = {patch.numpy().tobytes() for patch in torch.cat(slices).contiguous()}
    assert all(patch[0].contiguous().numpy().tobytes() in known for patch in batch.images)


def test_a_stack_is_predicted_slice_by_slice() -> None:
    network = nn.Conv2d(1, 3, 3, padding=1)
    stack = torch.randn(1, 4, 21, 18, generator=torch.Generator().manual_seed(0))
    whole = next(predict_logits(network, [stack], (16, 16), CPU))
    assert whole.shape == (3, 4, 21, 18)
    for n in range(4):
        torch.testing.assert_close(whole[:, n], next(predict_logits(network, [stack[:, n]], (16, 16), CPU)))


def test_ignored_voxels_add_nothing_to_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, generator=generator, requires_grad=True)
    labels = torch.randint(3, (2, 6, 5), generator=generator)
    labels[:, 3:] = IGNORED
    loss = dice_ce_loss(logits, labels, 0.3, ignores=True)
    expected = DiceCELoss(
        include_background=True, softmax=True, to_onehot_y=True, weight=torch.tensor([0.3, 1.0, 1.0]), lambda_dice=0
    )(logits[:, :, :3], labels[:, None, :3])
    dice = dice_ce_loss(logits[:, :, :3], labels[:, :3], 0.3) - expected
    assert loss.item() == pytest.approx((expected + dice).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, :, 3:] == 0).all()
    assert (gradient[:, :, :3] != 0).all()


def test_a_batch_of_ignored_voxels_alone_has_a_finite_loss() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = dice_ce_loss(logits, torch.full((1, 4, 4), IGNORED), 0.3, ignores=True)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert (gradient == 0).all()


class _Says(nn.Module):
    """Class 1 wherever the image is positive."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([-images, images], dim=1)


def test_ignored_voxels_do_not_count_in_a_score(stacked: Task) -> None:
    label = torch.zeros(16, 16, dtype=torch.uint8)
    label[4:8, 4:8] = 1
    image = torch.where(label == 1, 1.0, -1.0)[None].clone()
    image[:, 12:] = 1.0  # a false positive
    scorer = Scorer(replace(stacked, slice_spacing=None), [Case("c", image, label, 2)], CPU, lambda: None)
    (wrong,) = scorer.rung_scores(_Says())
    assert wrong.values["dice"] == pytest.approx(2 * 16 / (16 + 16 + 64))
    label[12:] = IGNORED
    (right,) = scorer.rung_scores(_Says())
    assert right.values["dice"] == 1.0


def test_ignored_voxels_are_no_foreground_to_look_for() -> None:
    label = torch.full((8, 8), IGNORED, dtype=torch.uint8)
    label[2, 3] = 1
    (voxels,) = Case("c", torch.zeros(1, 8, 8), label, 2).foreground
    assert voxels.tolist() == [[2, 3]]
