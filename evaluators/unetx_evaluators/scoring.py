"""A network's scores on cases: Dice while it trains, everything once it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import CaseScore, Outcome
from unetx_evaluators.inference import predict_each
from unetx_evaluators.insight import SizeRecall
from unetx_evaluators.label_maps import label_map, label_map_on
from unetx_evaluators.metrics import ClassMetrics, case_metrics, dice_per_class, objective, summarise
from unetx_evaluators.metrics.overlap import LabelMap, without_ignored
from unetx_evaluators.robustness import CHANGES, Change
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.cases import Case
from unetx_evaluators.training.endings import EvaluationEnded

OVERLAP = 0.25
"""Of sliding windows while searching: half the work of the usual 0.5."""
SURFACE_THREADS = 4
"""That measure surfaces while a GPU goes on with the next cases."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Every score of a network."""

    case_scores: tuple[CaseScore, ...]
    recalls: Mapping[str, tuple[SizeRecall, ...]]
    """By class."""
    n_missed: Mapping[str, int]
    """By class: cases that show it and have none of it predicted."""
    original: tuple[CaseScore, ...]
    """On the cases' original voxels, where Dice is the only one; as ``case_scores`` where a case was not resampled."""


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
        classes, spacing = self.task.classes, self.task.label_spacing
        measuring: list[Future[tuple[ClassMetrics, ...]]] = []
        original: dict[str, Future[tuple[CaseScore, ...]]] = {}
        with self._hands() as hands:
            for case, logits in self._logits(network, (case.image for case in self.cases)):
                labels = label_map(logits)
                truth, prediction = case.label.cpu().numpy(), labels.cpu().numpy()
                measuring.append(hands.submit(case_metrics, truth, prediction, classes, spacing))
                if case.original is not None:
                    prediction = label_map_on(case.original.shape, logits, labels)
                    original[case.name] = hands.submit(self._case_scores, case.name, case.original, prediction)
        metrics = {case.name: one.result() for case, one in zip(self.cases, measuring, strict=True)}
        scores = {
            case: tuple(CaseScore(case, m.class_name, m.dice, m.hd95_mm, m.nsd, m.boundary_iou) for m in of_case)
            for case, of_case in metrics.items()
        }
        drawn = {case: original[case].result() if case in original else of_case for case, of_case in scores.items()}
        summaries = summarise(metrics.values())
        return Measured(
            tuple(chain.from_iterable(scores.values())),
            {summary.class_name: summary.recalls for summary in summaries},
            {summary.class_name: summary.n_missed for summary in summaries},
            tuple(chain.from_iterable(drawn.values())),
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
        scores: list[CaseScore] = []
        for case, logits in self._logits(network, images):
            scores += self._case_scores(case.name, case.label.cpu().numpy(), label_map(logits).cpu().numpy())
        return tuple(scores)

    def _case_scores(self, case: str, truth: LabelMap, prediction: LabelMap) -> tuple[CaseScore, ...]:
        dice = dice_per_class(*without_ignored(truth, prediction), len(self.task.classes))
        return tuple(CaseScore(case, *pair) for pair in zip(self.task.classes[1:], dice, strict=True))

    def _logits(self, network: nn.Module, images: Iterable[Tensor]) -> Iterator[tuple[Case, Tensor]]:
        """Every case with its logits."""
        network.eval()
        self.check_time()
        predictions = predict_each(network, images, self.task.patch, self.device, overlap=OVERLAP)
        for case, logits in zip(self.cases, predictions, strict=True):
            self.check_time()
            if not torch.isfinite(logits).all():
                raise EvaluationEnded(Outcome.DIVERGED, f"the logits of case {case.name} are not finite")
            yield case, logits
        network.train()

    def _hands(self) -> Executor:
        """What measures finished cases: threads beside a GPU, and this thread itself on a CPU, whose worker has one."""
        return ThreadPoolExecutor(SURFACE_THREADS) if self.device.device.type == "cuda" else AtOnce()


class AtOnce(Executor):
    """Runs what is submitted before it returns."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future
