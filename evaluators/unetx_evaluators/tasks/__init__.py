"""Preparation of datasets: sources are read, examined, split and cached as tasks for training."""

from unetx_evaluators.tasks.cache import task_in_use as task_in_use
from unetx_evaluators.tasks.demo import DemoSource as DemoSource
from unetx_evaluators.tasks.examination import Examination as Examination
from unetx_evaluators.tasks.examination import examine as examine
from unetx_evaluators.tasks.housekeeping import CacheEntry as CacheEntry
from unetx_evaluators.tasks.housekeeping import CacheState as CacheState
from unetx_evaluators.tasks.housekeeping import cache_entries as cache_entries
from unetx_evaluators.tasks.housekeeping import remove_entry as remove_entry
from unetx_evaluators.tasks.options import TaskOptions as TaskOptions
from unetx_evaluators.tasks.prepare import CachedTask as CachedTask
from unetx_evaluators.tasks.prepare import cached_task as cached_task
from unetx_evaluators.tasks.prepare import prepare as prepare
from unetx_evaluators.tasks.sources import RawCase as RawCase
from unetx_evaluators.tasks.sources import ReadingOptions as ReadingOptions
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
