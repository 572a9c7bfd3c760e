"""Training batches: common random numbers, foreground sampling, padding and augmentation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from changed_at_random import augmented
from tiny_task import write_tiny_task
from torch import Tensor

from unetx_evaluators.device import profile
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import MAX_VOXELS_PER_CLASS, Case, ResidentCases, crop, open_cases, pad_to
from unetx_evaluators.training.recipe import Recipe

CPU = torch.device("cpu")
PLAIN = Recipe(flips=False, intensity_scale=0, intensity_shift=0, noise=0)


def case(label: Tensor, n_classes: int = 3, name: str = "case") -> Case:
    """Every voxel of the image holds its own number, so that a patch tells where it came from."""
    image = torch.arange(label.numel(), dtype=torch.float32).view(1, *label.shape)
    return Case(name, image, label.to(torch.uint8), n_classes)


def stream(cases: list[Case], patch: tuple[int, ...], recipe: Recipe = PLAIN, *, seed: int = 0) -> BatchStream:
    return BatchStream(cases, patch, batch_size=4, seed=seed, recipe=recipe, device=CPU)


def test_a_batch_depends_on_the_seed_and_the_step_only(task: Task) -> None:
    cases = list(open_cases(task, profile("cpu"), 2).train)
    first, second = stream(cases, (16, 16), Recipe()), stream(cases, (16, 16), Recipe())
    for step in (1, 2, 3):
        first.batch(step)
        torch.manual_seed(step)  # what a network draws in between changes nothing
    resumed = second.batch(3)
    assert torch.equal(first.batch(3).images, resumed.images)
    assert torch.equal(first.batch(3).labels, resumed.labels)
    assert not torch.equal(stream(cases, (16, 16), Recipe(), seed=1).batch(3).images, resumed.images)


def test_every_case_comes_once_before_any_comes_again() -> None:
    cases = [case(torch.full((4, 4), 0)) for _ in range(6)]
    for number, one in enumerate(cases):
        one.image = torch.full((1, 4, 4), float(number))
    batches = stream(cases, (4, 4))
    seen = torch.cat([batches.batch(step).images[:, 0, 0, 0] for step in (1, 2, 3)]).tolist()
    assert sorted(seen[:6]) == sorted(seen[6:]) == [0, 1, 2, 3, 4, 5]


def test_half_of_the_patches_are_made_to_show_foreground() -> None:
    label = torch.zeros(200, 200)
    label[150, 7] = 1  # a random patch shows it about once in 600 times
    batches = stream([case(label)], (8, 8))
    shows = torch.stack([(batches.batch(step).labels > 0).flatten(1).any(1) for step in range(1, 26)])
    assert 50 <= shows.sum() <= 52
    assert (shows.sum(1) >= 2).all(), "two of four in every batch: no batch is left without"


def test_a_rare_class_is_drawn_as_often_as_a_frequent_one() -> None:
    label = torch.zeros(100, 100)
    label[:50] = 1
    label[90, 90] = 2
    batches = stream([case(label)], (8, 8), replace(PLAIN, foreground_share=1.0))
    rare = sum(int((batches.batch(step).labels == 2).flatten(1).any(1).sum()) for step in range(1, 51))
    assert 70 <= rare <= 130  # binomial(200, 1/2): 100 +- 7


def test_a_case_without_foreground_gives_any_patch() -> None:
    batch = stream([case(torch.zeros(20, 20))], (8, 8)).batch(1)
    assert batch.images.shape == (4, 1, 8, 8)
    assert len(set(batch.images[:, 0, 0, 0].tolist())) > 1


def test_image_and_label_are_cut_from_the_same_place() -> None:
    label = torch.arange(30 * 30).view(30, 30) % 3
    batch = stream([case(label)], (9, 9)).batch(1)
    assert torch.equal(batch.images[:, 0] % 3, batch.labels.float())


def test_a_small_image_is_padded_with_zeros_on_both_sides() -> None:
    one = case(torch.ones(2, 3, 2))
    one.image = torch.ones(1, 2, 3, 2)
    batch = stream([one], (2, 6, 3)).batch(1)
    column = torch.tensor([0.0, 1, 1, 1, 0, 0])  # 3 missing: 1 before, 2 behind
    expected = column.view(1, 1, 1, 6, 1) * torch.tensor([1.0, 1, 0]).view(1, 1, 1, 1, 3)
    assert torch.equal(batch.images, expected.expand(4, 1, 2, 6, 3))
    assert torch.equal(batch.labels, batch.images[:, 0].to(torch.uint8))


@pytest.mark.parametrize(
    ("sizes", "patch", "channels"),
    [
        (((20, 17), (9, 30), (16, 16)), (16, 16), 2),
        (((7, 12, 9), (12, 5, 4), (10, 16, 8)), (8, 8, 8), 1),
        (((5, 20, 17), (3, 9, 30)), (16, 16), 2),  # stacks of slices
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_batches_cut_from_flat_tensors_are_those_cut_case_by_case(
    sizes: tuple[tuple[int, ...], ...], patch: tuple[int, ...], channels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    cases = [
        Case(
            name=str(number),
            image=torch.randn(channels, *size, generator=generator),
            label=torch.randint(0, 3, size, generator=generator).to(torch.uint8),
            n_classes=3,
        )
        for number, size in enumerate(sizes)
    ]
    one_by_one = stream(cases, patch, Recipe(), seed=seed)
    expected = [one_by_one.batch(step) for step in range(1, 9)]
    images = [one.image.clone() for one in cases]
    flat = BatchStream(cases, patch, 4, seed, Recipe(), CPU, ResidentCases(cases, CPU))
    for step, batch in enumerate(expected, start=1):
        assert torch.equal(flat.batch(step).images, batch.images)
        assert torch.equal(flat.batch(step).labels, batch.labels)
    assert all(torch.equal(one.image, image) for one, image in zip(cases, images, strict=True))
    storages = {one.image.untyped_storage().data_ptr() for one in cases}
    assert len(storages) == 1, "the cases are views, so that nothing lies on the device twice"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_cuts_the_same_patches_as_a_cpu(tmp_path: Path) -> None:
    task, cuda = write_tiny_task(tmp_path), profile("cuda")
    here, there = open_cases(task, profile("cpu"), 2), open_cases(task, cuda, 2)
    assert there.resident is not None
    cpu_batches = BatchStream(here.train, (16, 16), 4, 0, PLAIN, CPU)
    gpu_batches = BatchStream(there.train, (16, 16), 4, 0, PLAIN, cuda.device, there.resident)
    for step in (1, 2, 3):
        assert torch.equal(gpu_batches.batch(step).images.cpu(), cpu_batches.batch(step).images)
        assert torch.equal(gpu_batches.batch(step).labels.cpu(), cpu_batches.batch(step).labels)


def test_crop_and_pad_leave_what_fits_untouched() -> None:
    tensor = torch.arange(24).view(2, 3, 4)
    assert pad_to(tensor, (3, 2)) is tensor
    assert torch.equal(crop(tensor, (1, 1), (2, 2)), tensor[:, 1:3, 1:3])
    assert torch.equal(crop(tensor, (2, 3), (5, 5)), tensor[:, 2:, 3:])


def test_flips_and_swaps_move_image_and_label_together_and_lose_no_voxel() -> None:
    label = torch.arange(2 * 4 * 4).view(1, 2, 4, 4).expand(16, 2, 4, 4).contiguous()
    recipe = replace(PLAIN, flips=True)
    images, labels = augmented(label[:, None].float(), label, recipe, np.random.default_rng(0))
    assert torch.equal(images[:, 0].long(), labels)
    assert torch.equal(labels.flatten(1).sort(1).values, label.flatten(1))
    assert len({tuple(sample.tolist()) for sample in labels.flatten(1)}) > 8, "16 movements of 2x4x4 are possible"


def test_axes_of_different_size_are_never_swapped() -> None:
    label = torch.arange(6).view(1, 2, 3).expand(32, 2, 3).contiguous()
    _, labels = augmented(label[:, None].float(), label, replace(PLAIN, flips=True), np.random.default_rng(0))
    assert labels.shape == (32, 2, 3)
    assert len({tuple(sample.tolist()) for sample in labels.flatten(1)}) == 4  # two mirrors


@pytest.mark.parametrize(
    ("recipe", "low", "high"),
    [
        (replace(PLAIN, intensity_scale=0.2), 0.8, 1.2),
        (replace(PLAIN, intensity_shift=0.3), 0.7, 1.3),
    ],
)
def test_intensities_change_within_their_bounds_and_by_sample(recipe: Recipe, low: float, high: float) -> None:
    images, labels = torch.ones(64, 1, 2, 2), torch.zeros(64, 2, 2)
    changed, same = augmented(images, labels, recipe, np.random.default_rng(0))
    assert torch.equal(same, labels)
    assert low <= changed.min() < low + 0.1 < high - 0.1 < changed.max() <= high
    assert torch.equal(changed, changed[:, :, :1, :1].expand_as(changed)), "one change for a whole sample"


def test_noise_has_at_most_the_strength_asked() -> None:
    changed, _ = augmented(
        torch.zeros(64, 1, 64, 64), torch.zeros(64, 64, 64), replace(PLAIN, noise=0.1), np.random.default_rng(0)
    )
    strengths = changed.flatten(1).std(1)
    assert 0 < strengths.min() < 0.02
    assert 0.08 < strengths.max() < 0.105
    assert changed.mean().abs() < 0.01


def test_at_most_a_limited_number_of_voxels_is_remembered_from_all_over_the_case() -> None:
    (voxels,) = case(torch.ones(300, 200)).foreground
    assert len(voxels) == MAX_VOXELS_PER_CLASS
    assert voxels[:, 0].min() < 3
    assert voxels[:, 0].max() > 296


def _delete(task: Task) -> None:
    (task.folder / "images" / "train2.npy").unlink()


def _truncate(task: Task) -> None:
    path = task.folder / "labels" / "validation1.npy"
    path.write_bytes(path.read_bytes()[:-40])


def _garble(task: Task) -> None:
    (task.folder / "images" / "train0.npy").write_bytes(b"no array")


def _empty(task: Task) -> None:
    (task.folder / "labels" / "train0.npy").write_bytes(b"")


def _reshape(task: Task) -> None:
    np.save(task.folder / "images" / "train1.npy", np.zeros((1, 3, 3), np.float32))


@pytest.mark.parametrize(
    ("damage", "case_name"),
    [(_delete, "train2"), (_truncate, "validation1"), (_garble, "train0"), (_empty, "train0"), (_reshape, "train1")],
)
def test_a_damaged_case_is_a_data_error_that_names_it(
    damage: Callable[[Task], None], case_name: str, tmp_path: Path
) -> None:
    task = write_tiny_task(tmp_path)
    damage(task)
    with pytest.raises(DataError, match=f"case {case_name} .*prepare the task again"):
        open_cases(task, profile("cpu"), 2)


def test_a_label_value_without_a_class_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"label value 3 where the task has 3 classes \(0\.\.2\)"):
        _ = case(torch.full((2, 2), 3)).foreground


def test_cases_stay_open_for_the_next_evaluation_of_the_same_task(task: Task) -> None:
    first = open_cases(task, profile("cpu"), 2)
    assert [one.name for one in first.validation] == ["validation0", "validation1"]
    assert open_cases(replace(task, choices={}), profile("cpu"), 2) is first
