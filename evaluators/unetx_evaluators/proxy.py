"""The short-proxy evaluator: what an architecture is worth after a little training; torch only once it is called."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.evaluation import Budget, DataError, Evaluation, EvaluationEnded, Observer, Outcome
from unetx_evaluators.training.rank import ALONE, Rank
from unetx_space.architecture import Architecture
from unetx_space.cost import cost
from unetx_space.validity import faults

if TYPE_CHECKING:
    from torch import nn

    from unetx_evaluators.device import DeviceProfile
    from unetx_evaluators.insight import ZeroCost
    from unetx_evaluators.tasks.task import Task
    from unetx_evaluators.training.trainer import Progress
    from unetx_space.backbone import Backbone
    from unetx_space.network import SkipUNet


@dataclass(frozen=True, slots=True)
class ProxyEvaluator:
    """Trains the architecture, its widths scaled by the budget, and scores it on the task's validation cases.

    On a CPU the same architecture, task, budget, seed and number of threads give the same bits. Not thread-safe: it
    sets torch's number of threads while it works. Each process keeps the cases of the last task open.
    """

    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:INDEX``."""
    n_threads: int = 1
    """CPU threads of torch; more of them pay off less than more workers."""
    gradients_at: tuple[int, ...] | None = None
    """The training steps at which gradients by stage are told, if any are; None: the first and the middle one."""
    rank: Rank = ALONE
    """Of several processes that evaluate the same together; only the first answers with scores."""

    def evaluate(
        self,
        architecture: Architecture,
        task: Task,
        budget: Budget,
        seed: int,
        observer: Observer,
        *,
        checkpoint: Path | None = None,
        weights: Path | None = None,
        diagnosed_above: float = -math.inf,
    ) -> Evaluation:
        """Every ending is an Evaluation, with what was known by then.

        Raises DeviceFailed when the device is not there or fails, EvaluationInterrupted from the observer, and our own
        bugs.
        """
        from unetx_evaluators import device as devices
        from unetx_evaluators.training.trainer import Progress

        profile = devices.opened(self.device)
        is_shown = diagnosed_above < math.inf and not task.no_images
        progress = Progress(budget.max_seconds, predictions=[] if is_shown else None)
        asked = (architecture, task, budget, seed, observer)
        training = partial(self._train, *asked, profile, progress, checkpoint, weights, diagnosed_above)
        with devices.watched(profile.device), devices.tuned(profile, self.n_threads, budget.steps):
            memory = devices.PeakMemory(profile.device)
            ending = _ending_of(training, profile)
            devices.release_memory(profile.device)
            return replace(
                ending,
                score=progress.curve[-1].score if progress.curve else None,
                case_scores=progress.case_scores,
                curve=tuple(progress.curve),
                loss_sum=progress.loss_sum,
                n_parameters=progress.n_parameters,
                seconds=progress.seconds,
                peak_mem_mib=memory.mib(),
                device=profile.name,
                versions=devices.versions() | progress.run_as,
                insight=progress.insight,
                predictions=tuple(progress.predictions or ()),
                spends_process=progress.spends_process,
            )

    def _train(
        self,
        architecture: Architecture,
        task: Task,
        budget: Budget,
        seed: int,
        observer: Observer,
        profile: DeviceProfile,
        progress: Progress,
        checkpoint: Path | None,
        weights: Path | None,
        diagnosed_above: float,
    ) -> None:
        """Check, open, build, try one step, train; what comes out is noted in ``progress``."""
        from unetx_evaluators.device import trusted
        from unetx_evaluators.diagnosis import skip_similarities
        from unetx_evaluators.training.batches import BatchStream
        from unetx_evaluators.training.cases import open_cases
        from unetx_evaluators.training.checkpoint import Checkpoint
        from unetx_evaluators.training.data_parallel import joined
        from unetx_evaluators.training.fast_cuda import norms_run_as
        from unetx_evaluators.training.inheritance import save_weights
        from unetx_evaluators.training.trainer import train
        from unetx_evaluators.zero_cost import zero_cost

        if problems := [*map(str, faults(architecture, task.patch)), *_misfits(architecture.backbone, task)]:
            raise EvaluationEnded(Outcome.INFEASIBLE, "; ".join(problems))
        profile = trusted(profile, architecture.backbone.sizes(task.patch))
        cases = open_cases(task, profile, budget.validation_cases)
        trained = as_trained(architecture, budget)
        start = partial(_at_its_start, trained, budget, seed, task, profile)
        network = start()
        progress.n_parameters = sum(parameter.numel() for parameter in network.parameters())
        self._try(network, trained, task, budget, profile)
        identity = self._identity(architecture, task, budget, seed, profile)
        kept = None if checkpoint is None else Checkpoint(checkpoint, identity)
        batches = BatchStream(cases.train, task.patch, budget.batch_size, seed, budget.recipe, profile.device)

        def features(untrained: SkipUNet) -> ZeroCost:
            full, weight = cost(architecture, task.patch), budget.recipe.background_weight
            return zero_cost(untrained, batches.batch(1), full, weight, profile, ignores=task.ignores)

        if diagnosed_above == -math.inf:
            progress.zero_cost = features(network)
        told_at = self.gradients_at or (1, max(1, budget.steps // 2))
        halfway = told_at if diagnosed_above < math.inf else ()
        asked = (network, cases, task, budget, seed, profile, observer, progress, kept)
        progress.norms_run_as = norms_run_as(profile.device)
        with computed_fast(network, profile), joined(self.rank, profile.device):
            train(*asked, gradients_at=halfway, rank=self.rank)
        if not self.rank.leads:
            return
        if weights is not None:
            save_weights(network, weights)
        if progress.curve[-1].score > diagnosed_above:
            progress.similarities = skip_similarities(network, [batches.batch(1)], profile)
            progress.zero_cost = progress.zero_cost or features(start())

    def _try(
        self, network: SkipUNet, trained: Architecture, task: Task, budget: Budget, profile: DeviceProfile
    ) -> None:
        """Ends the evaluation before it is paid for: too little memory by the plan, no sound step, or too little memory
        by what that step took."""
        from unetx_evaluators.training.dry_run import BATCH_SIZE, dry_run
        from unetx_evaluators.training.memory_demand import Demand, check_memory
        from unetx_space.training_memory import training_memory

        bytes_per_value = 4 if profile.autocast_dtype is None else 2
        kept = 5 if budget.recipe.averaging else 3  # gradient and two moments; the average and what it stands in for
        kept += self.rank.n > 1  # the gradients side by side
        part = self.rank.part(budget.batch_size)
        demand = Demand(
            part.stop - part.start,
            training_memory(trained, task.patch, bytes_per_value=bytes_per_value),
            kept * sum(parameter.numel() for parameter in network.parameters()),
        )
        check_memory(demand.n_bytes(), profile.free_bytes(), profile.name, profile.share_bytes())
        tried = dry_run(network, trained.backbone, task.patch, profile)
        if tried.faults:
            raise EvaluationEnded(Outcome.INFEASIBLE, "; ".join(tried.faults))
        needed = demand.n_bytes(measured=tried.step_bytes, measured_batch=BATCH_SIZE)
        check_memory(needed, profile.free_bytes(), profile.name, profile.share_bytes())

    def _identity(
        self, architecture: Architecture, task: Task, budget: Budget, seed: int, profile: DeviceProfile
    ) -> Mapping[str, Any]:
        """Everything that decides the numbers, but for the number of threads and the model of the device."""
        from unetx_evaluators.device import versions

        return {
            "backbone": architecture.backbone.to_json(),
            "genome": architecture.genome.to_json(),
            "task": task.digest,
            "budget": asdict(budget),
            "seed": seed,
            "device": profile.device.type,
            "precision": str(profile.autocast_dtype),
            "versions": versions(),
        }


def as_trained(architecture: Architecture, budget: Budget) -> Architecture:
    """What a budget trains of an architecture: its widths scaled, and with heads for deep supervision where asked."""
    backbone = architecture.backbone.scaled(budget.width_factor)
    supervised = backbone.deep_supervision or budget.recipe.deep_supervision
    return replace(architecture, backbone=replace(backbone, deep_supervision=supervised))


def _at_its_start(trained: Architecture, budget: Budget, seed: int, task: Task, profile: DeviceProfile) -> SkipUNet:
    """The network on its device, with the values that training starts from."""
    from unetx_evaluators.device import memory_format
    from unetx_evaluators.training.inheritance import inherit
    from unetx_space.network import build

    network = build(trained, seed=seed)
    if budget.parent is not None:
        inherit(network, budget.parent, task.folder)
    network.to(profile.device)
    network.to(memory_format=memory_format(task.dims, profile.device))  # type: ignore[call-overload]  # not in torch's stubs
    return network


def computed_fast(network: nn.Module, profile: DeviceProfile) -> AbstractContextManager[None]:
    """Inside, the network computes the same in the way that is fastest on its device."""
    if profile.device.type == "cpu":
        from unetx_evaluators.training.fast_cpu import fast_on_cpu

        return fast_on_cpu(network)
    from unetx_evaluators.training.fast_cuda import fast_on_cuda, norms_run_as

    return fast_on_cuda(network, profile.device) if norms_run_as(profile.device) else nullcontext()


def _misfits(backbone: Backbone, task: Task) -> Iterator[str]:
    """Why a network on this backbone cannot read the task's images or name its classes."""
    for what, has, needs in (
        ("dimensions", backbone.dims, task.dims),
        ("input channels", backbone.in_channels, len(task.channels)),
        ("output channels (classes with background)", backbone.out_channels, len(task.classes)),
    ):
        if has != needs:
            yield f"the architecture has {has} {what} and task {task.name} needs {needs}; take its backbone"


def _ending_of(training: Callable[[], None], device: DeviceProfile) -> Evaluation:
    """Outcome, reason and traceback of a training; what is nobody's fault but ours, or the device's, flies out."""
    from unetx_evaluators.device import check_alive, first_line, is_out_of_memory
    from unetx_evaluators.training.memory_demand import check_share

    try:
        training()
    except EvaluationEnded as end:
        return Evaluation(end.outcome, end.reason)
    except DataError as error:
        return Evaluation(Outcome.DATA_ERROR, str(error), traceback=traceback.format_exc())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        check_alive(device.device, error)
        check_share(device.share_bytes(), device.free_bytes(), device.name)
        return Evaluation(Outcome.OUT_OF_MEMORY, first_line(error), traceback=traceback.format_exc())
    return Evaluation(Outcome.COMPLETE)
