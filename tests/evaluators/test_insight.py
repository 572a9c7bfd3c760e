"""What an evaluation tells beside its score."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import chain

from observers import Recorder, without_clocks
from tiny_task import TINY_BUDGET, tiny_architecture

from unetx_evaluators.evaluation import NullObserver, Outcome
from unetx_evaluators.insight import Insight
from unetx_evaluators.metrics import METRICS
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks.task import Task
from unetx_space.cost import cost


def test_an_evaluation_tells_of_its_network_its_training_and_its_skips(task: Task) -> None:
    architecture = tiny_architecture(task)
    told = ProxyEvaluator().evaluate(architecture, task, TINY_BUDGET, 0, NullObserver()).insight
    assert told.zero_cost is not None
    assert told.zero_cost.macs == cost(architecture, task.patch).macs
    assert list(told.gradients) == [1, 3]
    for stages in told.gradients.values():
        assert [one.stage for one in stages] == ["E0", "E1", "E2", "D1", "D0", "head"]
        assert all(one.norm is not None and one.norm > 0 for one in stages)
    assert [(one.node, one.source) for one in told.similarities] == [("D1", "E1"), ("D0", "E0")]
    assert list(told.recalls) == ["bright", "dark"]
    assert json.loads(json.dumps(told.to_json()))["gradients"]["3"][0]["stage"] == "E0"


def test_the_last_rung_has_every_score_per_case_and_class(task: Task) -> None:
    longer = replace(TINY_BUDGET, steps=80, rungs=(40, 80))
    scores = ProxyEvaluator().evaluate(tiny_architecture(task), task, longer, 0, NullObserver()).case_scores
    assert [(score.case, score.class_name) for score in scores] == [
        (case, name) for case in task.splits.validation[:2] for name in ("bright", "dark")
    ]
    for score in scores:
        assert list(score.values) == list(METRICS)
        for name, value in score.values.items():
            assert value is not None
            assert value >= 0
            assert value <= 1 or name == "hd95_mm"


def test_insight_can_be_switched_off_and_changes_no_score(task: Task) -> None:
    asked = (tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    told = ProxyEvaluator().evaluate(*asked)
    silent = ProxyEvaluator().evaluate(*asked, diagnosed_above=math.inf)
    assert (silent.insight.zero_cost, silent.insight.gradients, silent.insight.similarities) == (None, {}, ())
    assert (silent.predictions, len(told.predictions)) == ((), 2)
    same = replace(silent, insight=told.insight, predictions=told.predictions)
    assert without_clocks(same) == without_clocks(told)


def test_a_task_without_images_gives_no_prediction_away(task: Task) -> None:
    hidden = replace(task, no_images=True)
    answer = ProxyEvaluator().evaluate(tiny_architecture(task), hidden, TINY_BUDGET, 0, NullObserver())
    assert answer.outcome is Outcome.COMPLETE
    assert answer.predictions == ()


def test_a_score_above_the_given_one_is_diagnosed_as_it_would_have_been_from_the_start(task: Task) -> None:
    asked = (tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    told = ProxyEvaluator().evaluate(*asked)
    assert told.score is not None
    above = ProxyEvaluator().evaluate(*asked, diagnosed_above=told.score - 1e-6)
    assert without_clocks(above) == without_clocks(told)
    equal = ProxyEvaluator().evaluate(*asked, diagnosed_above=told.score).insight
    assert (equal.zero_cost, equal.similarities) == (None, ())
    assert equal.gradients == told.insight.gradients


def test_a_pruned_evaluation_tells_what_it_reached(task: Task) -> None:
    pruned = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, Recorder(stop_at=2))
    assert pruned.outcome is Outcome.PRUNED
    assert pruned.insight.zero_cost is not None
    assert list(pruned.insight.gradients) == [1]
    assert pruned.insight == Insight(pruned.insight.zero_cost, pruned.insight.gradients)
    assert {*chain.from_iterable(score.values for score in pruned.case_scores)} == {"dice"}
