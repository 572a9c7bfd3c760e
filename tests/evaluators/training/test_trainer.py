"""The short-proxy evaluator: its outcomes, its determinism, and that it learns."""

import math
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from monai.losses.dice import DiceCELoss
from observers import Recorder, without_clocks
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task
from torch import Tensor, nn

from unetx_evaluators.budgets import default_budget
from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import EvaluationInterrupted, NullObserver, Outcome
from unetx_evaluators.metrics import objective
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.batches import Batch, BatchStream
from unetx_evaluators.training.cases import open_cases
from unetx_evaluators.training.loss import dice_ce_loss
from unetx_evaluators.training.recipe import Recipe, learning_rate
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.genome import Genome
from unetx_space.network import build


def test_a_complete_evaluation_tells_its_scores_its_curve_and_its_costs(task: Task) -> None:
    recorder = Recorder()
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, recorder)
    assert (result.outcome, result.reason, result.traceback) == (Outcome.COMPLETE, "", "")
    assert recorder.steps == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in result.curve] == [2, 4, 6]
    assert tuple(recorder.points) == result.curve[:-1], "an observer is not asked at the last rung"
    assert [(s.case, s.class_name) for s in result.case_scores] == [
        ("validation0", "bright"),
        ("validation0", "dark"),
        ("validation1", "bright"),
        ("validation1", "dark"),
    ]
    assert result.score == result.curve[-1].score == objective(result.case_scores)
    assert all(math.isfinite(point.loss) and point.loss > 0 for point in result.curve)
    assert 0 < result.curve[0].seconds <= result.curve[-1].seconds <= result.seconds
    assert result.peak_mem_mib is not None
    assert result.peak_mem_mib > 0
    assert "1 thread" in result.device
    assert result.versions["torch"] in torch.__version__


def test_the_budgets_width_factor_scales_what_is_trained(task: Task) -> None:
    architecture = tiny_architecture(task)
    result = ProxyEvaluator().evaluate(architecture, task, TINY_BUDGET, 0, NullObserver())
    half = replace(architecture, backbone=architecture.backbone.scaled(0.5))
    assert half.backbone.widths == (4, 8, 16)
    assert result.n_parameters == sum(p.numel() for p in build(half).parameters())


def test_two_evaluations_of_the_same_inputs_give_the_same_bits(task: Task) -> None:
    evaluator, architecture = ProxyEvaluator(), tiny_architecture(task)
    first = evaluator.evaluate(architecture, task, TINY_BUDGET, 3, NullObserver())
    torch.manual_seed(99)  # the global generator has no say
    second = evaluator.evaluate(architecture, task, TINY_BUDGET, 3, NullObserver())
    assert without_clocks(first) == without_clocks(second)
    other = evaluator.evaluate(architecture, task, TINY_BUDGET, 4, NullObserver())
    assert other.curve[0].loss != first.curve[0].loss


def test_another_process_gives_the_same_bits(task: Task) -> None:
    evaluator, architecture = ProxyEvaluator(), tiny_architecture(task)
    here = evaluator.evaluate(architecture, task, TINY_BUDGET, 3, NullObserver())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(evaluator.evaluate, (architecture, task, TINY_BUDGET, 3, NullObserver()))
    assert without_clocks(here) == without_clocks(there)


def test_different_architectures_train_on_the_same_batches(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []
    draw = BatchStream.batch

    def noting(self: BatchStream, step: int) -> Batch:
        seen.append(draw(self, step))
        return seen[-1]

    monkeypatch.setattr(BatchStream, "batch", noting)
    for name in ("u-net", "no-skip"):
        asked = (tiny_architecture(task, name), task, TINY_BUDGET, 0, NullObserver())
        ProxyEvaluator().evaluate(*asked, diagnosed_above=math.inf)
    assert len(seen) == 2 * TINY_BUDGET.steps
    for one, other in zip(seen[:6], seen[6:], strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_an_evaluation_stopped_at_a_rung_is_pruned_and_keeps_what_it_knows(task: Task) -> None:
    recorder = Recorder(stop_at=4)
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, recorder)
    assert result.outcome is Outcome.PRUNED
    assert "step 4" in result.reason
    assert recorder.steps[-1] == 4
    assert [point.step for point in result.curve] == [2, 4]
    assert result.score == result.curve[-1].score
    assert len(result.case_scores) == 4


@pytest.mark.parametrize("method", ["on_step", "on_rung"])
def test_an_interruption_flies_through(method: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bool:
        raise EvaluationInterrupted

    recorder = Recorder()
    monkeypatch.setattr(recorder, method, interrupt)
    with pytest.raises(EvaluationInterrupted):
        ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, recorder)


def test_a_learning_rate_that_explodes_ends_as_diverged(task: Task) -> None:
    budget = replace(TINY_BUDGET, recipe=Recipe(learning_rate=1e30))
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, budget, 0, NullObserver())
    assert result.outcome is Outcome.DIVERGED
    assert "nan" in result.reason or "inf" in result.reason or "not finite" in result.reason


def test_logits_that_are_not_finite_end_as_diverged(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        """Sound in training, infinite in evaluation."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(1, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(x)
            return logits if self.training else logits * math.inf

    monkeypatch.setattr("unetx_space.network.build", lambda architecture, *, seed: Broken())
    asked = (tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    result = ProxyEvaluator().evaluate(*asked, diagnosed_above=math.inf)
    assert (result.outcome, result.reason) == (Outcome.DIVERGED, "the logits of case validation0 are not finite")
    assert result.score is None


def test_an_evaluation_over_its_time_limit_ends_as_timed_out(task: Task) -> None:
    budget = replace(TINY_BUDGET, max_seconds=0.0)
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, budget, 0, NullObserver())
    assert result.outcome is Outcome.TIMED_OUT
    assert "the budget allows 0 s" in result.reason
    assert (result.score, result.curve) == (None, ())


def _cuda_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _cpu_memory() -> None:
    torch.empty(2**60)


@pytest.mark.parametrize("exhaust", [_cuda_memory, _cpu_memory])
def test_exhausted_memory_is_a_typed_outcome_with_its_traceback(
    exhaust: Callable[[], None], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetx_space.network.build", lambda architecture, *, seed: exhaust())
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert "llocate" in result.reason
    assert exhaust.__name__ in result.traceback


def test_a_bug_flies_out(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(architecture: Architecture, *, seed: int) -> nn.Module:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr("unetx_space.network.build", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())


def test_a_missing_array_is_a_data_error(tmp_path: Path) -> None:
    task = write_tiny_task(tmp_path)
    (task.folder / "images" / "validation0.npy").unlink()
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    assert result.outcome is Outcome.DATA_ERROR
    assert "validation0" in result.reason


def test_a_faulty_genome_is_infeasible_and_says_why(task: Task) -> None:
    architecture = tiny_architecture(task)
    result = ProxyEvaluator().evaluate(
        replace(architecture, genome=Genome(architecture.genome.nodes[:1])), task, TINY_BUDGET, 0, NullObserver()
    )
    assert result.outcome is Outcome.INFEASIBLE
    assert "no node of level 0" in result.reason


def test_an_architecture_for_other_data_is_infeasible_and_says_why(task: Task) -> None:
    architecture = tiny_architecture(task)
    other = replace(architecture, backbone=replace(architecture.backbone, in_channels=4, out_channels=2))
    result = ProxyEvaluator().evaluate(other, task, TINY_BUDGET, 0, NullObserver())
    assert result.outcome is Outcome.INFEASIBLE
    assert "4 input channels and task tiny needs 1" in result.reason
    assert "2 output channels" in result.reason


def test_an_evaluator_survives_pickling() -> None:
    evaluator = ProxyEvaluator(device="cuda:1", n_threads=2)
    assert pickle.loads(pickle.dumps(evaluator)) == evaluator


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tiny_task_is_learned(seed: int, task: Task) -> None:
    recipe = Recipe(learning_rate=2e-2)
    budget = replace(TINY_BUDGET, steps=80, batch_size=4, rungs=(2, 80), width_factor=1.0, recipe=recipe)
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, budget, seed, NullObserver())
    start, end = result.curve
    assert start.score < 0.3
    assert end.score > 0.6, "discs that differ from the ground by seven times the noise"
    assert end.loss < start.loss


def test_the_losses_are_averaged_from_rung_to_rung(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.0, 2.0, 3.0, 5.0, 7.0, 9.0])
    monkeypatch.setattr(EagerStep, "__call__", lambda *_: torch.tensor(next(losses)))
    asked = (tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    result = ProxyEvaluator().evaluate(*asked, diagnosed_above=math.inf)
    assert [point.loss for point in result.curve] == [1.5, 4.0, 8.0]
    assert result.loss_sum == 27.0


def test_the_loss_is_monais_dice_and_weighted_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, generator=generator)
    labels = torch.randint(0, 3, (2, 6, 7), generator=generator).to(torch.uint8)
    reference = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=True,
        weight=torch.tensor([0.3, 1.0, 1.0]),
        smooth_nr=1.0,
        smooth_dr=1.0,
    )
    expected = reference(logits, labels[:, None])
    assert dice_ce_loss(logits, labels, 0.3).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_float16_training_scales_its_loss_and_learns(task: Task) -> None:
    profile = DeviceProfile(torch.device("cpu"), autocast_dtype=torch.float16)
    network = build(tiny_architecture(task))
    batches = BatchStream(open_cases(task, profile, 1).train, task.patch, 4, 0, Recipe(), profile.device)
    step = EagerStep(network, Recipe(), profile)
    losses = [step(batches.batch(number), 1e-2).item() for number in range(1, 21)]
    assert profile.needs_loss_scaling
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_gradients_are_clipped_before_the_update(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    update = torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, closure: None = None) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        update(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    budget = replace(TINY_BUDGET, recipe=Recipe(max_grad_norm=0.01))
    ProxyEvaluator().evaluate(tiny_architecture(task), task, budget, 0, NullObserver())
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)


def test_half_precision_logits_give_a_float32_loss() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    assert dice_ce_loss(torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16), labels, 1.0).dtype == torch.float32


def test_the_learning_rate_warms_up_then_falls_as_half_a_cosine() -> None:
    recipe = Recipe(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, recipe) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)  # 45 of 90 steps down
    assert rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert learning_rate(1, 1, replace(recipe, warmup=0.0)) == 1.0


@pytest.mark.parametrize(("dims", "n_steps", "batch_size"), [(2, 800, 2), (3, 480, 1)])
def test_the_default_budget_is_many_steps_on_few_patches(
    dims: Literal[2, 3], n_steps: int, batch_size: int, task: Task
) -> None:
    budget = default_budget(replace(task, dims=dims, patch=(32,) * dims))
    assert (budget.steps, budget.batch_size) == (n_steps, batch_size)
    assert budget.rungs == (round(n_steps / 3), round(2 * n_steps / 3), n_steps)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_learns_the_tiny_task_too(task: Task) -> None:
    recipe = Recipe(learning_rate=2e-2)
    budget = replace(TINY_BUDGET, steps=80, batch_size=4, rungs=(40, 80), width_factor=1.0, recipe=recipe)
    result = ProxyEvaluator(device="cuda").evaluate(tiny_architecture(task), task, budget, 0, NullObserver())
    assert result.outcome is Outcome.COMPLETE
    assert result.score is not None
    assert result.score > 0.6
    assert result.device == torch.cuda.get_device_name()
