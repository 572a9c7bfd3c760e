"""The script a user would write without this project: an Optuna objective over MONAI's usual parts.

CacheDataset, DataLoader, DiceCELoss, Adam, float32, sliding-window inference, DiceMetric; one process with all cores.
It trains the same networks, on the same cases, patches, batches and steps as ``unetx-search`` does, and is what
``benchmarks/trainer.py`` measures against.

    python benchmarks/plain_search.py TASK.json --trials 4

``--device cuda`` moves networks and batches there, and nothing more. ``--good`` is what someone would write who has
read the manuals on speed: autocast, cuDNN's autotuner, channels last, a fused optimiser, and batches made ahead by
workers into pinned memory. ``TASK.json`` holds a ``Description``: file pairs, patch, classes, architectures;
``trainer.py`` writes it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.transforms import (
    AsDiscrete,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapLabelValued,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
    Transposed,
)
from monai.utils import set_determinism

from unetx_space.documents import loads
from unetx_space.network import build

KEYS = ("image", "label")
LEARNING_RATE = 1e-3
WORKERS = 4
"""Of the loader of a good script."""


@dataclass(frozen=True)
class Description:
    """The plain facts of a task."""

    train: list[dict[str, str]]
    validation: list[dict[str, str]]
    patch: list[int]
    n_classes: int
    label_values: list[int]
    steps: int
    batch_size: int
    validations: int
    architectures: list[str]
    """Documents of the designs at the width that is trained."""


def transforms(task: Description, *, training: bool) -> Compose:
    """Transforms that load and z-score; for training also crops around foreground, and the usual changes of
    intensity."""
    dims = len(task.patch)
    geometry = Orientationd(keys=KEYS, axcodes="RAS") if dims == 3 else Transposed(keys=KEYS, indices=(0, 2, 1))
    steps: list[Any] = [
        LoadImaged(keys=KEYS),
        EnsureChannelFirstd(keys=KEYS),
        geometry,
        MapLabelValued(keys="label", orig_labels=task.label_values, target_labels=list(range(task.n_classes))),
        NormalizeIntensityd(keys="image", channel_wise=True),
        SpatialPadd(keys=KEYS, spatial_size=task.patch),
    ]
    if training:
        steps += [
            RandCropByPosNegLabeld(keys=KEYS, label_key="label", spatial_size=task.patch, pos=1, neg=1, num_samples=1),
            RandScaleIntensityd(keys="image", factors=0.2, prob=1.0),
            RandShiftIntensityd(keys="image", offsets=0.2, prob=1.0),
            RandGaussianNoised(keys="image", prob=1.0, std=0.1),
        ]
    return Compose([*steps, EnsureTyped(keys=KEYS)])


class Search:
    """Data loaded once by CacheDataset, and a training for each trial."""

    def __init__(self, task: Description, device: str = "cpu", *, good: bool = False) -> None:
        self.task = task
        self.device = torch.device(device)
        self.good = good
        self.layout = torch.channels_last if len(task.patch) == 2 else torch.channels_last_3d
        torch.backends.cudnn.benchmark = good
        self.train_data = CacheDataset(task.train, transforms(task, training=True), num_workers=2, progress=False)
        self.validation_data = CacheDataset(
            task.validation, transforms(task, training=False), num_workers=2, progress=False
        )

    def objective(self, trial: optuna.Trial) -> float:
        number = trial.suggest_int("design", 0, len(self.task.architectures) - 1)
        return self.train_and_score(self.task.architectures[number], seed=trial.number)

    def train_and_score(self, document: str, seed: int) -> float:
        """The best mean Dice over the validations of one training."""
        set_determinism(seed)
        network: torch.nn.Module = build(loads(document), seed=seed).to(self.device)
        if self.good:
            network.to(memory_format=self.layout)  # type: ignore[call-overload]  # not in torch's stubs
        loss_function = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=self.good or None)
        loader = DataLoader(
            self.train_data, batch_size=self.task.batch_size, shuffle=True, drop_last=True, **self.loading
        )
        every, step, best = self.task.steps // self.task.validations, 0, 0.0
        while step < self.task.steps:
            for batch in loader:
                images, labels = (batch[key].to(self.device, non_blocking=self.good) for key in KEYS)
                optimizer.zero_grad()
                with self.autocast():
                    loss = loss_function(network(images), labels)
                loss.backward()
                optimizer.step()
                step += 1
                if step % every == 0:
                    best = max(best, self.validate(network))
                if step == self.task.steps:
                    break
        return best

    @property
    def loading(self) -> dict[str, Any]:
        """Options of the loader of training data."""
        if not self.good:
            return {}
        return {"num_workers": WORKERS, "persistent_workers": True, "pin_memory": self.device.type == "cuda"}

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.good)

    @torch.no_grad()
    def validate(self, network: torch.nn.Module) -> float:
        """Mean Dice over foreground classes and validation cases."""
        network.eval()
        n = self.task.n_classes
        metric = DiceMetric(include_background=False)
        to_prediction, to_truth = AsDiscrete(argmax=True, to_onehot=n), AsDiscrete(to_onehot=n)
        for batch in DataLoader(self.validation_data, batch_size=1):
            images = batch["image"].to(self.device)
            with self.autocast():
                logits = sliding_window_inference(images, self.task.patch, 4, network, overlap=0.25)
            metric(
                y_pred=[to_prediction(one) for one in decollate_batch(logits)],
                y=[to_truth(one) for one in decollate_batch(batch["label"].to(self.device))],
            )
        network.train()
        return float(metric.aggregate().item())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", type=Path)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--good", action="store_true", help="with what the manuals on speed advise")
    asked = parser.parse_args()
    task = Description(**json.loads(asked.task.read_text(encoding="utf-8")))
    search = Search(task, asked.device, good=asked.good)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    started = time.perf_counter()
    study.optimize(search.objective, n_trials=asked.trials)
    print(
        json.dumps({"seconds": time.perf_counter() - started, "scores": [trial.value for trial in study.get_trials()]})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
