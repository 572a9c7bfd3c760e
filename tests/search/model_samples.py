"""Small datasets to train a model on, and the shortest of trainings."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from task_samples import OBLIQUE, describe, save_nifti, save_png

from unetx_search.data_choices import DataChoices
from unetx_search.models.full_training import Trained, train
from unetx_search.models.predict_choices import PredictChoices
from unetx_search.models.predicting import Predicted, predict
from unetx_search.models.train_choices import TrainChoices

SHORT = TrainChoices(steps=6, batch_size=2, validations=3, device="cpu", threads=1)
TWO_D = DataChoices(patch=(16, 16), levels=2, base_width=4)
THREE_D = DataChoices(patch=(8, 8, 8), levels=2, base_width=4)


def quiet() -> Console:
    return Console(file=io.StringIO())


def cell_folder(root: Path, n_cases: int = 8) -> Path:
    """Grey pictures with a bright cell each; masks of 0 and 200."""
    rng = np.random.default_rng(0)
    for number in range(n_cases):
        shape = (20 + number, 30 - number)
        mask = np.zeros(shape, np.uint8)
        mask[4 : 10 + number % 3, 6:14] = 200
        save_png(
            root / "images" / f"c{number}.png", (rng.normal(60, 10, shape) + mask / 2).clip(0, 255).astype(np.uint8)
        )
        save_png(root / "masks" / f"c{number}.png", mask)
    return root


def organ_folder(root: Path, n_cases: int = 6) -> Path:
    """MSD volumes that lie askew in the patient, of voxels of about 0.9 x 0.9 x 2.5 mm."""
    rng = np.random.default_rng(0)
    names = [f"o{number}" for number in range(n_cases)]
    for number, name in enumerate(names):
        label = np.zeros((18 + number, 20, 12), np.uint8)
        label[3:10, 4:12, 3:9] = 1
        label[11:15, 12:18, 3:9] = 2
        image = np.choose(label, (50.0, 120.0, 5.0)) + rng.normal(0, 5, label.shape)
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image.astype(np.float32), OBLIQUE)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label, OBLIQUE)
    describe(root, names)
    return root


def copied(model: Path, target: Path) -> Path:
    target.mkdir()
    for file in model.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def trained(
    data: Path, model: Path, choices: DataChoices, name: str = "u-net", *, against: str | None = None, **how: Any
) -> Trained:
    chosen = replace(choices, data=data, out=model.parent / "runs")
    return train(name, model, chosen, replace(SHORT, **how), console=quiet(), against=against)


def predicted(model: Path, images: Path, out: Path, **how: Any) -> Predicted:
    return predict(model, images, out, PredictChoices(device="cpu", threads=1, **how), console=quiet())
