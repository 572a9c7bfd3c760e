"""Datasets made ready for training."""

from unetx_evaluators.tasks.cache import using as using
from unetx_evaluators.tasks.demo import DemoSource as DemoSource
from unetx_evaluators.tasks.examination import Examination as Examination
from unetx_evaluators.tasks.examination import examine as examine
from unetx_evaluators.tasks.housekeeping import CacheEntry as CacheEntry
from unetx_evaluators.tasks.housekeeping import CacheState as CacheState
from unetx_evaluators.tasks.housekeeping import cached as cached
from unetx_evaluators.tasks.housekeeping import remove as remove
from unetx_evaluators.tasks.options import TaskOptions as TaskOptions
from unetx_evaluators.tasks.prepare import Kept as Kept
from unetx_evaluators.tasks.prepare import kept as kept
from unetx_evaluators.tasks.prepare import prepare as prepare
from unetx_evaluators.tasks.sources import RawCase as RawCase
from unetx_evaluators.tasks.sources import Reading as Reading
from unetx_evaluators.tasks.sources import Source as Source
from unetx_evaluators.tasks.sources import open_source as open_source
from unetx_evaluators.tasks.sources import parse_labels as parse_labels
from unetx_evaluators.tasks.split_file import check_splits as check_splits
from unetx_evaluators.tasks.split_file import write_splits as write_splits
from unetx_evaluators.tasks.splits import choose_splits as choose_splits
from unetx_evaluators.tasks.splits import split_cases as split_cases
from unetx_evaluators.tasks.task import Splits as Splits
from unetx_evaluators.tasks.task import Task as Task
from unetx_evaluators.tasks.watching import NullWatcher as NullWatcher
from unetx_evaluators.tasks.watching import Phase as Phase
from unetx_evaluators.tasks.watching import Watcher as Watcher
