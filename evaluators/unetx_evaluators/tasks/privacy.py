"""Neutral names for cases, so that nothing that leaves the cache tells whose data they are.

Case names often hold initials, dates or record numbers. Under ``--pseudonyms`` they are replaced where the data come
in; the key is kept in the cache alone. Names are all that is replaced: what an image shows stays as it is.
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
    """A source whose cases are called ``case_0001`` and so on, in an order that the hash of the real name decides.

    Its problems and errors still name files: they are for the terminal of whoever can mend them.
    """

    inner: Source

    @cached_property
    def real_names(self) -> dict[str, str]:
        """By pseudonym."""
        ordered = sorted(self.inner.case_names, key=lambda name: hashlib.sha256(name.encode()).digest())
        digits = max(4, len(str(len(ordered))))
        return {f"case_{number:0{digits}d}": name for number, name in enumerate(ordered, start=1)}

    def renamed(self, splits: Splits) -> Splits:
        """A split of real names as one of pseudonyms, in an order of its own."""
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
    """None of the source's own: they may name files, and reach reports."""
    n_bytes: ClassVar[Any] = property(attrgetter("inner.n_bytes"))

    @property
    def identity(self) -> str:
        return json.dumps(["pseudonyms", self.inner.identity])

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(self.real_names)

    def read(self, name: str) -> RawCase:
        return self.inner.read(self.real_names[name])
