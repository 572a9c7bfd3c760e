"""A network's scores on cases: a few metrics while it trains, all of them once it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import CaseScore, EvaluationEnded, Measured, Outcome
from unetx_evaluators.inference import predict_each
from unetx_evaluators.label_maps import label_map, label_map_on
from unetx_evaluators.metrics import (
    ClassCounts,
    LabelMap,
    Target,
    case_scores,
    compare,
    find_targets,
    recall_by_size,
    rung_scores,
    voxel_counts,
    without_ignored,
)
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.cases import Case
from unetx_evaluators.views import MOST_CASES, Prediction, slice_axis, view_of

OVERLAP = 0.25
"""Of sliding windows while searching: half the work of the usual 0.5."""
SURFACE_THREADS = 4
"""That measure surfaces while a GPU goes on with the next cases."""


@dataclass(frozen=True)
class Scorer:
    """Scores networks on the same cases. ``check_time`` is called now and then and may raise.

    Each method ends the evaluation as diverged on logits that are not finite, and leaves the network in train mode.
    """

    task: Task
    cases: Sequence[Case]
    device: DeviceProfile
    check_time: Callable[[], None]
    image_of: Callable[[Case], Tensor] = attrgetter("image")
    """What the network is given of a case."""

    def at_a_rung(self, network: nn.Module) -> tuple[CaseScore, ...]:
        """What is due at every rung, for each foreground class of each case, in the order of the cases."""
        classes = self.task.classes
        counted = [
            counts_of(case.label, label_map(logits), len(classes)).where(logits.isfinite().all(), -1)
            for case, logits in self._logits(network)
        ]
        scores: list[CaseScore] = []
        for case, counts in zip(self.cases, torch.stack(counted).tolist(), strict=True):  # a GPU is waited for once
            self._check_finite(case, is_finite=counts[0][0] >= 0)
            by_class = [ClassCounts(*of_class) for of_class in zip(*counts, strict=True)]
            scores += rung_scores(case.name, classes, by_class[1:])
        return tuple(scores)

    def everything(self, network: nn.Module, predictions: list[Prediction] | None = None) -> Measured:
        """All metrics, in the same order; into ``predictions`` go those of the first cases."""
        measuring: list[Future[tuple[tuple[CaseScore, ...], list[tuple[Target, ...]]]]] = []
        packing: list[Future[Prediction]] = []
        with self._hands() as hands:
            for case, logits in self._logits(network):
                self._check_finite(case, is_finite=bool(logits.isfinite().all()))
                labels = label_map(logits)
                drawn = None if case.original is None else label_map_on(case.original.shape, logits, labels)
                maps = case.label.cpu().numpy(), labels.cpu().numpy()
                measuring.append(hands.submit(self._measured, case, *maps, drawn))
                if predictions is not None and len(packing) < MOST_CASES:
                    view = view_of(maps[0], slice_axis(self.task))
                    packing.append(hands.submit(Prediction.of, case.name, view, maps[1]))
        scores, targets = zip(*(future.result() for future in measuring), strict=True)
        if predictions is not None:
            predictions[:] = (future.result() for future in packing)
        of_class = [recall_by_size(chain.from_iterable(cases)) for cases in zip(*targets, strict=True)]
        return Measured(tuple(chain.from_iterable(scores)), dict(zip(self.task.classes[1:], of_class, strict=True)))

    def _measured(
        self, case: Case, truth: LabelMap, prediction: LabelMap, drawn: LabelMap | None
    ) -> tuple[tuple[CaseScore, ...], list[tuple[Target, ...]]]:
        """A case's scores and its targets by class; ``drawn`` is the prediction on its original voxels, if others."""
        classes = self.task.classes
        prepared = original = compare(truth, prediction, len(classes), self.task.label_spacing)
        if case.original is not None and drawn is not None:
            original = compare(case.original, drawn, len(classes), self.task.originals[case.name])
        targets = [find_targets(*one.masks) if one.n_true else () for one in prepared]
        return case_scores(case.name, classes, prepared, original), targets

    def _logits(self, network: nn.Module) -> Iterator[tuple[Case, Tensor]]:
        """Every case with its logits."""
        network.eval()
        self.check_time()
        predictions = predict_each(
            network, map(self.image_of, self.cases), self.task.patch, self.device, overlap=OVERLAP
        )
        for case, logits in zip(self.cases, predictions, strict=True):
            self.check_time()
            yield case, logits
        network.train()

    def _check_finite(self, case: Case, *, is_finite: bool) -> None:
        if not is_finite:
            raise EvaluationEnded(Outcome.DIVERGED, f"the logits of case {case.name} are not finite")

    def _hands(self) -> Executor:
        """What measures finished cases: threads beside a GPU, and this thread itself on a CPU, whose worker has one."""
        return ThreadPoolExecutor(SURFACE_THREADS) if self.device.device.type == "cuda" else AtOnce()


def counts_of(truth: Tensor, prediction: Tensor, n_classes: int) -> Tensor:
    """``[3, k]``: voxels of every class in a case's truth, in the prediction and in both, where the prediction lies.

    Voxels whose truth is IGNORED count as background, as in ``metrics.compare``.
    """
    if prediction.device.type == "cpu":
        maps = without_ignored(truth.cpu().numpy(), prediction.numpy())
        return torch.from_numpy(voxel_counts(*maps, n_classes))
    return counts_there(truth.to(prediction.device), prediction, n_classes)


def counts_there(truth: Tensor, prediction: Tensor, n_classes: int) -> Tensor:
    """The same by one kernel that reads nothing back; a truth that is no class counts as ignored."""
    row = truth.long()
    known = row < n_classes
    pairs = (row * n_classes + prediction).where(known, 0).flatten()
    confusion = torch.zeros(n_classes**2, dtype=torch.int64, device=pairs.device)
    confusion = confusion.scatter_add_(0, pairs, torch.ones_like(pairs)).view(n_classes, n_classes)
    return torch.stack([confusion.sum(1), confusion.sum(0), confusion.diagonal()])


class AtOnce(Executor):
    """Runs what is submitted before it returns."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future
