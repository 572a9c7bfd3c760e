"""Something that happens at a chosen statement, on its way to the database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event


class Crash(BaseException):
    """Stands for a process that is gone."""


def crash() -> None:
    raise Crash


@contextmanager
def at_statements(numbers: Collection[int], act: Callable[[], None] = crash) -> Iterator[list[int]]:
    """Act, or crash, before these statements, counted from here; gives how many have come."""
    count = [0]

    def before(*_: Any) -> None:
        count[0] += 1
        if count[0] in numbers:
            act()

    event.listen(Engine, "before_cursor_execute", before)
    try:
        yield count
    finally:
        event.remove(Engine, "before_cursor_execute", before)
