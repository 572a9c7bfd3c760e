"""For values that may be None by their type and are not in a test."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def there(value: T | None) -> T:
    """The value, which the test expects to be there."""
    assert value is not None
    return value
