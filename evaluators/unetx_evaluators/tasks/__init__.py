"""Datasets made ready for training."""

from unetx_evaluators.tasks.demo import DemoSource as DemoSource
from unetx_evaluators.tasks.prepare import prepare as prepare
from unetx_evaluators.tasks.sources import RawCase as RawCase
from unetx_evaluators.tasks.sources import Source as Source
from unetx_evaluators.tasks.sources import open_source as open_source
from unetx_evaluators.tasks.sources import parse_labels as parse_labels
from unetx_evaluators.tasks.splits import split_cases as split_cases
from unetx_evaluators.tasks.task import Splits as Splits
from unetx_evaluators.tasks.task import Task as Task
