"""What is scored: few cases at early rungs, the original voxels at the end, and threads change nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dispatch_modes import NothingCrosses, NothingIsRead
from observers import Recorder
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task
from torch import Tensor, nn

from unetx_evaluators import scoring
from unetx_evaluators.device import DeviceProfile, profile
from unetx_evaluators.evaluation import EvaluationEnded, NullObserver, Outcome
from unetx_evaluators.metrics import compare
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.scoring import Scorer, class_counts, class_counts_on_device
from unetx_evaluators.tasks.task import IGNORED, Task
from unetx_evaluators.training.cases import Case, early_cases

CPU = profile("cpu")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    originals = dict.fromkeys(["resampled", "0", "1", "2"], (0.5, 0.5))
    return replace(write_tiny_task(tmp_path, n_validation=12), classes=("background", "bright"), originals=originals)


class Says(nn.Module):
    """Class 1 wherever the image is positive."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([-images, images], dim=1)


def case(name: str, *classes: int, original: np.ndarray[tuple[int, int], np.dtype[np.uint8]] | None = None) -> Case:
    """16x16 voxels, -1 on the left and 1 on the right half, which class 1 has, and a voxel of each further class."""
    label = torch.zeros(16, 16, dtype=torch.uint8)
    label[:, 8:] = 1
    for row, value in enumerate(classes):
        label[row, 0] = value
    image = torch.where(label == 1, 1.0, -1.0)[None].clone()
    return Case(name, image, label, 5, original)


@pytest.mark.parametrize(("n_cases", "numbers"), [(24, range(0, 24, 3)), (12, range(0, 12, 3)), (9, range(0, 9, 2))])
def test_early_rungs_score_a_third_of_the_cases_but_not_too_few(n_cases: int, numbers: range) -> None:
    cases = [case(str(number)) for number in range(n_cases)]
    assert [one.name for one in early_cases(cases)] == [str(number) for number in numbers]


@pytest.mark.parametrize("n_cases", [1, 4, 7])
def test_of_few_cases_early_rungs_score_all(n_cases: int) -> None:
    cases = [case(str(number)) for number in range(n_cases)]
    assert early_cases(cases) == tuple(cases)


def test_every_class_that_a_case_shows_is_among_the_early_ones() -> None:
    shown = {4: (2,), 5: (IGNORED,), 7: (2, 3), 8: (3,), 11: (4,)}
    cases = [case(str(number), *shown.get(number, ())) for number in range(12)]
    assert [one.name for one in early_cases(cases)] == ["0", "3", "4", "6", "7", "9", "11"]


def test_a_pruned_evaluation_was_scored_on_the_early_cases_and_a_complete_one_on_all(tmp_path: Path) -> None:
    task = write_tiny_task(tmp_path, n_validation=12)
    asked = (tiny_architecture(task), task, replace(TINY_BUDGET, validation_cases=12), 0)
    pruned = ProxyEvaluator().evaluate(*asked, Recorder(stop_at=2))
    complete = ProxyEvaluator().evaluate(*asked, NullObserver())
    assert pruned.outcome is Outcome.PRUNED
    assert [score.case for score in pruned.case_scores[::2]] == [f"validation{n}" for n in (0, 3, 6, 9)]
    assert [score.case for score in complete.case_scores[::2]] == list(task.splits.validation)
    assert pruned.curve[0].score == complete.curve[0].score


def test_original_voxels_are_scored_where_there_are_some(task: Task) -> None:
    drawn = np.zeros((32, 32), np.uint8)
    drawn[:, 14:] = 1  # predicted is the right half: 16 of these 18 columns
    drawn[:3] = IGNORED
    cases = [case("resampled", original=drawn), case("as it was")]
    told = Scorer(task, cases, CPU, lambda: None).all_scores(Says())
    assert [score.values["dice"] for score in told.case_scores] == [1.0, 1.0]
    assert [score.values["original_dice"] for score in told.case_scores] == [2 * 16 / 34, 1.0]


def test_without_resampling_the_score_is_that_on_original_voxels(task: Task) -> None:
    result = ProxyEvaluator().evaluate(
        tiny_architecture(task := write_tiny_task(task.folder / "other")), task, TINY_BUDGET, 0, NullObserver()
    )
    assert result.insight.original_dice == result.score
    assert all(score.values["original_dice"] == score.values["dice"] for score in result.case_scores)


@pytest.mark.parametrize("n_classes", [2, 3, 8])
@pytest.mark.parametrize("shape", [(33, 37), (9, 17, 11)])
@pytest.mark.parametrize("ignored_share", [0.0, 0.2])
def test_voxels_counted_on_a_device_are_those_counted_on_a_cpu(
    n_classes: int, shape: tuple[int, ...], ignored_share: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, prediction = (torch.randint(0, n_classes, shape, generator=generator).to(torch.uint8) for _ in range(2))
    truth[torch.rand(shape, generator=generator) < ignored_share] = IGNORED
    here, there = (count(truth, prediction, n_classes) for count in (class_counts, class_counts_on_device))
    assert torch.equal(here[:, 1:], there[:, 1:])
    compared = compare(truth.numpy(), prediction.numpy(), n_classes, (1.0,) * len(shape))
    assert here[:, 1:].T.tolist() == [[one.n_true, one.n_predicted, one.n_both] for one in compared]


def test_a_device_counts_without_reading_anything_back_or_copying() -> None:
    truth, prediction = (torch.zeros(9, 11, dtype=torch.uint8) for _ in range(2))
    with NothingIsRead():
        class_counts_on_device(truth, prediction, 3)
    there = truth.to("meta"), prediction.to("meta")
    with NothingCrosses():
        class_counts_on_device(*there, 3)


@pytest.mark.parametrize("is_room", [True, False])
def test_a_rung_scored_on_a_device_is_that_scored_on_a_cpu(
    task: Task, is_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's code, on the CPU; logits are summed on the host where the device has no room for them."""
    cases = [case(str(number), *(IGNORED,) * number) for number in range(3)]
    scorer = Scorer(task, cases, CPU, lambda: None)
    expected = scorer.rung_scores(Says())
    monkeypatch.setattr(scoring, "class_counts", class_counts_on_device)
    monkeypatch.setattr(DeviceProfile, "has_room_for", lambda self, n_bytes: is_room)
    with NothingIsRead() as watch:
        assert scorer.rung_scores(Says()) == expected
    assert watch.counts["aten::scatter_add_"] == 3


def test_of_several_cases_the_first_without_finite_logits_is_told(task: Task) -> None:
    cases = [case(str(number)) for number in range(3)]
    for one in cases[1:]:
        one.image[0, 3, 3] = torch.nan
    with pytest.raises(EvaluationEnded, match="the logits of case 1 are not finite"):
        Scorer(task, cases, CPU, lambda: None).rung_scores(Says())


def test_threads_beside_a_gpu_measure_the_same(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(str(number), original=np.ones((20, 20), np.uint8)) for number in range(3)]
    scorer = Scorer(task, cases, CPU, lambda: None)
    alone = scorer.all_scores(Says())
    monkeypatch.setattr(Scorer, "_executor", lambda self: ThreadPoolExecutor(2))
    assert scorer.all_scores(Says()) == alone
