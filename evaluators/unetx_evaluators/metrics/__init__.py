"""Metrics of label maps: their registry, and their averages over cases and classes; no torch."""

from unetx_evaluators.metrics.comparison import CaseComparison as CaseComparison
from unetx_evaluators.metrics.comparison import ClassComparison as ClassComparison
from unetx_evaluators.metrics.comparison import ClassCounts as ClassCounts
from unetx_evaluators.metrics.comparison import LabelMap as LabelMap
from unetx_evaluators.metrics.comparison import compare as compare
from unetx_evaluators.metrics.comparison import voxel_counts as voxel_counts
from unetx_evaluators.metrics.comparison import without_ignored as without_ignored
from unetx_evaluators.metrics.registry import METRICS as METRICS
from unetx_evaluators.metrics.registry import Metric as Metric
from unetx_evaluators.metrics.registry import case_scores as case_scores
from unetx_evaluators.metrics.registry import rung_scores as rung_scores
from unetx_evaluators.metrics.summary import class_means as class_means
from unetx_evaluators.metrics.summary import objective as objective
from unetx_evaluators.metrics.summary import summarise as summarise
from unetx_evaluators.metrics.targets import Target as Target
from unetx_evaluators.metrics.targets import find_targets as find_targets
from unetx_evaluators.metrics.targets import recall_by_size as recall_by_size
