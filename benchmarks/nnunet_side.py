"""nnU-Net's half of ``nnunet.py``; runs in nnU-Net's own environment and imports nothing of ours.

    python nnunet_side.py DATASET CONFIGURATION SEED STEPS BATCH IMAGES MASKS

nnU-Net's own trainer, its iterations divided among EPOCHS epochs, and its own predictor with the last weights; nothing
is changed but the number of steps, the batch and the seed. A training that was broken off goes on with its last epoch.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

EPOCHS, CPU = 10, torch.device("cpu")


def main() -> None:
    dataset, configuration, seed, steps, batch, images, masks = sys.argv[1:]
    for sow in (random.seed, np.random.seed, torch.manual_seed):
        sow(int(seed))
    torch.set_num_threads(1)
    model = train(Path(nnUNet_preprocessed) / dataset, configuration, f"Seed{seed}Steps{steps}", int(steps), int(batch))
    predictor = nnUNetPredictor(device=CPU, perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, use_folds=(0,), checkpoint_name="checkpoint_final.pth")
    Path(masks).mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(images, masks)


def train(prepared: Path, configuration: str, name: str, steps: int, batch: int) -> str:
    """The folder of the model; ``name`` keeps trainings apart."""
    plans = json.loads((prepared / "nnUNetPlans.json").read_text(encoding="utf-8"))
    plans["plans_name"] = name
    plans["configurations"][configuration]["batch_size"] = batch
    about = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))
    place = Path(nnUNet_results) / prepared.name / f"nnUNetTrainer__{name}__{configuration}"
    before = place / "fold_0" / "checkpoint_latest.pth"
    plans["continue_training"] = before.exists()
    trainer = nnUNetTrainer(plans, configuration, 0, about, device=CPU)
    trainer.num_epochs, trainer.num_iterations_per_epoch = EPOCHS, steps // EPOCHS
    trainer.num_val_iterations_per_epoch = trainer.save_every = 1
    if not before.with_name("checkpoint_final.pth").exists():
        if before.exists():
            trainer.load_checkpoint(str(before))
        trainer.run_training()
    return str(place)


if __name__ == "__main__":
    main()
