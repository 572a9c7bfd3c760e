"""Pseudonyms for cases, so that nothing outside of the cache identifies patients by name.

Case names often hold initials, dates or record numbers. With ``--pseudonyms`` they are replaced as the source is read;
the real names are kept in the cache alone. Only names are replaced, images are unchanged.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, ClassVar

from unetx_evaluators.tasks.sources.base import RawCase, Source
from unetx_evaluators.tasks.split_file import PARTS
from unetx_evaluators.tasks.task import Splits


@dataclass(frozen=True)
class Pseudonymous:
    """A source whose cases are called ``case_0001`` and so on, ordered by a hash of their real names.

    Its problems and errors still name files: they are for the user, who has to correct them.
    """

    inner: Source

    @cached_property
    def real_names(self) -> dict[str, str]:
        """The real name of each case by its pseudonym."""
        ordered = sorted(self.inner.case_names, key=lambda name: hashlib.sha256(name.encode()).digest())
        digits = max(4, len(str(len(ordered))))
        return {f"case_{number:0{digits}d}": name for number, name in enumerate(ordered, start=1)}

    def renamed(self, splits: Splits) -> Splits:
        """A split of real names as one of pseudonyms, in the same order."""
        pseudonyms = {real: pseudonym for pseudonym, real in self.real_names.items()}
        parts = {part: tuple(pseudonyms[name] for name in getattr(splits, part)) for part in PARTS}
        return replace(splits, **parts)

    name: ClassVar[Any] = property(attrgetter("inner.name"))
    layout: ClassVar[Any] = property(attrgetter("inner.layout"))
    origin: ClassVar[Any] = property(attrgetter("inner.origin"))
    dims: ClassVar[Any] = property(attrgetter("inner.dims"))
    channels: ClassVar[Any] = property(attrgetter("inner.channels"))
    classes: ClassVar[Any] = property(attrgetter("inner.classes"))
    problems: ClassVar[Any] = property(attrgetter("inner.problems"))
    warnings: ClassVar[tuple[str, ...]] = ()
    """Empty: the inner source's warnings may name files, and appear in reports."""
    n_bytes: ClassVar[Any] = property(attrgetter("inner.n_bytes"))

    @property
    def identity(self) -> str:
        return json.dumps(["pseudonyms", self.inner.identity])

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(self.real_names)

    def read(self, name: str) -> RawCase:
        return self.inner.read(self.real_names[name])
