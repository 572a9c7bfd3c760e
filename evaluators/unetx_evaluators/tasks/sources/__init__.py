"""Sources: datasets in the layouts that are recognised on disk."""

from unetx_evaluators.tasks.sources.base import RawCase as RawCase
from unetx_evaluators.tasks.sources.base import Source as Source
from unetx_evaluators.tasks.sources.labels import ClassMap as ClassMap
from unetx_evaluators.tasks.sources.labels import Labels as Labels
from unetx_evaluators.tasks.sources.labels import parse_labels as parse_labels
from unetx_evaluators.tasks.sources.open import open_source as open_source
from unetx_evaluators.tasks.sources.reading import ReadingOptions as ReadingOptions
