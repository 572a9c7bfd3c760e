"""Evaluations: training a design for a given budget on a dataset, and scoring it; torch is imported at the first one.

``unetx_evaluators.tasks`` prepares datasets, ``unetx_evaluators.metrics`` names and computes the scores.
"""

from unetx_evaluators.budgets import check_rankable as check_rankable
from unetx_evaluators.budgets import default_budget as default_budget
from unetx_evaluators.evaluation import Budget as Budget
from unetx_evaluators.evaluation import CaseScore as CaseScore
from unetx_evaluators.evaluation import CurvePoint as CurvePoint
from unetx_evaluators.evaluation import DataError as DataError
from unetx_evaluators.evaluation import DataErrors as DataErrors
from unetx_evaluators.evaluation import Evaluation as Evaluation
from unetx_evaluators.evaluation import EvaluationInterrupted as EvaluationInterrupted
from unetx_evaluators.evaluation import Evaluator as Evaluator
from unetx_evaluators.evaluation import NullObserver as NullObserver
from unetx_evaluators.evaluation import Observer as Observer
from unetx_evaluators.evaluation import Outcome as Outcome
from unetx_evaluators.insight import Insight as Insight
from unetx_evaluators.proxy import ProxyEvaluator as ProxyEvaluator
from unetx_evaluators.training.recipe import Recipe as Recipe
