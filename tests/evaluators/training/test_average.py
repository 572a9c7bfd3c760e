"""The average of the weights, against its formula, and that it is what an evaluation scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_task import TINY_BUDGET, tiny_architecture
from torch import nn

from unetx_evaluators.evaluation import NullObserver
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def set_to(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(value)


def values(network: nn.Module) -> list[float]:
    tensors = [t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()]
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).tolist()


def test_it_is_the_exponential_average_without_the_initial_weights() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    set_to(network, 99.0)
    average = WeightAverage(network, n_steps=4)  # decay 3/4
    for step, value in enumerate((1.0, 2.0, 6.0), start=1):
        set_to(network, value)
        average.update(torch.tensor(average.weight(step)))
    expected = (0.75**2 * 1 + 0.75 * 2 + 6) / (0.75**2 + 0.75 + 1)
    with average.averaged_weights():
        assert values(network) == pytest.approx([expected] * len(values(network)))
    assert values(network) == [6.0] * len(values(network)), "its own weights are back"
    average.copy_to_network()
    assert values(network) == pytest.approx([expected] * len(values(network)))


@pytest.mark.parametrize("n_steps", [0, 0.5, 1])
def test_over_one_step_or_none_it_is_the_last_weights(n_steps: float) -> None:
    network = nn.Linear(2, 2)
    average = WeightAverage(network, n_steps)
    for step in (1, 2):
        set_to(network, float(step))
        average.update(torch.tensor(average.weight(step)))
    with average.averaged_weights():
        assert values(network) == [2.0] * 6


def test_an_evaluation_scores_the_averaged_weights_and_trains_the_same(task: Task) -> None:
    budget = replace(TINY_BUDGET, steps=30, rungs=(10, 30))
    plain, averaged = (
        ProxyEvaluator().evaluate(
            tiny_architecture(task), task, replace(budget, recipe=Recipe(averaging=share)), 0, NullObserver()
        )
        for share in (0.0, 0.3)
    )
    assert [point.loss for point in averaged.curve] == [point.loss for point in plain.curve]
    assert averaged.score != plain.score


def test_the_last_rungs_average_over_few_steps_is_close_to_the_last_weights(task: Task) -> None:
    last, one_step = (
        ProxyEvaluator().evaluate(
            tiny_architecture(task), task, replace(TINY_BUDGET, recipe=Recipe(averaging=share)), 0, NullObserver()
        )
        for share in (0.0, 1 / TINY_BUDGET.steps)
    )
    assert one_step.case_scores == last.case_scores
