"""Collection of everything that is wrong with a dataset, so that it is reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from unetx_evaluators.evaluation import DataError, DataErrors


@dataclass
class Problems:
    """The errors of a dataset, in the order in which they were found."""

    found: list[DataError] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect a DataError raised inside, which ends the block."""
        try:
            yield
        except DataErrors as several:
            self.found += several.errors
        except DataError as error:
            self.found.append(error)

    def raise_all(self) -> None:
        """Raise the only error as it is, or several as DataErrors; do nothing where there is none."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise DataErrors(self.found)
