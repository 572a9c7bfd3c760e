"""A network's Dice on cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import CaseScore, Outcome
from unetx_evaluators.inference import predict_each
from unetx_evaluators.metrics.overlap import dice_per_class
from unetx_evaluators.tasks.task import IGNORED
from unetx_evaluators.training.cases import Case
from unetx_evaluators.training.endings import EvaluationEnded

OVERLAP = 0.25
"""Of sliding windows while searching: half the work of the usual 0.5."""


def score_cases(
    network: nn.Module,
    cases: Sequence[Case],
    class_names: Sequence[str],
    patch: tuple[int, ...],
    device: DeviceProfile,
    check_time: Callable[[], None],
) -> tuple[CaseScore, ...]:
    """Dice per case and foreground class, in the order of ``cases``, then of the classes; ignored voxels do not count.

    ``check_time`` is called now and then and may raise. Ends the evaluation as diverged on logits that are not
    finite. Leaves the network in train mode.
    """
    network.eval()
    scores = []
    check_time()
    predictions = predict_each(network, (case.image for case in cases), patch, device, overlap=OVERLAP)
    for case, logits in zip(cases, predictions, strict=True):
        check_time()
        if not torch.isfinite(logits).all():
            raise EvaluationEnded(Outcome.DIVERGED, f"the logits of case {case.name} are not finite")
        prediction = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
        truth: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = case.label.cpu().numpy()
        ignored = truth == IGNORED
        if ignored.any():
            truth, prediction = np.where(ignored, 0, truth), np.where(ignored, 0, prediction)
        dice = dice_per_class(truth, prediction, len(class_names))
        scores += [CaseScore(case.name, name, d) for name, d in zip(class_names[1:], dice, strict=True)]
    network.train()
    return tuple(scores)
