"""Several things may be wrong with a dataset; they are collected, so that one look tells all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from unetx_evaluators.evaluation import DataError, DataErrors


@dataclass
class Problems:
    """What is wrong with a dataset, in the order it was found."""

    found: list[DataError] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """A DataError raised inside ends the block, is kept, and goes no further."""
        try:
            yield
        except DataErrors as several:
            self.found += several.errors
        except DataError as error:
            self.found.append(error)

    def raise_all(self) -> None:
        """The only one as it is, several as DataErrors; nothing when there is none."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise DataErrors(self.found)
