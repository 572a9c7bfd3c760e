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
from unetx_evaluators.evaluation import CaseScore, EvaluationEnded, NetworkScores, Outcome
from unetx_evaluators.inference import predict_logits
from unetx_evaluators.label_maps import label_map, resampled_label_map
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
"""Overlap of sliding windows during a search, with half the work of the usual 0.5."""
SURFACE_THREADS = 4
"""Number of threads that measure surfaces while a GPU computes the next cases."""


@dataclass(frozen=True)
class Scorer:
    """Scores networks on the same cases. ``check_time`` is called between cases and may raise.

    Each method raises EvaluationEnded (diverged) on logits that are not finite, and leaves the network in train mode.
    """

    task: Task
    cases: Sequence[Case]
    device: DeviceProfile
    check_time: Callable[[], None]
    image_of: Callable[[Case], Tensor] = attrgetter("image")
    """The input of the network for a case."""

    def rung_scores(self, network: nn.Module) -> tuple[CaseScore, ...]:
        """The metrics of a rung for each foreground class of each case, in the order of the cases."""
        classes = self.task.classes
        counted = [
            class_counts(case.label, label_map(logits), len(classes)).where(logits.isfinite().all(), -1)
            for case, logits in self._logits(network)
        ]
        scores: list[CaseScore] = []
        for case, counts in zip(self.cases, torch.stack(counted).tolist(), strict=True):  # a GPU is waited for once
            self._check_finite(case, is_finite=counts[0][0] >= 0)
            by_class = [ClassCounts(*of_class) for of_class in zip(*counts, strict=True)]
            scores += rung_scores(case.name, classes, by_class[1:])
        return tuple(scores)

    def all_scores(self, network: nn.Module, predictions: list[Prediction] | None = None) -> NetworkScores:
        """All metrics for each foreground class of each case; ``predictions`` is filled for the first cases."""
        measuring: list[Future[tuple[tuple[CaseScore, ...], list[tuple[Target, ...]]]]] = []
        packing: list[Future[Prediction]] = []
        with self._executor() as executor:
            for case, logits in self._logits(network):
                self._check_finite(case, is_finite=bool(logits.isfinite().all()))
                labels = label_map(logits)
                restored = None if case.original is None else resampled_label_map(case.original.shape, logits, labels)
                maps = case.label.cpu().numpy(), labels.cpu().numpy()
                measuring.append(executor.submit(self._measured, case, *maps, restored))
                if predictions is not None and len(packing) < MOST_CASES:
                    view = view_of(maps[0], slice_axis(self.task))
                    packing.append(executor.submit(Prediction.of, case.name, view, maps[1]))
        scores, targets = zip(*(future.result() for future in measuring), strict=True)
        if predictions is not None:
            predictions[:] = (future.result() for future in packing)
        of_class = [recall_by_size(chain.from_iterable(cases)) for cases in zip(*targets, strict=True)]
        return NetworkScores(
            tuple(chain.from_iterable(scores)), dict(zip(self.task.classes[1:], of_class, strict=True))
        )

    def _measured(
        self, case: Case, truth: LabelMap, prediction: LabelMap, restored: LabelMap | None
    ) -> tuple[tuple[CaseScore, ...], list[tuple[Target, ...]]]:
        """A case's scores and its targets by class; ``restored`` is the prediction on its original grid, if another."""
        classes = self.task.classes
        prepared = original = compare(truth, prediction, len(classes), self.task.label_spacing)
        if case.original is not None and restored is not None:
            original = compare(case.original, restored, len(classes), self.task.originals[case.name])
        targets = [find_targets(*one.masks) if one.n_true else () for one in prepared]
        return case_scores(case.name, classes, prepared, original), targets

    def _logits(self, network: nn.Module) -> Iterator[tuple[Case, Tensor]]:
        """Yield every case with its logits."""
        network.eval()
        self.check_time()
        predictions = predict_logits(
            network, map(self.image_of, self.cases), self.task.patch, self.device, overlap=OVERLAP
        )
        for case, logits in zip(self.cases, predictions, strict=True):
            self.check_time()
            yield case, logits
        network.train()

    def _check_finite(self, case: Case, *, is_finite: bool) -> None:
        if not is_finite:
            raise EvaluationEnded(Outcome.DIVERGED, f"the logits of case {case.name} are not finite")

    def _executor(self) -> Executor:
        """The executor that measures finished cases: threads beside a GPU; on a CPU, where a worker has one, none."""
        return ThreadPoolExecutor(SURFACE_THREADS) if self.device.device.type == "cuda" else SynchronousExecutor()


def class_counts(truth: Tensor, prediction: Tensor, n_classes: int) -> Tensor:
    """Voxels ``[3, k]`` of every class in a case's truth, in the prediction and in both, on the prediction's device.

    Voxels whose truth is IGNORED count as background, as in ``metrics.compare``.
    """
    if prediction.device.type == "cpu":
        maps = without_ignored(truth.cpu().numpy(), prediction.numpy())
        return torch.from_numpy(voxel_counts(*maps, n_classes))
    return class_counts_on_device(truth.to(prediction.device), prediction, n_classes)


def class_counts_on_device(truth: Tensor, prediction: Tensor, n_classes: int) -> Tensor:
    """``class_counts`` computed on the device without synchronising; a truth that is no class counts as ignored."""
    row = truth.long()
    known = row < n_classes
    pairs = (row * n_classes + prediction).where(known, 0).flatten()
    confusion = torch.zeros(n_classes**2, dtype=torch.int64, device=pairs.device)
    confusion = confusion.scatter_add_(0, pairs, torch.ones_like(pairs)).view(n_classes, n_classes)
    return torch.stack([confusion.sum(1), confusion.sum(0), confusion.diagonal()])


class SynchronousExecutor(Executor):
    """An executor that runs each call in ``submit``, in the calling thread."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future
