"""A network's scores on cases: Dice while it trains, everything once it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import CaseScore, Outcome
from unetx_evaluators.inference import predict_each
from unetx_evaluators.insight import SizeRecall
from unetx_evaluators.metrics import ClassMetrics, case_metrics, dice_per_class, objective, summarise
from unetx_evaluators.metrics.overlap import without_ignored
from unetx_evaluators.robustness import CHANGES, Change
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.cases import Case
from unetx_evaluators.training.endings import EvaluationEnded

OVERLAP = 0.25
"""Of sliding windows while searching: half the work of the usual 0.5."""

LabelMap = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Every score of a network."""

    case_scores: tuple[CaseScore, ...]
    recalls: Mapping[str, tuple[SizeRecall, ...]]
    """By class."""
    n_missed: Mapping[str, int]
    """By class: cases that show it and have none of it predicted."""


@dataclass(frozen=True)
class Scorer:
    """Scores networks on the same cases. ``check_time`` is called now and then and may raise.

    Each method ends the evaluation as diverged on logits that are not finite, and leaves the network in train mode.
    """

    task: Task
    cases: Sequence[Case]
    device: DeviceProfile
    check_time: Callable[[], None]

    def dice(self, network: nn.Module) -> tuple[CaseScore, ...]:
        """Dice alone, per case and foreground class, in the order of the cases, then of the classes."""
        return self._dice(network, (case.image for case in self.cases))

    def everything(self, network: nn.Module) -> Measured:
        """All scores, in the same order."""
        measured: dict[str, tuple[ClassMetrics, ...]] = {}
        for case, prediction in self._predictions(network, (case.image for case in self.cases)):
            truth = case.label.cpu().numpy()
            measured[case.name] = case_metrics(truth, prediction, self.task.classes, self.task.label_spacing)
        summaries = summarise(measured.values())
        return Measured(
            tuple(
                CaseScore(case, one.class_name, one.dice, one.hd95_mm, one.nsd, one.boundary_iou)
                for case, metrics in measured.items()
                for one in metrics
            ),
            {summary.class_name: summary.recalls for summary in summaries},
            {summary.class_name: summary.n_missed for summary in summaries},
        )

    def robustness(self, network: nn.Module) -> dict[str, float]:
        """The objective on images that were blurred, made noisy, or given another gamma; by the change."""
        return {
            name: objective(self._dice(network, (self._changed(case, change) for case in self.cases)))
            for name, change in CHANGES.items()
        }

    def _changed(self, case: Case, change: Change) -> Tensor:
        image = change(case.image.cpu().numpy(), self.task.dims, case.name)
        return torch.from_numpy(image).to(case.image.device)

    def _dice(self, network: nn.Module, images: Iterable[Tensor]) -> tuple[CaseScore, ...]:
        scores = []
        for case, prediction in self._predictions(network, images):
            truth, predicted = without_ignored(case.label.cpu().numpy(), prediction)
            dice = dice_per_class(truth, predicted, len(self.task.classes))
            scores += [CaseScore(case.name, *pair) for pair in zip(self.task.classes[1:], dice, strict=True)]
        return tuple(scores)

    def _predictions(self, network: nn.Module, images: Iterable[Tensor]) -> Iterator[tuple[Case, LabelMap]]:
        """Every case with its predicted label map."""
        network.eval()
        self.check_time()
        predictions = predict_each(network, images, self.task.patch, self.device, overlap=OVERLAP)
        for case, logits in zip(self.cases, predictions, strict=True):
            self.check_time()
            if not torch.isfinite(logits).all():
                raise EvaluationEnded(Outcome.DIVERGED, f"the logits of case {case.name} are not finite")
            yield case, logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
        network.train()
