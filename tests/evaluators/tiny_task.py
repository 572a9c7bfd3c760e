"""A prepared task small enough to train on in a second: bright and dark discs on grey noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from unetx_evaluators.evaluation import Budget
from unetx_evaluators.tasks.task import Splits, Task
from unetx_space.architecture import Architecture
from unetx_space.presets import preset

SIZES = ((24, 31), (16, 16), (11, 40), (29, 18))
"""Of cases, in turn; the third is smaller than the patch along an axis, and none is a multiple of it."""

TINY_BUDGET = Budget(steps=6, batch_size=2, width_factor=0.5, rungs=(2, 4, 6), validation_cases=2)


def write_tiny_task(folder: Path, *, n_train: int = 6, n_validation: int = 3, seed: int = 0) -> Task:
    """Prepared arrays in ``folder``; 16x16 patch, three levels, classes bright and dark."""
    train = tuple(f"train{i}" for i in range(n_train))
    validation = tuple(f"validation{i}" for i in range(n_validation))
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index, name in enumerate((*train, *validation)):
        label = _label(SIZES[index % len(SIZES)], rng)
        image = np.choose(label, (0.0, 2.0, -2.0)) + rng.normal(0, 0.3, label.shape)
        np.save(folder / "images" / f"{name}.npy", image[None].astype(np.float32))
        np.save(folder / "labels" / f"{name}.npy", label)
    return Task(
        folder=folder,
        name="tiny",
        source="written by a test",
        dims=2,
        channels=("intensity",),
        classes=("background", "bright", "dark"),
        spacing=(1.0, 1.0),
        patch=(16, 16),
        strides=((1, 1), (2, 2), (2, 2)),
        widths=(32, 64, 128),
        splits=Splits(train, validation, ()),
        digest=f"tiny-{n_train}-{n_validation}-{seed}",
    )


def tiny_architecture(task: Task, name: str = "u-net", *, base_width: int = 8) -> Architecture:
    """A preset on the task's backbone."""
    backbone = replace(task.backbone(), widths=tuple(base_width * 2**level for level in range(len(task.strides))))
    return Architecture(backbone, preset(name).genome(len(task.strides)))


def _label(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """A disc of each class; the second may cover a part of the first."""
    label = np.zeros(size, dtype=np.uint8)
    rows, columns = np.ogrid[: size[0], : size[1]]
    for value in (1, 2):
        centre = [rng.uniform(3, n - 3) for n in size]
        label[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= 3.0**2] = value
    return label
