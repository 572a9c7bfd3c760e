from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from unetx_evaluators.tasks import DemoSource, TaskOptions, prepare
from unetx_evaluators.tasks.demo import LESION, ORGAN, VESSEL


def test_a_case_depends_on_the_seed_and_its_own_number_alone() -> None:
    few, many = DemoSource(n_cases=5).read("demo_003"), DemoSource(n_cases=50).read("demo_003")
    np.testing.assert_array_equal(few.image, many.image)
    np.testing.assert_array_equal(few.label, many.label)
    assert (DemoSource(seed=1).read("demo_003").image != few.image).any()
    assert (DemoSource().read("demo_004").image != few.image).any()


def test_another_process_draws_the_same_cases(tmp_path: Path) -> None:
    command = (
        "import sys; from pathlib import Path; from unetx_evaluators.tasks import *; "
        "print(prepare(DemoSource(n_cases=5), Path(sys.argv[1]), TaskOptions()).digest)"
    )
    run = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path / "theirs")], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == prepare(DemoSource(n_cases=5), tmp_path / "ours", TaskOptions()).digest


def test_every_case_shows_every_class_in_the_stated_form() -> None:
    source = DemoSource(n_cases=30)
    assert source.case_names[-1] == "demo_029"
    for name in source.case_names:
        case = source.read(name)
        assert (case.image.shape, str(case.image.dtype)) == ((1, 96, 96), "float32")
        assert (case.label.shape, str(case.label.dtype)) == ((96, 96), "uint8")
        assert np.unique(case.label).tolist() == [0, 1, 2, 3]
        assert case.image.min() >= 0
        assert case.image.max() <= 4095
        np.testing.assert_array_equal(case.image, np.rint(case.image))


def test_vessels_are_thin_and_lesions_small() -> None:
    for name in DemoSource().case_names[:20]:
        label = DemoSource().read(name).label
        vessel, lesion = label == VESSEL, label == LESION
        assert ndimage.binary_erosion(vessel, iterations=2).sum() <= 0.02 * vessel.sum()
        assert not ndimage.binary_erosion(lesion, iterations=6).any()
        assert np.median(np.bincount(ndimage.label(lesion)[0].ravel())[1:]) <= 6 * 6


def test_intensity_alone_does_not_tell_the_classes_apart() -> None:
    # Context is needed: the same grey level is organ in one place and background (a kidney, a strand) in another.
    cases = [DemoSource().read(name) for name in DemoSource().case_names[:20]]
    grey = np.concatenate([case.image[0].ravel() for case in cases])
    label = np.concatenate([case.label.ravel() for case in cases])
    for one in (ORGAN, VESSEL, LESION):
        low, high = np.percentile(grey[label == one], [25, 75])
        inside = label[(grey >= low) & (grey <= high)]
        assert (inside == one).mean() < 0.5, one


def test_the_task_is_prepared_with_five_levels(tmp_path: Path) -> None:
    task = prepare(DemoSource(n_cases=10), tmp_path / "cache", TaskOptions())
    assert (task.patch, task.strides) == ((96, 96), ((1, 1), *[(2, 2)] * 4))
    assert task.source == "built-in demo (10 synthetic cases, seed 0)"
