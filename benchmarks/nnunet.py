"""Our full training of the U-Net beside nnU-Net's own trainer, with the same steps, batch, patch and cases.

    python benchmarks/nnunet.py DATA FOLDER NNUNET_PYTHON 2d 1 > benchmarks/results/nnunet-2d-400steps.txt

DATA is hippocampus_msd, NNUNET_PYTHON the Python of an environment with nnunetv2 2.8 (without it the benchmark says so
and ends); then come nnU-Net's configuration (2d or 3d_fullres) and the number of seeds. What was trained stays in
FOLDER, and the same command goes on. Both sides read the same 72 training, 24 validation and 24 test cases, take equal
batches of equal patches (nnU-Net's plans have larger batches) and predict the test cases with their last weights; the
masks of both are scored by one function, on the images' own voxels. All else is each side's default: nnU-Net's
PlainConvUNet in float32 on a CPU, SGD and mirroring in training and prediction; ours AdamW, bfloat16 where the CPU has
it, and no mirroring.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from rich.console import Console

from unetx_evaluators.metrics import case_scores, class_means, compare
from unetx_search.data_choices import DataChoices
from unetx_search.models.full_training import train
from unetx_search.models.predict_choices import PredictChoices
from unetx_search.models.predicting import predict
from unetx_search.models.train_choices import TrainChoices

DATASET = "Dataset504_Hippocampus"
CLASSES = ("background", "Anterior", "Posterior")
N_TEST = N_VALIDATION = 24


@dataclass(frozen=True)
class Run:
    """One comparison: nnU-Net's configuration, and what both train with."""

    configuration: str
    dims: Literal[2, 3]
    steps: int
    batch: int
    patch: tuple[int, ...]


RUNS = {run.configuration: run for run in (Run("2d", 2, 400, 12, (40, 56)), Run("3d_fullres", 3, 200, 2, (40, 56, 40)))}
"""The patches are those of nnU-Net's plans."""


def main() -> None:
    data, folder, python = map(Path, sys.argv[1:4])
    run, n_seeds = RUNS[sys.argv[4]], int(sys.argv[5])
    ask = [python, "-c", "from importlib.metadata import version; print(version('nnunetv2'))"]
    found = subprocess.run(ask, capture_output=True, text=True, check=False) if python.exists() else None
    if found is None or found.returncode:
        print(f"{python} has no nnunetv2: nothing is compared")
        return
    names = sorted(file.name.removesuffix(".nii.gz") for file in (data / "labelsTr").glob("*.nii.gz"))
    drawn = [names[n] for n in np.random.default_rng(0).permutation(len(names))]
    ends = N_TEST, N_TEST + N_VALIDATION
    split = {"test": drawn[: ends[0]], "validation": drawn[ends[0] : ends[1]], "train": drawn[ends[1] :]}
    split = {part: sorted(cases) for part, cases in split.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")
    environment = nnunet_data(data, folder, split, python)
    rows = []
    for seed, side in product(range(n_seeds), ("ours", "nnU-Net")):
        place = folder / f"{run.configuration}-{run.steps}-{side}-{seed}"
        if not (place / "row.json").exists():
            if side == "ours":
                ours(run, data, folder, place, seed)
            else:
                theirs(run, folder, place, seed, python, environment)
            row = {"side": side, "seed": seed, "dice": scored(data, place / "masks", split["test"])}
            (place / "row.json").write_text(json.dumps(row), encoding="utf-8")
        rows.append(json.loads((place / "row.json").read_text(encoding="utf-8")))
    print(f"nnunetv2 {found.stdout.strip()}, torch {version('torch')}\n\n{table(run, rows)}")


def nnunet_data(data: Path, folder: Path, split: dict[str, list[str]], python: Path) -> dict[str, str]:
    """The environment in which nnU-Net finds the data, planned and preprocessed."""
    places = {f"nnUNet_{name}": folder / name for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, "nnUNet_n_proc_DA": "1", **{name: str(path) for name, path in places.items()}}
    raw, prepared = folder / "raw" / DATASET, folder / "preprocessed" / DATASET
    if (prepared / "splits_final.json").exists():
        return environment
    for part, cases in split.items():
        images = raw / ("imagesTs" if part == "test" else "imagesTr")
        for place in (images, raw / "labelsTr"):
            place.mkdir(parents=True, exist_ok=True)
        for case in cases:
            shutil.copy(data / "imagesTr" / f"{case}.nii.gz", images / f"{case}_0000.nii.gz")
            if part != "test":
                shutil.copy(data / "labelsTr" / f"{case}.nii.gz", raw / "labelsTr")
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {name: value for value, name in enumerate(CLASSES)},
        "numTraining": len(split["train"]) + len(split["validation"]),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    plan = [
        python.parent / "nnUNetv2_plan_and_preprocess",
        "-d",
        "504",
        "-c",
        *RUNS,
        "-np",
        "1",
        "-npfp",
        "1",
    ]
    subprocess.run(plan, env=environment, check=True, stdout=sys.stderr)
    folds = [{"train": split["train"], "val": split["validation"]}]
    (prepared / "splits_final.json").write_text(json.dumps(folds), encoding="utf-8")
    return environment


def theirs(run: Run, folder: Path, place: Path, seed: int, python: Path, environment: dict[str, str]) -> None:
    numbers = map(str, (seed, run.steps, run.batch))
    words = [DATASET, run.configuration, *numbers, folder / "raw" / DATASET / "imagesTs", place / "masks"]
    script = Path(__file__).with_name("nnunet_side.py")
    in_turn = {**environment, "nnUNet_n_proc_DA": "0"}  # augments in its own process, so that a seed decides all
    subprocess.run([python, script, *words], env=in_turn, check=True, stdout=sys.stderr)


def ours(run: Run, data: Path, folder: Path, place: Path, seed: int) -> None:
    split, out = folder / "split.json", folder / "runs"
    choices = DataChoices(data=data, split=split, dims=run.dims, patch=run.patch, out=out)
    how = TrainChoices(steps=run.steps, batch_size=run.batch, validations=2, seed=seed, device="cpu", threads=1)
    console = Console(stderr=True, highlight=False)
    train("u-net", place / "model", choices, how, console=console)
    images = folder / "raw" / DATASET / "imagesTs"
    predict(place / "model", images, place / "masks", PredictChoices(device="cpu", threads=1), console=console)


def scored(data: Path, masks: Path, cases: list[str]) -> dict[str, float]:
    """Mean Dice over cases of every class, on the images' own voxels."""
    scores = []
    for case in cases:
        found, truth = (nib.load(place / f"{case}.nii.gz") for place in (masks, data / "labelsTr"))
        maps = (np.asarray(image.dataobj).astype(np.uint8) for image in (truth, found))  # type: ignore[attr-defined]
        compared = compare(*maps, len(CLASSES), truth.header.get_zooms())  # type: ignore[attr-defined]
        scores += case_scores(case, CLASSES, compared, compared)
    return class_means(scores)


def table(run: Run, rows: list[dict[str, Any]]) -> str:
    patch = "x".join(map(str, run.patch))
    head = f"hippocampus_msd, {run.configuration}: {run.steps} steps of {run.batch} patches of {patch}"
    lines = [head, "", f"{'side':<10}{'seed':>5}{'Anterior':>10}{'Posterior':>11}{'mean Dice':>11}"]
    for row in sorted(rows, key=lambda row: (row["side"], row["seed"])):
        values = [row["dice"][name] for name in CLASSES[1:]]
        told = f"{values[0]:>10.4f}{values[1]:>11.4f}{np.mean(values):>11.4f}"
        lines.append(f"{row['side']:<10}{row['seed']:>5}{told}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
