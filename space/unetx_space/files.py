"""Files of ours: written whole or not at all, and read with a word on what is wrong with them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unetx_space.errors import RequestError


@contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A place beside ``path`` to write to. At the end it takes that name in one step; after an error it vanishes.

    Whoever reads ``path`` sees the old file or the new one, never half of it, and with ``durable`` also after the
    power has failed; without, only a checksum can tell then.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        if durable:
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """A file with this content, text as UTF-8; the old file stays until the new one is whole."""
    with written_whole(path, durable=durable) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def finite(value: Any) -> Any:
    """JSON values with None in the place of every number that is not finite, for which JSON has no word."""
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(facts: Any) -> str:
    """Facts as JSON for whoever reads them outside; numbers that are not finite are null."""
    return json.dumps(finite(facts), indent=2, allow_nan=False)


def read_object(path: Path, fields: Mapping[str, type], remedy: str) -> dict[str, Any]:
    """The JSON object in a file of ours, which has at least these fields. A byte order mark is passed over.

    Raises RequestError with the ``remedy`` when it cannot be read, or is not what was written.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} {_trouble(path, error)}; {remedy}") from error
    if not isinstance(found, dict):
        raise RequestError(f"{path} is damaged: it holds no JSON object; {remedy}")
    for name, kind in fields.items():
        if not isinstance(found.get(name), kind):
            raise RequestError(f"{path} is damaged: its field {name!r} is missing or no {kind.__name__}; {remedy}")
    return found


def _trouble(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    if path.stat().st_size == 0:
        return "is empty"
    where = f" after {error.pos} characters" if isinstance(error, json.JSONDecodeError) else ""
    return f"is damaged: it is no JSON{where}"
