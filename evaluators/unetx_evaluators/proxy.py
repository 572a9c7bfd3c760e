"""The short-proxy evaluator, which scores an architecture after a short training; torch is imported when it is
called."""

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
from unetx_evaluators.training.rank import SINGLE_PROCESS, Rank
from unetx_space.architecture import Architecture
from unetx_space.cost import cost
from unetx_space.validity import faults

if TYPE_CHECKING:
    from torch import nn

    from unetx_evaluators.device import DeviceProfile
    from unetx_evaluators.insight import ZeroCost
    from unetx_evaluators.tasks.task import Task
    from unetx_evaluators.training.batches import Batch
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
    """Device to train on: ``cpu``, ``cuda`` or ``cuda:INDEX``."""
    n_threads: int = 1
    """CPU threads of torch; more of them pay off less than more workers."""
    gradients_at: tuple[int, ...] | None = None
    """Training steps whose gradients by stage are recorded, if any are; None: the first and the middle one."""
    rank: Rank = SINGLE_PROCESS
    """This process among those that run the same evaluation together; only the first returns scores."""

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
        """Train and score as ``Evaluator.evaluate`` says; one that ends early returns what was known by then.

        Raises DeviceFailed when the device is missing or fails, EvaluationInterrupted from the observer, and our own
        bugs.
        """
        from unetx_evaluators import device as devices
        from unetx_evaluators.training.trainer import Progress

        profile = devices.open_device(self.device)
        is_shown = diagnosed_above < math.inf and not task.no_images
        progress = Progress(budget.max_seconds, predictions=[] if is_shown else None)
        request = (architecture, task, budget, seed, observer)
        training = partial(self._train, *request, profile, progress, checkpoint, weights, diagnosed_above)
        with (
            devices.raising_device_failed(profile.device),
            devices.torch_settings(profile, self.n_threads, budget.steps),
        ):
            memory = devices.PeakMemory(profile.device)
            ending = _evaluation_from(training, profile)
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
                versions=devices.versions() | progress.modes,
                insight=progress.insight,
                predictions=tuple(progress.predictions or ()),
                needs_new_process=progress.needs_new_process,
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
        """Check the architecture, open the cases, build the network, try one step and train; records in
        ``progress``."""
        from unetx_evaluators.device import with_safe_precision
        from unetx_evaluators.diagnosis import skip_similarities
        from unetx_evaluators.training.batches import BatchStream
        from unetx_evaluators.training.cases import open_cases
        from unetx_evaluators.training.checkpoint import Checkpoint
        from unetx_evaluators.training.data_parallel import process_group
        from unetx_evaluators.training.fast_cuda import norm_backend
        from unetx_evaluators.training.inheritance import save_weights
        from unetx_evaluators.training.trainer import train

        if problems := [*map(str, faults(architecture, task.patch)), *_task_mismatches(architecture.backbone, task)]:
            raise EvaluationEnded(Outcome.INFEASIBLE, "; ".join(problems))
        profile = with_safe_precision(profile, architecture.backbone.sizes(task.patch))
        cases = open_cases(task, profile, budget.validation_cases)
        trained = proxy_architecture(architecture, budget)
        start = partial(_initial_network, trained, budget, seed, task, profile)
        network = start()
        progress.n_parameters = sum(parameter.numel() for parameter in network.parameters())
        self._check_trainable(network, trained, task, budget, profile)
        identity = self._identity(architecture, task, budget, seed, profile)
        state = None if checkpoint is None else Checkpoint(checkpoint, identity)
        batches = BatchStream(cases.train, task.patch, budget.batch_size, seed, budget.recipe, profile.device)
        features = partial(_zero_cost, architecture=architecture, task=task, budget=budget, profile=profile)
        if diagnosed_above == -math.inf:
            progress.zero_cost = features(network, batches.batch(1))
        gradient_steps: tuple[int, ...] = ()
        if diagnosed_above < math.inf:
            gradient_steps = self.gradients_at or (1, max(1, budget.steps // 2))
        progress.norm_backend = norm_backend(profile.device)
        training = (network, cases, task, budget, seed, profile, observer, progress, state)
        with accelerated(network, profile), process_group(self.rank, profile.device):
            train(*training, gradients_at=gradient_steps, rank=self.rank)
        if not self.rank.is_leader:
            return
        if weights is not None:
            save_weights(network, weights)
        if progress.curve[-1].score > diagnosed_above:
            progress.similarities = skip_similarities(network, [batches.batch(1)], profile)
            progress.zero_cost = progress.zero_cost or features(start(), batches.batch(1))

    def _check_trainable(
        self, network: SkipUNet, trained: Architecture, task: Task, budget: Budget, profile: DeviceProfile
    ) -> None:
        """Raise EvaluationEnded where the plan needs too much memory, a dry run finds a fault, or needs too much."""
        from unetx_evaluators.training.dry_run import BATCH_SIZE, dry_run
        from unetx_evaluators.training.memory_demand import Demand, check_memory
        from unetx_space.training_memory import training_memory

        bytes_per_value = 4 if profile.autocast_dtype is None else 2
        copies = (
            5 if budget.recipe.averaging else 3
        )  # gradient and two moments; the average and the weights it replaces
        copies += self.rank.world_size > 1  # the gradients side by side
        part = self.rank.part(budget.batch_size)
        demand = Demand(
            part.stop - part.start,
            training_memory(trained, task.patch, bytes_per_value=bytes_per_value),
            copies * sum(parameter.numel() for parameter in network.parameters()),
        )
        check_memory(demand.n_bytes(), profile.free_bytes(), profile.name, profile.share_bytes())
        step = dry_run(network, trained.backbone, task.patch, profile)
        if step.faults:
            raise EvaluationEnded(Outcome.INFEASIBLE, "; ".join(step.faults))
        needed = demand.n_bytes(measured=step.step_bytes, measured_batch=BATCH_SIZE)
        check_memory(needed, profile.free_bytes(), profile.name, profile.share_bytes())

    def _identity(
        self, architecture: Architecture, task: Task, budget: Budget, seed: int, profile: DeviceProfile
    ) -> Mapping[str, Any]:
        """Everything that decides the numbers, except the number of threads and the model of the device."""
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


def proxy_architecture(architecture: Architecture, budget: Budget) -> Architecture:
    """The architecture that a budget trains: its widths scaled, with heads for deep supervision if the recipe asks."""
    backbone = architecture.backbone.scaled(budget.width_factor)
    supervised = backbone.deep_supervision or budget.recipe.deep_supervision
    return replace(architecture, backbone=replace(backbone, deep_supervision=supervised))


def _initial_network(trained: Architecture, budget: Budget, seed: int, task: Task, profile: DeviceProfile) -> SkipUNet:
    """The network on its device, with the weights that training starts from."""
    from unetx_evaluators.device import memory_format
    from unetx_evaluators.training.inheritance import inherit
    from unetx_space.network import build

    network = build(trained, seed=seed)
    if budget.parent is not None:
        inherit(network, budget.parent, task.folder)
    network.to(profile.device)
    network.to(memory_format=memory_format(task.dims, profile.device))  # type: ignore[call-overload]  # not in torch's stubs
    return network


def accelerated(network: nn.Module, profile: DeviceProfile) -> AbstractContextManager[None]:
    """Inside, the network computes the same function with the kernels that are fastest on its device."""
    if profile.device.type == "cpu":
        from unetx_evaluators.training.fast_cpu import fast_on_cpu

        return fast_on_cpu(network)
    from unetx_evaluators.training.fast_cuda import fast_on_cuda, norm_backend

    return fast_on_cuda(network, profile.device) if norm_backend(profile.device) else nullcontext()


def _zero_cost(
    untrained: SkipUNet, batch: Batch, *, architecture: Architecture, task: Task, budget: Budget, profile: DeviceProfile
) -> ZeroCost:
    from unetx_evaluators.zero_cost import zero_cost

    full_size, weight = cost(architecture, task.patch), budget.recipe.background_weight
    return zero_cost(untrained, batch, full_size, weight, profile, ignores=task.ignores)


def _task_mismatches(backbone: Backbone, task: Task) -> Iterator[str]:
    """Messages on why a network with this backbone cannot read the task's images or predict its classes."""
    for what, has, needs in (
        ("dimensions", backbone.dims, task.dims),
        ("input channels", backbone.in_channels, len(task.channels)),
        ("output channels (classes with background)", backbone.out_channels, len(task.classes)),
    ):
        if has != needs:
            yield f"the architecture has {has} {what} and task {task.name} needs {needs}; take its backbone"


def _evaluation_from(training: Callable[[], None], device: DeviceProfile) -> Evaluation:
    """Outcome, reason and traceback of a training; errors that are ours, or the device's, are raised."""
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
